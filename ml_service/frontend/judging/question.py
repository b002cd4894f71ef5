"""A question to a model, as it is put together on the page: what differs from the service's own guess is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ml_service.common.evaluation_options import (
    LABEL_METRICS,
    METRICS,
    READING_METRICS,
    TARGET_METRICS,
    TEXT_METRICS,
    Columns,
)

Kind = Literal["guess", "text", "prompt", "image"]
KINDS: Mapping[Kind, str] = {"guess": "As guessed", "text": "Texts", "prompt": "Prompts", "image": "Images"}
ROLES: Mapping[Kind, Sequence[str]] = {
    "guess": (), "text": ("text", "label"), "prompt": ("prompt", "target"), "image": ("image", "target"),
}  # fmt: skip
_ESCAPES = (("\\n", "\n"), ("\\t", "\t"), ("\\r", "\r"))


@dataclass(frozen=True)
class Question:
    """What was chosen."""

    kind: Kind
    columns: Mapping[str, str] = field(default_factory=dict)
    """Role → column, of the roles that have one."""
    metrics: Sequence[str] = ()
    experiment_id: int | None = None
    max_new_tokens: int | None = None
    stop: str = ""
    """One on each line."""
    labels: str = ""
    """`label = the text that stands for it`, one on each line."""
    delimiter: str | None = None

    def fields(self, guess: Columns) -> dict[str, Any]:
        """As they are sent. Raises ValueError where a line of labels is none."""
        fields: dict[str, Any] = {}
        chosen = {role: self.columns[role] for role in ROLES[self.kind] if self.columns.get(role)}
        if chosen != guess.model_dump(exclude_none=True):
            fields |= {f"{role}_column": column for role, column in chosen.items()}
        if self.metrics:
            fields["metrics"] = list(self.metrics)
        if self.experiment_id is not None:
            fields["experiment_id"] = self.experiment_id
        if self.kind in ("prompt", "guess"):
            fields |= {"max_new_tokens": self.max_new_tokens} if self.max_new_tokens else {}
            fields |= {"stop": stops} if (stops := lines_of(self.stop)) else {}
        if "label" in chosen:
            fields |= {"labels": labels} if (labels := labels_of(self.labels)) else {}
            fields |= {"delimiter": unescaped(self.delimiter)} if self.delimiter is not None else {}
        return fields


def kind_of(columns: Columns) -> Kind:
    """Which kind of question they make."""
    if columns.image is not None:
        return "image"
    return "prompt" if columns.prompt is not None else "text"


def metrics_of(kind: Kind, has_label: bool) -> Sequence[str]:
    """Those that fit."""
    if kind == "text":
        return (*TEXT_METRICS, *LABEL_METRICS) if has_label else TEXT_METRICS
    return {"prompt": TARGET_METRICS, "image": READING_METRICS, "guess": METRICS}[kind]


def lines_of(text: str) -> list[str]:
    """Each line is one, with `\\n` for the end of a line."""
    return [unescaped(line) for line in text.split("\n") if line]


def labels_of(text: str) -> dict[str, str]:
    """Label → its text. Raises ValueError where a line has no `=`."""
    labels = {}
    for line in text.split("\n"):
        if not line.strip():
            continue
        label, sign, words = line.partition("=")
        if not sign:
            raise ValueError(f"labels: {line.strip()[:40]!r} is no label = text")
        labels[label.strip()] = unescaped(words.strip())
    return labels


def unescaped(text: str) -> str:
    """`\\n`, `\\t` and `\\r` as what they stand for."""
    for written, meant in _ESCAPES:
        text = text.replace(written, meant)
    return text
