"""What clients send and get, with examples that work when pasted."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ml_service.common.types import FinishReason, GenerationParameters


class ForwardRequest(GenerationParameters):
    """A prompt and how to continue it."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"text": "def read_lines(path):", "max_new_tokens": 48},
                {"text": "import os\n", "max_new_tokens": 48, "temperature": 0.7, "top_p": 0.95, "seed": 7},
            ]
        },
    )

    text: str = Field(description="The prompt; the answer is what comes after it.")
    stream: bool = Field(False, description="Answer as server-sent events while the text is made.")


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


class ForwardResponse(BaseModel):
    """The continuation, and how it came about."""

    id: str
    model: AnsweringModel
    prediction: str
    finish_reason: FinishReason
    logprobs: list[TokenScores] | None
    usage: UsageOut
    timings: TimingsOut


class ForwardDelta(BaseModel):
    """An event of the stream: text that is sure by now. The last event is `done` and carries the whole answer."""

    id: str
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
