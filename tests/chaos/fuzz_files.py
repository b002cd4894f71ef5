"""Broken files over every way in: pictures, tables, archives and texts that are none, too large, or a bomb."""

from __future__ import annotations

from collections.abc import Iterator

import httpx

from benchmarks.broken_input import FILES, answers
from tests.broken_images import bombs, mutated, no_images, truncated
from tests.chaos.fuzz_document import PATIENCE_S, Tried

_NAMES = ("a.txt", "a.csv", "a.jsonl", "a.parquet", "a.zip", "a.exe", ".zip", "a\0.csv", "../a.csv", "a" * 5_000)

_ROWS = (
    ("a.csv", b"te\0xt,b\na,b\n"), ("a.csv", b"text\na\0b\nc\n"), ("a.jsonl", b'{"text": "a\\u0000b"}\n"\\ud800"\n'),
    ("a.jsonl", b'{"te\\u0000xt": "a"}\n'), ("a\0b.csv", b"text\nabc\n"), ("\ufffe.csv", b"text\n\xed\xa0\x80\n"),
)  # fmt: skip
"""What a database may not be able to keep."""


def try_files(client: httpx.Client, pictures: int, *, whole: bool = True) -> Tried:
    """Small broken pictures, so many of each format; and, for the `whole`, the large ones and every other file."""
    tried = Tried()
    for name, answer in _answers(client, pictures, whole):
        operation = f"files to {answer.request.url.path}"
        tried.note(operation, str(answer.status_code), answer.elapsed.total_seconds())
        if answer.status_code >= 500 or "an error of the service" in answer.text:
            tried.failures.setdefault(f"{operation}: {name}: {answer.status_code}", answer.text[:300])
    return tried


def _answers(client: httpx.Client, pictures: int, whole: bool) -> Iterator[tuple[str, httpx.Response]]:
    small = [*no_images().items(), *(("a truncated one", each) for each in truncated(pictures)),
             *(("a changed one", each) for each in mutated(pictures))]  # fmt: skip
    for name, content in [*small, *bombs().items()]:
        yield name, client.post("/forward", files={"image": ("a.png", content)}, data={"max_new_tokens": "1"})
    for name in _NAMES:
        for content in (b"", b"\0", b"\xff\xfe\xff", b'"', b"PK\3\4", b"PAR1", b"text\n\0\n", b"text\n" + b'"' * 9):
            for path, field in (("/add_data", "files"), ("/evaluate", "file"), ("/forward_batch", "file")):
                if path == "/forward_batch" or (whole and len(content) < 3):
                    yield f"{name[:20]!r} of {content!r}", client.post(path, files={field: (name, content)})
    for name, content in _ROWS:
        for path, field in (("/add_data", "files"), ("/evaluate", "file")):
            yield f"{name} of {content!r}", client.post(path, files={field: (name, content)})
    if whole:
        yield from answers(client)
        for name, content in FILES.items():
            yield f"{name}, added", client.post("/add_data", files={"files": (name, content)}, timeout=6 * PATIENCE_S)
