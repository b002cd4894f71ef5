"""Any mix of requests gives each one what it gets alone: the loop against the plainest way to generate."""

from __future__ import annotations

import queue
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.detokenizer import Detokenizer
from lib.tokenizer import train_byte_level_bpe
from ml_service.common.types import GenerationParameters
from ml_service.inference.decode_loop import DecodeLoop
from ml_service.inference.prefix_cache import PrefixCache
from ml_service.inference.sampler import Sampler
from ml_service.inference.sequence import Delta, Event, Failed, Finished, Sequence
from ml_service.inference.text_stream import TextStream
from ml_service.utils.telemetry import Telemetry
from tests.fakes import SMALL, ContextSession

PIECES = Detokenizer(train_byte_level_bpe(["a b c"], 300))
END_IDS = (0, 13)
BEGINNINGS = [[(7 * i + k) % 60 + 1 for i in range(24)] for k in range(2)]


class Asked:
    """A request, its sequence and what came of it."""

    def __init__(self, prompt: list[int], parameters: GenerationParameters, deadline: float = float("inf")) -> None:
        self.prompt, self.parameters = prompt, parameters
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        text = TextStream(PIECES.pieces(), parameters.stop)
        sampler = Sampler(parameters, parameters.seed or 0)
        self.sequence = Sequence(
            "x", prompt, parameters, sampler, text, self.events.put, END_IDS, SMALL.context_length, deadline
        )

    def end(self) -> Finished | Failed:
        while isinstance(event := self.events.get(timeout=10), Delta):
            pass
        assert isinstance(event, Finished | Failed)
        return event


def plainly(prompt: list[int], parameters: GenerationParameters) -> list[int]:
    """The reference: one request, no cache, no batch, no guesses."""
    session, ids = ContextSession(), list(prompt)
    sampler = Sampler(parameters, parameters.seed or 0)
    ends = set(parameters.stop_token_ids) | (set() if parameters.ignore_eos else set(END_IDS))
    room = min(parameters.max_new_tokens, SMALL.context_length - len(prompt))
    while len(ids) < len(prompt) + room:
        ids.append(sampler.choose(session.logits_after(ids), ids).token_id)
        if ids[-1] in ends:
            break
    return ids[len(prompt) :]


@st.composite
def requests(draw: st.DrawFn) -> tuple[list[int], GenerationParameters]:
    beginning = draw(st.sampled_from(BEGINNINGS))[: draw(st.integers(0, 24))]
    prompt = beginning + draw(st.lists(st.integers(1, 60), max_size=24))
    parameters = GenerationParameters(
        max_new_tokens=draw(st.integers(0, 40)),
        temperature=draw(st.sampled_from([0.0, 0.0, 0.3, 1.0])),
        top_p=draw(st.sampled_from([1.0, 0.9])),
        repetition_penalty=draw(st.sampled_from([1.0, 1.0, 1.3])),
        logit_bias=draw(st.sampled_from([{}, {}, {5: -100.0, 6: 1.5}])),
        stop_token_ids=draw(st.sampled_from([[], [], [4]])),
        ignore_eos=draw(st.booleans()),
        seed=draw(st.integers(0, 5)),
    )
    return prompt or [1], parameters


@given(
    wanted=st.lists(requests(), min_size=1, max_size=12),
    leavers=st.sets(st.integers(0, 11), max_size=3),
    pauses=st.sets(st.integers(0, 11), max_size=3),
    slots=st.integers(1, 5),
    blocks=st.sampled_from([0, 2, 100]),
    lookup_rows=st.sampled_from([0, 4, 16]),
    shares_steps=st.booleans(),
)
@settings(max_examples=150)
def test_any_mix_gives_each_request_what_it_gets_alone(
    wanted: list[tuple[list[int], GenerationParameters]],
    leavers: set[int],
    pauses: set[int],
    slots: int,
    blocks: int,
    lookup_rows: int,
    shares_steps: bool,
) -> None:
    session, telemetry = ContextSession(slots=slots, chunk=8), Telemetry()
    session.shares_steps = shares_steps
    loop = DecodeLoop(session, len(wanted), telemetry, PrefixCache(4, blocks), lookup_rows)
    asked = [Asked(prompt, parameters) for prompt, parameters in wanted]
    for number, request in enumerate(asked):
        loop.submit(request.sequence)
        if number in leavers:
            loop.cancel(request.sequence)
        if number in pauses:
            time.sleep(0)
    for number, request in enumerate(asked):
        end = request.end()
        assert isinstance(end, Finished)
        expected = plainly(request.prompt, request.parameters)
        got = request.sequence.generated_ids
        if number in leavers:
            assert got == expected[: len(got)]
        else:
            assert got == expected
        assert end.usage.completion_tokens == len(got)
        assert end.usage.cached_tokens < max(len(request.prompt), 1)
    assert loop.busy == 0
    loop.stop()
    assert all(request.sequence.slot is None for request in asked)
    assert telemetry.registry.get_sample_value("ml_service_num_requests_running") == 0


