"""What OpenAI's clients send. Options that would change the answer and are not served are refused, never ignored."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StrictInt, model_validator

from ml_service.backend.schemas import MAX_ANSWERS
from ml_service.common.types import GenerationParameters, StorableText

TokenIds = list[StrictInt]
Prompts = str | TokenIds | list[str] | list[TokenIds]


class StreamOptions(BaseModel):
    """What else a stream should tell."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool = Field(False, description="Send the usage in a last chunk without choices.")


class OpenAIRequest(BaseModel):
    """What completions and chats have in common, with OpenAI's own defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: StorableText = Field(description="`active`, or the name or id of the experiment that answers.")
    temperature: float = Field(1.0, ge=0, le=10, allow_inf_nan=False)
    top_p: float = Field(1.0, gt=0, le=1, allow_inf_nan=False)
    n: int = Field(1, ge=1, le=MAX_ANSWERS, description="So many answers for each prompt.")
    stop: str | list[str] | None = None
    seed: int | None = Field(None, ge=0, lt=2**63)
    logit_bias: dict[int, float] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    presence_penalty: Literal[0] | None = Field(None, description="Only 0: use `repetition_penalty`.")
    frequency_penalty: Literal[0] | None = Field(None, description="Only 0: use `repetition_penalty`.")
    user: str | None = Field(None, description="Taken and not used.")
    top_k: int = Field(0, ge=0, description="Not OpenAI's: as in `/forward`.")
    min_p: float = Field(0.0, ge=0, le=1, description="Not OpenAI's: as in `/forward`.")
    repetition_penalty: float = Field(1.0, description="Not OpenAI's: as in `/forward`.")
    stop_token_ids: list[int] = Field(default_factory=list, description="Not OpenAI's: as in `/forward`.")
    ignore_eos: bool = Field(False, description="Not OpenAI's: as in `/forward`.")
    json_schema: dict[str, Any] | None = Field(None, description="Not OpenAI's: as in `/forward`.")
    regex: str | None = Field(None, description="Not OpenAI's: as in `/forward`.")

    @model_validator(mode="after")
    def _streams_where_it_wants_stream_options(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is for streams: set stream to true")
        return self

    @property
    def wants_usage(self) -> bool:
        """Whether the stream ends with the usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    def parameters(self, max_new_tokens: int, logprobs: int | None, **more: Any) -> GenerationParameters:
        """In the service's own words. Raises ValidationError where a value is out of range."""
        stop = [self.stop] if isinstance(self.stop, str) else list(self.stop or [])
        given: dict[str, Any] = {
            **self.model_dump(include=_SAME_NAMES),
            "max_new_tokens": max_new_tokens,
            "logprobs": logprobs,
            "stop": stop,
            "logit_bias": self.logit_bias or {},
        }
        return GenerationParameters(**(given | more))


_SAME_NAMES = {
    "temperature", "top_p", "seed", "top_k", "min_p", "repetition_penalty", "stop_token_ids", "ignore_eos",
    "json_schema", "regex",
}  # fmt: skip


class CompletionRequest(OpenAIRequest):
    """`POST /v1/completions`."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"model": "active", "prompt": "import ", "max_tokens": 24, "temperature": 0},
                {"model": "active", "prompt": "def main():", "max_tokens": 0, "echo": True, "logprobs": 1},
            ]
        },
    )

    prompt: Prompts = Field(description="A text, its token ids, or a list of either.")
    max_tokens: int = Field(16, ge=0, description="0 with `echo` and `logprobs` scores the prompt.")
    logprobs: int | None = Field(None, ge=0, le=20, description="Log-probabilities with so many alternatives.")
    echo: bool = Field(False, description="Give the prompt back before the answer.")
    best_of: int | None = Field(None, description="Only the value of `n`.")
    suffix: None = Field(None, description="Not served.")

    @model_validator(mode="after")
    def _gives_all_that_it_makes(self) -> Self:
        if self.best_of not in (None, self.n):
            raise ValueError("best_of other than n is not served")
        return self


class TextPart(BaseModel):
    """A piece of a message."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]
    text: str


class ImageUrl(BaseModel):
    """A picture, in the address itself."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(description="`data:image/png;base64,…`: nothing is fetched from anywhere.")
    detail: str | None = Field(None, description="Taken and not used.")


class ImagePart(BaseModel):
    """A picture in a message: what is read in it stands in its place."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["image_url"]
    image_url: ImageUrl


class ChatMessage(BaseModel):
    """What somebody said."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Annotated[TextPart | ImagePart, Field(discriminator="type")]]
    name: str | None = Field(None, description="Taken and not used.")

    @property
    def parts(self) -> list[TextPart | ImagePart]:
        """The content piece by piece."""
        return [TextPart(type="text", text=self.content)] if isinstance(self.content, str) else self.content


class JsonSchemaFormat(BaseModel):
    """A schema that the answer has to follow."""

    model_config = ConfigDict(extra="forbid")

    name: str = "answer"
    description: str | None = None
    schema_: dict[str, Any] = Field(default_factory=dict, alias="schema")
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """What the answer has to be."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None

    @model_validator(mode="after")
    def _brings_its_schema(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema belongs to the type json_schema, and to no other")
        return self

    @property
    def schema_to_follow(self) -> dict[str, Any] | None:
        """A JSON schema; None for free text."""
        if self.json_schema is not None:
            return self.json_schema.schema_
        return {"type": "object"} if self.type == "json_object" else None


class ChatRequest(OpenAIRequest):
    """`POST /v1/chat/completions`."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"model": "active", "messages": [{"role": "user", "content": "import "}], "max_tokens": 24},
            ]
        },
    )

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_tokens: int | None = Field(None, ge=1, description="What the context has room for, where not given.")
    max_completion_tokens: int | None = Field(None, ge=1, description="The same, by its newer name.")
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: ResponseFormat | None = None

    @model_validator(mode="after")
    def _asks_for_logprobs_before_alternatives(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs is for answers with logprobs: set logprobs to true")
        return self
