"""What prompt look-up gains on code: greedy completions of held-out files with and without guesses, the same tokens."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

import numpy as np

from benchmarks.bundle_quality import held_out_documents
from ml_service.common.settings import Settings
from ml_service.common.types import GenerationParameters
from ml_service.inference.engine import Engine
from ml_service.inference.live import open_live_model
from ml_service.utils.telemetry import Telemetry

PROMPT_CHARACTERS = 2_000
NEW_TOKENS = 256
GOAL = 1.5


async def complete(engine: Engine, texts: list[str]) -> tuple[list[str], float]:
    """(answers, tokens a second of decoding), one file after the other."""
    parameters = GenerationParameters(max_new_tokens=NEW_TOKENS, temperature=0, ignore_eos=True)
    answers, tokens, seconds = [], 0, 0.0
    for text in texts:
        completion = await engine.complete(await engine.encode(text), parameters, "lookup")
        assert completion.finished is not None, "what was asked for ends"
        answers.append(completion.text)
        tokens += completion.finished.usage.completion_tokens - 1
        seconds += completion.finished.timings.decode_ms / 1e3
    return answers, tokens / seconds


def main() -> None:
    """Print the table; exit with 1 where the gain is below the goal or an answer differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="directory of the bundle")
    parser.add_argument("--files", type=int, default=40, help="held-out files of the standard library")
    parser.add_argument("--rounds", type=int, default=3, help="medians of so many, interleaved")
    arguments = parser.parse_args()
    texts = [document.text[:PROMPT_CHARACTERS] for document in held_out_documents()][: arguments.files]
    rows = {"plain": 0, "look-up": Settings.model_fields["lookup_rows"].default}
    telemetries = {name: Telemetry() for name in rows}
    engines = {
        name: open_live_model(
            arguments.bundle, Settings(slots=1, prefix_cache_mib=0, lookup_rows=most), telemetries[name]
        ).engine
        for name, most in rows.items()
    }
    rates: dict[str, list[float]] = {name: [] for name in rows}
    answers: dict[str, list[str]] = {}
    for _ in range(arguments.rounds):
        for name, engine in engines.items():
            answers[name], rate = asyncio.run(complete(engine, texts))
            rates[name].append(rate)
    value = telemetries["look-up"].registry.get_sample_value
    guessed = value("ml_service_spec_decode_num_draft_tokens_total") or 0
    accepted = value("ml_service_spec_decode_num_accepted_tokens_total") or 0
    plain, looked_up = (float(np.median(rates[name])) for name in rows)
    are_equal = answers["plain"] == answers["look-up"]
    print(f"{len(texts)} held-out files, their first {PROMPT_CHARACTERS:,} characters, {NEW_TOKENS} greedy tokens each")
    print(f"one step a token     {plain:,.0f} tokens a second")
    print(f"prompt look-up       {looked_up:,.0f} tokens a second, {accepted / max(guessed, 1):.0%} of guesses right")
    print(f"gain                 {looked_up / plain:.2f}   goal {GOAL}")
    print(f"the same answers     {are_equal}")
    for engine in engines.values():
        engine.stop()
    raise SystemExit(0 if are_equal and looked_up / plain >= GOAL else 1)


if __name__ == "__main__":
    main()