def ask(loop: DecodeLoop, prompt: list[int], **parameters: object) -> Asked:
    asked = Asked(prompt, GenerationParameters(**parameters))  # type: ignore[arg-type]
    loop.submit(asked.sequence)
    return asked


def test_a_beginning_that_was_read_once_is_not_read_again() -> None:
    session, telemetry = ContextSession(slots=2, chunk=8), Telemetry()
    loop = DecodeLoop(session, 4, telemetry, PrefixCache(4, 100))
    prompt = BEGINNINGS[0]
    first = ask(loop, prompt, max_new_tokens=3).end()
    second = ask(loop, [*prompt, 50, 51], max_new_tokens=3).end()
    assert isinstance(first, Finished)
    assert isinstance(second, Finished)
    assert (first.usage.cached_tokens, second.usage.cached_tokens) == (0, 24)
    same = ask(loop, prompt, max_new_tokens=3).end()
    assert isinstance(same, Finished)
    assert same.usage.cached_tokens == 20  # the last token is always read, for the logits behind it
    loop.stop()
    value = telemetry.registry.get_sample_value
    assert value("ml_service_prefix_cache_queries_total") == 24 + 26 + 24
    assert value("ml_service_prefix_cache_hits_total") == 44


def test_guesses_save_steps_and_are_counted() -> None:
    counted = {}
    for lookup_rows in (0, 16):
        session, telemetry = ContextSession(slots=1, chunk=16), Telemetry()
        loop = DecodeLoop(session, 4, telemetry, lookup_rows=lookup_rows)
        asked = ask(loop, [1, 2, 3], max_new_tokens=60, ignore_eos=True)
        asked.end()
        loop.stop()
        assert asked.sequence.generated_ids == plainly(asked.prompt, asked.parameters)
        value = telemetry.registry.get_sample_value
        drafted = value("ml_service_spec_decode_num_draft_tokens_total")
        accepted = value("ml_service_spec_decode_num_accepted_tokens_total")
        counted[lookup_rows] = (len(session.batches), drafted, accepted)
    assert counted[0][1:] == (0, 0)
    assert counted[16][0] < counted[0][0]
    assert counted[16][1] >= counted[16][2] > 0


def test_time_that_is_up_ends_a_running_request_with_what_it_has_and_a_waiting_one_with_a_refusal() -> None:
    session, telemetry = ContextSession(slots=1, chunk=8), Telemetry()
    loop = DecodeLoop(session, 4, telemetry)
    session.gate.clear()
    forever = GenerationParameters(max_new_tokens=50, ignore_eos=True)
    soon = time.perf_counter() + 0.02
    running, waiting = Asked([1], forever, soon), Asked([1], forever, soon)
    loop.submit(running.sequence, waiting.sequence)
    while time.perf_counter() < soon:
        time.sleep(0.005)
    session.gate.set()
    late, refused = running.end(), waiting.end()
    assert isinstance(late, Finished)
    assert late.reason == "timeout"
    assert isinstance(refused, Failed)
    assert "time was up" in str(refused.error)
    loop.stop()
    labels = {"finish_reason": "timeout"}
    assert telemetry.registry.get_sample_value("ml_service_requests_finished_total", labels) == 2


@pytest.mark.parametrize("slots", [1, 2, 4])
def test_nobody_starves_while_others_keep_coming(slots: int) -> None:
    session = ContextSession(slots=slots, chunk=4)
    loop = DecodeLoop(session, 100, Telemetry())
    session.gate.clear()
    asked = [ask(loop, [1 + number] * 20, max_new_tokens=5, ignore_eos=True) for number in range(40)]
    session.gate.set()
    for request in asked:
        assert isinstance(request.end(), Finished)
    loop.stop()
    order = list(dict.fromkeys(row.token_ids[0] - 1 for batch in session.batches for row in batch if not row.position))
    assert order == sorted(order), "first come, first served"
