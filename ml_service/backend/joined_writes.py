"""An answer's head and body leave together: uvicorn writes them apart, and each write gives up Python's lock.

Under load the decode loop takes the lock then, and the event loop waits for it: two thirds of what a refusal took.
"""

from __future__ import annotations

import asyncio
from typing import Any


class JoinedWrites:
    """A transport that holds a piece until the next one comes, or until the turn of the loop is over."""

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._held = b""

    def __getattr__(self, name: str) -> Any:
        """Whatever else a transport can."""
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send now what was held and this, or hold it."""
        if self._held:
            self._held += data
            self._flush()
        else:
            self._held = data
            self._loop.call_soon(self._flush)

    def close(self) -> None:
        """Send what was held, then close."""
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._held = b""
        self._transport.abort()

    def get_write_buffer_size(self) -> int:
        """Bytes that are not sent yet."""
        size: int = self._transport.get_write_buffer_size()
        return size + len(self._held)

    def _flush(self) -> None:
        held, self._held = self._held, b""
        if held and not self._transport.is_closing():  # whose client is gone gets no more
            self._transport.write(held)
