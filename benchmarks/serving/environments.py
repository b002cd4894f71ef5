"""A virtual environment for each peer, made once and kept while its requirements stay the same."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path

from benchmarks.serving.participants import Participant

_STAMP = "requirements.txt"


class Unavailable(Exception):
    """A participant that cannot take part; the table says why in these words."""


def interpreter(participant: Participant, root: Path, log: Path) -> Path:
    """The Python that runs the participant's worker. Raises Unavailable."""
    if not participant.requirements:
        return Path(sys.executable)
    directory = root / participant.name
    python = directory / "bin" / "python"
    wanted = "\n".join(participant.requirements)
    stamp = directory / _STAMP
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    shutil.rmtree(directory, ignore_errors=True)
    venv.create(directory, with_pip=True)
    _run([str(python), "-m", "pip", "install", "--quiet", *participant.requirements], log, "cannot be installed")
    if participant.unwanted:
        _run(
            [str(python), "-m", "pip", "uninstall", "--quiet", "--yes", *participant.unwanted], log, "cannot be set up"
        )
    stamp.write_text(wanted, encoding="utf-8")
    return python


def converted(participant: Participant, python: Path, checkpoint: Path, directory: Path, bits: int, log: Path) -> Path:
    """The checkpoint in the participant's own format, kept for peers; ours is made anew. Raises Unavailable."""
    stamp = directory / _STAMP
    wanted = "\n".join(participant.requirements)
    if not wanted or not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        shutil.rmtree(directory, ignore_errors=True)
        directory.parent.mkdir(parents=True, exist_ok=True)
        command = [str(python), "-m", participant.module, "convert", str(checkpoint), str(directory), str(bits)]
        _run(command, log, "cannot convert the checkpoint")
        stamp.write_text(wanted, encoding="utf-8")
    return directory


def _run(command: list[str], log: Path, what: str) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        code = subprocess.run(command, stdout=output, stderr=output, check=False).returncode
    if code:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise Unavailable(f"{what}: {lines[-1].strip()[:160] if lines else f'exit code {code}'} ({log})")
