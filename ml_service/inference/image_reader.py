"""Pictures read in a process of their own: untrusted files and large libraries stay out of the server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ml_service.common.settings import Settings
from ml_service.inference.reading import Reading
from ml_service.utils.telemetry import Telemetry


class ImageReader:
    """Reads and draws pictures, one after the other, in a process that it starts, watches and ends."""

    def __init__(self, settings: Settings, telemetry: Telemetry) -> None:
        self._settings, self._telemetry = settings, telemetry

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """As long as the service lives; part of the app's lifespan."""
        yield

    async def read(self, image: bytes) -> Reading:
        """Read a picture.

        Raises BadRequest where it is none or broken, TooLarge where it has too many pixels, ModelFailure where nothing
        can be read in it, Overloaded where too many wait, Unavailable where the process cannot live.
        """
        raise NotImplementedError

    async def draw(self, image: bytes, reading: Reading, continuation: str) -> bytes:
        """The picture with what was read in it, and the continuation below, as PNG. Raises as `read` does."""
        raise NotImplementedError
