"""A request of the playground as people paste it: a command of the shell, a script of plain Python."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Wish:
    """What is asked for, as it is typed on the page."""

    address: str
    """Of the service, as whoever pastes it knows it."""
    text: str
    parameters: Mapping[str, Any]
    """Only what differs from the default."""
    picture: str | None = None
    """The name of the picture's file; it is read from there."""
    wants_key: bool = False

    @property
    def url(self) -> str:
        """Where it is asked for."""
        return f"{self.address}/forward"


def curl(wish: Wish) -> str:
    """A command of a POSIX shell; a picture goes as a file of a form."""
    lines = [f"curl -sS {shlex.quote(wish.url)}"]
    if wish.wants_key:
        lines.append('-H "Authorization: Bearer $ML_SERVICE_KEY"')
    if wish.picture is None:
        lines.append("-H 'Content-Type: application/json'")
        lines.append(f"--data-raw {shlex.quote(json.dumps(_body(wish), ensure_ascii=False))}")
    else:
        name = wish.picture.replace("\\", "\\\\").replace('"', '\\"')
        part = f'image=@"{name}"'
        lines.append(f"-F {shlex.quote(part)}")
        lines += [f"--form-string {shlex.quote(f'{key}={_in_form(value)}')}" for key, value in _body(wish).items()]
    return " \\\n  ".join(lines)


def python(wish: Wish) -> str:
    """A script that needs nothing installed."""
    entries = [f"    {key!r}: {value!r},\n" for key, value in _body(wish).items()]
    modules = ["json", "urllib.request"]
    if wish.picture is not None:
        modules.insert(0, "base64")
        entries.insert(0, f"    'image': base64.b64encode(open({wish.picture!r}, 'rb').read()).decode(),\n")
    headers = "'Content-Type': 'application/json'"
    if wish.wants_key:
        modules.insert(-1, "os")
        headers += ", 'Authorization': f\"Bearer {os.environ['ML_SERVICE_KEY']}\""
    imports = "".join(f"import {module}\n" for module in modules)
    return (
        f"{imports}\n"
        f"body = {{\n{''.join(entries)}}}\n"
        f"request = urllib.request.Request(\n"
        f"    {wish.url!r}, json.dumps(body).encode(), {{{headers}}}\n"
        f")\n"
        f"with urllib.request.urlopen(request) as response:\n"
        f"    answer = json.load(response)\n" + _told(wish)
    )


def _told(wish: Wish) -> str:
    if wish.parameters.get("n", 1) == 1:
        return "print(answer['prediction'])\n"
    return "for one in answer['answers']:\n    print(one['prediction'])\n"


def _body(wish: Wish) -> dict[str, Any]:
    has_text = bool(wish.text) or wish.picture is None
    return {**({"text": wish.text} if has_text else {}), **wish.parameters}


def _in_form(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
