"""What a load generator asks and when: the same for the same seed, as long as asked, as often as asked."""

from __future__ import annotations

import itertools
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_service.pipeline.load.bench import loads
from ml_service.pipeline.load.workload import Load, Span, Workload, arrival_times

workloads = st.builds(
    Workload,
    prompt_tokens=st.builds(lambda least, more: Span(least, least + more), st.integers(1, 50), st.integers(0, 50)),
    new_tokens=st.builds(lambda least, more: Span(least, least + more), st.integers(1, 50), st.integers(0, 50)),
    shared_prefix=st.floats(0, 1),
    seed=st.integers(0, 2**40),
)


@given(workloads, st.integers(0, 10_000))
def test_a_request_depends_on_seed_and_index_alone_and_is_as_long_as_asked(workload: Workload, index: int) -> None:
    ask = workload.ask(index)
    assert ask == workload.ask(index)
    assert workload.prompt_tokens.least <= len(ask.prompt) <= workload.prompt_tokens.most
    assert workload.new_tokens.least <= ask.new_tokens <= workload.new_tokens.most
    assert all(0 < token_id < 256 for token_id in ask.prompt)  # type: ignore[operator]
    assert isinstance(in_words := workload.ask(index, 1.0).prompt, str)
    assert len(in_words.split()) == len(ask.prompt)


@given(workloads, st.integers(0, 1000), st.integers(0, 1000))
def test_prompts_share_the_beginning_that_was_asked_for(workload: Workload, one: int, other: int) -> None:
    first, second = workload.ask(one).prompt, workload.ask(other).prompt
    shared = round(min(len(first), len(second)) * workload.shared_prefix)
    assert first[:shared] == second[:shared]


def test_prompts_share_no_more_than_that() -> None:
    workload = Workload(prompt_tokens=Span(100, 100), shared_prefix=0.5)
    first, second = workload.ask(0).prompt, workload.ask(1).prompt
    assert first[:50] == second[:50]
    assert first[50:60] != second[50:60]
    assert workload.ask(0).seed != workload.ask(1).seed


def test_words_are_fewer_where_a_word_has_more_tokens() -> None:
    prompt = Workload(prompt_tokens=Span(100, 100)).ask(0, tokens_per_word=2.5).prompt
    assert isinstance(prompt, str)
    assert len(prompt.split()) == 40


def test_arrivals_are_a_poisson_process_of_the_rate_and_the_seed() -> None:
    times = list(itertools.islice(arrival_times(50.0, seed=3), 5_000))
    assert times == list(itertools.islice(arrival_times(50.0, seed=3), 5_000))
    gaps = [after - before for before, after in itertools.pairwise([0.0, *times])]
    assert min(gaps) > 0
    assert statistics.mean(gaps) == pytest.approx(1 / 50, rel=0.05)
    assert statistics.stdev(gaps) == pytest.approx(1 / 50, rel=0.05)  # of an exponential, both are the same


def test_lengths_are_read_from_a_number_or_a_range() -> None:
    assert Span.parse("128") == Span(128, 128)
    assert Span.parse("16:256") == Span(16, 256)
    assert str(Span(16, 256)) == "16:256"
    assert str(Span(7, 7)) == "7"
    for wrong in ("", "x", "256:16", "0", "1:", "-3", "1:2:3"):
        with pytest.raises(ValueError, match="range of lengths"):
            Span.parse(wrong)


def test_a_load_that_makes_no_sense_is_refused_in_words() -> None:
    assert [load.concurrency for load in loads("1,8,32", None, 10, None, 4)] == [1, 8, 32]
    assert loads("8", 2.5, None, None, 4) == [Load(rate=2.5, seconds=10.0)]
    for concurrency, rate, requests, seconds, warmup, message in (
        ("8,x", None, 1, None, 0, "no concurrency"),
        ("0", None, 1, None, 0, "more than nothing"),
        ("8", 0.0, 1, None, 0, "more than nothing"),
        ("8", None, 0, None, 0, "more than nothing"),
        ("8", None, None, -1.0, 0, "more than nothing"),
        ("8", None, 1, None, -1, "fewer than none"),
    ):
        with pytest.raises(ValueError, match=message):
            loads(concurrency, rate, requests, seconds, warmup)
    with pytest.raises(ValueError, match="share between"):
        Workload(shared_prefix=1.5)
