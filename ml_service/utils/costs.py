"""What a request has cost so far: noted where it is known, told when the request is over."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Costs:
    """Tokens, and where the time of the slowest answer went."""

    model: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish_reasons: set[str] = field(default_factory=set)
    queue_ms: float = 0.0
    prefill_ms: float = 0.0
    decode_ms: float = 0.0

    def fields(self) -> dict[str, Any]:
        """For a log line; empty where nothing was generated."""
        if not self.finish_reasons:
            return {}
        return {
            "model": self.model,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "finish_reason": ",".join(sorted(self.finish_reasons)),
            "queue_ms": self.queue_ms,
            "prefill_ms": self.prefill_ms,
            "decode_ms": self.decode_ms,
        }


costs: ContextVar[Costs | None] = ContextVar("costs", default=None)
"""Of the request that is being served in this context; None where nobody wants to know."""
