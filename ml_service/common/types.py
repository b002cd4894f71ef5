"""Words on which two rooms agree: generation parameters, why a text ended, what was used."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

FinishReason = Literal["stop", "length", "timeout", "cancelled"]
DeployStrategy = Literal["replace", "shadow", "canary"]
"""Answer in place of the active model; answer nobody, beside it; answer a share of the requests."""
Trial = Literal["shadow", "canary"]
"""What may run beside the active model."""


def _storable(text: str) -> str:
    if "\0" in text:
        raise ValueError("it has the character NUL, which cannot be stored")
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("it has half a surrogate pair: not Unicode")
    return text


def _storable_values(values: dict[str, Any]) -> dict[str, Any]:
    left: list[Any] = [values]
    while left:
        match left.pop():
            case str() as text:
                _storable(text)
            case dict() as inner:
                left += [*inner, *inner.values()]
            case list() as inner:
                left += inner
    return values


def unicode_of(text: str) -> str:
    """As it can be sent: what a client is told of may be a key of its own that has half a surrogate pair."""
    return text.encode("utf-8", "replace").decode("utf-8")


def storable(text: str) -> str:
    """What both databases can keep of it: what a file said may be part of an error."""
    return unicode_of(text.replace("\0", "\N{REPLACEMENT CHARACTER}"))


def storable_json(value: Any) -> Any:
    """The same of all texts in what JSON can say; for what we made ourselves, which is not deep."""
    match value:
        case str():
            return storable(value)
        case dict():
            return {storable_json(key): storable_json(each) for key, each in value.items()}
        case list() | tuple():
            return [storable_json(each) for each in value]
    return value


StorableText = Annotated[str, AfterValidator(_storable)]
"""What both databases can keep."""
StorableValues = Annotated[dict[str, Any], AfterValidator(_storable_values)]
"""An object of anything that JSON has, each text in it such a one."""
Identifier = Annotated[int, Field(ge=1, lt=2**63)]
"""The number of a row."""
MAX_STOP_STRINGS = 16
MAX_STOP_CHARACTERS = 256
MAX_STOP_TOKENS = 256
MAX_BIASED_TOKENS = 1024
MAX_REGEX_CHARACTERS = 10_000


class GenerationParameters(BaseModel):
    """How to generate; one name everywhere: JSON field, form field, header, flag, label."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_new_tokens: int = Field(
        128, ge=0, le=100_000, description="The most tokens to generate; 0 only reads the prompt."
    )
    temperature: float = Field(
        0.0, ge=0, le=10, allow_inf_nan=False, description="0 is greedy; higher is more surprising."
    )
    top_k: int = Field(0, ge=0, le=1_000_000, description="Draw from the k likeliest tokens; 0 is all.")
    top_p: float = Field(
        1.0, gt=0, le=1, allow_inf_nan=False, description="Draw from the likeliest tokens that together have this mass."
    )
    min_p: float = Field(
        0.0, ge=0, le=1, allow_inf_nan=False, description="Leave out tokens below this share of the likeliest one's."
    )
    repetition_penalty: float = Field(
        1.0, ge=0.01, le=10, allow_inf_nan=False, description="Above 1 makes seen tokens less likely."
    )
    logit_bias: dict[int, Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]] = Field(
        default_factory=dict,
        max_length=MAX_BIASED_TOKENS,
        description="Token id → what is added to its logit; -100 never, 100 only.",
    )
    stop: list[Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]] = Field(
        default_factory=list, max_length=MAX_STOP_STRINGS, description="End before any of these strings."
    )
    stop_token_ids: list[Annotated[int, Field(ge=0)]] = Field(
        default_factory=list, max_length=MAX_STOP_TOKENS, description="End at any of these tokens, which are not shown."
    )
    ignore_eos: bool = Field(False, description="Go on after the end of the text; for benchmarks.")
    json_schema: dict[str, Any] | None = Field(
        None, description="Answer with a JSON value of this schema and nothing else; {} is any JSON value."
    )
    regex: str | None = Field(
        None,
        min_length=1,
        max_length=MAX_REGEX_CHARACTERS,
        description="Answer with a text that matches this regular expression as a whole.",
    )
    seed: int | None = Field(
        None, ge=0, lt=2**63, description="The same seed gives the same text; drawn anew where not given."
    )
    logprobs: int | None = Field(
        None, ge=0, le=20, description="Log-probabilities of the tokens, with so many alternatives each."
    )

    @model_validator(mode="after")
    def _has_one_constraint(self) -> Self:
        if self.json_schema is not None and self.regex is not None:
            raise ValueError("give json_schema or regex, not both")
        return self
