"""A tree of a project printed from its files' captions: the first line of the docstring or comment that begins them."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable
from pathlib import Path

from lib.files import staged

SUFFIXES = (".py", ".h", ".cpp")
_COMMENT = "// "
MARK = "tree"


def caption_of(file: Path) -> str:
    """The first line of what describes a file. Raises ValueError where there is none."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".py":
        description = ast.get_docstring(ast.parse(text))
    else:
        description = text.removeprefix(_COMMENT) if text.startswith(_COMMENT) else None
    if not description:
        raise ValueError(f"{file} has no caption: begin it with a docstring or a comment")
    return description.splitlines()[0]


def tree(root: Path, folders: Iterable[str]) -> str:
    """Folders with their packages' captions, files with theirs, in alphabetical order."""
    paths = (path for folder in folders for path in (root / folder).rglob("*") if path.suffix in SUFFIXES)
    files = {path for path in paths if "__pycache__" not in path.parts}
    rows = []
    for file in sorted(files, key=lambda path: (path.parent.parts, path.name != "__init__.py", path.name)):
        depth = len(file.relative_to(root).parts) - 1
        is_package = file.name == "__init__.py"
        name = f"{file.parent.name}/" if is_package else file.name
        indent = "  " * (depth - 1 if is_package else depth)
        rows.append((f"{indent}{name}", caption_of(file)))
    width = max(len(name) for name, _ in rows) + 2
    return "\n".join(f"{name:<{width}}{caption}" for name, caption in rows)


def with_tree(text: str, printed: str) -> str:
    """The text with the printed tree between its marks. Raises ValueError where it has no marks."""
    return with_printed(text, MARK, f"```text\n{printed}\n```")


def with_printed(text: str, mark: str, printed: str) -> str:
    """A Markdown text with what was printed between its two marks. Raises ValueError where it has none."""
    begins, ends = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
    before, begin, rest = text.partition(begins)
    _, end, after = rest.partition(ends)
    if not begin or not end:
        raise ValueError(f"the text has no place for the {mark}: put {begins} and {ends} into it")
    return f"{before}{begins}\n{printed}\n{ends}{after}"


def main() -> None:
    """`python -m lib.captions PAGE FOLDER ...`: write the tree of the folders here into a Markdown page."""
    page, *folders = sys.argv[1:]
    path = Path(page)
    text = with_tree(path.read_text(encoding="utf-8"), tree(Path.cwd(), folders))
    with staged(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
