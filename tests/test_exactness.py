"""A token's logits depend on the tokens before it and on nothing else: not one bit, in every precision."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ml_service.common.bundle import load_architecture
from ml_service.inference.operators import PLAIN, Arithmetic, Logits, compiled_operators
from ml_service.inference.session import Inputs, OnnxSession, Row, step_inputs

SLOTS = 32
CHUNK = 32
WINDOW = 64
TOKENS = np.random.default_rng(0).integers(1, 257, (SLOTS, WINDOW)).tolist()


@pytest.fixture(
    scope="module",
    params=["fp32", "int8", "int4", "fp32, rounded cache", "int8, compiled", "int4, compiled", "int8, fp32 cache"],
)
def session(
    request: pytest.FixtureRequest, bundle_fp32: Path, bundle: Path, bundle_int4: Path
) -> Iterator[OnnxSession]:
    weights, _, kind = request.param.partition(", ")
    directory = {"fp32": bundle_fp32, "int8": bundle, "int4": bundle_int4}[weights]
    arithmetic = Arithmetic(compiled_operators(), "fp32" if kind == "fp32 cache" else "int8") if kind else PLAIN
    if kind and arithmetic.library is None:
        pytest.skip("no compiled operators here")
    session = OnnxSession(directory, load_architecture(directory), SLOTS, CHUNK, 2, arithmetic)
    yield session
    session.close()


def read(session: OnnxSession, slot: int, tokens: Sequence[int], pieces: Sequence[int], start: int = 0) -> Logits:
    """The logits after each token, read in pieces of these lengths; the last one is repeated as often as it takes."""
    logits, position, lengths = [], 0, iter([*pieces, *[pieces[-1]] * len(tokens)])
    while position < len(tokens):
        piece = tokens[position : position + next(lengths)]
        logits.append(session.run([Row(slot, start + position, piece, wants_all=True)]).copy())
        position += len(piece)
    return np.concatenate(logits)


@pytest.mark.parametrize("equally_long", [True, False])
def test_a_row_is_the_same_alone_and_among_up_to_31_others(session: OnnxSession, equally_long: bool) -> None:
    lengths = [20 if equally_long else 1 + slot for slot in range(SLOTS)]
    for slot, length in enumerate(lengths):
        read(session, slot, TOKENS[slot][:length], [CHUNK])
    rows = [Row(slot, length, [TOKENS[slot][length]]) for slot, length in enumerate(lengths)]
    alone = [session.run([row])[0].copy() for row in rows]
    for width in range(1, SLOTS + 1):
        for first in {0, SLOTS - width}:
            together = session.run(rows[first : first + width])
            assert all((ours == alone[first + index]).all() for index, ours in enumerate(together))
    with_gaps = session.run(rows[1::5])
    assert all((ours == theirs).all() for ours, theirs in zip(with_gaps, alone[1::5], strict=True))


def test_a_row_is_the_same_beside_longer_and_shorter_ones(session: OnnxSession) -> None:
    counts = [1, 7, 2, 1, CHUNK, 3, 8, 1]
    for slot in range(len(counts)):
        read(session, slot, TOKENS[slot][: 2 + slot], [CHUNK])
    rows = [
        Row(slot, 2 + slot, TOKENS[slot][2 + slot : 2 + slot + count], wants_all=True)
        for slot, count in enumerate(counts)
    ]
    together = np.split(session.run(rows).copy(), np.cumsum(counts)[:-1])
    for row, ours in zip(rows, together, strict=True):
        assert (ours == session.run([row])).all()


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=st.lists(st.integers(1, CHUNK), min_size=1, max_size=6))
def test_a_text_is_the_same_in_whatever_pieces_it_is_read(session: OnnxSession, pieces: list[int]) -> None:
    expected = read(session, 0, TOKENS[0], [1])
    assert (read(session, 1, TOKENS[0], pieces) == expected).all()


@pytest.mark.parametrize("guesses", range(2, 9))
def test_guessed_tokens_get_the_logits_of_single_steps(session: OnnxSession, guesses: int) -> None:
    for slot in range(4):
        read(session, slot, TOKENS[slot][:10], [CHUNK])
        verified = read(session, slot, TOKENS[slot][10 : 10 + guesses], [guesses], start=10)
        single = read(session, slot, TOKENS[slot][10 : 10 + guesses], [1], start=10)
        assert (verified == single).all()


def test_a_processor_that_saturates_computes_the_same(
    bundle: Path, bundle_int4: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for directory in (bundle, bundle_int4):
        logits = []
        for saturates in (False, True):
            monkeypatch.setattr(
                "ml_service.inference.graph_session.saturates_8_bit_products", lambda saturates=saturates: saturates
            )
            session = OnnxSession(directory, load_architecture(directory), slots=1, chunk=CHUNK, threads=1)
            logits.append(read(session, 0, TOKENS[0], [CHUNK]))
            session.close()
        assert (logits[0] == logits[1]).all()


def plain_step_inputs(rows: list[Row], first: int, width: int, fewest: int) -> Inputs:
    """What `step_inputs` makes, row by row."""
    length = max(fewest, *(len(row.token_ids) for row in rows))
    ids: list[int] = []
    places: list[int] = []
    wanted: list[int] = []
    grid, query_lengths, last_positions = np.zeros((width, length), np.int64), [0] * width, [0] * width
    for row in rows:
        index, filled = row.slot - first, max(fewest, len(row.token_ids))
        for place in range(filled):
            is_token = place < len(row.token_ids)
            grid[index, place] = len(ids) if is_token else len(ids) - 1
            if is_token:
                places.append(index * length + place)
                if row.wants_all or place == len(row.token_ids) - 1:
                    wanted.append(len(ids))
                ids.append(row.token_ids[place])
        query_lengths[index], last_positions[index] = filled, row.position + filled - 1
    return {
        "input_ids": np.array(ids, np.int64),
        "grid": grid,
        "places": np.array(places, np.int64),
        "query_lengths": np.array(query_lengths, np.int32),
        "last_positions": np.array(last_positions, np.int32),
        "max_total_length": np.array(max(last_positions) + 2, np.int32),
        "logit_rows": np.array(wanted, np.int64),
    }


@given(
    st.dictionaries(
        st.integers(0, 9),
        st.tuples(st.integers(0, 50), st.lists(st.integers(1, 250), min_size=1, max_size=5), st.booleans()),
        min_size=1, max_size=8,
    ),
    st.sampled_from([1, 2, 3]),
)  # fmt: skip
def test_the_inputs_of_a_step_are_what_a_plain_loop_makes(
    rows_of: dict[int, tuple[int, list[int], bool]], fewest: int
) -> None:
    rows = [Row(slot, position, tokens, wants_all) for slot, (position, tokens, wants_all) in rows_of.items()]
    first, width = min(rows_of), max(rows_of) - min(rows_of) + 1
    quick, plain = step_inputs(rows, first, width, fewest), plain_step_inputs(rows, first, width, fewest)
    assert quick.keys() == plain.keys()
    for name, value in plain.items():
        assert quick[name].dtype == value.dtype
        np.testing.assert_array_equal(quick[name], value)
