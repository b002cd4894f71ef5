"""Requests of every kind, under way when a signal comes: whole answers, streams, a batch, an upload, a picture."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import httpx

from ml_service.common.settings import PROJECT

DRAIN_S = 30.0
"""`ML_SERVICE_DRAIN_TIMEOUT_S`."""
TOO_LATE = "refused, for it came too late"
LONG = {"text": "def value(", "max_new_tokens": 700, "ignore_eos": True}
ROW_COUNT = 60
ROWS = "".join(
    json.dumps({"text": f"def value_{n}(", "max_new_tokens": 200, "ignore_eos": True}) + "\n" for n in range(ROW_COUNT)
)


class Guests:
    """Requests of every kind, begun before the signal; each is remembered with what became of it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.outcomes: list[tuple[str, str]] = []
        """(kind, "whole", `TOO_LATE` or what was wrong)."""
        self._threads: list[threading.Thread] = []

    def begin(self, **counts: int) -> None:
        """So many of each: whole, stream, batch, upload, picture."""
        for kind, count in counts.items():
            for number in range(count):
                ask: Callable[[httpx.Client, int], str] = getattr(self, f"_{kind}")
                thread = threading.Thread(target=self._ask, args=(kind, ask, number), daemon=True)
                self._threads.append(thread)
                thread.start()

    def end(self) -> Counter[tuple[str, str]]:
        """Wait for all of them."""
        for thread in self._threads:
            thread.join(DRAIN_S + 30)
        assert not any(thread.is_alive() for thread in self._threads), "a request hangs"
        return Counter(self.outcomes)

    def _ask(self, kind: str, ask: Callable[[httpx.Client, int], str], number: int) -> None:
        try:
            with httpx.Client(base_url=self._url, timeout=90) as client:
                self.outcomes.append((kind, ask(client, number)))
        except httpx.TransportError as error:
            self.outcomes.append((kind, f"{type(error).__name__}: {error}"))

    def _whole(self, client: httpx.Client, number: int) -> str:
        return _outcome(client.post("/forward", json=LONG | {"seed": number}))

    def _stream(self, client: httpx.Client, number: int) -> str:
        with client.stream("POST", "/forward", json=LONG | {"stream": True, "seed": number}) as answer:
            if answer.status_code != 200:
                answer.read()
                return _outcome(answer)
            last = ""
            for line in answer.iter_lines():
                last = line if line.startswith("event: ") else last
        return "whole" if last == "event: done" else f"{answer.status_code}, its last event is {last!r}"

    def _batch(self, client: httpx.Client, _: int) -> str:
        answer = client.post("/forward_batch", files={"file": ("rows.jsonl", ROWS.encode())})
        if answer.status_code != 200:
            return f"{answer.status_code} {answer.text[:100]}"
        rows = answer.json()["predictions"]
        is_whole = len(rows) == ROW_COUNT and all("prediction" in row for row in rows)
        return "whole" if is_whole else f"{len(rows)} rows: {answer.text[-200:]}"

    def _upload(self, client: httpx.Client, _: int) -> str:
        def pieces() -> Iterator[bytes]:
            yield b'--b\r\nContent-Disposition: form-data; name="files"; filename="rows.jsonl"\r\n\r\n'
            for number in range(20):  # five seconds: the signal comes in the middle
                yield b"".join(json.dumps({"text": f"def total_{number}_{n}(count): return {random.random()}"}).encode()
                               + b"\n" for n in range(50))  # fmt: skip
                time.sleep(0.25)
            yield b"\r\n--b--\r\n"

        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        answer = client.post("/add_data", content=pieces(), headers=headers)
        return "whole" if answer.status_code < 300 else f"{answer.status_code} {answer.text[:100]}"

    def _picture(self, client: httpx.Client, _: int) -> str:
        picture = (PROJECT / "data" / "samples" / "code.png").read_bytes()
        answer = client.post("/forward", files={"image": ("code.png", picture)}, data={"max_new_tokens": "200"})
        return _outcome(answer)


def _outcome(answer: httpx.Response) -> str:
    """A request that the service had not begun when the signal came is told so: it is a new one."""
    if answer.status_code == 503 and "shutting down" in answer.text:
        return TOO_LATE
    return "whole" if answer.status_code == 200 else f"{answer.status_code} {answer.text[:200]}"
