"""Scoring rows: many in the engine's steps beside one after the other, in the engine, over HTTP and in the harness."""

from __future__ import annotations

import argparse
import asyncio
import csv
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from benchmarks.bundle_quality import held_out_documents
from benchmarks.server import running_server
from ml_service.common.bundle import TOKENIZER_FILE, load_architecture
from ml_service.common.settings import Settings
from ml_service.inference.engine import Engine
from ml_service.inference.live import open_live_model
from ml_service.inference.scoring import JUDGING_CHUNK, score_rolling, score_texts
from ml_service.utils.telemetry import Telemetry

GOAL = 5.0
_ROWS = {"lines of code": (1, 400), "ten lines each": (10, 200)}
"""Kind of row: how many lines it has, and how many rows."""
Way = Callable[[list[str]], None]


def main() -> None:
    """Print a table: rows a second, and how many times as fast the engine's shared steps are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="directory of the bundle")
    parser.add_argument("--csv", type=Path, help="a table whose column `sentence` is scored, too")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    kinds = {kind: list(_rows_of(*shape)) for kind, shape in _ROWS.items()}
    if arguments.csv is not None:
        with arguments.csv.open(encoding="utf-8", newline="") as file:
            kinds[arguments.csv.name] = [row["sentence"] for row in csv.DictReader(file)]
    engine = open_live_model(
        arguments.bundle, Settings(prefix_cache_mib=0, prefill_chunk=JUDGING_CHUNK), Telemetry()
    ).engine
    with running_server(arguments.bundle) as server:
        server.post_first({"text": "x", "max_new_tokens": 1})
        ways: dict[str, Way] = {
            "shared steps": lambda rows: asyncio.run(_together(engine, rows)),
            "engine, row by row": lambda rows: asyncio.run(_row_by_row(engine, rows)),
            "HTTP, row by row": lambda rows: _over_http(server.client, rows),
            "harness, row by row": _harness(arguments.bundle),
        }
        for kind, rows in kinds.items():
            tokens = sum(len(engine.tokens_of(row)) for row in rows)
            print(f"{kind}: {len(rows)} rows, {tokens / len(rows):.0f} tokens each")
            _compare(ways, rows, arguments.rounds)
    engine.stop()


def _compare(ways: dict[str, Way], rows: list[str], rounds: int) -> None:
    """The ways take turns, so that a machine that slows down does so for all of them."""
    took: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        first = number % len(ways)
        for name in [*list(ways)[first:], *list(ways)[:first]]:
            started = time.perf_counter()
            ways[name](rows)
            took[name].append(time.perf_counter() - started)
    fastest = median(took["shared steps"])
    for name, seconds in took.items():
        print(f"  {name:<22}{len(rows) / median(seconds):>10,.0f} rows a second{median(seconds) / fastest:>9.2f}")


def _rows_of(lines: int, count: int) -> Iterator[str]:
    """Pieces of held-out files."""
    texts = (document.text.splitlines(keepends=True) for document in held_out_documents())
    pieces = ("".join(text[start : start + lines]) for text in texts for start in range(0, len(text), lines))
    yield from (piece for piece, _ in zip((p for p in pieces if p.strip()), range(count), strict=False))


async def _together(engine: Engine, rows: list[str]) -> None:
    async for _ in score_texts(engine, rows, str):
        pass


async def _row_by_row(engine: Engine, rows: list[str]) -> None:
    for row in rows:
        await score_rolling(engine, engine.tokens_of(row), "benchmark")


def _over_http(client: httpx.Client, rows: list[str]) -> None:
    """As the harness asks a server (`local-completions`)."""
    for row in rows:
        asked = {"model": "active", "prompt": row, "max_tokens": 0, "echo": True, "logprobs": 1}
        client.post("/v1/completions", json=asked).raise_for_status()


def _harness(bundle: Path) -> Way:
    """lm-evaluation-harness on PyTorch, one row at a time."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from transformers import PreTrainedTokenizerFast

    from ml_service.inference.torch_session import load_model

    architecture = load_architecture(bundle)
    tokenizer: Any = PreTrainedTokenizerFast(tokenizer_file=str(bundle / TOKENIZER_FILE))
    tokenizer.eos_token = tokenizer.pad_token = tokenizer.convert_ids_to_tokens(architecture.end_of_text_id)
    harness = HFLM(
        pretrained=load_model(bundle, architecture), tokenizer=tokenizer, device="cpu", batch_size=1,
        max_length=architecture.context_length,
    )  # fmt: skip

    def score(rows: list[str]) -> None:
        requests = [Instance("loglikelihood_rolling", {}, (row,), index) for index, row in enumerate(rows)]
        harness.loglikelihood_rolling(requests, disable_tqdm=True)

    return score


if __name__ == "__main__":
    main()
