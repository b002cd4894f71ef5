"""A shadow: asked, in the background and for nobody, what the active model has answered; how far the two agree."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextvars import Context
from dataclasses import dataclass, replace

import numpy as np

from ml_service.common.errors import ServiceError
from ml_service.common.types import GenerationParameters
from ml_service.inference.live import LiveModel
from ml_service.inference.sequence import Answered
from ml_service.utils.logs import EventLogger
from ml_service.utils.telemetry import Telemetry

log = EventLogger("shadow")
_LONGEST_QUEUE = 32
_REST = 9.0
"""It rests nine times as long as a request took it: a busy service is some 5 % slower beside it (15 % with 3)."""
_KEPT_TIMES = 1024


@dataclass(frozen=True)
class Agreement:
    """What came of the mirrored requests so far."""

    compared: int = 0
    same: int = 0
    """With the very same answer."""
    common: float = 0.0
    """Sum over them of the share of the longer answer that both begin with."""
    active_tokens: int = 0
    shadow_tokens: int = 0
    failed: int = 0
    skipped: int = 0
    """Asked for tokens by their number, which the other tokenizer does not know."""
    dropped: int = 0
    """The shadow was behind."""


@dataclass(frozen=True)
class Speed:
    """Milliseconds between two tokens."""

    active_p50_ms: float | None
    active_p95_ms: float | None
    shadow_p50_ms: float | None
    shadow_p95_ms: float | None


class Shadow:
    """One task of the event loop works the queue off, while there is one; nobody ever waits for it."""

    def __init__(self, model: LiveModel, beside: LiveModel, telemetry: Telemetry) -> None:
        self.model, self._telemetry = model, telemetry
        self._shares_tokenizer = model.manifest.tokenizer_sha256 == beside.manifest.tokenizer_sha256
        self._beside = beside.engine
        self._queue: deque[Answered] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._agreement = Agreement()
        self._times: deque[tuple[float, float]] = deque(maxlen=_KEPT_TIMES)

    @property
    def agreement(self) -> Agreement:
        """So far."""
        return self._agreement

    @property
    def speed(self) -> Speed:
        """Of the latest, side by side; the shadow runs with less urgency and on fewer threads."""
        return Speed(*_quantiles([a for a, _ in self._times]), *_quantiles([s for _, s in self._times]))

    def offer(self, answered: Answered) -> None:
        """Mirror a request; called on the event loop when it has been answered."""
        if answered.finished.reason not in ("stop", "length") or not answered.ids:
            return
        if len(self._queue) >= _LONGEST_QUEUE:
            self._count("dropped")
            return
        self._queue.append(answered)
        if self._worker is None or self._worker.done():
            # It goes on for many requests and is nobody's own: neither the first one's id nor its trace.
            self._worker = asyncio.create_task(self._work(), context=Context())

    async def _work(self) -> None:
        while self._queue:
            answered, started = self._queue.popleft(), time.perf_counter()
            try:
                await self._mirror(answered)
            except ServiceError as error:
                log.info("shadow.failed", reason=str(error))
                self._count("failed")
            except Exception:  # a bug must not end the work; the shadow is there to find them
                log.exception("shadow.failed")
                self._count("failed")
            await asyncio.sleep(_REST * (time.perf_counter() - started))

    async def _mirror(self, answered: Answered) -> None:
        if not self._shares_tokenizer and _names_tokens(answered.parameters):
            self._count("skipped")
            return
        engine, prompt_ids = self.model.engine, answered.prompt_ids
        if not self._shares_tokenizer:
            prompt_ids = await engine.encode(self._beside.decode(prompt_ids))
        completion = await engine.complete(engine.check(prompt_ids), answered.parameters, "shadow")
        if completion.end.reason in ("stop", "length"):
            ids = [choice.token_id for choice in completion.choices]
            self._compare(answered, ids, completion.end.timings.decode_ms)

    def _compare(self, answered: Answered, ids: list[int], decode_ms: float) -> None:
        ours: list[int] | str = answered.ids
        theirs: list[int] | str = ids
        if not self._shares_tokenizer:
            ours, theirs = self._beside.decode(answered.ids), self.model.engine.decode(ids)
        share = _common_share(ours, theirs)
        known = self._agreement
        self._agreement = replace(
            known,
            compared=known.compared + 1,
            same=known.same + (ours == theirs),
            common=known.common + share,
            active_tokens=known.active_tokens + len(answered.ids),
            shadow_tokens=known.shadow_tokens + len(ids),
        )
        if len(answered.ids) > 1 and len(ids) > 1:
            own_ms = answered.finished.timings.decode_ms
            self._times.append((own_ms / (len(answered.ids) - 1), decode_ms / (len(ids) - 1)))
        self._telemetry.shadow_requests.labels("same" if ours == theirs else "different").inc()

    def _count(self, what: str) -> None:
        self._agreement = replace(self._agreement, **{what: getattr(self._agreement, what) + 1})
        self._telemetry.shadow_requests.labels(what).inc()


def _names_tokens(parameters: GenerationParameters) -> bool:
    return bool(parameters.logit_bias or parameters.stop_token_ids)


def _common_share(first: list[int] | str, second: list[int] | str) -> float:
    longest = max(len(first), len(second))
    common = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), None)
    return (min(len(first), len(second)) if common is None else common) / longest if longest else 1.0


def _quantiles(times: list[float]) -> tuple[float | None, float | None]:
    if not times:
        return None, None
    middle, high = np.quantile(times, [0.5, 0.95])
    return float(middle), float(high)
