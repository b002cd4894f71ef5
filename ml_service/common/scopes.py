"""What a key may do: five words, of which `admin` is all."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, get_args

Scope = Literal["infer", "data", "train", "deploy", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
MEANINGS: dict[Scope, str] = {
    "infer": "ask a model, have it judged on one's own rows, say what an answer was worth",
    "data": "add text, look into the data set, make data of feedback",
    "train": "train, stop a training, keep its files",
    "deploy": "change which model answers: deploy, shadow, canary, roll back",
    "admin": "all of it",
}
"""Every key may read how things stand: experiments, deployments, metadata, metrics."""


def allows(held: Collection[str], wanted: str) -> bool:
    """Whether a key with these scopes may do what wants this one."""
    return wanted in held or "admin" in held
