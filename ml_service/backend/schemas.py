"""What clients send and get, with examples that work when pasted."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SkipValidation, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from ml_service.common.types import FinishReason, GenerationParameters, StorableText
from ml_service.inference.reading import Reading, ReadLine

MAX_ANSWERS = 32


class BatchOptions(GenerationParameters):
    """How to continue texts, and who does it."""

    model: StorableText = Field(
        "active",
        min_length=1,
        max_length=120,
        description="Who answers: `active`, `shadow`, `canary`, or any experiment by its id or name; the model of one "
        "that is not deployed is opened for it.",
    )


class ForwardOptions(BatchOptions):
    """How to answer; in a form each is a field or a header."""

    n: int = Field(1, ge=1, le=MAX_ANSWERS, description="So many answers, each with random numbers of its own.")
    stream: bool = Field(False, description="Answer as server-sent events while the text is made.")
    return_image: bool = Field(
        False, description="Also give the picture back, with what was read in it boxed and the continuation below."
    )


def _not_given() -> str:
    return None  # type: ignore[return-value] # `_continues_something` is told of it


class ForwardRequest(ForwardOptions):
    """A prompt and how to continue it."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"text": "def read_lines(path):", "max_new_tokens": 48},
                {"text": "import os\n", "max_new_tokens": 48, "temperature": 0.7, "top_p": 0.95, "seed": 7},
                {"text": "PORT = ", "regex": "[0-9]{2,5}", "n": 3, "temperature": 1, "seed": 1},
            ]
        },
    )

    image: str | None = Field(
        None,
        description="A picture of text (PNG, JPEG, WebP, GIF, BMP, TIFF) in base64, or as a data URL. What is read in "
        "it is the prompt, put behind `text`; with a new line between them where `text` does not end in white space.",
    )
    text: str = Field(
        default_factory=_not_given,
        validate_default=True,
        description="The prompt; the answer is what comes after it. Can be left out where there is an image.",
    )

    @field_validator("text", mode="before")
    @classmethod
    def _continues_something(cls, text: Any, info: ValidationInfo) -> Any:
        if text is not None:
            return text
        if info.data.get("image") is None:
            raise PydanticCustomError("missing", "Field required")
        return ""


class BatchRow(GenerationParameters):
    """A prompt of a batch; parameters of its own go before the shared ones."""

    text: str = Field(description="The prompt.")
    id: str | None = Field(
        None,
        max_length=256,
        coerce_numbers_to_str=True,
        description="Comes back with the answer; the row's number by default.",
    )


class ForwardBatchRequest(BatchOptions):
    """Prompts, and how to continue all of them."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "texts": ["import ", {"text": "def main(", "id": "main", "max_new_tokens": 8}],
                    "max_new_tokens": 24,
                }
            ]
        },
    )

    texts: list[SkipValidation[str | BatchRow]] = Field(
        min_length=1, description="Prompts, or rows with parameters of their own."
    )


class TextRead(BaseModel):
    """What was read in a picture."""

    text: str


class LineRead(BaseModel):
    """A piece of text that stands in one place."""

    text: str
    confidence: float = Field(description="How sure the reader is, 0 to 1.")
    box: list[tuple[float, float]] = Field(
        description="Its four corners in pixels of the upright picture, clockwise from the text's own upper left one."
    )

    @classmethod
    def of(cls, line: ReadLine) -> LineRead:
        """As a client sees it."""
        box = [(round(x, 1), round(y, 1)) for x, y in line.box]
        return cls(text=line.text, confidence=round(line.confidence, 4), box=box)


class ReadOut(TextRead):
    """What was read in a picture, with its pieces in reading order."""

    lines: list[LineRead]

    @classmethod
    def of(cls, reading: Reading) -> ReadOut:
        """As a client sees it."""
        return cls(text=reading.text, lines=[LineRead.of(line) for line in reading.lines])


class BatchAnswer(BaseModel):
    """What became of a row: an answer or an error."""

    id: str
    prediction: str | None = None
    finish_reason: FinishReason | None = None
    read: TextRead | None = None
    error: str | None = None


class ForwardBatchResponse(BaseModel):
    """The answers, in the order of the rows."""

    predictions: list[BatchAnswer]


class AnsweringModel(BaseModel):
    """Which model answered."""

    experiment_id: int | None
    experiment: str
    commit: str
    precision: str
    generation: int


class TokenScore(BaseModel):
    """A token's text and log-probability."""

    token_id: int
    token: str
    logprob: float


class TokenScores(TokenScore):
    """The chosen token and the likeliest ones in its place."""

    alternatives: list[TokenScore]


class UsageOut(BaseModel):
    """Tokens that the request cost."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


class TimingsOut(BaseModel):
    """Where the time went."""

    queue_ms: float
    prefill_ms: float
    decode_ms: float
    tokens_per_second: float


class AnswerOut(BaseModel):
    """One of several answers."""

    prediction: str
    finish_reason: FinishReason
    logprobs: list[TokenScores] | None


class ForwardResponse(AnswerOut):
    """The continuation, and how it came about."""

    id: str
    model: AnsweringModel
    answers: list[AnswerOut] | None = Field(None, description="All of them where `n` is more than 1, the first too.")
    usage: UsageOut
    timings: TimingsOut = Field(description="Of the answer that took longest.")
    read: ReadOut | None = Field(None, description="What was read in the image, where there is one.")
    image: str | None = Field(None, description="A PNG in base64, where `return_image` asks for it.")


class ForwardDelta(BaseModel):
    """An event of the stream: text that is sure by now. The last event is `done` and carries the whole answer.

    Where there is an image the first event is `read` and tells what was read in it.
    """

    id: str
    index: int = Field(0, description="Which answer, where `n` is more than 1.")
    delta: str
    logprobs: list[TokenScores] | None = None


class TensorOut(BaseModel):
    """An input or output of the graph; names stand for dynamic axes."""

    name: str
    type: str
    shape: list[int | str]


class MetadataResponse(BaseModel):
    """What the loaded graph file says of itself."""

    commit: str
    training_commit: str
    date: str
    experiment: str
    experiment_id: int | None
    parent_experiment_id: int | None
    dataset_fingerprint: str
    tokenizer_sha256: str
    parameters: int
    precision: str
    opset: int
    inputs: list[TensorOut]
    outputs: list[TensorOut]
    metrics: dict[str, float]
    licence: str
    versions: dict[str, str]
    sha256: dict[str, str] = Field(description="File of the bundle → its SHA-256.")


class HealthResponse(BaseModel):
    """Whether it is well."""

    status: Literal["ok", "unavailable", "stuck"]
    detail: str | None = None


class RecentResponse(BaseModel):
    """What has been, as columns of equal length, the oldest point first."""

    every_s: float = Field(description="Between two points.")
    series: dict[str, list[float | None]] = Field(
        description="`time` in seconds since 1970, rates in `…_per_second`, latencies in `…_s`; null without traffic."
    )


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str | None
    errors: list[dict[str, Any]] | None = None
