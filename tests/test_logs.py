"""Log lines: JSON that always parses, ids that are always there, nothing that nobody should read."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from ml_service.backend.app import create_app
from ml_service.common.settings import PROJECT, Settings
from ml_service.utils import logs
from ml_service.utils.handing_on import for_child, handed_on, in_child, taken_up
from ml_service.utils.log_relay import Relay
from ml_service.utils.logs import EventLogger, bound, configure_logs, refusal_of, tell_refusal
from tests.test_process import Server

log = EventLogger("tests")
Lines = Callable[[], list[dict[str, Any]]]
SECRET = "zebra crossing"


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Iterator[Lines]:
    """JSON logs for the test; what was written so far."""
    written = ""

    def told() -> list[dict[str, Any]]:
        nonlocal written
        written += capsys.readouterr().err
        return [json.loads(line) for line in written.splitlines()]

    hooks = sys.excepthook, threading.excepthook
    loggers = {name: logging.getLogger(name) for name in ("", "ml_service", "uvicorn")}
    levels = {name: logger.level for name, logger in loggers.items()}
    configure_logs("debug", "json", "tests")
    yield told
    root = logging.getLogger()
    root.handlers[:] = [each for each in root.handlers if type(each) is not logs._OwnHandler]
    for name, level in levels.items():
        loggers[name].setLevel(level)
    logging.captureWarnings(False)
    logs._process.is_json, logs._process.role = False, "command"
    sys.excepthook, threading.excepthook = hooks


def test_whatever_is_said_is_one_object_a_line(lines: Lines) -> None:
    log.info("event", text='two\nlines, "quotes", \u2028 and half a pair \ud800', number=float("nan"), path=Path("x"))
    logging.getLogger("some.library").warning("prose with %s", "arguments\nin two lines")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("something is old", DeprecationWarning, stacklevel=1)
    try:
        raise ValueError("a bug")
    except ValueError:
        log.exception("broke")
    event, library, warned, broke = lines()
    assert event["text"].startswith("two\nlines") and event["number"] == "nan" and event["path"] == "x"
    assert (library["event"], library["message"]) == ("log", "prose with arguments\nin two lines")
    assert "something is old" in warned["message"]
    assert broke["exception"].endswith("ValueError: a bug")
    for line in lines():
        assert {"time", "level", "service", "version", "process", "pid", "logger"} <= line.keys()
        assert line["process"] == "tests" and line["time"][19] == "." and line["time"].endswith("Z")


def test_a_field_cannot_pretend_to_be_what_every_line_has(lines: Lines) -> None:
    with bound(request_id="real"):
        log.info("event", level="forged", request_id="forged", pid=0)
    (line,) = lines()
    assert (line["level"], line["request_id"], line["level_"]) == ("info", "real", "forged")


def test_what_nobody_catches_is_told_in_a_line(lines: Lines) -> None:
    def broken() -> None:
        raise RuntimeError("in a thread")

    thread = threading.Thread(target=broken)
    thread.start()
    thread.join()
    (line,) = lines()
    assert (line["event"], line["error"], line["level"]) == ("process.broke", "RuntimeError", "critical")


def test_a_line_that_goes_into_a_pipe_goes_at_once(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_is_pipe", lambda: True)

    def deep(levels: int) -> None:
        if levels == 0:
            raise ValueError("ж" * 300)
        (lambda: deep(levels - 1))()  # frames that repeat are not written out

    try:
        deep(50)
    except ValueError:
        log.exception("broke", other="x" * 100)
    log.info("long", text="ж" * 5000)
    broke, long = lines()
    for line in (broke, long):
        assert len(json.dumps(line, ensure_ascii=False).encode()) < 4096
    assert broke["exception"].startswith("... ") and broke["exception"].endswith("ж" * 300)
    assert long["text"].endswith("ж ...")


def test_libraries_do_not_tell_what_clients_sent(lines: Lines) -> None:
    logging.getLogger("python_multipart.multipart").debug("data: %s", SECRET)
    logging.getLogger("uvicorn.error").debug("< TEXT %s", SECRET)
    logging.getLogger("uvicorn.error").info('%s - "WebSocket %s" [accepted]', "1.2.3.4:5", "/ui/socket")
    logging.getLogger("uvicorn.error").info("connection open")
    logging.getLogger("uvicorn.error").info("Application startup complete.")
    assert [line["message"] for line in lines()] == ["Application startup complete."]


def test_a_wish_is_known_by_whoever_fulfils_it_in_another_process_too(
    lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bound(request_id="wish-1"):
        handed = handed_on()
    assert handed == {"request_id": "wish-1"}
    with taken_up(handed, job=7, experiment=3):
        log.info("job.began")
        variables = for_child("trainer")
        lasting = for_child("reader", of_this_request=False)
    log.info("outside")
    began, outside = lines()
    assert (began["request_id"], began["job"], began["experiment"]) == ("wish-1", 7, 3)
    assert "request_id" not in outside and "job" not in outside
    assert variables["TQDM_DISABLE"] == "1", "bars are no JSON"
    for told in (variables, lasting):
        monkeypatch.setenv("_ML_SERVICE_CONTEXT", told["_ML_SERVICE_CONTEXT"])
        child = threading.Thread(target=lambda: (in_child(), log.info("inside")))  # a context of its own
        child.start()
        child.join()
    trainer, reader = lines()[2:]
    assert (trainer["process"], trainer["request_id"], trainer["job"]) == ("trainer", "wish-1", 7)
    assert reader["process"] == "reader" and "request_id" not in reader


def test_what_a_stage_says_is_passed_on_and_wrapped_where_it_is_no_object(lines: Lines, tmp_path: Path) -> None:
    file = tmp_path / "log.txt"
    own = json.dumps({"event": "stage.began", "job": 7})
    file.write_text(f"from before\n{own}\nprinted by a library\n\n{{not JSON\nhalf a li")
    relay = Relay(file, len("from before\n"))
    relay.pass_on()
    with file.open("a") as more:
        more.write("ne\n")
    relay.pass_on()
    told = lines()
    assert told[0] == {"event": "stage.began", "job": 7}
    assert [line["line"] for line in told[1:]] == ["printed by a library", "{not JSON", "half a line"]


def test_the_last_word_of_a_process_is_found_in_either_format(lines: Lines) -> None:
    tell_refusal("there is no bundle")
    (line,) = lines()
    assert refusal_of(json.dumps(line)) == "there is no bundle"
    assert refusal_of("ml-service: there is no bundle") == "there is no bundle"
    assert refusal_of("anything else") is None
    assert refusal_of('{"event": "process.refused" broken') is None


def test_the_access_log_tells_routes_costs_and_no_text(settings: Settings, lines: Lines) -> None:
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        body = {"text": f"def {SECRET}", "max_new_tokens": 3, "n": 2}
        headers = {"X-Request-ID": "told", "Authorization": f"Bearer {SECRET}"}
        answer = client.post("/forward", json=body, headers=headers, params={"secret": SECRET}).json()
        client.post("/forward", json={"text": 5})
        client.get("/metrics")
        client.get("/nowhere")
    done, refused, unknown = [line for line in lines() if line["event"] == "request.done"]
    assert (done["method"], done["route"], done["status"]) == ("POST", "/forward", 200)
    assert (done["request_id"], done["model"]) == ("told", answer["model"]["experiment"])
    usage = answer["usage"]
    assert (done["prompt_tokens"], done["completion_tokens"]) == (usage["prompt_tokens"], usage["completion_tokens"])
    assert (done["finish_reason"], done["decode_ms"] > 0) == ("length", True)
    assert (refused["status"], unknown["status"], unknown["route"]) == (400, 404, None)
    assert SECRET not in json.dumps(lines())
    assert any(line["event"] == "sequence.ended" and line["request_id"] == "told" for line in lines())


def test_no_line_is_written_where_none_is_wanted(settings: Settings, lines: Lines) -> None:
    with TestClient(create_app(settings.model_copy(update={"access_log": 0.0}))) as client:
        client.post("/forward", json={"text": "def", "max_new_tokens": 1}).raise_for_status()
    assert not [line for line in lines() if line["event"] == "request.done"]


def test_a_real_server_writes_nothing_but_objects_and_its_children_know_the_request(tmp_path: Path) -> None:
    server = Server(None, slots="2", threads="1", log_format="json", store=str(tmp_path))
    picture = (PROJECT / "data" / "samples" / "code.png").read_bytes()
    form = {"files": {"image": ("code.png", picture)}, "data": {"max_new_tokens": "2"}}
    server.client.post("/forward", **form, headers={"X-Request-ID": "a-picture"}).raise_for_status()  # type: ignore[arg-type]
    texts = {"texts": [f"{SECRET} {number} and so on, a text that is long enough" for number in range(8)]}
    server.client.post("/add_data", json=texts, headers={"X-Request-ID": "an-upload"}).raise_for_status()
    assert server.client.get("/ui/nowhere", headers={"X-Request-ID": "a-look"}).status_code == 404
    code, errors = server.stop()
    assert code == 0, errors
    told = [json.loads(line) for line in errors.splitlines()]
    by_process = {(line["process"], line.get("request_id")) for line in told}
    assert {("server", "a-picture"), ("image_reader", "a-picture")} <= by_process
    assert {("server", "an-upload"), ("intake", "an-upload")} <= by_process
    assert ("page", "a-look") in by_process
    assert SECRET not in errors and "def read" not in errors


def test_a_server_that_is_refused_says_so_as_an_object(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ml_service.cli", "serve", "--bundle", str(tmp_path), "--store", str(tmp_path)]
    for wrong in ({}, {"ML_SERVICE_SLOTS": "many"}, {"ML_SERVICE_NONE": "1"}):
        environment = {"ML_SERVICE_LOG_FORMAT": "json", "PATH": ""} | wrong
        ran = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
        assert ran.returncode == 1
        (line,) = map(json.loads, ran.stderr.splitlines())
        assert line["event"] == "process.refused" and line["reason"]
