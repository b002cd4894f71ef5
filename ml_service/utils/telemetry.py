"""Every Prometheus instrument of the service, on one page."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from threading import Lock
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from ml_service.utils.histograms import BETWEEN_TOKENS_S, ITERATION_TOKENS, LATENCY_S, ManyHistogram
from ml_service.utils.told import Figure, Figures, Told

_DEPLOY_REASONS = ("replace", "shadow", "canary", "end", "rollback", "auto_rollback", "start")
STORE_FIGURES = {
    "experiments": Figure("Experiments by how they ended: succeeded, failed or cancelled.", "state", is_counter=True),
    "jobs": Figure("Jobs by state: queued, running, succeeded, failed or cancelled.", "state"),
    "training_heartbeat_age_seconds": Figure(
        "Since the worker of a running training was heard of, the longest where several run; absent where none does."
    ),
    "training_tokens_per_second": Figure("Tokens that running trainings read a second; absent where none does."),
    "training_loss": Figure("Training loss of the newest run; absent where none runs."),
    "evaluation_score": Figure("The latest scores of the model that should answer.", "metric"),
    "dataset_records": Figure("Records in the newest version of the data set.", "split"),
    "active_generation": Figure("Generation of the deployment that should answer, in every replica."),
    "active_since_timestamp_seconds": Figure("When it was deployed."),
    "replicas": Figure("Serving processes that live: ready, or behind what should answer.", "state"),
}
"""What the database knows: every replica of a store tells the same, so take the `max` and not the `sum` of them."""


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
        # They are a series beside each one that nobody asks for: half of a scrape.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)

        def gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
            return Gauge(f"ml_service_{name}", text, labels, registry=registry)

        def counter(name: str, text: str, **labels: tuple[str, ...]) -> Counter:
            counted = Counter(f"ml_service_{name}", text, tuple(labels), registry=registry)
            for values in product(*labels.values()) if labels else ():
                counted.labels(*values)  # at 0 from the start: Prometheus sees no increase in a first 1
            return counted

        def histogram(name: str, text: str, buckets: tuple[float, ...] = LATENCY_S) -> Histogram:
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
        self.iteration_tokens = histogram("iteration_tokens_total", "Tokens read in a step.", ITERATION_TOKENS)
        self.time_to_first_token = histogram("time_to_first_token_seconds", "From arrival to the first token.")
        self.inter_token = ManyHistogram(
            "ml_service_inter_token_latency_seconds", "Between two tokens of a request.", BETWEEN_TOKENS_S, registry
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
            finish_reason=("stop", "length", "abort", "timeout", "error", "rejected"),
        )
        self.rejections = counter("admission_rejections", "Requests refused before they began.", reason=("queue_full",))
        self.images = counter(
            "images",
            "Images: read, unreadable, refused, failed (the reader died or took too long), rejected (too many wait).",
            result=("read", "unreadable", "refused", "failed", "rejected"),
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
        self.feedback = counter(
            "feedback",
            "Feedback on answers: accepted, corrected or rejected.",
            verdict=("accepted", "corrected", "rejected"),
        )
        self.data_records = counter(
            "data_records",
            "Records of uploads by what became of them: accepted, duplicate or rejected.",
            result=("accepted", "duplicate", "rejected"),
        )
        self.deployed_generation = gauge("deployed_generation", "Generation of the deployment that answers.")
        self.deploy_seconds = gauge("deploy_seconds", "How long the last deployment took, from the wish to the swap.")
        self.deployments = counter(
            "deployments",
            "Changes of the slot that this process made or refused: replace, shadow, canary, end, rollback, "
            "auto_rollback or start; ok, refused or failed.",
            result=("ok", "refused", "failed"),
            reason=_DEPLOY_REASONS,
        )
        self.shadow_requests = counter(
            "shadow_requests",
            "Mirrored requests: same, different, failed, skipped or dropped.",
            result=("same", "different", "failed", "skipped", "dropped"),
        )
        self.database_up = gauge("database_up", "1 where the database answered when last asked, else 0.")
        self.store_size = gauge("store_size_bytes", "Size of the file system that the store is on.")
        self.store_free = gauge("store_free_bytes", "What of it can still be written.")
        self._store = Told("ml_service", STORE_FIGURES, registry)

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

    def tell_store(self, figures: Figures | None) -> None:
        """What the database knows, by the names above; None where it is away: old figures are not shown as new."""
        self.database_up.set(figures is not None)
        self._store.tell(figures or {})

    def watch_step_age(self, age: Callable[[], float]) -> None:
        """Ask for the age whenever Prometheus comes."""
        self.last_step_age.set_function(age)
