"""Requests that schemathesis makes from the OpenAPI document, valid ones and wrong ones, with what came of them."""

# ruff: noqa: ARG001 - schemathesis wants the hooks at the end to name all that it gives them
from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import schemathesis
from schemathesis.engine import events, from_schema

PATIENCE_S = 20.0
"""A request that takes longer hangs."""
MOST_TOKENS = 32
SLOW = {"/add_data": 0.05, "/deploy/{experiment_id}": 0.3, "/evaluate": 0.1}
"""Share of the other operations' cases: each of theirs starts a process or opens a model."""
_BUDGETS = ("max_new_tokens", "max_tokens", "max_completion_tokens")
_POST_IS_THERE = {name: {"enabled": False} for name in ("unsupported_method", "allow_header_conformance")}
_begun: dict[str, tuple[float, str]] = {}
"""Case → since when it waits for its answer, and what it is."""


@dataclass
class Tried:
    """What was sent and how it was answered."""

    statuses: dict[str, Counter[str]] = field(default_factory=dict)
    """Operation → status → answers."""
    failures: dict[str, str] = field(default_factory=dict)
    """What is wrong, in a line → how to see it again."""
    slowest_s: float = 0.0
    slowest: str = ""

    @property
    def cases(self) -> int:
        """All of them."""
        return sum(counts.total() for counts in self.statuses.values())

    def note(self, operation: str, status: str, elapsed_s: float) -> None:
        """Count an answer."""
        self.statuses.setdefault(operation, Counter())[status] += 1
        if elapsed_s > self.slowest_s:
            self.slowest_s, self.slowest = elapsed_s, operation


def try_document(url: str, key: str, examples: int, seed: int, *, whole: bool = True) -> Tried:
    """Send to every operation: examples, the edges of its schemas, `examples` cases drawn at random, and chains.

    Not `whole`, the edges and chains are left out.
    """
    tried, ends = Tried(), threading.Event()
    watchdog = threading.Thread(target=_watch, args=(tried, ends), daemon=True)
    watchdog.start()
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json", config=_configuration(key, examples, seed, whole))
    for event in from_schema(schema).execute():
        if isinstance(event, events.ScenarioFinished):
            _take(tried, event)
        elif isinstance(event, events.NonFatalError):
            why = f"{event.info.message}\n{event.value!r} after {event.value.__cause__ or event.value.__context__!r}"
            tried.failures.setdefault(f"{event.label}: {event.info.title}", why)
        elif isinstance(event, events.FatalError):
            raise event.exception
    ends.set()
    watchdog.join()
    _begun.clear()
    return tried


def _configuration(key: str, examples: int, seed: int, whole: bool) -> schemathesis.Config:
    def no_more_than(share: float) -> dict[str, Any]:
        return {"generation": {"max-examples": max(int(examples * share), 1)}}

    own: list[dict[str, Any]] = [{"include-path": path} | no_more_than(share) for path, share in SLOW.items()]
    own[-1]["phases"] = {"coverage": {"enabled": False}}  # hundreds, each of which has a process look at its file
    # POST there is one to `/deploy/{experiment_id}`, whose experiment has no number.
    own.append({"include-path-regex": "/deploy/(shadow|canary)", "checks": _POST_IS_THERE})
    return schemathesis.Config.from_dict(
        {
            "seed": seed,
            "request-timeout": PATIENCE_S,
            "continue-on-failure": True,
            "workers": 1,
            "headers": {"Authorization": f"Bearer {key}"},
            "generation": {"max-examples": examples, "no-shrink": True},
            "phases": {"coverage": {"enabled": whole}, "stateful": {"enabled": whole}},
            "checks": {
                # The document cannot say all that makes a request wrong: a regex that is none, a prompt too long.
                "positive_data_acceptance": {"enabled": False},
                # 0 is taken for false and "1" for 1, as forms send them; a wrong row of a batch fails alone.
                "negative_data_rejection": {"enabled": False},
            },
            "operations": own,
        }
    )


def _take(tried: Tried, event: events.ScenarioFinished) -> None:
    recorder = event.recorder
    for case_id, interaction in recorder.interactions.items():
        node = recorder.cases.get(case_id)
        operation = node.value.operation.label if node is not None else recorder.label
        answer = interaction.response
        if answer is None:
            tried.note(operation, "no answer", PATIENCE_S)
            tried.failures[f"{operation}: no answer"] = f"{interaction.request.method} {interaction.request.uri}"
        else:
            tried.note(operation, str(answer.status_code), answer.elapsed)
    for case_id, checks in recorder.checks.items():
        for check in checks:
            if check.failure_info is not None:
                failure = check.failure_info.failure
                what = f"{recorder.cases[case_id].value.operation.label}: {check.name}: {failure.title}"
                tried.failures.setdefault(what, f"{failure.message}\n{check.failure_info.code_sample}")


def _watch(tried: Tried, ends: threading.Event) -> None:
    """An answer that comes byte by byte and never ends is a hang, too."""
    while not ends.wait(1.0):
        for since, what in tuple(_begun.values()):
            if time.monotonic() - since > 2 * PATIENCE_S:
                tried.failures.setdefault(f"{what}: no end", "")


@schemathesis.hook
def map_path_parameters(context: schemathesis.HookContext, path_parameters: Any) -> Any:
    """Let every second number be one that there is."""
    if not isinstance(path_parameters, Mapping):
        return path_parameters
    return {
        name: value % 4 + 1 if isinstance(value, int) and value % 2 else value
        for name, value in path_parameters.items()
    }


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case, kwargs: dict[str, Any]) -> None:
    """Spend little time on text: what may be long is short, and what is no number of tokens stays as it is."""
    _begun.clear()  # one worker: what failed without an answer has ended, too
    _begun[case.id] = time.monotonic(), case.operation.label
    if isinstance(body := case.body, dict):
        for name in _BUDGETS:
            if isinstance(wanted := body.get(name), int) and wanted > MOST_TOKENS:
                body[name] = MOST_TOKENS
        if case.operation.path.startswith("/v1/chat") and not any(name in body for name in _BUDGETS):
            body["max_tokens"] = MOST_TOKENS


@schemathesis.hook
def after_call(context: schemathesis.HookContext, case: schemathesis.Case, response: schemathesis.Response) -> None:
    """It has been answered."""
    _begun.pop(case.id, None)
