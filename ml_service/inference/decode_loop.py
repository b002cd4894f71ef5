"""The thread that owns session, slots and scheduler: schedule, run, sample, publish, again and again."""

from __future__ import annotations

import queue
import threading
import time
from typing import Literal

from ml_service.common.errors import Overloaded, ServiceError, Unavailable
from ml_service.common.types import FinishReason
from ml_service.inference.sampler import Vector
from ml_service.inference.scheduler import Scheduler
from ml_service.inference.sequence import Event, Failed, Sequence
from ml_service.inference.session import Row, Session
from ml_service.inference.slots import Slots
from ml_service.utils.logs import EventLogger
from ml_service.utils.telemetry import Telemetry

log = EventLogger("decode_loop")
_SMOOTHING = 0.1
Message = tuple[Literal["submit", "cancel", "stop"], Sequence | None]


class DecodeLoop:
    """Others send messages: `submit`, `cancel`, `stop`. Whatever happens to a step, the thread goes on."""

    def __init__(self, session: Session, max_waiting: int, telemetry: Telemetry) -> None:
        self._session, self._telemetry = session, telemetry
        self._slots = Slots(session.slots)
        self._scheduler = Scheduler(self._slots)
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._places = session.slots + max_waiting
        self._max_waiting = max_waiting
        self._lock = threading.Lock()
        self._admitted = 0
        self._is_closed = False
        self._seconds_per_request = 0.1
        self._moved_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="decode-loop", daemon=True)
        self._thread.start()

    def submit(self, sequence: Sequence) -> None:
        """Queue a sequence; its events come through its own `publish`.

        Raises Overloaded where all slots and waiting places are taken, Unavailable where the loop is stopping.
        """
        with self._lock:
            if self._is_closed:
                raise Unavailable("the model is being taken out of service")
            if self._admitted >= self._places:
                self._telemetry.rejections.labels("queue_full").inc()
                self._telemetry.finished.labels("rejected").inc()
                raise Overloaded(
                    f"all {self._slots.count} slots and {self._max_waiting} waiting places are taken",
                    self._seconds_per_request * self._places / self._slots.count,
                )
            if self._admitted == 0:
                self._moved_at = time.monotonic()  # the time without work is no standstill
            self._admitted += 1
            self._telemetry.waiting.inc()
            self._inbox.put(("submit", sequence))

    def cancel(self, sequence: Sequence) -> None:
        """Stop a sequence within one step; one that has ended is left alone."""
        self._inbox.put(("cancel", sequence))

    def stop(self) -> None:
        """Take no more, end what runs as cancelled, close the session."""
        with self._lock:
            self._is_closed = True
        self._inbox.put(("stop", None))
        self._thread.join()

    @property
    def busy(self) -> int:
        """Sequences that are not finished."""
        return self._admitted

    def last_step_age_s(self) -> float:
        """How long the loop has not moved although it has work; 0 where it is idle."""
        return time.monotonic() - self._moved_at if self._admitted else 0.0

    def _run(self) -> None:
        is_stopping = False
        while not is_stopping:
            is_stopping = self._receive()
            for sequence in self._scheduler.cancelled():
                self._end(sequence, "cancelled")
            self._admit()
            if batch := self._scheduler.schedule():
                self._step(batch)
            self._show_load()
            self._moved_at = time.monotonic()
        for sequence in self._scheduler.everyone():
            self._end(sequence, "cancelled")
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
            else:
                sequence.is_cancelled = True

    def _admit(self) -> None:
        for sequence in self._scheduler.admit():
            sequence.admitted_at = time.perf_counter()

    def _show_load(self) -> None:
        self._telemetry.running.set(self._scheduler.running)
        self._telemetry.waiting.set(self._scheduler.waiting)
        used = sum(sequence.cached for sequence in self._scheduler.everyone())
        self._telemetry.cache_usage.set(used / (self._slots.count * self._session.architecture.context_length))

    def _step(self, batch: list[Sequence]) -> None:
        rows = []
        for sequence in batch:
            assert sequence.slot is not None, "a sequence without a slot was scheduled: this is a bug"
            rows.append(Row(sequence.slot, sequence.cached, sequence.next_ids(self._session.chunk)))
        try:
            logits_BV = self._session.run(rows)
        except Exception as error:  # the loop must outlive any step: the requests of this one fail, the next go on
            if not isinstance(error, ServiceError):
                log.exception("step.failed", sequences=len(batch))
            for sequence in batch:
                self._fail(sequence, error)
            return
        self._telemetry.iteration_tokens.observe(sum(len(row.token_ids) for row in rows))
        for sequence, row, logits_V in zip(batch, rows, logits_BV, strict=True):
            sequence.cached += len(row.token_ids)
            if not sequence.needs_prefill:
                self._advance(sequence, logits_V)

    def _advance(self, sequence: Sequence, logits_V: Vector) -> None:
        before = sequence.last_token_at
        try:
            reason = sequence.accept(sequence.choose(logits_V))
        except Exception as error:  # one bad row never fails the others
            if not isinstance(error, ServiceError):
                log.exception("sequence.failed", sequence=sequence.id)
            self._fail(sequence, error)
            return
        self._telemetry.generation_tokens.inc()
        if before:
            self._telemetry.inter_token.observe(sequence.last_token_at - before)
        else:
            self._telemetry.time_to_first_token.observe(sequence.first_token_at - sequence.submitted_at)
        if reason is not None:
            self._end(sequence, reason)

    def _end(self, sequence: Sequence, reason: FinishReason) -> None:
        finished = sequence.finish(reason)
        self._forget(sequence)
        telemetry, timings = self._telemetry, finished.timings
        telemetry.finished.labels("abort" if reason == "cancelled" else reason).inc()
        telemetry.prompt_tokens.inc(min(sequence.cached, len(sequence.prompt_ids)))
        telemetry.queue_time.observe(timings.queue_ms / 1e3)
        telemetry.prefill_time.observe(timings.prefill_ms / 1e3)
        telemetry.decode_time.observe(timings.decode_ms / 1e3)
        seconds = time.perf_counter() - sequence.submitted_at
        telemetry.e2e.observe(seconds)
        in_slot_s = (timings.prefill_ms + timings.decode_ms) / 1e3
        self._seconds_per_request += _SMOOTHING * (in_slot_s - self._seconds_per_request)
        self._publish(sequence, finished)

    def _fail(self, sequence: Sequence, error: Exception) -> None:
        self._forget(sequence)
        self._telemetry.finished.labels("error").inc()
        self._publish(sequence, Failed(error))

    def _forget(self, sequence: Sequence) -> None:
        self._scheduler.remove(sequence)
        with self._lock:
            self._admitted -= 1
        self._show_load()  # before its client knows: who asks for the metrics then must not find it running

    def _publish(self, sequence: Sequence, event: Event) -> None:
        try:
            sequence.publish(event)
        except RuntimeError:  # the event loop of the client is closed: nobody listens any more
            log.warning("publish.failed", sequence=sequence.id)
