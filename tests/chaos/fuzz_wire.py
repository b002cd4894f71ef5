"""Garbage on the wire: what no client library sends, from half a request to lies about its length."""

from __future__ import annotations

import gzip
import random
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse

from tests.chaos.fuzz_document import PATIENCE_S, Tried

_AT_A_TIME = 8
_NUMBERED = "/datasets", "/metadata", "/metrics", "/evaluations", "/v1/models"
_NUMBERS = 2**31, 2**63 - 1, 2**63, 2**64, 10**400, "9" * 5_000
_PATHS = (
    "/", "*", "//", "/%00", "/..", "/../../etc/passwd", "http://elsewhere.example/health", "/health?", "/health#a",
    "/docs/static/%2e%2e/%2e%2e/%2e%2e/etc/passwd", "/docs/static/..%2f..%2f..%2fetc/passwd", "/docs/static/%00",
    "/docs/static/", "/ui", "/ui/", "/ui/%00", "/ui/..%2f..%2fforward", "/ui//", "/ui/_nicegui/%ff", "/ui/socket.io/",
    "/v1/models/%00", "/v1/models/%ff%fe", "/v1/models/%ed%a0%80", "/v1/models/" + "a" * 60_000, "/v1/models/..",
    "/datasets/%00", "/datasets/1%00", "/datasets/\uff11".encode().decode("latin-1"), "/datasets/1e3", "/datasets/-1",
    "/datasets/nan", "/metadata/+1", "/metadata/1_0", "/metadata/0x1", "/metrics/%20", "/metrics/1/", "/metrics/true",
    *(f"{path}/{number}" for path in _NUMBERED for number in _NUMBERS),
    *(f"/experiments?name={value}" for value in ("%00", "a%00", "%ff", "%ed%a0%80", "%25", "_%25%5c", "%F0%9F%99%82")),
    *(f"/experiments?offset={value}" for value in (2**63 - 1, 2**63, 10**400, -1, "%00", "1e1", "NaN", "")),
    *(f"/experiments?{query}" for query in ("state=", "state=%00", "sort=%00", "limit=0&limit=9", "&&&=", "%", "name")),
    *(f"/experiments/compare?ids={value}" for value in ("1,", ",", "1,1", "1,%00", "9" * 5_000 + ",1", "1," * 5_000)),
    "/datasets?before=" + "9" * 5_000, "/deployments?limit=%ff", "/evaluations?experiment_id=%00",
    "/evaluations/1/rows.csv%00", "/evaluations/1/rows.csv/..", "/openapi.json/", "/docs/oauth2-redirect?code=%00",
)  # fmt: skip
_HEADERS = (
    "X-Request-ID: \0", "X-Request-ID: \xff\xfe", "X-Request-ID: " + "a" * 20_000, "X-Request-Timeout: nan",
    "X-Request-Timeout: 1e309", "X-Request-Timeout: -1", "X-Request-Timeout: \xff", "Idempotency-Key: \xff\xe9",
    "Idempotency-Key: " + "a" * 256, "Idempotency-Key:", "Prefer: wait=999999999999", "Prefer: wait=-1",
    "Accept: text/event-stream;q=\xff", "Accept: " + "a/b," * 5_000, "Content-Encoding: gzip", "Expect: 100-continue",
    "Expect: 200-ok", "Range: bytes=0-", "Range: bytes=9-1,a-b", "If-Range: \xff", "Cookie: " + "a=b; " * 5_000,
    "If-None-Match: \xff", "If-Modified-Since: never", "Forwarded: for=\xff", "X-Forwarded-For: \xff,\0",
    "X-Forwarded-Proto: \xff", "Origin: \xff", "Origin: null", "Sec-Fetch-Site: cross-site", "Traceparent: 00-\xff-00",
    "traceparent: 00-" + "0" * 32 + "-" + "0" * 16 + "-ff", "Host: \xff", "Host:", "Host: a:b:c", "Connection: \xff",
    "Authorization: Bearer \xff\xfe", "Authorization: Basic \xff", "Authorization:", "Authorization: Bearer",
    "Content-Type: multipart/form-data", "Content-Type: multipart/form-data; boundary=" + "b" * 5_000,
    "Content-Type: multipart/form-data; boundary=\xff", "Content-Type: application/json; charset=utf-16",
    "Content-Type: application/json; charset=nothing", "Content-Type: \xff", "Content-Type: application/JSON;;;=",
    "X-Max-New-Tokens: \xff", "X-Stop: [", "X-Json-Schema: {", "A: " + "b" * 70_000, "\xff: a", "A b: c", ": a", "A",
    "A\0: b", "A: b\r\n folded",
)  # fmt: skip
_LENGTHS = (
    "Content-Length: -1", "Content-Length: 1e3", "Content-Length: +5", "Content-Length: 0x5",
    "Content-Length: " + "9" * 40, "Content-Length: 5\r\nContent-Length: 6", "Content-Length: 5, 5", "Content-Length:",
    "Content-Length: \xff", "Content-Length: 5\r\nTransfer-Encoding: chunked", "Transfer-Encoding: gzip",
    "Transfer-Encoding: chunked, gzip", "Transfer-Encoding: \xff",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
)  # fmt: skip
_CHUNKS = (
    b"zz\r\n{}\r\n0\r\n\r\n", b"-1\r\n{}\r\n0\r\n\r\n", b"ffffffffffffffffff\r\n{}\r\n", b"2\r\n{}0\r\n\r\n",
    b"\r\n\r\n", b"2;a=b\r\n{}\r\n0\r\nA: b\r\n\r\n", b"0\r\n\r\n",
    b"2\r\n{}\r\n0\r\n" + b"A: b\r\n" * 2_000 + b"\r\n", b"2\n{}\n0\n\n", b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",
    b"0" * 5_000 + b"2\r\n{}\r\n0\r\n\r\n",
)  # fmt: skip
_GARBAGE = (
    b"\r\n\r\n\r\n", b"\0" * 1_000, b"GET /\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\n\n",
    b"SSH-2.0-a\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), b"GET  / HTTP/1.1\r\n\r\n",
    b"POST /forward HTTP/1.1\r\n" + b"A: b\r\n" * 20_000, b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n",
    b"\xff" * 5_000,
)  # fmt: skip
_METHODS = ("TRACE", "CONNECT", "OPTIONS", "HEAD", "PROPFIND", "get", "POST\0", "\xff", "A" * 5_000, "PATCH", "DELETE")
_UPGRADED = (
    "/", "/ui", "/ui/", "/ui/_nicegui_ws/socket.io/?EIO=4&transport=websocket", "/forward", "/metrics", "/nothing",
)  # fmt: skip


