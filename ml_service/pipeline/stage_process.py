"""A stage as a process of its own: `ml-service stage NAME`, watched until it ends or is told to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lib.files import NO_ROOM_CODE, NO_ROOM_SAID
from ml_service.utils.handing_on import for_child
from ml_service.utils.log_relay import Relay
from ml_service.utils.logs import refusal_of

LOG_FILE = "log.txt"
PARAMETERS_FILE = "params.yaml"
_LOOK_EVERY_S = 0.5
_BY_SIGNAL = (128 + signal.SIGTERM, 128 + signal.SIGINT)


class StageFailed(Exception):
    """It ended with a sentence, which is this exception's; the same again would end the same."""


class StageKilled(Exception):
    """It was killed from outside: the system, a person, a full memory."""


class StageInterrupted(Exception):
    """It was asked to end and can go on later."""


def run_stage_process(
    name: str, directory: Path, threads: int, processes: int, watch: Callable[[], bool], grace_s: float = 60.0
) -> None:
    """Run a stage over a directory whose parameters lie in it; all that it says goes to the directory's log.

    `watch` is called twice a second; where it returns True the stage is asked to end, which may take `grace_s`, and
    where it raises the stage is killed. Raises StageInterrupted, StageKilled or StageFailed where it does not end well.
    """
    words = ["stage", name, "--params", str(directory / PARAMETERS_FILE), "--directory", str(directory)]
    command = [*_launcher(processes), "-m", "ml_service.cli", *words, "--with-parent"]
    own = {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true"}
    environment = os.environ | own | for_child(name)
    run_watched(command, directory / LOG_FILE, environment, watch, grace_s)


def run_watched(
    command: Sequence[str], log_file: Path, environment: Mapping[str, str], watch: Callable[[], bool], grace_s: float
) -> None:
    """Any command in the same way: as a process that ends with us, whatever it says in a log.

    Where our own lines are JSON, what it says is passed on to them, too.
    """
    with log_file.open("ab") as log:
        begin = log.tell()
        relay = Relay(log_file, begin)

        def look() -> bool:
            relay.pass_on()
            return watch()

        # A group of its own, for Ctrl-C in a terminal is the worker's to pass on, once. A session of its own would be a
        # scheduling group, too (autogroup), and as such get half of the processor whatever its class.
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, process_group=0
        ) as process:
            try:
                is_asked = _ended_when_asked(process, look, grace_s)
            except BaseException:
                process.kill()
                raise
        relay.pass_on()
    if process.returncode != 0 and is_asked:
        raise StageInterrupted
    _judge(process.returncode, log_file, begin)


def _launcher(processes: int) -> list[str]:
    if processes == 1:
        return [sys.executable]
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]


def _ended_when_asked(process: subprocess.Popen[bytes], watch: Callable[[], bool], grace_s: float) -> bool:
    """Wait for the end; whether it had been asked for."""
    is_asked = False
    while True:
        try:
            process.wait(grace_s if is_asked else _LOOK_EVERY_S)
            return is_asked
        except subprocess.TimeoutExpired:
            if is_asked:
                process.kill()
            elif watch():
                is_asked = True
                process.terminate()


def _judge(code: int, log: Path, begin: int) -> None:
    if code == 0:
        return
    if code < 0 or code in _BY_SIGNAL:
        by = signal.Signals(-code if code < 0 else code - 128).name
        raise StageKilled(f"the process was ended from outside ({by})")
    with log.open("rb") as file:
        file.seek(begin)
        said = file.read().decode("utf-8", "replace").splitlines()
    sentence = next(filter(None, map(refusal_of, reversed(said))), None)
    if sentence is None and code == NO_ROOM_CODE:
        sentence = NO_ROOM_SAID
    raise StageFailed(sentence or "an error of the service; the log beside its files has it")
