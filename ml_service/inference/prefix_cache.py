"""What was read once: blocks of the KV cache by the tokens that lead up to them; pure accounting."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Block = TypeVar("Block")


@dataclass(frozen=True)
class _Entry(Generic[Block]):
    number: int
    block: Block


class PrefixCache(Generic[Block]):
    """Blocks of `block_tokens` tokens, each known by its own tokens and the block before; the longest unused goes.

    A block is found only behind all the tokens that were read before it, so it holds the very numbers that reading
    them again would give.
    """

    def __init__(self, block_tokens: int, max_blocks: int) -> None:
        self.block_tokens, self.max_blocks = block_tokens, max_blocks
        self._entries: OrderedDict[tuple[int, tuple[int, ...]], _Entry[Block]] = OrderedDict()
        self._made = 0

    def __len__(self) -> int:
        return len(self._entries)

    def match(self, ids: Sequence[int]) -> list[Block]:
        """The blocks of the longest known beginning of `ids`."""
        keys = self._known(ids)
        for key in reversed(keys):  # a block is of no use without those before it: they must stay longer
            self._entries.move_to_end(key)
        return [self._entries[key].block for key in keys]

    def extend(self, ids: Sequence[int], copy: Callable[[int, int], Block]) -> None:
        """Remember the full blocks of `ids`; `copy(start, stop)` is asked for those that are not known."""
        if not self.max_blocks:
            return
        keys = self._known(ids)
        before = self._entries[keys[-1]].number if keys else 0
        size = self.block_tokens
        for start in range(len(keys) * size, len(ids) - size + 1, size):
            self._made += 1
            self._entries[before, tuple(ids[start : start + size])] = _Entry(self._made, copy(start, start + size))
            before = self._made
            if len(self._entries) > self.max_blocks:
                self._entries.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()

    def _known(self, ids: Sequence[int]) -> list[tuple[int, tuple[int, ...]]]:
        keys: list[tuple[int, tuple[int, ...]]] = []
        before, size = 0, self.block_tokens
        for start in range(0, len(ids) - size + 1, size):
            key = (before, tuple(ids[start : start + size]))
            entry = self._entries.get(key)
            if entry is None:
                break
            keys.append(key)
            before = entry.number
        return keys
