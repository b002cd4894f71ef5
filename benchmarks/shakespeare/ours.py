"""Our workflow on tiny Shakespeare: tokenizer, data set, training by the clock, all in one process; then the score."""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.shakespeare.nanogpt import TRAINED
from lib.dataset_builder import BuildOptions, build_dataset
from lib.modeling import LanguageModel, count_parameters
from lib.text_data import SourceFile
from ml_service.training.plan import TrainingPlan
from ml_service.training.workflow import TrainingArtifacts, build_training_artifacts, train

VOCABULARY, WINDOW, BATCH = 512, 128, 16
_SAVING_S = 1.2
"""What comes behind the last update: the checkpoint and the model on the disk."""
_ROWS = 64


def held_out_of(text: str) -> str:
    """The last tenth, which the training never sees."""
    return text[int(0.9 * len(text)) :]


def build(text: str, directory: Path) -> Path:
    """The data set: the tokenizer too learns from the first nine tenths only."""
    parts = {"train": text[: int(0.9 * len(text))], "validation": held_out_of(text)}
    for split, own in parts.items():
        (directory / f"{split}.txt").write_text(own, encoding="utf-8")

    def files() -> Iterator[SourceFile]:
        yield from (SourceFile(directory / f"{s}.txt", f"{s}.txt", "shakespeare", s) for s in parts)

    build_dataset(files, directory / "data", BuildOptions(VOCABULARY))
    return directory / "data"


def windows_of(ids: list[int], prefix_id: int, length: int) -> Iterator[list[int]]:
    """Pieces of the text, each with the token before it, as the yardstick scores them."""
    whole = [prefix_id, *ids]
    for start in range(0, len(ids), length):
        yield whole[start : start + length + 1]


@torch.no_grad()
def bits_per_byte(artifacts: TrainingArtifacts, text: str) -> float:
    """Every token of the last tenth once, in windows one behind the other."""
    ids = artifacts.tokenizer.encode(held_out_of(text), add_special_tokens=False).ids
    model: LanguageModel = artifacts.model.eval()
    windows = list(windows_of(ids, model.config.eos_token_id, artifacts.plan.window))
    whole = [window for window in windows if len(window) == artifacts.plan.window + 1]
    batches = [whole[start : start + _ROWS] for start in range(0, len(whole), _ROWS)]
    batches += [[window] for window in windows[len(whole) :]]
    nats = 0.0
    for batch in map(torch.tensor, batches):
        nats += model(input_ids=batch[:, :-1], next_tokens=batch[:, 1:], reduction="sum").item()
    return nats / math.log(2) / len(held_out_of(text).encode())


def main() -> None:
    """Train until `--until` (seconds since the epoch), say so, score; read by `benchmarks.shakespeare`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", type=Path, help="tiny Shakespeare")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--until", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    text = arguments.text.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as directory:
        data = build(text, Path(directory))
        plan = TrainingPlan(
            data=data, run=Path(directory) / "run", preset="pico", window=WINDOW, batch_size=BATCH, evaluations=1,
            checkpoints=1, validation_tokens=1024, seed=arguments.seed,
            seconds=arguments.until - time.time() - _SAVING_S,
        )  # fmt: skip
        artifacts = build_training_artifacts(plan)
        train(artifacts)
        print(TRAINED, flush=True)
        score = bits_per_byte(artifacts, text)
        print(json.dumps({"bits_per_byte": score, "parameters": count_parameters(artifacts.model)}))


if __name__ == "__main__":
    main()
