"""Log lines as events with fields, each with the request, job and trace that it belongs to: text, or JSON objects."""

from __future__ import annotations

import json
import logging
import os
import select
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType, TracebackType
from typing import Any, Literal, TextIO

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""Of the request that is being served in this context."""
request_path: ContextVar[str | None] = ContextVar("request_path", default=None)
"""The path that it asked for."""
_bound: ContextVar[Mapping[str, Any]] = ContextVar("bound", default=MappingProxyType({}))

SERVICE = "ml-service"
WISH = "request_id"
"""The field that says which request it is about."""
FORMAT_VARIABLE = "ML_SERVICE_LOG_FORMAT"
REFUSED = "process.refused"
"""The event of a process that ends with one sentence."""
_ROOT = "ml_service"
_MOST_AT_ONCE_BYTES = select.PIPE_BUF
"""More than this in a pipe that several processes write to may come out mixed with a line of another one."""
_SOCKET_PROSE = ('%s - "WebSocket', "connection open", "connection closed")
_ESCAPED = {code: f"\\u{code:04x}" for code in (0x7F, *range(0x80, 0xA0), 0x2028, 0x2029, *range(0xD800, 0xE000))}
"""What JSON allows and some take for the end of a line, and halves of characters, which no file takes."""
TraceIds = Callable[[], Mapping[str, str]]


class EventLogger:
    """`log.info("job.finished", job=7)` writes the event and its fields, never prose."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(f"{_ROOT}.{name}")

    def is_told(self, level: int) -> bool:
        """Whether a line of this level would be written: for fields that cost something to find."""
        return self._logger.isEnabledFor(level)

    def debug(self, event: str, **fields: Any) -> None:
        """Something for who looks very closely."""
        self._logger.debug(event, extra={"fields": fields})

    def info(self, event: str, **fields: Any) -> None:
        """Something that is expected."""
        self._logger.info(event, extra={"fields": fields})

    def warning(self, event: str, **fields: Any) -> None:
        """Something that somebody should look at."""
        self._logger.warning(event, extra={"fields": fields})

    def error(self, event: str, **fields: Any) -> None:
        """Something that failed for good."""
        self._logger.error(event, extra={"fields": fields})

    def exception(self, event: str, **fields: Any) -> None:
        """A bug, with its trace; call it where the exception is caught."""
        self._logger.exception(event, extra={"fields": fields})


@contextmanager
def bound(**fields: Any) -> Iterator[None]:
    """Every line that is written in the block's context has these fields, too; None leaves one out."""
    token = _bound.set({**_bound.get(), **{name: value for name, value in fields.items() if value is not None}})
    try:
        yield
    finally:
        _bound.reset(token)


def bind(**fields: Any) -> None:
    """The same for as long as this context lives: of a process, said at its start."""
    _bound.set({**_bound.get(), **fields})


def current_fields() -> dict[str, Any]:
    """The request, the job, the trace: what a line has beside its own fields."""
    fields = dict(_bound.get())
    if (current := request_id.get()) is not None:
        fields[WISH] = current
    if _process.trace_ids is not None:
        fields |= _process.trace_ids()
    return fields


def add_trace_ids(trace_ids: TraceIds | None) -> None:
    """Ask this for the ids of the trace, from now on, whenever a line is written; None asks nobody."""
    _process.trace_ids = trace_ids


