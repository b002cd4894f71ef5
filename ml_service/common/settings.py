"""A serving process's settings: from the environment (prefix `ML_SERVICE_`) and secret files, read once."""

from __future__ import annotations

import os
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
)

from lib.provenance import usable_cores
from ml_service.common.rates import Rate

PREFIX = "ML_SERVICE_"
PROJECT = Path(__file__).resolve().parents[2]
SECRETS = Path("/run/secrets")
"""Where Docker and others put files: `ml_service_api_key` there is what `ML_SERVICE_API_KEY` is in the environment."""


class Settings(BaseSettings):
    """Each field is the variable `ML_SERVICE_` and its name; an unknown one is refused at start."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True, hide_input_in_errors=True
    )

    host: str = "127.0.0.1"
    """Address to listen on. Beyond loopback API keys are on, and there has to be one."""
    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    bundle: Path | None = None
    """Bundle to deploy at start, in place of what answered last; where not given that, or the shipped one at first."""
    store: Path = PROJECT / "data" / "store"
    """Directory for what the service writes."""
    database_url: SecretStr | None = None
    """`postgresql://USER:PASSWORD@HOST/NAME` for several processes or machines; SQLite in the store where not given."""
    database_timeout_s: float = Field(5.0, gt=0)
    """How long a request waits for a PostgreSQL that is silent, before it is told 503."""
    runtime: Literal["onnx", "torch"] = "onnx"
    """ONNX Runtime, or PyTorch: slower, and the reference."""
    compiled_operators: bool = True
    """Use the operators that were compiled at installation; where there are none, ONNX Runtime's own serve."""
    cache_precision: Literal["fp32", "int8"] | None = None
    """Of keys and values; 8 bit takes a quarter of fp32, and is the default beside rounded weights where it can be."""
    threads: int = Field(default_factory=usable_cores, ge=1, le=256)
    """Threads of a step; the cores at hand where not given."""
    worker: Literal["embedded", "separate"] = "embedded"
    """Who trains: a process that the server starts where there is work, or `ml-service worker`, run apart."""
    training_threads: int = Field(default_factory=usable_cores, ge=1, le=256)
    """Threads of a training, which gives way to everybody else; the cores at hand where not given."""
    request_log_share: float = Field(0.01, ge=0, le=1)
    """Of the answered requests, so many are kept in the request log: sizes, times, how they ended."""
    request_log_texts: bool = False
    """Keep prompts and answers there too, so that feedback can refer to them."""
    request_log_days: float = Field(7.0, gt=0)
    """How long a logged request is kept."""
    retention_days: float = Field(30.0, gt=0)
    """How long a bundle stays that is neither deployed, nor lately was, nor pinned."""
    slots: int | None = Field(None, ge=1, le=256)
    """Requests answered at the same time: 16 a core, at most 64, in a quarter of the free memory where not given."""
    context: int | None = Field(None, ge=16)
    """Tokens of prompt and answer together; the model's own context where not given. Less of it saves memory."""
    max_waiting: int | None = Field(None, ge=0, le=100_000)
    """Requests that may wait for a slot, the next one is refused with 429; four a slot where not given."""
    prefill_chunk: int = Field(256, ge=16, le=1024)
    """The most tokens of a prompt that are read in one step; fewer while others wait for their next token."""
    prefix_cache_mib: int | None = Field(None, ge=0)
    """Memory for what prompts share, 0 for none; a thirty-second of the free, at most 256, where not given."""
    max_guests: int = Field(2, ge=0, le=16)
    """Models that may be open beside the deployed ones because a request names their experiment; 0 for none."""
    guest_idle_s: float = Field(300.0, gt=0)
    """How long such a model is kept open without a request."""
    lookup_rows: int = Field(16, ge=0, le=256)
    """Guess ahead (prompt look-up) where a step then has at most so many tokens; 0 turns it off."""
    request_timeout_s: float = Field(600.0, gt=0)
    """The longest that a request may take; `X-Request-Timeout` can only shorten it."""
    max_body_bytes: int = Field(1_000_000, ge=1024)
    """The largest request body."""
    max_image_bytes: int = Field(20_000_000, ge=1024)
    """The largest picture, as a file; in JSON its base64 takes a third more, beside what `max_body_bytes` allows."""
    max_upload_bytes: int = Field(2 << 30, ge=1024)
    """The largest body of files that a route takes as a form; JSON has the limit of all routes."""
    evaluate_at_once_bytes: int = Field(1 << 20, ge=0)
    """A file for `/evaluate` that is larger waits for a worker, who gives way to all requests."""
    image_reader: Literal["on_demand", "at_start"] = "on_demand"
    """When the process starts that reads images: with the first of them, which then takes a second more, or at once."""
    image_idle_s: float = Field(600.0, gt=0)
    """How long that process is kept without an image, where it starts on demand."""
    image_timeout_s: float = Field(60.0, gt=0)
    """The longest that reading one image may take."""
    max_image_pixels: int = Field(20_000_000, ge=1024)
    """The most pixels of an image; known from its first bytes, before it is unpacked."""
    max_waiting_images: int = Field(16, ge=0, le=10_000)
    """Images that may wait while one is read, the next one is refused with 429."""
    page: bool = True
    """Whether the web page is at `/ui`, in a process that its first visitor starts."""
    page_idle_s: float = Field(600.0, gt=0)
    """How long that process is kept when nobody has the page open."""
    grafana_url: str | None = None
    """Where Grafana is, as browsers know it; the page links to it."""
    drain_timeout_s: float = Field(30.0, ge=0)
    """How long SIGTERM waits for running requests, and for the checkpoint of a training."""
    stuck_after_s: float = Field(10.0, gt=0)
    """A step that takes longer turns `/health/live` red."""
    watch_s: float = Field(60.0, ge=0)
    """How long a new deployment is watched; what fails more or gets slower goes back by itself. 0 watches nothing."""
    watch_requests: int = Field(100, ge=1)
    """The fewest requests that a watch wants to have seen."""
    watch_error_ratio: float = Field(0.05, gt=0, le=1)
    """So much more of its requests may a new model fail than the one before, before it goes back."""
    watch_p95_factor: float = Field(2.0, gt=1)
    """So many times as slow may a new model's 95 % quantile between tokens be, under the same load."""
    api_key: SecretStr | None = None
    """A key that may do everything, beside those of `ml-service keys create`; where it is given, keys are on."""
    keys: Literal["beyond_loopback", "required"] = "beyond_loopback"
    """When every route but health and docs wants a key: beyond loopback only, or always (a proxy is in front)."""
    allow_open_network: bool = False
    """Listen beyond loopback without keys: whoever reaches the port may do everything."""
    rate_limit: str = ""
    """Requests of a key (of an address where keys are off) in each process, such as `600/minute`; none where empty."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least important event that is logged."""
    log_format: Literal["text", "json"] = "text"
    """How an event is written to standard error."""
    access_log: float | None = Field(None, ge=0, le=1)
    """Of the answered requests, so many get a line (`request.done`); all in JSON and none in text where not given."""
    otlp_endpoint: str | None = Field(None, pattern="^https?://")
    """`http://HOST:4318` of an OpenTelemetry collector that gets traces; none are made where not given."""
    trace_texts: bool = False
    """Tell prompts and answers in traces, too."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **__: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The command line's word counts before the environment's, and that before a secret file's."""
        return init_settings, env_settings, _Secrets(settings_cls, SECRETS)

    @model_validator(mode="after")
    def _knows_every_variable(self) -> Self:
        known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
        given = {name.upper() for name in (*os.environ, *_names_of_secrets()) if name.upper().startswith(PREFIX)}
        if unknown := sorted(given - known):
            raise ValueError(f"there is no setting {', '.join(unknown)}; docs/settings.md lists all")
        return self

    @field_validator("rate_limit")
    @classmethod
    def _is_a_rate(cls, text: str) -> str:
        return str(Rate.parse(text)) if text else text

    @property
    def rate(self) -> Rate | None:
        """The limit of who has no own."""
        return Rate.parse(self.rate_limit) if self.rate_limit else None

    @property
    def is_on_loopback(self) -> bool:
        """Whether only this machine can connect."""
        try:
            return self.host == "localhost" or ip_address(self.host).is_loopback
        except ValueError:  # a name
            return False

    @property
    def keys_are_on(self) -> bool:
        """Whether a request wants a key."""
        if self.api_key is not None or self.keys == "required":
            return True
        return not self.is_on_loopback and not self.allow_open_network

    @property
    def database_address(self) -> str | None:
        """The database's URL; None for SQLite in the store."""
        return self.database_url.get_secret_value() if self.database_url is not None else None

    @property
    def bundle_directory(self) -> Path:
        """The bundle that was given, else the one that ships with the project."""
        return self.bundle if self.bundle is not None else PROJECT / "data" / "bundle"


class _Secrets(SecretsSettingsSource):
    """A setting from a file of its name. Raises ValueError where it is empty: a lost key must not open a door."""

    def __call__(self) -> dict[str, Any]:
        found = super().__call__() if SECRETS.is_dir() else {}
        if empty := sorted(name for name, value in found.items() if value == ""):
            raise ValueError(f"the secret {SECRETS / (PREFIX.lower() + empty[0])} is empty")
        return found


def _names_of_secrets() -> list[str]:
    return [file.name for file in SECRETS.iterdir()] if SECRETS.is_dir() else []
