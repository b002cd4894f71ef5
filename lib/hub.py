"""Files of the Hugging Face hub, fetched into its cache once; what cannot be had is told in words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

_HUB_NAME = re.compile(r"\w[\w.-]*/[\w.-]+")
CHECKPOINT_FILES = ["*.json", "*.safetensors", "*.jinja"]


def fetch(name: str, kind: Literal["model", "dataset"], patterns: list[str]) -> Path:
    """The directory of a repository with those of its files.

    Raises ConnectionError where the hub cannot be reached or has no such repository.
    """
    from huggingface_hub import snapshot_download  # few need it

    try:
        return Path(snapshot_download(name, repo_type=kind, allow_patterns=patterns))
    except Exception as error:  # the client raises its own, its transport's and the file system's
        what = "data set" if kind == "dataset" else "model"
        raise ConnectionError(f"the hub gave no {what} {name!r}: {type(error).__name__}") from error


def checkpoint_directory(wanted: str | Path) -> tuple[Path, str]:
    """A directory as it is, else the hub's model of this name (`OWNER/NAME`); and what to call it."""
    path = Path(wanted).expanduser()
    if path.exists() or path.is_absolute() or not _HUB_NAME.fullmatch(str(wanted)):
        return path, path.resolve().name
    return fetch(str(wanted), "model", CHECKPOINT_FILES), str(wanted)
