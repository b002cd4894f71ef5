"""Is the port free or ours; is the service that runs there well, and of this version; is a collector there."""

from __future__ import annotations

import json
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ml_service.pipeline.doctor.finding import Finding, Patient, fail, ok, warn
from ml_service.utils.logs import SERVICE

_TIMEOUT_S = 2.0
_PATIENCE_S = 6.0
"""For the description, which a server works out when it is first asked: seconds where the machine is busy."""
_LISTENING = "0A"
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def port_is_ours_or_free(patient: Patient) -> Iterator[Finding]:
    """And where the service runs already: how it is."""
    settings = patient.settings
    where = f"{settings.host}:{settings.port}"
    if settings.port == 0:
        yield ok("port", "a free one is taken at every start")
        return
    if (error := _why_not_free(settings.host, settings.port)) is None:
        yield ok("port", f"{where} is free: the service does not run here")
        return
    address = f"http://{_reachable(settings.host)}:{settings.port}"
    about = _asked(f"{address}/openapi.json", _PATIENCE_S)
    if about is None or about.get("info", {}).get("title") != "ml_service":
        owner = _owner(settings.port) or "another process"
        yield fail("port", f"{where}: {error}; {owner} has it", "end that, or choose another: ML_SERVICE_PORT")
        return
    yield ok("port", f"{where} is the service's")
    yield from _service(address, about)


def collector_is_there(patient: Patient) -> Iterator[Finding]:
    """Where traces are sent."""
    endpoint = patient.settings.otlp_endpoint
    if endpoint is None:
        return
    parts = urlsplit(endpoint)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), _TIMEOUT_S).close()
    except OSError as error:
        yield warn(
            "traces", f"{endpoint}: {error.strerror or error}", "start the collector: till then spans are dropped"
        )
        return
    yield ok("traces", f"sent to {endpoint}")


def _service(address: str, about: dict[str, Any]) -> Iterator[Finding]:
    theirs, ours = about["info"].get("version"), version(SERVICE)
    if theirs != ours:
        yield warn("service", f"version {theirs} runs and {ours} is installed", "restart it to have the new one")
    for name, advice in (
        ("live", "restart it: its engine is stuck"), ("ready", "wait for its model, or see its log"),
    ):  # fmt: skip
        health = _asked(f"{address}/health/{name}") or {"status": "silent"}
        detail = health.get("detail")
        if health["status"] != "ok":
            yield fail("service", f"it is {health['status']}: {detail or name}", advice)
            return
    if detail:
        yield warn("service", f"it answers, and: {detail}", "it stands in with another model: roll back or deploy")
    else:
        yield ok("service", f"version {theirs} runs and is ready")


def _why_not_free(host: str, port: int) -> str | None:
    """In words; tried with the same option as the server, so that an old connection is no obstacle."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((host, port))
        except OSError as error:
            return (error.strerror or str(error)).lower()
    return None


def _reachable(host: str) -> str:
    if host in ("0.0.0.0", "::", ""):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _asked(url: str, timeout_s: float = _TIMEOUT_S) -> dict[str, Any] | None:
    """What is answered, whatever its status; None where it is no JSON object."""
    try:
        with _direct.open(url, timeout=timeout_s) as response:
            found = json.load(response)
    except urllib.error.HTTPError as error:
        with suppress(ValueError):
            found = json.load(error)
            return found if isinstance(found, dict) else None
        return None
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _owner(port: int) -> str | None:
    """`nginx (pid 12)`; None where this user may not know."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            for line in Path(table).read_text(encoding="ascii").splitlines()[1:]:
                columns = line.split()
                if columns[3] == _LISTENING and int(columns[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{columns[9]}]")
    for descriptors in Path("/proc").glob("[0-9]*/fd"):
        with suppress(OSError):
            for each in descriptors.iterdir():
                if str(each.readlink()) in inodes:
                    name = (descriptors.parent / "comm").read_text(encoding="utf-8").strip()
                    return f"{re.sub('[^ -~]', '?', name)} (pid {descriptors.parent.name})"
    return None
