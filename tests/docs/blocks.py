"""The fenced blocks of Markdown pages, and what the comment before one says of how it is tried."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ml_service.common.settings import PROJECT

COMMANDS = ("bash", "python")
"""What is run."""
DATA = ("json", "yaml")
"""What is parsed; JSON right behind a command is its answer."""
SHOWN = ("text", "nginx", "ini")
"""What is only shown."""
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"<!-- ([^>]*?) -->\n\Z")
_REPLACED = re.compile(r'"(?P<shown>[^"]+)" as "(?P<tried>[^"]+)"')
_FEWEST_WORDS = 3
_REFUSED = re.compile(r"refused: (\d{3})")
OWN_SERVER = "<!-- page: starts servers of its own -->"


@dataclass(frozen=True)
class Block:
    """A fenced block: where it stands, what is in it, and how it is tried."""

    page: Path
    line: int
    language: str
    text: str
    not_run: str = ""
    """Why it is not run; empty where it is."""
    is_slow: bool = False
    in_background: bool = False
    refused: int | None = None
    """The status with which its last request is refused, on purpose."""
    replaced: tuple[tuple[str, str], ...] = ()
    """What a reader sees, and what is tried in its place."""
    answer: Block | None = None
    """The JSON block behind it, which shows what it answers."""

    @property
    def place(self) -> str:
        return f"{os.path.relpath(self.page, PROJECT)}:{self.line}"

    @property
    def is_run(self) -> bool:
        return self.language in COMMANDS and not self.not_run

    @property
    def tried(self) -> str:
        """The text with what is tried in place of what is shown."""
        text = self.text
        for shown, tried in self.replaced:
            assert shown in text, f"{self.place}: there is no {shown!r} to be replaced"
            text = text.replace(shown, tried)
        return text


def pages() -> list[Path]:
    """The README and everything in docs/, in the order of their names."""
    return [PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))]


def blocks_of(page: Path) -> list[Block]:
    """A page's blocks from top to bottom, answers beside what they answer. Raises ValueError at a mark that is none."""
    found: list[Block] = []
    for block, is_behind in _in_order(page):
        if block.language == "json" and is_behind and found and found[-1].is_run and not block.not_run:
            found[-1] = _with_answer(found[-1], block)
        found.append(block)
    return found


def _with_answer(block: Block, answer: Block) -> Block:
    return Block(**{**vars(block), "answer": answer})


def _in_order(page: Path) -> Iterator[tuple[Block, bool]]:
    """Each block and whether nothing but white space or a comment is between it and the one before."""
    text = page.read_text(encoding="utf-8")
    end = 0
    for fence in _FENCE.finditer(text):
        between = text[end : fence.start()]
        comment = _COMMENT.search(between)
        line = text.count("\n", 0, fence.start()) + 1
        is_behind = end > 0 and not re.sub(r"<!--.*?-->", "", between).strip()
        yield _marked(Block(page, line, fence[1], fence[2]), comment[1] if comment else ""), is_behind
        end = fence.end()


def _marked(block: Block, comment: str) -> Block:
    """The block with what the comment says of it; comments that are for others say nothing."""
    if comment.startswith("not run: "):
        reason = comment.removeprefix("not run: ")
        if len(reason.split()) < _FEWEST_WORDS:
            raise ValueError(f"{block.place}: {reason!r} is no reason")
        return Block(**{**vars(block), "not_run": reason})
    said = {"is_slow": False, "in_background": False, "refused": None, "replaced": ()}
    replaced = list(_REPLACED.finditer(comment))
    said["replaced"] = tuple((found["shown"].replace("\\n", "\n"), found["tried"]) for found in replaced)
    for word in filter(None, (part.strip() for part in re.split(r"[;,]", _REPLACED.sub("", comment)))):
        if word == "slow":
            said["is_slow"] = True
        elif word == "background":
            said["in_background"] = True
        elif refused := _REFUSED.fullmatch(word):
            said["refused"] = int(refused[1])
        elif word.partition(":")[0] in ("tree", "settings", "page"):
            continue
        else:
            raise ValueError(f"{block.place}: nobody knows what {word!r} means")
    return Block(**{**vars(block), **said})
