"""The yardstick: nanoGPT's network and CPU recipe on characters, written anew from its published description."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

TRAINED = "trained"
"""Said when the training is over: what comes after is not timed."""


@dataclass(frozen=True)
class Recipe:
    """`train_shakespeare_char.py` with the options that its README gives for a CPU."""

    layers: int = 4
    heads: int = 4
    width: int = 128
    block: int = 64
    batch: int = 12
    iterations: int = 2000
    learning_rate: float = 1e-3
    lowest_learning_rate: float = 1e-4
    warmup: int = 100
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.1
    clip: float = 1.0
    evaluate_every: int = 250
    evaluation_batches: int = 20
    seed: int = 1337


class Block(nn.Module):
    """Attention and MLP behind their norms, each added to the stream."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        width = recipe.width
        self.heads = recipe.heads
        self.norm_1, self.norm_2 = (nn.LayerNorm(width, bias=False) for _ in range(2))
        self.qkv, self.projection = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        batch, length, width = x_BTD.shape
        parts = self.qkv(self.norm_1(x_BTD)).chunk(3, -1)
        q, k, v = (part.view(batch, length, self.heads, -1).transpose(1, 2) for part in parts)
        seen = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x_BTD = x_BTD + self.projection(seen.transpose(1, 2).reshape(batch, length, width))
        return x_BTD + self.down(functional.gelu(self.up(self.norm_2(x_BTD))))


class NanoGpt(nn.Module):
    """GPT-2 in small: learnt positions, tied head."""

    def __init__(self, recipe: Recipe, vocabulary: int) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, recipe.width), nn.Embedding(recipe.block, recipe.width)
        self.blocks = nn.Sequential(*(Block(recipe) for _ in range(recipe.layers)))
        self.norm = nn.LayerNorm(recipe.width, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                last = name.endswith(("projection.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * recipe.layers) if last else 0.02)

    def forward(self, ids_BT: torch.Tensor) -> torch.Tensor:
        x_BTD = self.tokens(ids_BT) + self.places(torch.arange(ids_BT.shape[1]))
        return functional.linear(self.norm(self.blocks(x_BTD)), self.tokens.weight)


def loss_of(model: nn.Module, x_BT: torch.Tensor, y_BT: torch.Tensor) -> torch.Tensor:
    """Mean nats a character."""
    return functional.cross_entropy(model(x_BT).flatten(0, 1), y_BT.flatten())


def learning_rate(recipe: Recipe, iteration: int) -> float:
    """Linear warm-up, then a cosine."""
    if iteration < recipe.warmup:
        return recipe.learning_rate * (iteration + 1) / (recipe.warmup + 1)
    share = (iteration - recipe.warmup) / (recipe.iterations - recipe.warmup)
    span = recipe.learning_rate - recipe.lowest_learning_rate
    return recipe.lowest_learning_rate + 0.5 * (1 + math.cos(math.pi * share)) * span


def train(recipe: Recipe, text: str) -> tuple[NanoGpt, dict[str, int]]:
    """As the recipe says, its own evaluations included, on the text's first nine tenths."""
    torch.manual_seed(recipe.seed)
    code_of = {character: code for code, character in enumerate(sorted(set(text)))}
    ids = torch.tensor([code_of[character] for character in text])
    parts = ids[: int(0.9 * len(ids))], ids[int(0.9 * len(ids)) :]
    model = NanoGpt(recipe, len(code_of))
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas)

    def batch(part: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        starts = torch.randint(len(part) - recipe.block, (recipe.batch,))
        rows = torch.stack([part[start : start + recipe.block + 1] for start in starts])
        return rows[:, :-1], rows[:, 1:]

    for iteration in range(recipe.iterations + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, iteration)
        if iteration % recipe.evaluate_every == 0:
            with torch.no_grad():
                for part in parts:
                    for _ in range(recipe.evaluation_batches):
                        loss_of(model, *batch(part))
        loss_of(model, *batch(parts[0])).backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return model, code_of


@torch.no_grad()
def bits_per_byte(model: NanoGpt, recipe: Recipe, code_of: dict[str, int], text: str) -> float:
    """Of the last tenth, every character but the first, in windows one behind the other."""
    held_out = text[int(0.9 * len(text)) :]
    ids = torch.tensor([code_of[character] for character in held_out])
    nats = 0.0
    for start in range(0, len(ids) - 1, recipe.block):
        piece = ids[start : start + recipe.block + 1]
        nats += float(functional.cross_entropy(model(piece[None, :-1])[0], piece[1:], reduction="sum"))
    return nats / math.log(2) / len(held_out.encode())


def main() -> None:
    """Train, say so, score; what it prints is read by `benchmarks.shakespeare`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", type=Path, help="tiny Shakespeare")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    text, recipe = arguments.text.read_text(encoding="utf-8"), Recipe()
    model, code_of = train(recipe, text)
    print(TRAINED, flush=True)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(json.dumps({"bits_per_byte": bits_per_byte(model, recipe, code_of, text), "parameters": parameters}))


if __name__ == "__main__":
    main()
