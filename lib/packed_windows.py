"""Windows over packed tokens, drawn from several sources in given shares; a function of the index and the seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from lib.token_shards import PackedTokens

Sample = dict[str, torch.Tensor]


class PackedWindows(Dataset[Sample]):
    """Training windows without end: the i-th one is always the same, so that a run resumes exactly where it stopped.

    Each pass over a source takes its windows in a new order and from a new offset. Windows cross document borders.
    """

    def __init__(
        self, parts: Sequence[PackedTokens], shares: Mapping[str, float] | None, window: int, length: int, seed: int
    ) -> None:
        """`shares` maps each source to its share of the windows; None takes them in proportion to their tokens.

        Raises ValueError where a share names no source, or a source is shorter than two windows.
        """
        self._window, self._seed = window, seed
        self._parts = _with_shares(parts, shares)
        for part, _ in self._parts:
            if len(part.tokens) < 2 * window + 1:
                raise ValueError(
                    f"source {part.source!r} has {len(part.tokens)} tokens: too few for windows of {window}"
                )
        weights = np.array([share for _, share in self._parts])
        draws = np.random.default_rng(seed).choice(len(self._parts), size=length, p=weights / weights.sum())
        self._source_of = draws.astype(np.int8)
        self._rank_of = np.zeros(length, dtype=np.int32)
        for index in range(len(self._parts)):
            drawn = self._source_of == index
            self._rank_of[drawn] = np.arange(int(drawn.sum()), dtype=np.int32)
        self._order_cache: dict[int, tuple[int, int, npt.NDArray[np.int64]]] = {}

    def __len__(self) -> int:
        return len(self._source_of)

    def __getitem__(self, index: int) -> Sample:
        source, rank = int(self._source_of[index]), int(self._rank_of[index])
        tokens = self._parts[source][0].tokens
        windows = (len(tokens) - 1) // self._window - 1
        offset, order = self._order(source, rank // windows, windows)
        return _sample(tokens, offset + int(order[rank % windows]) * self._window, self._window)

    def _order(self, source: int, epoch: int, windows: int) -> tuple[int, npt.NDArray[np.int64]]:
        cached = self._order_cache.get(source)
        if cached is None or cached[0] != epoch:
            generator = np.random.default_rng([self._seed, source, epoch])
            cached = (epoch, int(generator.integers(self._window)), generator.permutation(windows))
            self._order_cache[source] = cached
        return cached[1], cached[2]


class FixedWindows(Dataset[Sample]):
    """Consecutive windows from the beginning of one source, at most `max_tokens` of it: for validation."""

    def __init__(self, part: PackedTokens, window: int, max_tokens: int) -> None:
        """Raises ValueError where there is not one whole window."""
        self._tokens, self._window = part.tokens, window
        self._count = min(len(part.tokens) - 1, max_tokens) // window
        if self._count < 1:
            raise ValueError(f"validation source {part.source!r} has {len(part.tokens)} tokens, less than {window} + 1")

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Sample:
        return _sample(self._tokens, index * self._window, self._window)


def _sample(tokens: npt.NDArray[np.unsignedinteger], start: int, window: int) -> Sample:
    piece = torch.from_numpy(tokens[start : start + window + 1].astype(np.int64))
    return {"input_ids": piece[:-1], "labels": piece[1:]}


def _with_shares(parts: Sequence[PackedTokens], shares: Mapping[str, float] | None) -> list[tuple[PackedTokens, float]]:
    if shares is None:
        return [(part, float(len(part.tokens))) for part in parts]
    by_source = {part.source: part for part in parts}
    if unknown := sorted(set(shares) - set(by_source)):
        raise ValueError(f"no source {', '.join(unknown)} in the data set: it has {', '.join(sorted(by_source))}")
    chosen = [(by_source[source], share) for source, share in sorted(shares.items()) if share > 0]
    if not chosen:
        raise ValueError("every share is zero")
    return chosen
