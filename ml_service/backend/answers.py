"""Answers of the engine in the words of the routes: scores of tokens, usage, timings, who answered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ml_service.backend.schemas import (
    AnsweringModel,
    AnswerOut,
    ForwardResponse,
    TimingsOut,
    TokenScore,
    TokenScores,
    UsageOut,
)
from ml_service.common.types import GenerationParameters
from ml_service.inference.engine import Engine
from ml_service.inference.live import LiveModel
from ml_service.inference.sampler import Choice, TokenLogprob
from ml_service.inference.work import Completion
from ml_service.utils.logs import request_id

_SELDOM = ("answers", "read", "image")


def current_id() -> str:
    """The id of the request that is being served."""
    return request_id.get() or "none"


def answering_model(model: LiveModel) -> AnsweringModel:
    """Who answered."""
    manifest = model.manifest
    return AnsweringModel(
        experiment_id=model.experiment_id,
        experiment=manifest.experiment,
        commit=manifest.commit,
        precision=manifest.precision,
        generation=model.generation,
    )


def forward_json(response: ForwardResponse) -> dict[str, Any]:
    """As it is sent: `answers` only where there are several, `read` and `image` only where there was a picture."""
    answer = response.model_dump()
    for name in _SELDOM:
        if answer[name] is None:
            del answer[name]
    return answer


def forward_response(
    model: LiveModel, completions: Sequence[Completion], parameters: GenerationParameters
) -> ForwardResponse:
    """The whole answer to `/forward`."""
    answers = [
        AnswerOut(
            prediction=completion.text,
            finish_reason=completion.end.reason,
            logprobs=token_scores(model.engine, completion.choices, parameters),
        )
        for completion in completions
    ]
    slowest = max((completion.end.timings for completion in completions), key=lambda t: t.prefill_ms + t.decode_ms)
    return ForwardResponse(
        id=current_id(),
        model=answering_model(model),
        **answers[0].model_dump(),
        answers=answers if len(answers) > 1 else None,
        usage=total_usage(completions, len(completions)),
        timings=TimingsOut.model_validate(slowest, from_attributes=True),
    )


def total_usage(completions: Sequence[Completion], answers_per_prompt: int) -> UsageOut:
    """What a request cost: each prompt counts once, however many answers it got."""
    firsts = completions[::answers_per_prompt]
    return UsageOut(
        prompt_tokens=sum(completion.end.usage.prompt_tokens for completion in firsts),
        completion_tokens=sum(completion.end.usage.completion_tokens for completion in completions),
        cached_tokens=sum(completion.end.usage.cached_tokens for completion in firsts),
    )


def token_scores(
    engine: Engine, choices: Iterable[Choice], parameters: GenerationParameters
) -> list[TokenScores] | None:
    """The tokens' log-probabilities, where they were asked for."""
    if parameters.logprobs is None:
        return None
    return [_token_scores(engine, choice) for choice in choices]


def _token_scores(engine: Engine, choice: Choice) -> TokenScores:
    assert choice.logprob is not None, "log-probabilities were asked for"
    own = _token_score(engine, choice.logprob)
    return TokenScores(**own.model_dump(), alternatives=[_token_score(engine, other) for other in choice.alternatives])


def _token_score(engine: Engine, score: TokenLogprob) -> TokenScore:
    return TokenScore(token_id=score.token_id, token=engine.token_text(score.token_id), logprob=score.logprob)
