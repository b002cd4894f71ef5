"""A real Prometheus with the project's configuration and rules, made quick enough for a test."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.monitoring.files import PROMETHEUS

EVERY_S = 1


class Prometheus:
    """Asks one server every second and evaluates the rules as often."""

    def __init__(self, folder: Path, server: str, key: str | None = None, at_once: tuple[str, ...] = ()) -> None:
        """`server` is HOST:PORT; alerts of `at_once` wait ten seconds instead of a minute or more."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            own = f"127.0.0.1:{free.getsockname()[1]}"
        self.folder = folder / "prometheus"
        shutil.copytree(PROMETHEUS, self.folder)
        if key is not None:
            (self.folder / "metrics_key").write_text(f"{key}\n")
        self._configure(server, own)
        self._hurry(at_once)
        self._log = (folder / "prometheus.log").open("w")
        self.process = subprocess.Popen(
            ["prometheus", f"--config.file={self.folder / 'prometheus.yml'}", f"--web.listen-address={own}",
             f"--storage.tsdb.path={folder / 'tsdb'}", "--log.level=warn"],
            stdout=self._log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._client = httpx.Client(base_url=f"http://{own}", timeout=30)
        self.started = time.time()
        wait_until(self._is_ready, "Prometheus is ready")

    def _configure(self, server: str, own: str) -> None:
        path = self.folder / "prometheus.yml"
        configuration = yaml.safe_load(path.read_text())
        every = {
            "scrape_interval": f"{EVERY_S}s",
            "scrape_timeout": f"{EVERY_S}s",
            "evaluation_interval": f"{EVERY_S}s",
        }
        configuration["global"] = every
        ours, itself = configuration["scrape_configs"]
        del ours["dns_sd_configs"]
        ours["static_configs"], itself["static_configs"] = [{"targets": [server]}], [{"targets": [own]}]
        path.write_text(yaml.safe_dump(configuration))

    def _hurry(self, alerts: tuple[str, ...]) -> None:
        path = self.folder / "rules" / "alerts.yml"
        rules = yaml.safe_load(path.read_text())
        for group in rules["groups"]:
            for rule in group["rules"]:
                if rule["alert"] in alerts:
                    rule["for"] = "10s"
        path.write_text(yaml.safe_dump(rules))

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, Path(self._log.name).read_text()
        try:
            return self._client.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def _ask(self, path: str, **parameters: str | float) -> Any:
        answer = self._client.get(f"/api/v1/{path}", params=parameters)
        assert answer.status_code == 200, f"{parameters}: {answer.text}"
        return answer.json()["data"]

    def now(self, expr: str) -> list[float]:
        """The values of all series at this moment."""
        return [float(series["value"][1]) for series in self._ask("query", query=expr)["result"]]

    def ever(self, expr: str) -> list[dict[str, Any]]:
        """All series since the start, a point a second, as a panel gets them."""
        found: list[dict[str, Any]] = self._ask(
            "query_range", query=expr, start=self.started, end=time.time(), step=EVERY_S
        )["result"]
        return found

    def target(self) -> dict[str, Any]:
        """What it thinks of the server."""
        targets = self._ask("targets")["activeTargets"]
        ours = (each for each in targets if each["labels"]["job"] == "ml_service")
        found: dict[str, Any] = next(ours, {"health": "not found yet"})
        return found

    def rules(self) -> list[dict[str, Any]]:
        """As it has read and evaluated them."""
        return [rule for group in self._ask("rules")["groups"] for rule in group["rules"]]

    def firing(self) -> dict[str, dict[str, str]]:
        """Alert → its annotations."""
        alerts = self._ask("alerts")["alerts"]
        return {each["labels"]["alertname"]: each["annotations"] for each in alerts if each["state"] == "firing"}

    def close(self) -> None:
        """End it."""
        self._client.close()
        self.process.terminate()
        self.process.wait()
        self._log.close()


def wait_until(condition: Callable[[], Any], what: str, patience_s: float = 60.0) -> None:
    """Raises AssertionError where it does not become true."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, f"it never was that {what}"
        time.sleep(0.1)
