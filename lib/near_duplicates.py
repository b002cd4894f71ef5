"""Near duplicates of held-out documents, so that a validation score is not a memory test."""

from __future__ import annotations

from collections import Counter, defaultdict

MIN_LINE_CHARACTERS = 16
MIN_LINES = 8


class HeldOutLines:
    """Which lines the held-out documents have; tells whether another document repeats one of them.

    Two documents are near duplicates when the overlap coefficient (Szymkiewicz-Simpson) of their sets of distinct
    lines of at least 16 characters reaches the threshold. Documents with fewer than 8 such lines never are.
    """

    def __init__(self, threshold: float = 0.7) -> None:
        self._threshold = threshold
        self._names: list[str] = []
        self._line_counts: list[int] = []
        self._documents_of_line: defaultdict[int, list[int]] = defaultdict(list)

    def add(self, name: str, text: str) -> None:
        """Hold this document out."""
        lines = _distinct_lines(text)
        index = len(self._names)
        self._names.append(name)
        self._line_counts.append(len(lines))
        for line in lines:
            self._documents_of_line[line].append(index)

    def repeated_by(self, text: str) -> str | None:
        """The name of the held-out document that `text` repeats, or None."""
        lines = _distinct_lines(text)
        shared = Counter(index for line in lines for index in self._documents_of_line.get(line, ()))
        for index, count in shared.most_common():
            smaller = min(len(lines), self._line_counts[index])
            if smaller >= MIN_LINES and count >= self._threshold * smaller:
                return self._names[index]
        return None


def _distinct_lines(text: str) -> set[int]:
    stripped = (line.strip() for line in text.split("\n"))
    return {hash(line) for line in stripped if len(line) >= MIN_LINE_CHARACTERS}
