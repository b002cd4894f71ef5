"""Every Prometheus instrument of the service, on one page."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

_LATENCY_S = (
    0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5,
    5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
)  # fmt: skip
_BETWEEN_TOKENS_S = (0.0005, 0.001, 0.002, 0.004, 0.007, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.0)
_ITERATION_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)


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

        self.running = gauge("num_requests_running", "Requests that have a slot.")
        self.waiting = gauge("num_requests_waiting", "Requests that wait for a slot.")
        self.cache_usage = gauge("kv_cache_usage_perc", "Share of the KV cache's tokens in use, 0 to 1.")
        self.iteration_tokens = histogram("iteration_tokens_total", "Tokens read in a step.", _ITERATION_TOKENS)
        self.time_to_first_token = histogram("time_to_first_token_seconds", "From arrival to the first token.")
        self.inter_token = histogram(
            "inter_token_latency_seconds", "Between two tokens of a request.", _BETWEEN_TOKENS_S
        )
        self.e2e = histogram("e2e_request_latency_seconds", "From arrival to the end of a request.")
        self.queue_time = histogram("request_queue_time_seconds", "Time that a request waited for a slot.")
        self.prefill_time = histogram("request_prefill_time_seconds", "From the slot to the first token.")
        self.decode_time = histogram("request_decode_time_seconds", "From the first token to the last.")
        self.prompt_tokens = counter("prompt_tokens", "Prompt tokens read.")
        self.generation_tokens = counter("generation_tokens", "Tokens generated.")
        self.finished = counter("requests_finished", "Requests by how they ended.", ("finish_reason",))
        self.rejections = counter("admission_rejections", "Requests refused before they began.", ("reason",))
        self.last_step_age = gauge(
            "engine_last_step_age_seconds", "Time since the engine last moved while it had work; 0 where idle."
        )
        self.model_info = gauge(
            "model_info",
            "The model that answers; always 1.",
            ("experiment_id", "experiment", "commit", "exported_at", "precision"),
        )
        self.deployed_generation = gauge("deployed_generation", "Generation of the deployment that answers.")
        self.deploy_seconds = gauge("deploy_seconds", "How long the last deployment took to open and prove itself.")

    def watch_step_age(self, age: Callable[[], float]) -> None:
        """Ask for the age whenever Prometheus comes."""
        self.last_step_age.set_function(age)
