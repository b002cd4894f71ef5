"""A continuation in the terminal: the serving engine without HTTP."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TextIO

from ml_service.common.settings import Settings
from ml_service.common.types import GenerationParameters
from ml_service.inference.engine import Engine
from ml_service.inference.live import open_live_model
from ml_service.utils.telemetry import Telemetry


def write_continuation(prompt: str, parameters: GenerationParameters, settings: Settings, out: TextIO) -> None:
    """Write the prompt, then the continuation as it comes."""
    engine = open_live_model(settings.bundle_directory, settings, Telemetry()).engine
    try:
        asyncio.run(_write(engine, prompt, parameters, out))
    finally:
        engine.stop()


async def _write(engine: Engine, prompt: str, parameters: GenerationParameters, out: TextIO) -> None:
    out.write(prompt)
    async with aclosing(engine.stream(await engine.encode(prompt), parameters, "terminal")) as events:
        async for event in events:
            out.write(event.text)
            out.flush()
    out.write("\n")
