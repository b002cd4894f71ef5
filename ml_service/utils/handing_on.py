"""What goes along with a wish to whoever fulfils it, in another process or hours later: its request, job and trace."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ml_service.utils.logs import WISH, bind, bound, configure_logs, current_fields, in_json, level_and_format
from ml_service.utils.tracing import PARENT, STATE, carried, start_tracing, tracer

CONTEXT = "context"
"""The key in a job's payload."""
VARIABLE = "_ML_SERVICE_CONTEXT"
"""The environment variable of processes that we start; no setting, so it has not their prefix."""
_OF_ONE_SPAN = "span_id"


def handed_on() -> dict[str, str]:
    """The wish's request and its trace, as they are kept with a job; empty where nothing is known."""
    known = {WISH: current} if (current := current_fields().get(WISH)) is not None else {}
    return known | carried()


@contextmanager
def taken_up(handed: Mapping[str, str], **fields: Any) -> Iterator[dict[str, str]]:
    """Lines of the block carry the request that wished for it, and these fields; what to trace it below."""
    with bound(**fields, **{WISH: handed.get(WISH)}):
        yield {name: handed[name] for name in (PARENT, STATE) if name in handed}


def for_child(role: str, *, of_this_request: bool = True) -> dict[str, str]:
    """Environment variables for a process that this one starts, which begins with `in_child`.

    What outlives the request that starts it is not `of_this_request`.
    """
    level, log_format = level_and_format()
    making = tracer()
    told: dict[str, Any] = {"role": role, "level": level, "format": log_format}
    if of_this_request:
        told["fields"] = {name: value for name, value in current_fields().items() if name != _OF_ONE_SPAN}
        told["trace"] = carried()
    if making is not None and making.endpoint is not None:
        told |= {"endpoint": making.endpoint, "with_texts": making.with_texts}
    quiet = {"TQDM_DISABLE": "1"} if in_json() else {}  # a bar is no JSON
    return {VARIABLE: json.dumps(told)} | quiet


def in_child(*, traces: bool = True) -> dict[str, str]:
    """Write lines and make spans as the process that started this one; what to trace below.

    Started by hand, nothing is configured.
    """
    told = os.environ.get(VARIABLE)
    if told is None:
        return {}
    known = json.loads(told)
    configure_logs(known["level"], known["format"], known["role"])
    bind(**known.get("fields", {}))
    if traces:
        start_tracing(known.get("endpoint"), known["role"], with_texts=known.get("with_texts", False))
    return dict(known.get("trace", {}))
