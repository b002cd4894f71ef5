"""The thread that owns session, slots and scheduler: schedule, run, sample, publish, again and again."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Literal

from ml_service.common.errors import Overloaded, ServiceError
from ml_service.common.types import FinishReason
from ml_service.inference.admission import Admission
from ml_service.inference.caches import CacheBlock
from ml_service.inference.operators import Logits
from ml_service.inference.pace import Frames, Pace, scored_tokens
from ml_service.inference.prefix_cache import PrefixCache
from ml_service.inference.sampler import Bests
from ml_service.inference.scheduler import Scheduler
from ml_service.inference.sequence import Failed, Sequence
from ml_service.inference.session import Session
from ml_service.inference.shared_prefixes import SharedPrefixes
from ml_service.inference.slots import Slots
from ml_service.inference.step import Part, shares
from ml_service.inference.track_record import TrackRecord
from ml_service.utils.logs import EventLogger
from ml_service.utils.telemetry import Telemetry

log = EventLogger("decode_loop")
Message = tuple[Literal["submit", "cancel", "stop"], Sequence | None]


class DecodeLoop:
    """Others send messages: `submit`, `cancel`, `stop`. Whatever happens to a step, the thread goes on."""

    def __init__(
        self,
        session: Session,
        max_waiting: int,
        telemetry: Telemetry,
        prefixes: PrefixCache[CacheBlock] | None = None,
        lookup_rows: int = 0,
        ring: Callable[[], None] = lambda: None,
    ) -> None:
        """`lookup_rows` are the most tokens that a decode step may have with its guesses; 0 guesses nothing.

        `ring` is called when all that a step brought has been published.
        """
        self._session, self._telemetry = session, telemetry
        self._slots = Slots(session.slots)
        self._scheduler = Scheduler(self._slots)
        self._prefixes = SharedPrefixes(session, PrefixCache(1, 0) if prefixes is None else prefixes, telemetry)
        self._lookup_rows, self._ring = lookup_rows, ring
        self._pace, self._frames = Pace(), Frames()
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.admission = Admission(session.slots, max_waiting, telemetry)
        self._moved_at = time.monotonic()
        self._has_leavers = False
        self._earliest_deadline = math.inf
        self._gaps_s: list[float] = []
        """Between the tokens of this step and those before; told to the telemetry once a step."""
        self.record = TrackRecord()
        telemetry.watch_load(self)
        self._thread = threading.Thread(target=self._run, name="decode-loop", daemon=True)
        self._thread.start()

    def submit(self, *sequences: Sequence) -> None:
        """Queue sequences, all or none; their events come through their own `publish`.

        Raises Overloaded where slots and waiting places are taken, Unavailable where the loop is stopping.
        """
        if self.admission.take(len(sequences)):
            self._moved_at = time.monotonic()  # the time without work is no standstill
        for sequence in sequences:
            self._inbox.put(("submit", sequence))

    def cancel(self, sequence: Sequence) -> None:
        """Stop a sequence within one step; one that has ended is left alone."""
        self._inbox.put(("cancel", sequence))

    def stop(self) -> None:
        """Take no more, end what runs as cancelled, close the session."""
        self.admission.close()
        self._inbox.put(("stop", None))
        self._thread.join()
        self._telemetry.forget_load(self)

    @property
    def busy(self) -> int:
        """Sequences that are not finished."""
        return self.admission.taken

    @property
    def running(self) -> int:
        """Sequences with a slot."""
        return self._scheduler.running

    @property
    def cache_usage(self) -> float:
        """Share of the slots' tokens in use, 0 to 1; a look from another thread, so a step old at most."""
        return self._scheduler.cached_tokens / (self._slots.count * self._session.architecture.context_length)

    def last_step_age_s(self) -> float:
        """How long the loop has not moved although it has work; 0 where it is idle."""
        return time.monotonic() - self._moved_at if self.busy else 0.0

    def _run(self) -> None:
        is_stopping = False
        while not is_stopping:
            is_stopping = self._receive()
            self._end_those_who_are_done_waiting()
            self._admit()
            reading, decoding = self._scheduler.schedule(self._session.shares_steps)
            if parts := [*self._pieces(reading), *self._next_tokens(decoding)]:
                self._step(parts)
            self._ring()
            self._moved_at = time.monotonic()
        for sequence in self._scheduler.everyone():
            self._end(sequence, "cancelled")
        self._ring()
        self._prefixes.clear()
        self._session.close()

    def _receive(self) -> bool:
        """Take all messages, waiting for one only where there is nothing else to do; True at `stop`."""
        may_wait = not self._scheduler.has_work
        while True:
            try:
                kind, sequence = self._inbox.get(block=may_wait)
            except queue.Empty:
                return False
            may_wait = False
            if kind == "stop":
                return True
            assert sequence is not None, "only `stop` comes without a sequence"
            if kind == "submit":
                self._scheduler.add(sequence)
                self._earliest_deadline = min(self._earliest_deadline, sequence.deadline)
            else:
                sequence.is_cancelled = self._has_leavers = True

    def _end_those_who_are_done_waiting(self) -> None:
        if self._has_leavers:
            self._has_leavers = False
            for sequence in self._scheduler.those(lambda each: each.is_cancelled):
                self._end(sequence, "cancelled")
        if self._earliest_deadline <= (now := time.perf_counter()):
            for sequence in self._scheduler.those(lambda each: each.deadline <= now):
                if sequence.slot is None:
                    self._fail(sequence, Overloaded("the time was up before a slot was free"), "timeout")
                else:
                    self._end(sequence, "timeout")
            self._earliest_deadline = min((each.deadline for each in self._scheduler.everyone()), default=math.inf)

    def _admit(self) -> None:
        for sequence in self._scheduler.admit():
            sequence.admitted_at = time.perf_counter()

    def _pieces(self, reading: list[Sequence]) -> Iterator[Part]:
        """The next pieces of prompts, the oldest first, as far as is fair to those who wait for their next token."""
        if not reading:
            return
        session, decoding = self._session, len(self._scheduler.decoding)
        left = self._pace.fair_chunk(len(reading), decoding, session.chunk, session.shares_steps)
        scored_left = scored_tokens(decoding, session.architecture.vocabulary_size)
        read: list[Sequence] = []
        for sequence in reading:
            if left <= 0:
                return
            if not sequence.cached:
                if self._prefixes.are_being_read(sequence, read):
                    continue
                self._prefixes.reuse(sequence)
            part = Part(sequence, sequence.prompt_piece(left), [], is_prompt=True)
            if sequence.scores is not None and part.wants_all:
                if scored_left <= 0:
                    continue
                part = part._replace(token_ids=part.token_ids[:scored_left])
                scored_left -= len(part.token_ids)
            yield part
            read.append(sequence)
            left -= len(part.token_ids)

    def _next_tokens(self, decoding: list[Sequence]) -> Iterator[Part]:
        """The latest token of everybody who is past the prompt, with guesses where there is room for them."""
        most = self._lookup_rows // len(decoding) - 1 if decoding else 0
        for sequence in decoding:
            guess = sequence.lookup.propose(sequence.ids, min(most, sequence.room - 1)) if most > 0 else []
            yield Part(sequence, [sequence.ids[-1], *guess], guess, is_prompt=False)

    def _step(self, parts: list[Part]) -> None:
        started = time.perf_counter()
        try:
            logits_TV = self._session.run([part.row for part in parts])
        except Exception as error:  # the loop must outlive any step: the requests of this one fail, the next go on
            if not isinstance(error, ServiceError):
                log.exception("step.failed", request_ids=[part.sequence.id for part in parts])
            for part in parts:
                self._fail(part.sequence, error)
            return
        now, tokens = time.perf_counter(), sum(len(part.token_ids) for part in parts)
        self._pace.stepped(tokens, now - started)
        self._telemetry.iteration_tokens.observe(tokens)
        for part, own_TV, bests in shares(parts, logits_TV):
            try:
                if part.is_prompt:
                    self._have_read(part, own_TV, bests, now)
                else:
                    part.sequence.cached += 1
                    self._advance(part.sequence, own_TV, bests, part.guess, now)
            except Exception as error:  # one bad row never fails the others
                if not isinstance(error, ServiceError):
                    log.exception("sequence.failed", request_id=part.sequence.id)
                self._fail(part.sequence, error)
        streams = [sequence for sequence in self._scheduler.decoding if sequence.streams]
        if self._frames.is_due(now, len(streams)):
            for sequence in streams:
                sequence.tell()
        self._count_tokens()

    def _have_read(self, part: Part, logits_TV: Logits, bests: Bests, now: float) -> None:
        """Behind the last piece of a prompt the first token is chosen."""
        sequence, start, wants_all = part.sequence, part.sequence.cached, part.wants_all
        sequence.cached += len(part.token_ids)
        self._prefixes.remember(sequence)
        if sequence.scores is not None and wants_all:
            sequence.scores.take(start, logits_TV, bests)
        if sequence.needs_prefill:
            return
        if sequence.scores is not None:
            sequence.publish(sequence.scores.event())
        if sequence.room <= 0:
            self._end(sequence, "length")
        else:
            self._advance(sequence, logits_TV[-1:], bests[-1:], [], now)
            if sequence.streams:
                sequence.tell()  # the first token is waited for

    def _advance(self, sequence: Sequence, logits_TV: Logits, bests: Bests, guess: list[int], now: float) -> None:
        """Choose token after token, as far as the guessed ones are those that were chosen."""
        accepted = 0
        for index, best in enumerate(bests):
            before = sequence.last_token_at
            reason = sequence.accept(sequence.choose(logits_TV[index], best), now)
            if before:
                self._gaps_s.append(now - before)
            else:
                self._telemetry.generation_tokens.inc()
                self._telemetry.time_to_first_token.observe(now - sequence.submitted_at)
            if reason is not None:
                self._end(sequence, reason)
                break
            if index == len(guess) or sequence.ids[-1] != guess[index]:
                break
            sequence.cached += 1
            accepted += 1
        if guess:
            sequence.lookup.learn(len(guess), accepted, len(sequence.ids))
            self._telemetry.draft_tokens.inc(len(guess))
            self._telemetry.accepted_tokens.inc(accepted)

    def _count_tokens(self) -> None:
        if self._gaps_s:
            self._telemetry.generation_tokens.inc(len(self._gaps_s))
            self._telemetry.inter_token.observe_many(self._gaps_s)
            self._gaps_s.clear()

    def _end(self, sequence: Sequence, reason: FinishReason) -> None:
        finished = sequence.finish(reason)
        self._prefixes.remember(sequence)
        self._count_tokens()
        self._forget(sequence)
        timings = finished.timings
        self._telemetry.request_finished(
            "abort" if reason == "cancelled" else reason,
            prompt_tokens=min(sequence.cached, len(sequence.prompt_ids)),
            queue_s=timings.queue_ms / 1e3,
            prefill_s=timings.prefill_ms / 1e3,
            decode_s=timings.decode_ms / 1e3,
            total_s=time.perf_counter() - sequence.submitted_at,
        )
        if reason != "cancelled":
            self.record.answered(timings.decode_ms / 1e3, sequence.generated, self._telemetry.requests_running + 1)
        self.admission.learn((timings.prefill_ms + timings.decode_ms) / 1e3)
        log.debug("sequence.ended", request_id=sequence.id, reason=reason, tokens=sequence.generated)
        sequence.tell()
        sequence.publish(finished)

    def _fail(self, sequence: Sequence, error: Exception, reason: str = "error") -> None:
        self._forget(sequence)
        self._telemetry.finished.labels(reason).inc()
        if reason == "error":
            self.record.failed()
        sequence.tell()
        sequence.publish(Failed(error))

    def _forget(self, sequence: Sequence) -> None:
        self._scheduler.remove(sequence)
        self.admission.give_back()
