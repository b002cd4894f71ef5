"""Windows over packed tokens, drawn from several sources in given shares; a function of the index and the seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from lib.token_shards import PackedTokens

Sample = dict[str, torch.Tensor]
BLOCK = 4096
"""Windows in which the shares of the sources hold exactly, so that a place in a source follows from the index."""


class PackedWindows(Dataset[Sample]):
    """Training windows without end: the i-th one is always the same, so that a run resumes exactly where it stopped.

    Each pass over a source takes its windows in a new order and from a new offset. Windows cross document borders;
    their `position_ids` begin anew behind each `end_id`, which keeps attention within the documents.
    """

    def __init__(
        self,
        parts: Sequence[PackedTokens],
        shares: Mapping[str, float] | None,
        window: int,
        length: int,
        seed: int,
        end_id: int,
    ) -> None:
        """`shares` maps each source to its share of the windows; None takes them in proportion to their tokens.

        Raises ValueError where a share names no source, or a source is shorter than two windows.
        """
        self._window, self._seed, self._end_id = window, seed, end_id
        self._parts = _with_shares(parts, shares)
        for part, _ in self._parts:
            if len(part.tokens) < 2 * window + 1:
                raise ValueError(
                    f"source {part.source!r} has {len(part.tokens)} tokens: too few for windows of {window}"
                )
        self._length = length
        self._quotas = _quotas([share for _, share in self._parts])
        self._block: tuple[int, npt.NDArray[np.int64], npt.NDArray[np.int64]] | None = None
        self._order_cache: dict[int, tuple[int, int, npt.NDArray[np.int64]]] = {}

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        source, rank = self._draw(index)
        tokens = self._parts[source][0].tokens
        windows = (len(tokens) - 1) // self._window - 1
        offset, order = self._order(source, rank // windows, windows)
        return _sample(tokens, offset + int(order[rank % windows]) * self._window, self._window, self._end_id)

    def _draw(self, index: int) -> tuple[int, int]:
        """(source, how many windows of it came before): each block has every source's quota, shuffled."""
        number, place = divmod(index, BLOCK)
        if self._block is None or self._block[0] != number:
            generator = np.random.default_rng([self._seed, number])
            sources = generator.permutation(np.repeat(np.arange(len(self._quotas)), self._quotas))
            ranks = np.empty(BLOCK, np.int64)
            for source, quota in enumerate(self._quotas):
                ranks[sources == source] = number * quota + np.arange(quota)
            self._block = (number, sources, ranks)
        return int(self._block[1][place]), int(self._block[2][place])

    def _order(self, source: int, epoch: int, windows: int) -> tuple[int, npt.NDArray[np.int64]]:
        cached = self._order_cache.get(source)
        if cached is None or cached[0] != epoch:
            generator = np.random.default_rng([self._seed, source, epoch])
            cached = (epoch, int(generator.integers(self._window)), generator.permutation(windows))
            self._order_cache[source] = cached
        return cached[1], cached[2]


class FixedWindows(Dataset[Sample]):
    """Consecutive windows from the beginning of one source, at most `max_tokens` of it: for validation."""

    def __init__(self, part: PackedTokens, window: int, max_tokens: int, end_id: int) -> None:
        """Raises ValueError where there is not one whole window."""
        self._tokens, self._window, self._end_id = part.tokens, window, end_id
        self._count = min(len(part.tokens) - 1, max_tokens) // window
        if self._count < 1:
            raise ValueError(f"validation source {part.source!r} has {len(part.tokens)} tokens, less than {window} + 1")

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Sample:
        return _sample(self._tokens, index * self._window, self._window, self._end_id)


def document_positions(ids_T: npt.NDArray[np.int64], end_id: int) -> npt.NDArray[np.int64]:
    """The place of each token in its document, from 0; what precedes the first `end_id` counts as one document."""
    places = np.arange(len(ids_T))
    begins = np.zeros(len(ids_T), np.int64)
    begins[1:] = np.where(ids_T[:-1] == end_id, places[1:], 0)
    return places - np.maximum.accumulate(begins)


def within_documents(positions_BT: torch.Tensor) -> torch.Tensor:
    """Where attention goes: back, and not over the border of a document. (batch, 1, tokens, tokens), true or false."""
    documents_BT = (positions_BT == 0).cumsum(1)
    return (documents_BT[:, :, None] == documents_BT[:, None, :]).tril()[:, None]


def _sample(tokens: npt.NDArray[np.unsignedinteger], start: int, window: int, end_id: int) -> Sample:
    piece = tokens[start : start + window + 1].astype(np.int64)
    positions = document_positions(piece[:-1], end_id)
    ids = torch.from_numpy(piece)
    return {"input_ids": ids[:-1], "next_tokens": ids[1:], "position_ids": torch.from_numpy(positions)}


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


def _quotas(shares: Sequence[float]) -> npt.NDArray[np.int64]:
    """Windows of a block for each source: the largest remainders make up the block."""
    exact = np.asarray(shares) / sum(shares) * BLOCK
    quotas = np.floor(exact).astype(np.int64)
    for source in np.argsort(quotas - exact, kind="stable")[: BLOCK - int(quotas.sum())]:
        quotas[source] += 1
    return quotas
