"""Settings from secret files: what counts, what is refused; and the check of an image's health without curl."""

from __future__ import annotations

import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from pydantic import ValidationError

from ml_service.common import settings as module
from ml_service.common.settings import PROJECT, Settings


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "SECRETS", tmp_path)
    return tmp_path


def test_a_secret_file_is_a_setting_and_the_environment_counts_more(
    secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (secrets / "ml_service_api_key").write_text("from a file\n")
    (secrets / "ml_service_database_url").write_text("postgresql://a:b@c/d\n")
    (secrets / "somebody_elses").write_text("not ours")
    settings = Settings()
    assert settings.api_key is not None and settings.api_key.get_secret_value() == "from a file"
    assert settings.database_address == "postgresql://a:b@c/d"
    monkeypatch.setenv("ML_SERVICE_API_KEY", "from the environment")
    assert (key := Settings().api_key) is not None and key.get_secret_value() == "from the environment"
    assert (key := Settings(api_key="given").api_key) is not None and key.get_secret_value() == "given"  # type: ignore[arg-type]


def test_a_secret_that_no_setting_has_is_refused_and_none_is_told(secrets: Path) -> None:
    (secrets / "ml_service_api_kye").write_text("misspelt")
    (secrets / "ml_service_api_key").write_text("hidden")
    with pytest.raises(ValidationError, match="ML_SERVICE_API_KYE") as refused:
        Settings()
    assert "hidden" not in str(refused.value) and "misspelt" not in str(refused.value)


def test_an_empty_secret_is_refused(secrets: Path) -> None:
    (secrets / "ml_service_api_key").write_text(" \n")
    with pytest.raises(ValueError, match="ml_service_api_key is empty"):
        Settings()


def test_without_secrets_nothing_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "SECRETS", tmp_path / "none")
    assert Settings().api_key is None


@pytest.mark.parametrize(("status", "code", "says"), [(200, 0, ""), (503, 1, "answered 503: no model")])
def test_the_check_of_health_without_curl(status: int, code: int, says: str) -> None:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"no model")

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        done = _checked(f"http://127.0.0.1:{server.server_port}/")
        thread.join()
    assert (done.returncode, done.stderr.strip()) == (code, says)
    nobody = _checked(f"http://127.0.0.1:{server.server_port}/")
    assert nobody.returncode == 1 and "does not answer" in nobody.stderr


def _checked(url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "lib.http_check", url], capture_output=True, text=True, cwd=PROJECT)
