"""The decode loop: every request ends exactly once, whatever happens to a step."""

from __future__ import annotations

import queue
from collections.abc import Iterator

import pytest

from lib.detokenizer import Detokenizer
from lib.tokenizer import train_byte_level_bpe
from ml_service.common.errors import ModelFailure, Overloaded, Unavailable
from ml_service.common.types import GenerationParameters
from ml_service.inference.decode_loop import DecodeLoop
from ml_service.inference.sampler import Sampler
from ml_service.inference.sequence import Delta, Event, Failed, Finished, Sequence
from ml_service.inference.text_stream import TextStream
from ml_service.utils.telemetry import Telemetry
from tests.fakes import SMALL, CountingSession

PIECES = Detokenizer(train_byte_level_bpe(["a b c"], 300))


class Request:
    """A sequence and its events."""

    def __init__(self, prompt: list[int], *, streams: bool = True, **parameters: int) -> None:
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        chosen = GenerationParameters(**({"max_new_tokens": 5} | parameters))  # type: ignore[arg-type]
        text, context = TextStream(PIECES.pieces()), SMALL.context_length
        self.sequence = Sequence(
            "x", prompt, chosen, Sampler(chosen, 0), text, self.events.put, (0,), context, streams=streams
        )

    def end(self) -> Finished | Failed:
        while isinstance(event := self.events.get(timeout=10), Delta):
            pass
        return event


@pytest.fixture
def session() -> CountingSession:
    return CountingSession(slots=2, chunk=8)


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


@pytest.fixture
def loop(session: CountingSession, telemetry: Telemetry) -> Iterator[DecodeLoop]:
    loop = DecodeLoop(session, max_waiting=1, telemetry=telemetry)
    yield loop
    session.gate.set()
    loop.stop()
    assert session.is_closed
    assert loop.busy == 0


def finished(telemetry: Telemetry, reason: str) -> float:
    return telemetry.registry.get_sample_value("ml_service_requests_finished_total", {"finish_reason": reason}) or 0.0


def test_a_sequence_gets_its_tokens_and_its_end(loop: DecodeLoop, telemetry: Telemetry) -> None:
    request = Request(list(range(10, 30)))
    loop.submit(request.sequence)
    end = request.end()
    assert isinstance(end, Finished)
    assert request.sequence.generated_ids == [30, 31, 32, 33, 34]
    assert (end.reason, end.usage.prompt_tokens, end.usage.completion_tokens) == ("length", 20, 5)
    assert finished(telemetry, "length") == 1


def test_a_stream_hears_its_first_token_at_once_and_a_whole_answer_comes_in_one_piece(loop: DecodeLoop) -> None:
    stream, whole = Request([10, 11], max_new_tokens=40), Request([10, 11], max_new_tokens=40, streams=False)
    for request in (stream, whole):
        loop.submit(request.sequence)
    first = stream.events.get(timeout=10)
    assert isinstance(first, Delta)
    assert [choice.token_id for choice in first.choices] == [12]
    told = list(first.choices)
    while isinstance(event := stream.events.get(timeout=10), Delta):
        told += event.choices
    assert [choice.token_id for choice in told] == list(range(12, 52)), "nothing is left untold at the end"
    only, end = whole.events.get(timeout=10), whole.events.get(timeout=10)
    assert isinstance(only, Delta)
    assert isinstance(end, Finished)
    assert only.choices == tuple(told)


def test_the_end_of_text_stops_and_the_context_bounds(loop: DecodeLoop) -> None:
    bounded = Request(list(range(10, 70)), max_new_tokens=100)
    loop.submit(bounded.sequence)
    end = bounded.end()
    assert isinstance(end, Finished)
    assert end.usage.completion_tokens == SMALL.context_length - 60
    assert end.reason == "length"


def test_neighbours_do_not_change_the_tokens(loop: DecodeLoop) -> None:
    requests = [Request(list(range(start, start + 3 * start)), max_new_tokens=start) for start in (5, 9)]
    for request in requests:
        loop.submit(request.sequence)
    for request, start in zip(requests, (5, 9), strict=True):
        assert isinstance(request.end(), Finished)
        assert request.sequence.generated_ids == [4 * start + step for step in range(start)]


def test_a_full_queue_refuses_with_a_time_to_come_back(
    loop: DecodeLoop, session: CountingSession, telemetry: Telemetry
) -> None:
    session.gate.clear()
    requests = [Request([1]) for _ in range(3)]
    for request in requests:
        loop.submit(request.sequence)
    with pytest.raises(Overloaded, match="all 2 slots and 1 waiting places are taken") as refusal:
        loop.submit(Request([1]).sequence)
    assert refusal.value.retry_after_s > 0
    session.gate.set()
    assert all(isinstance(request.end(), Finished) for request in requests)
    assert finished(telemetry, "rejected") == 1
    loop.submit((late := Request([1])).sequence)
    assert isinstance(late.end(), Finished)


def test_one_who_leaves_ends_within_a_step_and_frees_the_place(
    loop: DecodeLoop, session: CountingSession, telemetry: Telemetry
) -> None:
    session.gate.clear()
    running, waiting = Request([1], max_new_tokens=50), Request([1], max_new_tokens=50)
    for request in (running, waiting):
        loop.submit(request.sequence)
        loop.cancel(request.sequence)
    session.gate.set()
    for request in (running, waiting):
        end = request.end()
        assert isinstance(end, Finished)
        assert end.reason == "cancelled"
        assert end.usage.completion_tokens <= 1
    assert finished(telemetry, "abort") == 2
    loop.cancel(running.sequence)  # a second time: nothing happens
    loop.submit((late := Request([1])).sequence)
    assert isinstance(late.end(), Finished)


def test_a_step_that_fails_fails_its_requests_and_the_loop_goes_on(
    loop: DecodeLoop, session: CountingSession, telemetry: Telemetry
) -> None:
    for error in (ModelFailure("refused"), ZeroDivisionError("a bug")):
        session.fail_next = error
        loop.submit((unlucky := Request([1])).sequence)
        end = unlucky.end()
        assert isinstance(end, Failed)
        assert end.error is error
    assert finished(telemetry, "error") == 2
    loop.submit((lucky := Request([1])).sequence)
    assert isinstance(lucky.end(), Finished)


def test_stopping_ends_everyone_and_takes_no_more(session: CountingSession, telemetry: Telemetry) -> None:
    loop = DecodeLoop(session, max_waiting=5, telemetry=telemetry)
    session.gate.clear()
    requests = [Request([1], max_new_tokens=60) for _ in range(4)]
    for request in requests:
        loop.submit(request.sequence)
    session.gate.set()
    loop.stop()
    assert all(isinstance(request.end(), Finished) for request in requests)
    with pytest.raises(Unavailable):
        loop.submit(Request([1]).sequence)


def test_a_stuck_step_shows_its_age_and_an_idle_loop_none(loop: DecodeLoop, session: CountingSession) -> None:
    assert loop.last_step_age_s() == 0
    session.gate.clear()
    loop.submit((request := Request([1])).sequence)
    assert loop.last_step_age_s() > 0
    session.gate.set()
    request.end()
