"""The way in for requests: check, tokenise, submit, stream."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncGenerator, Callable
from collections.abc import Sequence as Many
from contextlib import aclosing
from dataclasses import dataclass
from functools import cached_property, partial

from tokenizers import Tokenizer

from lib.aside import aside
from lib.detokenizer import Pieces
from lib.tokenizer import bytes_of_token
from ml_service.common.errors import BadRequest, Overloaded
from ml_service.common.types import GenerationParameters
from ml_service.inference.caches import CacheBlock
from ml_service.inference.constraint import Constraint, Grammars
from ml_service.inference.decode_loop import DecodeLoop
from ml_service.inference.mailbox import Doorbells, Mailbox
from ml_service.inference.prefix_cache import PrefixCache
from ml_service.inference.sampler import Sampler
from ml_service.inference.sequence import Delta, Event, Failed, Finished, Sequence
from ml_service.inference.session import Session
from ml_service.inference.text_stream import TextStream
from ml_service.inference.track_record import TrackRecord
from ml_service.inference.vocabulary import Vocabulary
from ml_service.inference.witness import Witness
from ml_service.inference.work import Completion, Told, Work
from ml_service.utils.telemetry import Telemetry

_TOKENISE_IN_PLACE_CHARACTERS = 8_192
"""Longer prompts are tokenised in a thread: they would hold up the event loop by more than a millisecond."""
PREFIX_BLOCK_TOKENS = 32


@dataclass(frozen=True)
class EngineOptions:
    """What an engine may use."""

    max_waiting: int = 64
    prefix_cache_bytes: int = 0
    lookup_rows: int = 0
    timeout_s: float = 600.0
    """The longest that a request may take; its own time-out can only be shorter."""
    model: str = "unnamed"
    """Whose engine it is, for traces and log lines."""


Observer = Callable[[Sequence, Finished], None]


class Engine:
    """Answers prompts with one model; safe to call from one event loop."""

    def __init__(self, session: Session, vocabulary: Vocabulary, options: EngineOptions, telemetry: Telemetry) -> None:
        self.architecture = session.architecture
        self.slots, self._nats = session.slots, session.nats
        slot_bytes = self.architecture.context_length * session.cache_bytes_per_token
        self.cache_bytes = session.slots * slot_bytes + options.prefix_cache_bytes
        """What slots and prefix cache may come to take: the memory is taken when it is first written."""
        self.vocabulary, self._timeout_s, self._model = vocabulary, options.timeout_s, options.model
        self._tokenizer = vocabulary.tokenizer
        self._grammars = Grammars(self._tokenizer, self.architecture.vocabulary_size, self.architecture.end_of_text_id)
        block_bytes = session.cache_bytes_per_token * PREFIX_BLOCK_TOKENS
        blocks = options.prefix_cache_bytes // block_bytes if block_bytes else 0
        prefixes: PrefixCache[CacheBlock] = PrefixCache(PREFIX_BLOCK_TOKENS, blocks)
        self.observers: tuple[Observer, ...] = ()
        """Told of the first answer of each request when it is over; they must not take long."""
        self._doorbells = Doorbells()
        self._loop = DecodeLoop(
            session, options.max_waiting, telemetry, prefixes, options.lookup_rows, self._doorbells.ring
        )

    @property
    def busy(self) -> int:
        """Requests that are not finished."""
        return self._loop.busy

    @property
    def is_full(self) -> bool:
        """Whether the next request would be refused."""
        return self._loop.admission.is_full

    def refusal(self) -> Overloaded:
        """What the next request hears; counts it as refused."""
        return self._loop.admission.refusal()

    def last_step_age_s(self) -> float:
        """How long the engine has not moved although it has work."""
        return self._loop.last_step_age_s()

    @property
    def record(self) -> TrackRecord:
        """How its requests ended, lately."""
        return self._loop.record

    def stop(self) -> None:
        """End everything; blocks until the thread is gone."""
        self._loop.stop()
        self._grammars.close()

    async def encode(self, text: str, *, knows_special: bool = False) -> list[int]:
        """The prompt's tokens; an empty prompt becomes the token that stands before every document.

        With `knows_special` the names of special tokens in the text are those tokens, as chat templates want it.
        Raises BadRequest where the text is no Unicode or leaves no room for an answer in the model's context.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise BadRequest("the prompt has half a surrogate pair", [("text", "not Unicode")]) from None
        # A text that cannot fit however well it is tokenised is refused before any work is spent on it.
        least_tokens = len(text) // self.vocabulary.longest_token_bytes
        if least_tokens >= self.architecture.context_length:
            raise self._too_long(least_tokens)
        if len(text) > _TOKENISE_IN_PLACE_CHARACTERS:
            return self.check(await aside(self._encode, text, knows_special))
        return self.check(self._encode(text, knows_special))

    def check(self, token_ids: list[int]) -> list[int]:
        """A prompt given as tokens. Raises BadRequest where it has unknown ones, none, or too many."""
        if len(token_ids) >= self.architecture.context_length:
            raise self._too_long(len(token_ids))
        self._check_ids("prompt", token_ids)
        return token_ids or [self.architecture.end_of_text_id]

    def tokens_of(self, text: str) -> list[int]:
        """Any text's tokens, however many; nothing stands before them."""
        return self._encode(text, knows_special=False)

    def token_text(self, token_id: int) -> str:
        """A token as text; half a character shows as the replacement character."""
        return self._tokenizer.decode([token_id], skip_special_tokens=False)

    def token_bytes(self, token_id: int) -> bytes:
        """A token as bytes, half characters too."""
        return bytes_of_token(self._tokenizer, token_id)

    def pieces(self) -> Pieces:
        """Text from tokens as they come."""
        return self.vocabulary.detokenizer.pieces()

    def decode(self, token_ids: Many[int]) -> str:
        """Tokens as text, special ones left out."""
        return self._tokenizer.decode(token_ids, skip_special_tokens=True)

    async def stream(
        self, prompt_ids: list[int], parameters: GenerationParameters, request_id: str
    ) -> AsyncGenerator[Delta | Finished, None]:
        """Continue one prompt once, as `stream_all` does."""
        async with aclosing(self.stream_all(Work([prompt_ids], parameters, request_id))) as batches:
            async for batch in batches:
                for _, event in batch:
                    assert isinstance(event, Delta | Finished), "nobody asked for scores of the prompt"
                    yield event

    async def complete(
        self,
        prompt_ids: list[int],
        parameters: GenerationParameters,
        request_id: str,
        timeout_s: float | None = None,
    ) -> Completion:
        """Continue one prompt once, to the end; cancelling the call stops the work."""
        (completion,) = await self.complete_all(Work([prompt_ids], parameters, request_id, timeout_s=timeout_s))
        return completion

    async def complete_all(self, work: Work) -> list[Completion]:
        """All answers, prompt by prompt and choice by choice; cancelling the call stops the work."""
        completions = [Completion() for _ in range(len(work.prompts) * work.n)]
        async with aclosing(self.stream_all(work, streams=False)) as batches:
            async for batch in batches:
                for index, event in batch:
                    completions[index].add(event)
        return completions

    async def stream_all(self, work: Work, *, streams: bool = True) -> AsyncGenerator[list[Told], None]:
        """Generate: for each answer its echo where asked for, its deltas, then one `Finished`, under its index.

        What has come in the meantime comes together, so that a slow reader costs less; all of it at the end where it
        does not stream. Closing the iterator stops the work within one step. Raises Overloaded at once where there are
        not places for all; what the model raised where it failed, behind what had come before: then all of them end.
        """
        mailbox: Mailbox[tuple[int, Event]] = Mailbox(self._doorbells.of_running_loop())
        witness, broken = Witness.of(self._model, work, self.decode), None
        open_ones: set[int] = set()
        try:
            sequences = await self._sequences(work, mailbox, streams)
            self._loop.submit(*sequences)
            open_ones, ended = set(range(len(sequences))), None
            while open_ones:
                batch: list[Told] = []
                failure: Exception | None = None
                for index, event in await mailbox.get_all():
                    if isinstance(event, Failed):
                        open_ones.discard(index)
                        failure = event.error
                        break
                    if isinstance(event, Finished):
                        open_ones.discard(index)
                        ended = event if index == 0 else ended
                        if witness is not None:
                            witness.ended(index, sequences[index], event)
                    batch.append((index, event))
                if batch:  # also what came before a failure that came with it
                    yield batch
                if failure is not None:
                    raise failure
            if ended is not None:
                for observe in self.observers:
                    observe(sequences[0], ended)
        except BaseException as error:
            broken = error
            raise
        finally:
            for index in open_ones:
                self._loop.cancel(sequences[index])
            if witness is not None:
                witness.close(broken)

    def _encode(self, text: str, knows_special: bool) -> list[int]:
        tokenizer = self._special_tokenizer if knows_special else self._tokenizer
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    @cached_property
    def _special_tokenizer(self) -> Tokenizer:
        tokenizer = Tokenizer.from_str(self._tokenizer.to_str())
        tokenizer.encode_special_tokens = False
        return tokenizer

    def _too_long(self, tokens: int) -> BadRequest:
        message = (
            f"the prompt has {tokens:,} tokens or more, the model's context is {self.architecture.context_length:,}"
        )
        return BadRequest(message, [("text", "longer than the model's context")])

    def _check_ids(self, where: str, token_ids: Many[int]) -> None:
        vocabulary = self.architecture.vocabulary_size
        unknown = next((i for i in token_ids if not 0 <= i < vocabulary), None)
        if unknown is not None:
            message = f"{where}: there is no token {unknown}, the vocabulary has {vocabulary:,}"
            raise BadRequest(message, [(where, "unknown token")])

    async def _sequences(self, work: Work, mailbox: Mailbox[tuple[int, Event]], streams: bool) -> list[Sequence]:
        parameters = work.parameters
        self._check_ids("logit_bias", list(parameters.logit_bias))
        self._check_ids("stop_token_ids", parameters.stop_token_ids)
        deadline = time.perf_counter() + min(work.timeout_s or self._timeout_s, self._timeout_s)
        made = []
        for index in range(len(work.prompts) * work.n):
            seed = parameters.seed if parameters.seed is not None else random.getrandbits(63)
            made.append(
                Sequence(
                    id=work.request_id,
                    prompt_ids=work.prompts[index // work.n],
                    parameters=parameters,
                    sampler=Sampler(parameters, seed, stream=index % work.n),
                    text=TextStream(self.vocabulary.detokenizer.pieces(), parameters.stop),
                    publish=partial(_put, mailbox, index),
                    end_ids=(self.architecture.end_of_text_id, *self.architecture.further_end_ids),
                    max_total_tokens=self.architecture.context_length,
                    deadline=deadline,
                    constraint=await self._constraint(parameters),
                    scores=work.scores(index, self._nats),
                    streams=streams,
                )
            )
        return made

    async def _constraint(self, parameters: GenerationParameters) -> Constraint | None:
        if parameters.json_schema is None and parameters.regex is None:
            return None
        return await aside(self._grammars.constraint, parameters)


def _put(mailbox: Mailbox[tuple[int, Event]], index: int, event: Event) -> None:
    mailbox.put((index, event))
