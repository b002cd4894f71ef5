"""Broken input by the hundred through HTTP: how it is answered, and the memory of the server and of what it starts."""

from __future__ import annotations

import argparse
import base64
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import httpx
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.server import RunningServer, running_server
from tests.archives import archive_of
from tests.broken_pictures import BROKEN, PNG

_LOOK_EVERY_S = 0.02
FILES: dict[str, bytes] = {
    "columns.csv": b",".join(b"column%d" % number for number in range(1_000_000)),
    "cells.csv": b"text\na\n" + b"a," * 10_000_000 + b"\n",
    "quotes.csv": b"text\na\n" + b'a","\n' * 5_000_000,
    "utf16.csv": "text\nя\n".encode("utf-16") * 100_000,
    "cp1251.txt": "привет\n".encode("cp1251") * 100_000,
    "nul.jsonl": bytes(50_000_000),
    "line.jsonl": b'"a"\n"' + b"x" * 50_000_000 + b'"\n',
    "deep.jsonl": b'"a"\n' + (b"[" * 100_000 + b"\n") * 300,
    "empty_lists.jsonl": b'"a"\n' + (b"[" + b"[]," * 40_000 + b"[]]\n") * 300,
    "schemas.jsonl": (b'{"text": "a", "json_schema": {"a": [' + b"[]," * 40_000 + b"[]]}}\n") * 300,
    "bomb.zip": archive_of({"a.png": bytes(200_000_000)}),
    "leads_out.zip": archive_of({"../../a.png": PNG}),
    "names.zip": archive_of({f"{number}.png": b"" for number in range(20_000)}),
    "no_archive.zip": b"PK\3\4" + bytes(5_000_000),
}


def answers(client: httpx.Client) -> Iterator[tuple[str, httpx.Response]]:
    """Everything, over every way in."""
    form = {"max_new_tokens": "1"}
    for name, content in BROKEN.items():
        url = "data:image/png;base64," + base64.b64encode(content).decode()
        part = {"type": "image_url", "image_url": {"url": url}}
        chat = {"model": "active", "messages": [{"role": "user", "content": [part]}], "max_tokens": 1}
        yield name, client.post("/forward", files={"image": ("a.png", content)}, data=form)
        yield name, client.post("/forward", json={"image": url, "max_new_tokens": 1})
        yield name, client.post("/v1/chat/completions", json=chat)
        archive = archive_of({"a.png": content})
        yield f"{name}, a row", client.post("/forward_batch", files={"file": ("a.zip", archive)}, data=form)
    for name, content in FILES.items():
        yield name, client.post("/forward_batch", files={"file": (name, content)}, data=form)
    for name, content in (FILES | dict(_tables())).items():
        if name == "schemas.jsonl":
            continue  # each of its rows has a text
        yield f"{name}, judged", client.post("/evaluate", files={"file": (name, content)})


def _tables() -> Iterator[tuple[str, bytes]]:
    """What only `/evaluate` takes."""
    swollen = pa.table({"text": pa.array(["x" * 50_000_000] * 100).dictionary_encode()})
    wide = pa.table({f"column{number}": ["x"] for number in range(20_000)})
    for name, table in (("swollen.parquet", swollen), ("wide.parquet", wide)):
        with BytesIO() as file:
            pq.write_table(table, file, compression="zstd")
            whole = file.getvalue()
        yield name, whole
        yield f"cut_{name}", whole[: len(whole) // 2] + b"PAR1"
    many = {f"{number}.csv": b"text\nx\n" for number in range(3)}
    yield "tables.zip", archive_of(many)
    yield "bomb_table.zip", archive_of({"a.csv": b"text\n" + b"a\n" * 100_000_000})
    pictures = {f"{number}.png": content for number, content in enumerate(BROKEN.values())}
    rows = "".join(f"{name},x\n" for name in (*pictures, "../../etc/passwd", "missing.png"))
    yield "pictures.zip", archive_of({"labels.csv": f"image,target\n{rows}".encode(), **pictures})


def highest_mib(server: RunningServer, is_over: threading.Event, found: dict[str, float]) -> None:
    """Write down what the server and its children held at most."""
    while not is_over.wait(_LOOK_EVERY_S):
        found["server"] = max(found["server"], server.resident_mib())
        for child in server.process.children(recursive=True):
            try:
                found["children"] = max(found["children"], child.memory_info().rss / 2**20)
            except psutil.Error:  # it has ended
                continue


def main() -> None:
    """Print the statuses and the memory; complain of what should not be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="directory of the bundle")
    bundle = parser.parse_args().bundle.resolve()
    settings = {"evaluate_at_once_bytes": str(1 << 30)}
    statuses: Counter[str] = Counter()
    found, is_over = {"server": 0.0, "children": 0.0}, threading.Event()
    with tempfile.TemporaryDirectory() as store, running_server(bundle, store=Path(store), **settings) as server:
        server.post_first({"text": "def", "max_new_tokens": 1})
        before = server.resident_mib()
        watcher = threading.Thread(target=highest_mib, args=(server, is_over, found))
        watcher.start()
        for name, answer in answers(server.client):
            is_row = answer.status_code == 200 and '"error":"' in answer.text
            statuses[f"{answer.status_code}{' with errors of rows' if is_row else ''}"] += 1
            if (
                answer.status_code >= 500
                or (answer.status_code == 200 and not is_row)
                or "an error of the" in answer.text
            ):
                print(f"{name}: {answer.status_code} {answer.text[:200]}")
        is_over.set()
        watcher.join()
        left = [path for path in (Path(store) / "datasets").rglob("*") if path.is_file()]
        left += Path(store).glob("evaluations/*/data.*")
    print(f"answers: {', '.join(f'{count} of {status}' for status, count in sorted(statuses.items()))}")
    most = f"{found['server']:.0f} at most; any other process {found['children']:.0f} at most"
    print(f"MiB: server {before:.0f} before, {most}")
    print(f"files left: {len(left)}")


if __name__ == "__main__":
    main()
