"""Prompts that begin alike share the work: keys and values copied out of slots and into others."""

from __future__ import annotations

from collections.abc import Iterable

from ml_service.inference.caches import CacheBlock
from ml_service.inference.prefix_cache import PrefixCache
from ml_service.inference.sequence import Sequence
from ml_service.inference.session import Session
from ml_service.utils.telemetry import Telemetry


class SharedPrefixes:
    """What sequences have read, kept for those who begin alike; owned by the decode loop."""

    def __init__(self, session: Session, cache: PrefixCache[CacheBlock], telemetry: Telemetry) -> None:
        self._session, self._cache, self._telemetry = session, cache, telemetry

    def reuse(self, sequence: Sequence) -> None:
        """Copy what others have read of this prompt; those tokens are always read after which logits are wanted."""
        assert sequence.slot is not None, "only those with a slot are scheduled"
        for block in self._cache.match(sequence.prompt_ids[: sequence.shared_tokens]):
            self._session.copy_in(sequence.slot, sequence.cached, block)
            sequence.cached += self._cache.block_tokens
        sequence.reused = sequence.cached
        self._telemetry.prefix_queries.inc(len(sequence.prompt_ids))
        self._telemetry.prefix_hits.inc(sequence.reused)

    def are_being_read(self, sequence: Sequence, others: Iterable[Sequence]) -> bool:
        """Whether one of the others is about to read blocks that this one could copy afterwards."""
        size = self._cache.block_tokens
        if not self._cache.max_blocks:
            return False
        for other in others:
            following = other.cached - other.cached % size + size
            shared = other.prompt_ids[:following]  # fewer where it ends before that
            if following <= sequence.shared_tokens and sequence.prompt_ids[:following] == shared:
                return True
        return False

    def remember(self, sequence: Sequence) -> None:
        """Keep what this sequence has read, or written itself."""
        slot, scores = sequence.slot, sequence.scores
        if slot is not None:
            # What is only scored has nothing to share but what leads up to it.
            read = sequence.ids[: sequence.cached if scores is None else min(sequence.cached, scores.first)]
            self._cache.extend(read, lambda start, stop: self._session.copy_out(slot, start, stop))

    def clear(self) -> None:
        """Forget everything."""
        self._cache.clear()
