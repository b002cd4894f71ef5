"""The eight promises: in words, and the script that attacks each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Promise:
    """What is promised and who tries to break it: `python -m tests.chaos.SCRIPT`."""

    number: int
    script: str
    sentence: str


PROMISES = (
    Promise(
        1,
        "survive",
        "kill -9 of server, worker, trainer or database at any moment: nothing accepted is lost, no half bundle is "
        "seen, exactly one deployment is active, the training resumes",
    ),
    Promise(
        2,
        "database_away",
        "the database goes away, killed, stopped or hanging: `/forward` goes on, what needs the database is answered "
        "503 soon, and all recovers by itself",
    ),
    Promise(3, "deploys", "1,000 deployments under load: no failed request, no mixed answer, memory flat"),
    Promise(4, "politeness", "a training at full speed beside serving: p99 of `/forward` at most 1.5 times as long"),
    Promise(
        5,
        "overload",
        "ten times the capacity: refused quickly with 429 and `Retry-After`, accepted requests keep their latency, "
        "all is as before within a second of the end",
    ),
    Promise(
        6,
        "full_disk",
        "a disk that fills: a clear 507, nothing corrupted, `/forward` goes on, all works again with room",
    ),
    Promise(7, "fuzz", "requests made from the OpenAPI document and broken files: never a 5xx, never a hang"),
    Promise(
        8,
        "drain",
        "SIGTERM: what runs is finished up to a limit, new requests get 503, the process ends with code 0; a second "
        "signal ends at once",
    ),
)