def configure_logs(level: str, log_format: str, role: str = "command") -> None:
    """Write everything to standard error, as text or JSON lines: events, warnings, and what libraries have to say.

    `role` is what this process does. In JSON an exception that nobody catches is a line, too. Of libraries only
    warnings are told (of uvicorn also what it does): some write what a client sent when they are asked to tell more.
    """
    _process.role, _process.is_json = role, log_format == "json"
    handler = _OwnHandler()
    handler.setFormatter(_JsonFormatter() if _process.is_json else _TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [each for each in root.handlers if not isinstance(each, _OwnHandler)] + [handler]
    root.setLevel(logging.WARNING)
    own = logging.getLogger(_ROOT)
    own.setLevel(level.upper())
    uvicorn = logging.getLogger("uvicorn")
    uvicorn.setLevel(max(logging.INFO, own.level))
    logging.getLogger("uvicorn.error").addFilter(_without_sockets)
    logging.captureWarnings(True)
    if _process.is_json:
        sys.excepthook, threading.excepthook = _tell_uncaught, _tell_thread


def configure_early(role: str) -> None:
    """Before the settings are read: so that a refusal of theirs comes in the format that they ask for."""
    if os.environ.get(FORMAT_VARIABLE, "").lower() == "json":
        configure_logs("info", "json", role)


def level_and_format() -> tuple[str, Literal["text", "json"]]:
    """As they were configured, for processes that this one starts."""
    level = logging.getLevelName(logging.getLogger(_ROOT).getEffectiveLevel()).lower()
    return level, "json" if _process.is_json else "text"


def in_json() -> bool:
    """Whether lines are JSON objects."""
    return _process.is_json


def tell_refusal(sentence: str) -> None:
    """The last word of a process that ends because something is not as it should be: a sentence and no trace."""
    if _process.is_json:
        EventLogger("process").error(REFUSED, reason=sentence)
    else:
        print(f"{SERVICE}: {sentence}", file=sys.stderr)


def refusal_of(line: str) -> str | None:
    """The sentence with which a process of ours ended, where the line is that."""
    mark = f"{SERVICE}: "
    if line.startswith(mark):
        return line.removeprefix(mark)
    try:
        told = json.loads(line) if REFUSED in line else {}
    except ValueError:
        return None
    return str(told["reason"]) if told.get("event") == REFUSED else None


class _Process:
    """What is the same for all lines of this process."""

    role = "command"
    is_json = False
    trace_ids: TraceIds | None = None

    def __init__(self) -> None:
        try:
            self.version = version(SERVICE)
        except PackageNotFoundError:  # run from its folder, without `pip install`
            self.version = "unknown"


_process = _Process()


class _OwnHandler(logging.StreamHandler[TextIO]):
    """Ours among the handlers of the root logger; writes to what is standard error at that time."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


def _without_sockets(record: logging.LogRecord) -> bool:
    """The page's web sockets come and go with every look at it: two lines each."""
    return not str(record.msg).startswith(_SOCKET_PROSE)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        when = time.strftime("%H:%M:%S", time.gmtime(record.created))
        own: dict[str, Any] = getattr(record, "fields", {})
        fields = " ".join(f"{key}={value}" for key, value in (own | current_fields()).items())
        line = f"{when} {record.levelname.lower():<7} {record.getMessage()} {fields}".rstrip()
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _JsonFormatter(logging.Formatter):
    """One object a line, whatever is in it. A field that is called as what every line has gets a "_"."""

    def format(self, record: logging.LogRecord) -> str:
        own: dict[str, Any] | None = getattr(record, "fields", None)
        what = {"event": "log", "message": record.getMessage()} if own is None else {"event": record.getMessage()}
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            **what,
            **current_fields(),
            "service": SERVICE,
            "version": _process.version,
            "process": _process.role,
            "pid": record.process,
            "logger": record.name,
        }
        line |= {f"{name}_" if name in line else name: value for name, value in (own or {}).items()}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _fitting(line)


def _fitting(line: dict[str, Any]) -> str:
    """As JSON, and the trace cut where the whole would not go through a pipe at once: its end tells the most."""
    text = _dumped(line)
    too_much = len(text.encode("utf-8", "replace")) + 1 - _MOST_AT_ONCE_BYTES
    if too_much <= 0 or not _is_pipe():
        return text
    longest = max(line, key=lambda name: len(str(line[name])))
    kept = str(line[longest]).encode("utf-8", "replace")
    while too_much > 0 and kept:
        kept = kept[too_much:] if longest == "exception" else kept[:-too_much]
        shown = kept.decode("utf-8", "ignore")
        text = _dumped(line | {longest: f"... {shown}" if longest == "exception" else f"{shown} ..."})
        too_much = len(text.encode("utf-8", "replace")) + 1 - _MOST_AT_ONCE_BYTES
    return text


def _dumped(line: dict[str, Any]) -> str:
    try:
        text = json.dumps(line, ensure_ascii=False, default=str, allow_nan=False)
    except ValueError:  # JSON has no infinity
        text = json.dumps({name: str(value) for name, value in line.items()}, ensure_ascii=False)
    return text if text.isprintable() else text.translate(_ESCAPED)


def _is_pipe() -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(sys.stderr.fileno()).st_mode)
    except (OSError, ValueError, AttributeError):
        return False


def _tell_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    _told_as_broken(kind, error, trace)


def _tell_thread(broken: threading.ExceptHookArgs) -> None:
    if broken.exc_value is not None and not issubclass(broken.exc_type, SystemExit):
        _told_as_broken(broken.exc_type, broken.exc_value, broken.exc_traceback)


def _told_as_broken(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    extra = {"fields": {"error": kind.__name__}}
    logging.getLogger(f"{_ROOT}.process").critical("process.broke", exc_info=(kind, error, trace), extra=extra)
