"""One hash that stands for a set of hashes: the root of their Merkle tree."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def merkle_root(ordered: Iterable[bytes]) -> str:
    """The root of the tree over hashes in ascending order, as RFC 6962 builds it, in hexadecimal.

    Equal sets have equal roots, however they were collected. Memory is a hash for each level of the tree.
    Raises ValueError where the order is broken or a hash comes twice.
    """
    previous = b""
    subtrees: list[tuple[int, bytes]] = []
    for leaf in ordered:
        if leaf <= previous:
            raise ValueError("the hashes are not in ascending order")
        previous = leaf
        subtrees.append((1, hashlib.sha256(b"\0" + leaf).digest()))
        while len(subtrees) > 1 and subtrees[-2][0] == subtrees[-1][0]:
            _join_last(subtrees)
    while len(subtrees) > 1:
        _join_last(subtrees)
    return subtrees[0][1].hex() if subtrees else hashlib.sha256(b"").hexdigest()


def _join_last(subtrees: list[tuple[int, bytes]]) -> None:
    size, right = subtrees.pop()
    left_size, left = subtrees.pop()
    subtrees.append((left_size + size, hashlib.sha256(b"\1" + left + right).digest()))
