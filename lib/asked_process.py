"""A process that is asked one thing after the other, in frames over a socket; it ends with the one who asks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping, Sequence
from typing import BinaryIO

from lib.frames import Header, pack, receive
from lib.processes import end_with_parent


class Gone(Exception):
    """The process has ended, of itself or because it took too long, and gave no answer."""


class AskedProcess:
    """The asking side."""

    def __init__(self, process: Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._process, self._reader, self._writer = process, reader, writer

    @classmethod
    async def start(cls, module: str, arguments: Sequence[str], environment: Mapping[str, str]) -> AskedProcess:
        """`python -m module SOCKET arguments`, which takes the other end with `asked_through`."""
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
        """Its answer. Raises Gone where it ends before it has given one."""
        try:
            self._writer.write(pack(header, body))
            await self._writer.drain()
        except ConnectionError as error:
            raise Gone(f"it ended with {await self.end()}") from error
        return await self.listen()

    async def listen(self) -> tuple[Header, bytes]:
        """What it says unasked. Raises Gone."""
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


def asked_through(descriptor: str) -> tuple[BinaryIO, BinaryIO]:
    """In the process that is asked: what is asked, and where to answer. It ends when the one who asks does."""
    end_with_parent()
    with socket.socket(fileno=int(descriptor)) as link:
        link.setblocking(True)
        return link.makefile("rb"), link.makefile("wb")


def tell(answers: BinaryIO, header: Header, body: bytes = b"") -> None:
    """Send an answer whole; end where nobody listens any more."""
    try:
        answers.write(pack(header, body))
        answers.flush()
    except OSError:
        os._exit(1)
