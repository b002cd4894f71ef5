"""How to judge: which columns of a file, which metrics, how labels are told; what is not said is guessed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from ml_service.common.errors import BadRequest
from ml_service.common.types import MAX_STOP_CHARACTERS, MAX_STOP_STRINGS, StorableText

TEXT_METRICS = ("avg_loss", "perplexity", "bits_per_byte", "byte_perplexity", "word_perplexity", "token_accuracy")
TARGET_METRICS = ("exact_match", "chrf", "bleu", "rougeL", "cer", "wer", "bits_per_byte")
LABEL_METRICS = ("accuracy", "f1", "mcc")
READING_METRICS = ("cer", "wer", "exact_match")
METRICS = tuple(dict.fromkeys((*TEXT_METRICS, *TARGET_METRICS, *LABEL_METRICS, *READING_METRICS)))
_TEXT_NAMES = ("text", "sentence", "content", "document", "page", "body")
_PROMPT_NAMES = ("prompt", "question", "instruction", "input")
_TARGET_NAMES = ("target", "completion", "answer", "response", "reference", "output", "expected")
_LABEL_NAMES = ("label", "acceptable", "class", "category", "sentiment")
_IMAGE_NAMES = ("image", "image_file", "filename", "file_name", "file", "path")
_Column = Annotated[StorableText, Field(min_length=1, max_length=200)]


class EvaluationOptions(BaseModel):
    """What a client may say about an evaluation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text_column: _Column | None = Field(None, description="Texts whose likelihood is measured.")
    prompt_column: _Column | None = Field(None, description="Prompts that are continued; wants `target_column`.")
    target_column: _Column | None = Field(None, description="What should come out of a prompt or an image.")
    image_column: _Column | None = Field(None, description="Names of images in the archive; wants `target_column`.")
    label_column: _Column | None = Field(None, description="Labels of the texts, told by the likelihood of each.")
    labels: dict[StorableText, StorableText] = Field(
        default_factory=dict, max_length=50, description="Label → the text that stands for it; itself where not given."
    )
    delimiter: StorableText = Field(" ", max_length=200, description="Between a text and its label.")
    metrics: list[StorableText] | None = Field(
        None, min_length=1, max_length=20, description="All that fit where not given."
    )
    max_new_tokens: int = Field(64, ge=1, le=4096, description="The most tokens that continue a prompt, greedily.")
    stop: list[Annotated[StorableText, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]] = Field(
        default_factory=list, max_length=MAX_STOP_STRINGS, description="A continuation ends before any of these."
    )


class Columns(BaseModel):
    """The columns that are judged."""

    model_config = ConfigDict(frozen=True)

    text: str | None = None
    prompt: str | None = None
    target: str | None = None
    image: str | None = None
    label: str | None = None

    @property
    def names(self) -> list[str]:
        """Of all of them."""
        return list(dict.fromkeys(self.model_dump(exclude_none=True).values()))

    @property
    def metrics(self) -> tuple[str, ...]:
        """All that can be said of them."""
        if self.image is not None:
            return READING_METRICS
        if self.prompt is not None:
            return TARGET_METRICS
        return (*TEXT_METRICS, *(LABEL_METRICS if self.label is not None else ()))


def choose_columns(options: EvaluationOptions, names: Sequence[str], has_images: bool) -> Columns:
    """What was said, else what has a usual name. Raises BadRequest in words."""
    given = Columns(
        text=options.text_column, prompt=options.prompt_column, target=options.target_column,
        image=options.image_column, label=options.label_column,
    )  # fmt: skip
    for role, name in given.model_dump(exclude_none=True).items():
        if name not in names:
            there = ", ".join(map(repr, names[:20])) or "none"
            raise BadRequest(
                f"{role}_column: there is no column {name!r}; there are {there}", [(f"{role}_column", name)]
            )
    columns = _completed(given, names, has_images)
    if options.metrics is not None and (unknown := sorted(set(options.metrics) - set(columns.metrics))):
        said = f"metrics: {unknown[0]!r} is none of {', '.join(columns.metrics)}, which fit these columns"
        raise BadRequest(said, [("metrics", unknown[0])])
    if columns.image is not None and not has_images:
        raise BadRequest("image_column: send a .zip with the table and the images that it names")
    return columns


def _completed(given: Columns, names: Sequence[str], has_images: bool) -> Columns:
    kinds = [kind for kind in ("text", "prompt", "image") if getattr(given, kind) is not None]
    if len(kinds) > 1:
        raise BadRequest(f"give one of {' and '.join(f'{kind}_column' for kind in kinds)}, not both")
    image = _named(names, _IMAGE_NAMES) if has_images else None
    prompt, target = _named(names, _PROMPT_NAMES), given.target or _named(names, _TARGET_NAMES)
    text, label = _named(names, _TEXT_NAMES), given.label or _named(names, _LABEL_NAMES)
    if given.image is not None or (not kinds and image is not None):
        target = target or text or label  # what stands in a picture is often called its text or label
        return Columns(image=given.image or image, target=_wanted(target, "target", names))
    if given.prompt is not None or given.target is not None or (not kinds and prompt and target):
        prompt = given.prompt or prompt
        return Columns(prompt=_wanted(prompt, "prompt", names), target=_wanted(target, "target", names))
    return Columns(text=_wanted(given.text or text, "text", names), label=label)


def _named(names: Sequence[str], usual: Sequence[str]) -> str | None:
    """The column with the first of the usual names that there is, however it is capitalised."""
    by_name = {name.strip().lower(): name for name in reversed(names)}
    return next((by_name[name] for name in usual if name in by_name), None)


def _wanted(name: str | None, role: str, names: Sequence[str]) -> str:
    if name is None:
        there = ", ".join(map(repr, names[:20])) or "none"
        raise BadRequest(f"{role}_column: say which column it is; there are {there}", [(f"{role}_column", "missing")])
    return name
