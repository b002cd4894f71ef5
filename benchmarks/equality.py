"""How often greedy tokens are those of transformers' `generate` on the bundle's own weights, in both runtimes."""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks.bundle_quality import held_out_documents
from lib.tokenizer import load_tokenizer
from ml_service.common.bundle import TOKENIZER_FILE, load_architecture, verify_files
from ml_service.common.settings import Settings
from ml_service.inference.live import open_session
from ml_service.inference.session import Row, Session, prefill
from ml_service.inference.torch_session import load_model


def main() -> None:
    """Print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="directory of the bundle")
    parser.add_argument("--prompts", type=int, default=200, help="pieces of held-out files, of 1 to 256 tokens")
    parser.add_argument("--new-tokens", type=int, default=24, help="tokens to generate for each")
    arguments = parser.parse_args()
    manifest = verify_files(arguments.bundle)
    tokenizer = load_tokenizer(arguments.bundle / TOKENIZER_FILE)
    ids = [i for document in held_out_documents() for i in tokenizer.encode(document.text[:5000]).ids]
    source = random.Random(0)
    starts = [source.randrange(len(ids) - 256) for _ in range(arguments.prompts)]
    prompts = [ids[start : start + source.randint(1, 256)] for start in starts]
    model = load_model(arguments.bundle, load_architecture(arguments.bundle))
    expected = []
    for prompt in tqdm(prompts, desc="generate"):
        row = torch.tensor([prompt])
        output = model.generate(
            row,
            attention_mask=torch.ones_like(row),
            max_new_tokens=arguments.new_tokens,
            do_sample=False,
            pad_token_id=0,
        )
        expected.append(output[0, len(prompt) :].tolist())
    for runtime in ("onnx", "torch"):
        session = open_session(arguments.bundle, Settings(slots=1, runtime=runtime))
        answers = [greedy(session, prompt, arguments.new_tokens) for prompt in tqdm(prompts, desc=runtime)]
        same = sum(ours == theirs for ours, theirs in zip(answers, expected, strict=True))
        print(f"{manifest.experiment}, {manifest.precision}, {runtime:<6} {same} of {len(prompts)} prompts equal")
        session.close()


def greedy(session: Session, prompt: list[int], tokens: int, slot: int = 0) -> list[int]:
    """The likeliest token again and again, the prompt read in chunks."""
    logits_V = prefill(session, slot, prompt)
    generated = [int(logits_V.argmax())]
    while len(generated) < tokens and generated[-1] != session.architecture.end_of_text_id:
        position = len(prompt) + len(generated) - 1
        logits_V = session.run([Row(slot, position, generated[-1:])])[0]
        generated.append(int(logits_V.argmax()))
    return generated


if __name__ == "__main__":
    main()
