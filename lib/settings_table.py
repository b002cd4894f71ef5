"""A table of settings, printed from the class that defines them: the sentence behind each field is its description."""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import sys
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from lib.captions import with_printed
from lib.files import staged

MARK = "settings"
_SIGNS = {Ge: ("ge", "at least"), Gt: ("gt", "above"), Le: ("le", "at most"), Lt: ("lt", "below")}


def sentences(settings: type[BaseSettings]) -> dict[str, str]:
    """Field → the string that follows it in the source. Raises ValueError where one has none."""
    (definition,) = ast.parse(inspect.getsource(settings)).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for first, second in itertools.pairwise(definition.body):
        if isinstance(first, ast.AnnAssign) and isinstance(first.target, ast.Name) and isinstance(second, ast.Expr):
            found[first.target.id] = " ".join(str(ast.literal_eval(second.value)).split())
    if missing := sorted(settings.model_fields.keys() - found.keys()):
        raise ValueError(f"nothing is said of {', '.join(missing)}")
    return found


def settings_table(settings: type[BaseSettings], root: Path) -> str:
    """Markdown: the variable, what it may be, what it is where not given, what it does; paths as seen from the root."""
    prefix = settings.model_config.get("env_prefix", "")
    said = sentences(settings)
    rows = [
        f"| `{(prefix + name).upper()}` | {_allowed(field)} | {_default(field, root)} | {said[name]} |"
        for name, field in settings.model_fields.items()
    ]
    return "\n".join(["| variable | values | default | |", "|---|---|---|---|", *rows])


def _default(field: FieldInfo, root: Path) -> str:
    if field.default_factory is not None:
        return field.default_factory.__name__.replace("_", " ")
    value = field.default
    if isinstance(value, Path):
        value = value.relative_to(root) if value.is_relative_to(root) else value
    if isinstance(value, bool):
        value = str(value).lower()
    return "" if value in (None, "") else f"`{value}`"


def _allowed(field: FieldInfo) -> str:
    """Choices, or a kind of number and its limits."""
    kinds = [kind for kind in _kinds(field.annotation) if kind is not type(None)]
    if any(get_origin(kind) is Literal for kind in kinds):
        return ", ".join(f"`{choice}`" for kind in kinds for choice in get_args(kind))
    if bool in kinds:
        return "`true`, `false`"
    words = [
        f"{word} {getattr(item, attribute):g}"
        if getattr(item, attribute) < 1e6
        else f"{word} {getattr(item, attribute)}"
        for item in field.metadata
        for sign, (attribute, word) in _SIGNS.items()
        if isinstance(item, sign)
    ]
    return ", ".join(words)


def _kinds(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def main() -> None:
    """`python -m lib.settings_table PAGE MODULE CLASS`: write the table into the page, between its marks."""
    page, module, name = sys.argv[1:]
    path = Path(page)
    table = settings_table(getattr(importlib.import_module(module), name), Path.cwd())
    text = with_printed(path.read_text(encoding="utf-8"), MARK, table)
    with staged(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
