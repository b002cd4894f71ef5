"""Words on which two rooms agree: generation parameters, why a text ended, what was used."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

FinishReason = Literal["stop", "length", "cancelled"]
MAX_STOP_STRINGS = 16
MAX_STOP_CHARACTERS = 256


class GenerationParameters(BaseModel):
    """How to generate; one name everywhere: JSON field, form field, header, flag, label."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_new_tokens: int = Field(128, ge=1, le=100_000, description="The most tokens to generate.")
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
    stop: list[Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]] = Field(
        default_factory=list, max_length=MAX_STOP_STRINGS, description="End before any of these strings."
    )
    seed: int | None = Field(
        None, ge=0, lt=2**63, description="The same seed gives the same text; drawn anew where not given."
    )
    logprobs: int | None = Field(
        None, ge=0, le=20, description="Log-probabilities of the tokens, with so many alternatives each."
    )