@dataclass(frozen=True)
class Raw:
    """Bytes to send; what is cut off is closed instead of waited for."""

    name: str
    content: bytes
    is_cut: bool = False


def try_wire(port: int, key: str, seed: int, random_cases: int) -> Tried:
    """Send all of it, several at a time."""
    tried = Tried()
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        for raw, status, elapsed_s in pool.map(lambda raw: _sent(port, raw), _all(key, seed, random_cases)):
            tried.note(raw.name, status, elapsed_s)
            if status == "hangs" or status.startswith("5"):
                tried.failures.setdefault(f"{raw.name}: {status}", repr(raw.content[:300]))
    return tried


def _all(key: str, seed: int, random_cases: int) -> Iterator[Raw]:
    text = b'{"text": "import ", "max_new_tokens": 1}'
    for path in _PATHS:
        yield Raw("paths", _request(key, "GET", path))
    for path in ("/forward", "/add_data", "/ui/", "/experiments/1/cancel", "/docs/static/a", "/v1/completions"):
        for method in _METHODS:
            yield Raw("methods", _request(key, method, path))
        for header in (*_HEADERS, *_LENGTHS):
            own_length = () if header in _LENGTHS else (f"Content-Length: {len(text)}",)
            yield Raw("headers", _request(key, "POST", path, header, *own_length, body=text))
        for chunks in _CHUNKS:
            yield Raw("chunks", _request(key, "POST", path, "Transfer-Encoding: chunked", body=chunks))
        packed = gzip.compress(bytes(10_000_000))
        for encoding in ("gzip", "br", "deflate", "identity", "\xff"):
            lengths = f"Content-Length: {len(packed)}", f"Content-Encoding: {encoding}"
            yield Raw("compressed bodies", _request(key, "POST", path, *lengths, body=packed))
        whole = _request(key, "POST", path, f"Content-Length: {len(text)}", body=text)
        for cut in range(1, len(whole), 23):
            yield Raw("cut off", whole[:cut], is_cut=True)
    for garbage in _GARBAGE:
        yield Raw("garbage", garbage)
    for path in _UPGRADED:
        for version in ("13", "0", "\xff"):
            own = (
                "Upgrade: websocket",
                "Connection: Upgrade",
                f"Sec-WebSocket-Version: {version}",
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            )
            yield Raw("upgrades", _request(key, "GET", path, *own))
    source = random.Random(seed)
    base = _request(key, "POST", "/forward", f"Content-Length: {len(text)}", body=text)
    for _ in range(random_cases):
        content = bytearray(base)
        for _ in range(source.randint(1, 6)):
            content[source.randrange(len(content))] = source.randrange(256)
        yield Raw("changed bytes", bytes(content), is_cut=True)


def _request(key: str, method: str, path: str, *headers: str, body: bytes = b"") -> bytes:
    own = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {key}", "Connection: close"]
    given = {header.partition(":")[0].lower() for header in headers}
    lines = [line for line in own if line.partition(":")[0].lower() not in given]
    if body and "content-type" not in given:
        lines.append("Content-Type: application/json")
    return "\r\n".join([*lines, *headers, "", ""]).encode("latin-1") + body


def _sent(port: int, raw: Raw) -> tuple[Raw, str, float]:
    """(what was sent, its status or how it ended, seconds)."""
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
        status = "cut off"
        try:
            connection.sendall(raw.content)
            if raw.is_cut:
                connection.shutdown(socket.SHUT_WR)
            answer = HTTPResponse(connection)
            answer.begin()
            status = str(answer.status)
            while answer.status != HTTPStatus.SWITCHING_PROTOCOLS and answer.read(1 << 16):  # to the answer's own end
                if time.monotonic() - began > PATIENCE_S:
                    return raw, "hangs", time.monotonic() - began
        except TimeoutError:
            return raw, "hangs", time.monotonic() - began
        except (OSError, HTTPException):  # it was cut off while we were still sending: that is an answer, too
            pass
    return raw, status, time.monotonic() - began
