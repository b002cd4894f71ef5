"""A process that is asked one thing after the other, in frames over a socket; it ends with the one who asks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping, Sequence

from lib.frames import Header, pack, read_message, receive
from lib.processes import end_with_parent


class Gone(Exception):
    """The process has ended and gave no answer."""


class NeverAsked(Gone):
    """It had ended before it took the question: another one may be asked the same."""


class AskedProcess:
    """The asking side."""

    def __init__(self, process: Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._process, self._reader, self._writer = process, reader, writer

    @classmethod
    async def start(cls, module: str, arguments: Sequence[str], environment: Mapping[str, str]) -> AskedProcess:
        """`python -m module SOCKET arguments`, which takes the other end as `Questions`."""
        ours, theirs = socket.socketpair()
        try:
            # Standard input is the life line of `end_with_parent`. A process group of its own for Ctrl-C: uvloop knows
            # no `process_group`.
            command = (sys.executable, "-m", module, str(theirs.fileno()), *arguments)
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=PIPE,
                stdout=DEVNULL,
                pass_fds=[theirs.fileno()],
                env=dict(environment),
                preexec_fn=os.setpgrp,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        reader, writer = await asyncio.open_connection(sock=ours)
        return cls(process, reader, writer)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended, as far as is known yet."""
        return self._process.returncode is None and not self._reader.at_eof()

    async def ask(self, header: Header, body: bytes = b"") -> tuple[Header, bytes]:
        """Its answer. Raises Gone where it ends before that, NeverAsked where it ends before it has the question."""
        try:
            self._writer.write(pack(header, body))
            await self._writer.drain()
            await receive(self._reader)  # that it has taken it
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise NeverAsked(f"it ended with {await self.end()}") from error
        return await self.listen()

    async def listen(self) -> tuple[Header, bytes]:
        """What it says next. Raises Gone."""
        try:
            return await receive(self._reader)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise Gone(f"it ended with {await self.end()}") from error

    async def end(self) -> int:
        """Kill it where it still lives; how it ended."""
        self._writer.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        return await self._process.wait()


class Questions:
    """The side that is asked; it ends when the one who asks does."""

    def __init__(self, descriptor: str) -> None:
        end_with_parent()
        with socket.socket(fileno=int(descriptor)) as link:
            link.setblocking(True)
            self._questions, self._answers = link.makefile("rb"), link.makefile("wb")

    def next(self) -> tuple[Header, bytes] | None:
        """The next question, waited for; None where nobody asks any more."""
        question = read_message(self._questions)
        if question is not None:
            self.answer({"taken": True})
        return question

    def answer(self, header: Header, body: bytes = b"") -> None:
        """Send it whole; end where nobody listens."""
        try:
            self._answers.write(pack(header, body))
            self._answers.flush()
        except OSError:
            os._exit(1)
