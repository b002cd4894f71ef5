"""The world that a page is tried in: a folder like a fresh clone, a home with notes, a server, a shell, a Python."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from ml_service.common.settings import PROJECT
from tests.docs.blocks import OWN_SERVER, Block
from tests.docs.shapes import differences, values_in
from tests.test_process import Server

_PORTS = re.compile(r"(?<=:)80\d\d\b|(?<=-port )\d{4}\b|(?<=PORT=)\d{4}\b")
"""Ports as pages name them; each is a free one here."""
_LINKED = ("ml_service", "lib", "benchmarks", "tests", "deploy", ".venv")
"""Of the project, what commands read; everything else that they name is copied."""
PATIENCE_S = 60
LONG_PATIENCE_S = 1800
_CURL = f'#!/bin/sh\nexec {shutil.which("curl")} --fail-with-body "$@"\n'
"""A refusal ends a command with an error, as nothing else tells it from an answer."""
_WORDS = (
    "harbour bell tide ferry rope winter lamp quay gull storm letter market boat captain fish net salt rain stone "
    "bridge morning window garden apple paper".split()
)


class World:
    """Where a page's blocks are run, one after the other."""

    def __init__(self, root: Path, page: Path, database: str | None = None) -> None:
        self._folder, self._home = root / "ml_service", root / "home"
        self._ports: dict[str, int] = {}
        self._background: list[subprocess.Popen[bytes]] = []
        self._python: PythonSession | None = None
        _make_folder(self._folder)
        _make_home(self._home)
        tools = root / "bin"
        tools.mkdir()
        (tools / "curl").write_text(_CURL)
        (tools / "curl").chmod(0o755)
        self._server: Server | None = None
        if OWN_SERVER not in page.read_text(encoding="utf-8"):
            self._server = Server(None, store=str(self._folder / "data" / "store"))
            self._ports["8000"] = int(self._server.client.base_url.port or 0)
        kept = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        self._environment = kept | {
            "HOME": str(self._home),
            "PATH": os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]]),
            "ML_SERVICE_STORE": str(self._folder / "data" / "store"),
            "ML_SERVICE_PORT": str(self._port("8000")),
        }
        if database is not None:
            self._environment["DOCS_DATABASE"] = database

    def try_block(self, block: Block) -> None:
        """Run it as it stands. Raises AssertionError where it fails, or answers otherwise than is shown."""
        text = _PORTS.sub(lambda found: str(self._port(found[0])), block.tried)
        if block.in_background:
            self._begin(block, text)
            return
        output = self._run_python(block, text) if block.language == "python" else self._run_shell(block, text)
        if block.answer is not None:
            values = values_in(output)
            assert values, f"{block.place} shows an answer and prints none:\n{output}"
            wrong = differences(json.loads(block.answer.text), values[-1])
            assert not wrong, f"{block.answer.place}: " + "; ".join(wrong)

    def end(self) -> None:
        """End everything that the page started."""
        if self._python is not None:
            self._python.close()
        for process in self._background:
            _end(process)
        if self._server is not None:
            self._server.kill()

    def answered(self, statuses: str) -> dict[tuple[str, str], float]:
        """Of each method and route, how many requests the server answered with one of the statuses, such as `2..`."""
        counted: dict[tuple[str, str], float] = {}
        if self._server is None:
            return counted
        assert self._server.process.poll() is None, "the server died of the page"
        row = re.compile(rf'http_requests_total\{{handler="(.*?)",method="(\w+)",status="{statuses}"\}} (.*)')
        for found in filter(None, map(row.match, self._server.client.get("/metrics").text.splitlines())):
            route = found[2], found[1].replace(":path}", "}")
            counted[route] = counted.get(route, 0) + float(found[3])
        return counted

    def _port(self, shown: str) -> int:
        if shown not in self._ports:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self._ports[shown] = free.getsockname()[1]
        return self._ports[shown]

    def _run_shell(self, block: Block, text: str) -> str:
        process = self._shell(text, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            output, errors = process.communicate(timeout=LONG_PATIENCE_S if block.is_slow else PATIENCE_S)
        except subprocess.TimeoutExpired:
            _end(process)
            raise AssertionError(f"{block.place} does not end") from None
        said = f"{block.place}\n{text}\n{output.decode()[-4000:]}\n{errors.decode()[-4000:]}"
        if block.refused is not None:
            assert process.returncode == 22, f"this was not refused: {said}"
            statuses = [value["status"] for value in values_in(output.decode()) if "status" in value]
            assert statuses[-1:] == [block.refused], said
        else:
            assert process.returncode == 0, said
        return output.decode()

    def _run_python(self, block: Block, text: str) -> str:
        if self._python is None:
            self._python = PythonSession(self._folder, self._environment)
        return self._python.run(text, block.place)

    def _begin(self, block: Block, text: str) -> None:
        """Start it and wait until it listens where it says, by default where `ml-service serve` does."""
        named = _PORTS.findall(block.tried)
        port = self._port(named[-1] if named else "8000")
        process = self._shell(text)
        self._background.append(process)
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            assert process.poll() is None, f"{block.place} ended with {process.returncode}"
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.05)
        raise AssertionError(f"{block.place}: nobody listens on {port}")

    def _shell(self, text: str, **pipes: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=self._folder, env=self._environment, stdin=subprocess.DEVNULL, start_new_session=True, **pipes,
        )  # fmt: skip


class PythonSession:
    """One interpreter for all the Python of a page, as a reader has who follows it."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        reading, writing = os.pipe()
        self._answers = os.fdopen(reading, encoding="utf-8")
        self._printed = folder.parent / "printed"
        with self._printed.open("wb") as printed:
            self._process = subprocess.Popen(
                [sys.executable, str(PROJECT / "tests" / "docs" / "python_session.py"), str(writing)],
                cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=printed, text=True, pass_fds=[writing],
            )  # fmt: skip
        os.close(writing)

    def run(self, code: str, place: str) -> str:
        """What it printed. Raises AssertionError with the trace where it fails."""
        before = self._printed.stat().st_size
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"code": code, "place": place}) + "\n")
        self._process.stdin.flush()
        answer = self._answers.readline()
        assert answer, f"{place} ended Python"
        assert not json.loads(answer)["failed"], json.loads(answer)["failed"]
        return self._printed.read_bytes()[before:].decode()

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()
        self._answers.close()


def _make_folder(folder: Path) -> None:
    folder.mkdir()
    for path in PROJECT.iterdir():
        if path.is_file():
            shutil.copy2(path, folder)
        elif path.name in _LINKED:
            (folder / path.name).symlink_to(path)
    (folder / "data").mkdir()
    for name in ("bundle", "samples"):
        shutil.copytree(PROJECT / "data" / name, folder / "data" / name)
    (folder / "notes.txt").write_text(_tale("notes.txt", lines=3000))


def _make_home(home: Path) -> None:
    """Folders of text, as pages take them for granted: `~/notes` and `~/code`."""
    for name, suffix in (("notes", "md"), ("code", "py")):
        (home / name).mkdir(parents=True)
        for number in range(120):  # a twentieth is held out
            text = _tale(f"{name} {number}", lines=20)
            (home / name / f"{number}.{suffix}").write_text(text if suffix == "md" else f'"""{text}"""\n')


def _tale(seed: str, lines: int) -> str:
    """Sentences that are nearly like no others, the same for the same seed."""
    source = random.Random(seed)
    return "".join(f"{' '.join(source.choices(_WORDS, k=11))}.\n" for _ in range(lines))


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.communicate(timeout=10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
