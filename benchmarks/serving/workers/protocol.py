"""What a worker and the comparison say to one another: JSON lines over standard input and output."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol


@dataclass(frozen=True)
class Request:
    """A prompt and exactly how many tokens to generate for it, greedily, whatever they are."""

    prompt: list[int]
    new_tokens: int


@dataclass(frozen=True)
class Load:
    """Requests of a closed loop: as soon as one of `concurrency` clients has its answer, it sends the next."""

    requests: list[Request]
    concurrency: int
    shared_tokens: int = 0
    """So many tokens stand at the beginning of every prompt."""
    reuse: Literal["default", "off", "on"] = "default"
    """Work on a shared beginning is done once where it is on, for each request where it is off."""


@dataclass(frozen=True)
class Limits:
    """What every participant gets."""

    threads: int
    slots: int
    context: int
    """The most tokens of a sequence in any workload: prompt and answer."""


class Unsupported(Exception):
    """The participant has no such thing; the table says so in these words."""


class Participant(Protocol):
    """A loaded model."""

    def generate(self, load: Load) -> list[list[int]]:
        """The new tokens of each request, in the order of the requests. Raises Unsupported."""


Convert = Callable[[Path, Path, int], None]
"""From a transformers checkpoint to a directory in the participant's own format, with weights of so many bits."""
Open = Callable[[Path, Limits], Participant]


def main(convert: Convert, open_model: Open) -> None:
    """`convert CHECKPOINT DIRECTORY BITS`, or `serve DIRECTORY THREADS SLOTS CONTEXT` until standard input ends."""
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("convert")
    verb.add_argument("checkpoint", type=Path)
    verb.add_argument("directory", type=Path)
    verb.add_argument("bits", type=int)
    verb = verbs.add_parser("serve")
    verb.add_argument("directory", type=Path)
    for name in ("threads", "slots", "context"):
        verb.add_argument(name, type=int)
    arguments = parser.parse_args()
    if arguments.verb == "convert":
        convert(arguments.checkpoint, arguments.directory, arguments.bits)
        return
    # Libraries print to standard output: it becomes standard error, and answers keep the pipe for themselves.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    limits = Limits(arguments.threads, arguments.slots, arguments.context)
    participant = open_model(arguments.directory, limits)
    _say(answers, {"ready": True})
    for line in sys.stdin:
        _say(answers, _answer(participant, _load(json.loads(line))))


def answer_in_batches(load: Load, answer: Callable[[list[Request]], list[list[int]]]) -> list[list[int]]:
    """Batches of as many requests as there are clients, one after the other: for participants that batch statically.

    Raises Unsupported where work on a shared beginning is to be reused.
    """
    if load.reuse == "on":
        raise Unsupported("no prefix cache in a batch")
    starts = range(0, len(load.requests), load.concurrency)
    return [tokens for start in starts for tokens in answer(load.requests[start : start + load.concurrency])]


def _load(value: dict[str, Any]) -> Load:
    """The opposite of `dataclasses.asdict`."""
    return Load(**value | {"requests": [Request(**request) for request in value["requests"]]})


def _answer(participant: Participant, load: Load) -> dict[str, Any]:
    started = time.perf_counter()
    try:
        tokens = participant.generate(load)
    except Unsupported as error:
        return {"unsupported": str(error)}
    return {"seconds": time.perf_counter() - started, "tokens": tokens}


def _say(answers: Any, value: dict[str, Any]) -> None:
    answers.write(json.dumps(value) + "\n")
    answers.flush()
