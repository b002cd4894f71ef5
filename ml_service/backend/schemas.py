"""What clients send and get, with examples that work when pasted."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SkipValidation

from ml_service.common.types import FinishReason, GenerationParameters

MAX_ANSWERS = 32


class ForwardRequest(GenerationParameters):
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

    text: str = Field(description="The prompt; the answer is what comes after it.")
    n: int = Field(1, ge=1, le=MAX_ANSWERS, description="So many answers, each with random numbers of its own.")
    stream: bool = Field(False, description="Answer as server-sent events while the text is made.")


class BatchRow(GenerationParameters):
    """A prompt of a batch; parameters of its own go before the shared ones."""

    text: str = Field(description="The prompt.")
    id: str | None = Field(None, max_length=256, description="Comes back with the answer; the row's number by default.")


class ForwardBatchRequest(GenerationParameters):
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


class BatchAnswer(BaseModel):
    """What became of a row: an answer or an error."""

    id: str
    prediction: str | None = None
    finish_reason: FinishReason | None = None
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


class ForwardDelta(BaseModel):
    """An event of the stream: text that is sure by now. The last event is `done` and carries the whole answer."""

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


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str | None
    errors: list[dict[str, Any]] | None = None
