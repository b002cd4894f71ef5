"""Is it set as it can work: unknown variables, doors that stand open, keys that are none, traces nobody gets."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec

from pydantic import ValidationError

from lib.validation import in_words
from ml_service.common.settings import PREFIX, Settings
from ml_service.data.api_keys import ApiKeys
from ml_service.pipeline.doctor.finding import Finding, Patient, fail, ok, warn

SUBJECT = "settings"
_SHORT_KEY = 16
_OTEL_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def read_settings() -> tuple[Settings, list[Finding]]:
    """The settings, and what is wrong with them; what cannot be used is left out for the rest of the checks."""
    findings: list[Finding] = []
    while True:
        try:
            return Settings(), findings
        except (ValidationError, OSError, ValueError) as error:
            wrong = _wrong_variables(error)
            findings.append(fail(SUBJECT, _in_words(error), "correct or unset it: the service does not start"))
            if not any(os.environ.pop(name, None) is not None for name in wrong):
                return Settings.model_construct(), findings


def settings_are_safe(patient: Patient) -> Iterator[Finding]:
    """Exposure, keys, traces."""
    settings = patient.settings
    given = sorted(name for name in os.environ if name.upper().startswith(PREFIX))
    yield ok(SUBJECT, f"{len(given)} given: {', '.join(given)}" if given else "none given, all as they come")
    yield from _exposure(patient)
    key = settings.api_key
    if key is not None and len(key.get_secret_value()) < _SHORT_KEY:
        yield warn(SUBJECT, "ML_SERVICE_API_KEY is short enough to guess", "make a long one: openssl rand -hex 32")
    yield from _traces(settings)


def _exposure(patient: Patient) -> Iterator[Finding]:
    settings = patient.settings
    where = f"{settings.host}:{settings.port}"
    if not settings.keys_are_on:
        if settings.is_on_loopback:
            yield ok("exposure", f"{where}: only this machine, without keys")
        else:
            yield warn(
                "exposure", f"{where}: whoever reaches it may do everything",
                "unset ML_SERVICE_ALLOW_OPEN_NETWORK and give keys: ml-service keys create NAME --scope infer",
            )  # fmt: skip
        return
    if settings.api_key is None and not _has_key(patient):
        yield fail(
            "exposure", f"{where}: keys are wanted and there is none, so it will not start",
            "make one: ml-service keys create NAME --scope infer; or set ML_SERVICE_API_KEY",
        )  # fmt: skip
        return
    yield ok("exposure", f"{where}: with a key")


def _has_key(patient: Patient) -> bool:
    if not patient.ledger.exists:
        return False
    database = patient.ledger.open()
    try:
        return ApiKeys(database).can_open_anything()
    finally:
        database.close()


def _traces(settings: Settings) -> Iterator[Finding]:
    if settings.otlp_endpoint is None:
        if named := next((name for name in _OTEL_ENDPOINTS if os.environ.get(name)), None):
            yield warn(
                "traces", f"{named} names a collector and none are made",
                f"set ML_SERVICE_OTLP_ENDPOINT={os.environ[named]} to have them",
            )  # fmt: skip
        return
    if any(map(_is_missing, ("opentelemetry.sdk", "opentelemetry.exporter"))):
        yield fail("traces", "asked for and not installed", "pip install 'ml-service[tracing]'")


def _is_missing(module: str) -> bool:
    try:
        return find_spec(module) is None
    except ModuleNotFoundError:
        return True


def _wrong_variables(error: Exception) -> list[str]:
    names = [name for name in os.environ if name.upper().startswith(PREFIX)]
    if isinstance(error, ValidationError):
        fields = {f"{PREFIX}{item['loc'][0]}".upper() for item in error.errors() if item["loc"]}
        if fields:
            return [name for name in names if name.upper() in fields]
    return [name for name in names if name.upper() in str(error)]


def _in_words(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    return in_words(error, lambda field: f"{PREFIX}{field}".upper())
