"""The engine in this process as target, without HTTP: what the service could reach at best."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ml_service.common.errors import ServiceError
from ml_service.common.settings import Settings
from ml_service.common.types import GenerationParameters
from ml_service.data.bundles import Bundles
from ml_service.inference.engine import Engine
from ml_service.inference.live import open_live_model
from ml_service.inference.sequence import Finished
from ml_service.pipeline.load.target import AskFailed, Used
from ml_service.pipeline.load.workload import Ask
from ml_service.utils.telemetry import Telemetry


@contextmanager
def opened_engine(bundle: Path | None, settings: Settings) -> Iterator[OpenedEngine]:
    """Open a bundle, else the settings' own, once for many measurements; the engine is stopped after the block."""
    directory = Bundles(settings.store).find(bundle or settings.bundle_directory)
    model = open_live_model(directory, settings, Telemetry())
    try:
        yield OpenedEngine(model.engine, f"engine alone, {model.manifest.experiment} in {model.manifest.precision}")
    finally:
        model.engine.stop()


@dataclass(frozen=True)
class OpenedEngine:
    """An engine that runs, and what a report calls it."""

    engine: Engine
    name: str

    def __str__(self) -> str:
        return self.name

    @asynccontextmanager
    async def open(self) -> AsyncIterator[EngineTarget]:
        """There is nothing to open but the way in."""
        yield EngineTarget(self.engine)


class EngineTarget:
    """Asks the engine as a route does."""

    takes_ids = True

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def answer(self, ask: Ask, on_token: Callable[[], None]) -> Used:
        """The whole answer. Raises AskFailed with the name of what the engine raised."""
        try:
            return await self._answer(ask, on_token)
        except ServiceError as error:
            raise AskFailed(type(error).__name__, str(error)) from error

    async def _answer(self, ask: Ask, on_token: Callable[[], None]) -> Used:
        prompt_ids = await self._engine.encode(ask.prompt) if isinstance(ask.prompt, str) else ask.prompt
        async with aclosing(self._engine.stream(prompt_ids, _parameters(ask), f"bench-{ask.index}")) as events:
            async for event in events:
                if isinstance(event, Finished):
                    usage = event.usage
                    return Used(usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)
                for _ in event.choices:
                    on_token()
        raise AssertionError("a stream ended without its end: this is a bug")


def _parameters(ask: Ask) -> GenerationParameters:
    return GenerationParameters(
        max_new_tokens=ask.new_tokens, temperature=ask.temperature, seed=ask.seed, ignore_eos=ask.ignore_eos
    )
