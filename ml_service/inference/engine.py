"""The way in for requests: check, tokenise, submit, stream."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from tokenizers import Tokenizer

from lib.tokenizer import bytes_of_tokens
from ml_service.common.errors import BadRequest
from ml_service.common.types import GenerationParameters
from ml_service.inference.decode_loop import DecodeLoop
from ml_service.inference.sampler import Sampler
from ml_service.inference.sequence import Delta, Event, Failed, Finished, Sequence
from ml_service.inference.session import Session
from ml_service.inference.text_stream import TextStream
from ml_service.utils.telemetry import Telemetry

_TOKENISE_IN_PLACE_CHARACTERS = 8_192
"""Longer prompts are tokenised in a thread: they would hold up the event loop by more than a millisecond."""


class Engine:
    """Answers prompts with one model; safe to call from one event loop."""

    def __init__(self, session: Session, tokenizer: Tokenizer, max_waiting: int, telemetry: Telemetry) -> None:
        self.architecture = session.architecture
        self._tokenizer = tokenizer
        self._longest_token_bytes = max(bytes_of_tokens(tokenizer))
        self._loop = DecodeLoop(session, max_waiting, telemetry)

    @property
    def busy(self) -> int:
        """Requests that are not finished."""
        return self._loop.busy

    def last_step_age_s(self) -> float:
        """How long the engine has not moved although it has work."""
        return self._loop.last_step_age_s()

    def stop(self) -> None:
        """End everything; blocks until the thread is gone."""
        self._loop.stop()

    async def encode(self, text: str) -> list[int]:
        """The prompt's tokens; an empty prompt becomes the token that stands before every document.

        Raises BadRequest where the text is no Unicode or leaves no room for an answer in the model's context.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise BadRequest("the prompt has half a surrogate pair", [("text", "not Unicode")]) from None
        context = self.architecture.context_length
        # A text that cannot fit however well it is tokenised is refused before any work is spent on it.
        least_tokens = len(text) // self._longest_token_bytes
        if least_tokens < context:
            if len(text) > _TOKENISE_IN_PLACE_CHARACTERS:
                ids = await asyncio.to_thread(self._encode, text)
            else:
                ids = self._encode(text)
            if len(ids) < context:
                return ids
            least_tokens = len(ids)
        message = f"the prompt has {least_tokens:,} tokens or more, the model's context is {context:,}"
        raise BadRequest(message, [("text", "longer than the model's context")])

    async def stream(
        self, prompt_ids: list[int], parameters: GenerationParameters, request_id: str
    ) -> AsyncGenerator[Delta | Finished, None]:
        """Generate: deltas, then one `Finished`. Closing the iterator stops the work within one step.

        Raises Overloaded at once where there is no place, and what the model raised where it failed.
        """
        events: asyncio.Queue[Event] = asyncio.Queue()
        sequence = self._sequence(prompt_ids, parameters, request_id, _into(events))
        self._loop.submit(sequence)
        is_done = False
        try:
            while not is_done:
                event = await events.get()
                is_done = not isinstance(event, Delta)
                if isinstance(event, Failed):
                    raise event.error
                yield event
        finally:
            if not is_done:
                self._loop.cancel(sequence)

    async def complete(
        self, prompt_ids: list[int], parameters: GenerationParameters, request_id: str
    ) -> tuple[list[Delta], Finished]:
        """Generate to the end; cancelling the call stops the work."""
        deltas: list[Delta] = []
        async with aclosing(self.stream(prompt_ids, parameters, request_id)) as events:
            async for event in events:
                if isinstance(event, Finished):
                    return deltas, event
                deltas.append(event)
        raise AssertionError("a stream ended without its end: this is a bug")

    def token_text(self, token_id: int) -> str:
        """A token as text; half a character shows as the replacement character."""
        return self._tokenizer.decode([token_id], skip_special_tokens=False)

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids) or [self.architecture.end_of_text_id]

    def _sequence(
        self,
        prompt_ids: list[int],
        parameters: GenerationParameters,
        request_id: str,
        publish: Callable[[Event], None],
    ) -> Sequence:
        seed = parameters.seed if parameters.seed is not None else secrets.randbits(63)
        return Sequence(
            id=request_id,
            prompt_ids=prompt_ids,
            parameters=parameters,
            sampler=Sampler(parameters, seed),
            text=TextStream(self._tokenizer, parameters.stop),
            publish=publish,
            end_of_text_id=self.architecture.end_of_text_id,
            max_total_tokens=self.architecture.context_length,
        )


def _into(events: asyncio.Queue[Event]) -> Callable[[Event], None]:
    """A function for another thread that puts events into this loop's queue."""
    loop = asyncio.get_running_loop()

    def publish(event: Event) -> None:
        loop.call_soon_threadsafe(events.put_nowait, event)

    return publish
