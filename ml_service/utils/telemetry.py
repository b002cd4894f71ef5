"""Every Prometheus instrument of the service, on one page."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import accumulate
from threading import Lock
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

_LATENCY_S = (
    0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5,
    5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
)  # fmt: skip
_BETWEEN_TOKENS_S = (0.0005, 0.001, 0.002, 0.004, 0.007, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.0)
_ITERATION_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)


class ManyHistogram(Collector):
    """A histogram for values that come by the thousand: the library's own takes 3 µs each, this one a tenth."""

    def __init__(self, name: str, text: str, buckets: tuple[float, ...], registry: CollectorRegistry) -> None:
        self._name, self._text, self._buckets = name, text, buckets
        self._lock = Lock()
        self._counts = [0] * (len(buckets) + 1)
        self._sum = 0.0
        registry.register(self)

    def observe_many(self, values: Sequence[float]) -> None:
        """Count values."""
        with self._lock:
            for value in values:
                self._counts[bisect_left(self._buckets, value)] += 1
            self._sum += sum(values)

    def describe(self) -> list[Metric]:
        """Without values: the registry asks for the name."""
        return [HistogramMetricFamily(self._name, self._text)]

    def collect(self) -> list[Metric]:
        """With values."""
        with self._lock:
            totals, total = list(accumulate(self._counts)), self._sum
        limits = [*map(floatToGoString, self._buckets), "+Inf"]
        return [HistogramMetricFamily(self._name, self._text, list(zip(limits, totals, strict=True)), total)]


class Load(Protocol):
    """What an engine has to do."""

    @property
    def running(self) -> int:
        """Requests that have a slot."""

    @property
    def busy(self) -> int:
        """Those and the ones that wait."""

    @property
    def cache_usage(self) -> float:
        """Share of the KV cache's tokens in use."""


class Telemetry:
    """The instruments of one process, in a registry of its own, so that two apps in one test do not meet."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)

        def gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
            return Gauge(f"ml_service_{name}", text, labels, registry=registry)

        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"ml_service_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...] = _LATENCY_S) -> Histogram:
            return Histogram(f"ml_service_{name}", text, buckets=buckets, registry=registry)

        self._loads: tuple[Load, ...] = ()
        self._loads_lock = Lock()
        gauge("num_requests_running", "Requests that have a slot.").set_function(lambda: self.requests_running)
        gauge("num_requests_waiting", "Requests that wait for a slot.").set_function(
            lambda: sum(load.busy - load.running for load in self._loads)
        )
        gauge("kv_cache_usage_perc", "Share of the KV cache's tokens in use, 0 to 1.").set_function(
            lambda: max((load.cache_usage for load in self._loads), default=0.0)
        )
        self.iteration_tokens = histogram("iteration_tokens_total", "Tokens read in a step.", _ITERATION_TOKENS)
        self.time_to_first_token = histogram("time_to_first_token_seconds", "From arrival to the first token.")
        self.inter_token = ManyHistogram(
            "ml_service_inter_token_latency_seconds", "Between two tokens of a request.", _BETWEEN_TOKENS_S, registry
        )
        self.e2e = histogram("e2e_request_latency_seconds", "From arrival to the end of a request.")
        self.queue_time = histogram("request_queue_time_seconds", "Time that a request waited for a slot.")
        self.prefill_time = histogram("request_prefill_time_seconds", "From the slot to the first token.")
        self.decode_time = histogram("request_decode_time_seconds", "From the first token to the last.")
        self.prompt_tokens = counter("prompt_tokens", "Prompt tokens read.")
        self.generation_tokens = counter("generation_tokens", "Tokens generated.")
        self.prefix_queries = counter("prefix_cache_queries", "Prompt tokens looked up in the prefix cache.")
        self.prefix_hits = counter("prefix_cache_hits", "Prompt tokens that another request had read before.")
        self.draft_tokens = counter("spec_decode_num_draft_tokens", "Tokens guessed by prompt look-up.")
        self.accepted_tokens = counter("spec_decode_num_accepted_tokens", "Guessed tokens that came true.")
        self.finished = counter(
            "requests_finished",
            "Requests by how they ended: stop, length, abort, timeout, error or rejected.",
            ("finish_reason",),
        )
        self.rejections = counter("admission_rejections", "Requests refused before they began.", ("reason",))
        self.images = counter(
            "images",
            "Images: read, unreadable, refused, failed (the reader died or took too long), rejected (too many wait).",
            ("result",),
        )
        self.image_read_time = histogram("image_read_seconds", "Reading an image, from its turn to its text.")
        self.last_step_age = gauge(
            "engine_last_step_age_seconds", "Time since the engine last moved while it had work; 0 where idle."
        )
        self.model_info = gauge(
            "model_info",
            "The model that answers; always 1.",
            ("experiment_id", "experiment", "commit", "exported_at", "precision"),
        )
        self.feedback = counter("feedback", "Feedback on answers: accepted, corrected or rejected.", ("verdict",))
        self.dataset_records = gauge("dataset_records", "Records in the newest version of the data set.", ("split",))
        self.data_records = counter(
            "data_records", "Records of uploads by what became of them: accepted, duplicate or rejected.", ("result",)
        )
        self.deployed_generation = gauge("deployed_generation", "Generation of the deployment that answers.")
        self.deploy_seconds = gauge("deploy_seconds", "How long the last deployment took, from the wish to the swap.")
        self.deployments = counter(
            "deployments",
            "Changes of the slot that this process made or refused: replace, shadow, canary, end, rollback, "
            "auto_rollback or start; ok, refused or failed.",
            ("result", "reason"),
        )
        self.shadow_requests = counter(
            "shadow_requests", "Mirrored requests: same, different, failed, skipped or dropped.", ("result",)
        )

    def request_finished(
        self, reason: str, prompt_tokens: int, queue_s: float, prefill_s: float, decode_s: float, total_s: float
    ) -> None:
        """A request that had begun is over."""
        self.finished.labels(reason).inc()
        self.prompt_tokens.inc(prompt_tokens)
        self.queue_time.observe(queue_s)
        self.prefill_time.observe(prefill_s)
        self.decode_time.observe(decode_s)
        self.e2e.observe(total_s)

    @property
    def requests_running(self) -> int:
        """Requests that have a slot, in all engines of the process."""
        return sum(load.running for load in self._loads)

    def watch_load(self, load: Load) -> None:
        """Ask an engine for its load whenever Prometheus comes: a step pays nothing for it."""
        with self._loads_lock:
            self._loads = (*self._loads, load)

    def forget_load(self, load: Load) -> None:
        """An engine ends: hold on to nothing of it."""
        with self._loads_lock:
            self._loads = tuple(each for each in self._loads if each is not load)

    def model_answers(
        self, experiment_id: str, experiment: str, commit: str, exported_at: str, precision: str, generation: int
    ) -> None:
        """This model is the active one from now on."""
        self.model_info.clear()
        self.model_info.labels(experiment_id, experiment, commit, exported_at, precision).set(1)
        self.deployed_generation.set(generation)

    def watch_step_age(self, age: Callable[[], float]) -> None:
        """Ask for the age whenever Prometheus comes."""
        self.last_step_age.set_function(age)
