"""Images read in a process of their own: untrusted files and large libraries stay out of the server."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

from lib.asked_process import AskedProcess, Gone, NeverAsked
from lib.frames import Header
from ml_service.common.errors import BadRequest, ModelFailure, Overloaded, ServiceError, TooLarge, Unavailable
from ml_service.common.settings import Settings
from ml_service.inference.reading import Reading, reading_of
from ml_service.utils.handing_on import for_child
from ml_service.utils.logs import EventLogger, current_fields
from ml_service.utils.telemetry import Telemetry
from ml_service.utils.tracing import detail

log = EventLogger("images")
MODULE = "ml_service.inference.image_process"
_REFUSALS = {kind.__name__: kind for kind in (BadRequest, TooLarge, ModelFailure)}
_RESULTS = {BadRequest: "refused", TooLarge: "refused", ModelFailure: "unreadable", Overloaded: "rejected"}
_START_TIMEOUT_S = 60.0
_GUESSED_S = 1.0
"""How long an image takes, before one was read."""
READER_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
"""Threads that multiply nothing here, and heaps for each thread, take 200 MB of the limit that is set on memory."""
Answer = tuple[Header, bytes]


class ImageReader:
    """Reads and draws images, one after the other, in a process that it starts, watches and ends."""

    def __init__(self, settings: Settings, telemetry: Telemetry) -> None:
        self._settings, self._telemetry = settings, telemetry
        self._turn = asyncio.Lock()
        self._process: AskedProcess | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._wanted = 0
        self._usual_s = _GUESSED_S
        self._idle_end: asyncio.TimerHandle | None = None
        self._is_closing = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """As long as the service lives; part of the app's lifespan."""
        try:
            if self._settings.image_reader == "at_start":
                await self._start_early()
            yield
        finally:
            self._is_closing = True
            await self._end()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def read(self, image: bytes) -> Reading:
        """Read an image.

        Raises BadRequest where it is none or broken, TooLarge where it has too many pixels, ModelFailure where nothing
        can be read in it, Overloaded where too many wait, Unavailable where the process cannot live.
        """
        try:
            if self._wanted > self._settings.max_waiting_images:
                waits_s = self._wanted * self._usual_s
                raise Overloaded(f"one image is read and {self._wanted - 1} wait, no more may", waits_s)
            header, _ = await self._ask({"verb": "read"}, image)
        except _Failed as error:
            self._telemetry.images.labels("failed").inc()
            raise ModelFailure(str(error)) from error
        except ServiceError as error:
            self._telemetry.images.labels(_RESULTS.get(type(error), "failed")).inc()
            raise
        self._telemetry.images.labels("read").inc()
        return reading_of(header["reading"])

    async def draw(self, image: bytes, reading: Reading, continuation: str) -> bytes:
        """The image with what was read in it, and the continuation below, as PNG.

        Waits as long as it takes: the image has been read and continued already. Raises as `read` does otherwise.
        """
        wish = {"verb": "draw", "reading": asdict(reading), "continuation": continuation}
        try:
            _, picture = await self._ask(wish, image)
        except _Failed as error:
            raise ModelFailure(str(error)) from error
        return picture

    async def _ask(self, wish: Header, image: bytes) -> Answer:
        """Have it done in turn. Who leaves while waiting costs nothing more, who leaves later loses the answer."""
        self._wanted += 1
        try:
            with detail("queue image"):
                await self._turn.acquire()
        except BaseException:
            self._wanted -= 1
            raise
        own = {"max_pixels": self._settings.max_image_pixels, "for": current_fields()}
        task = asyncio.create_task(self._do(wish | own, image))
        self._tasks.add(task)
        task.add_done_callback(self._over)
        return await asyncio.shield(task)

    def _over(self, task: asyncio.Task[Answer]) -> None:
        self._tasks.discard(task)
        self._wanted -= 1
        self._turn.release()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.info("image.failed", error=str(error))  # and so it counts as seen where the client has left

    async def _do(self, wish: Header, image: bytes) -> Answer:
        with detail(f"{wish['verb']} image", ml_service__image_bytes=len(image)):
            return await self._done(wish, image)

    async def _done(self, wish: Header, image: bytes) -> Answer:
        process = await self._living()
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self._settings.image_timeout_s):
                try:
                    header, body = await process.ask(wish, image)
                except NeverAsked:  # it died while it had nothing to do
                    header, body = await (await self._living()).ask(wish, image)
        except TimeoutError as error:
            await self._end()
            raise _Failed(f"the image takes longer than {self._settings.image_timeout_s:g} s") from error
        except Gone as error:
            log.warning("reader.died", verb=wish["verb"], error=str(error))
            raise _Failed("the process that reads images ended while it had this one") from error
        finally:
            self._end_when_idle()
        if "refused" in header:
            raise _REFUSALS[header["refused"]](header["message"])
        self._measured(wish["verb"], time.perf_counter() - started)
        return header, body

    def _measured(self, verb: str, seconds: float) -> None:
        if verb == "read":
            self._telemetry.image_read_time.observe(seconds)
            self._usual_s += (seconds - self._usual_s) / 8

    async def _living(self) -> AskedProcess:
        """The process, started where there is none. Raises Unavailable where it cannot be."""
        if self._idle_end is not None:
            self._idle_end.cancel()
        if self._is_closing:
            raise Unavailable("the service is shutting down", retry_after_s=5)
        if self._process is None or not self._process.is_alive:
            await self._end()
            self._process = await self._started()
        return self._process

    async def _started(self) -> AskedProcess:
        started = time.perf_counter()
        own = READER_ENVIRONMENT | for_child("image_reader", of_this_request=False)
        process = await AskedProcess.start(MODULE, [str(self._settings.threads)], os.environ | own)
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                greeting, _ = await process.listen()
        except (Gone, TimeoutError) as error:
            await process.end()
            log.warning("reader.failed", error=str(error))
            raise Unavailable("the process that reads images does not start", retry_after_s=30) from error
        if "refused" in greeting:
            await process.end()
            log.warning("reader.refused", error=greeting["message"])
            raise Unavailable(f"images cannot be read: {greeting['message']}", retry_after_s=60)
        log.info("reader.started", child=process.pid, seconds=round(time.perf_counter() - started, 3))
        return process

    async def _start_early(self) -> None:
        """Whether it can or not: text is answered without it, and who sends an image is told."""
        async with self._turn:
            try:
                await self._living()
            except Unavailable:
                return

    def _end_when_idle(self) -> None:
        if self._settings.image_reader == "on_demand" and not self._is_closing:
            loop = asyncio.get_running_loop()
            self._idle_end = loop.call_later(self._settings.image_idle_s, self._end_idle)

    def _end_idle(self) -> None:
        if self._wanted == 0 and self._process is not None:
            process, self._process = self._process, None
            ending = asyncio.create_task(process.end())
            self._tasks.add(ending)
            ending.add_done_callback(self._tasks.discard)

    async def _end(self) -> None:
        if self._idle_end is not None:
            self._idle_end.cancel()
        if self._process is not None:
            process, self._process = self._process, None
            await process.end()


class _Failed(Exception):
    """The process did not come to an answer."""
