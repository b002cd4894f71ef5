"""Server-sent events: wherever the bytes were cut, the events are the same."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from ml_service.pipeline.load.event_stream import EventParser, ServerEvent


def parse(*chunks: bytes) -> list[ServerEvent]:
    parser = EventParser()
    return [event for chunk in chunks for event in parser.feed(chunk)]


pieces = st.sampled_from(
    [b"data", b"event", b"id", b":", b": ", b"\n", b"\r", b"\r\n", b"\n\n", b"\r\n\r\n", b"{}", b"done", "日".encode()]
)


@given(st.lists(pieces, max_size=40).map(b"".join), st.lists(st.integers(0, 200), max_size=20))
def test_any_cut_gives_the_same_events(stream: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    chunks = [stream[begin:end] for begin, end in itertools.pairwise(places)]
    assert parse(*chunks) == parse(stream)
    assert parse(*(bytes([byte]) for byte in stream)) == parse(stream)


line = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), max_size=20)


@given(
    st.lists(st.tuples(line, st.lists(line, min_size=1, max_size=3)), max_size=5),
    st.sampled_from("\n \r \r\n".split(" ")),
)
def test_what_was_written_is_read(events: list[tuple[str, list[str]]], end: str) -> None:
    stream = ""
    for name, lines in events:
        stream += f"event: {name}{end}: a comment{end}" + "".join(f"data: {line}{end}" for line in lines) + end
    wanted = [ServerEvent(name.encode(), "\n".join(lines).encode()) for name, lines in events]
    assert parse(stream.encode()) == wanted


def test_the_standards_own_cases() -> None:
    assert parse(b"data\n\ndata\ndata\n\ndata:") == [ServerEvent(b"", b""), ServerEvent(b"", b"\n")]
    assert parse(b"data:test\n\ndata: test\n\n") == [ServerEvent(b"", b"test")] * 2
    assert parse(b"event: lonely\n\ndata: x\n\n") == [ServerEvent(b"", b"x")]
    assert parse(b"data: cut short\n") == []
