"""A retraining's recipe: what the model knew before, what is new, and how to learn the one without losing the other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.presets import preset_of
from ml_service.common.bundle import TOKENIZER_FILE, load_architecture, load_manifest
from ml_service.common.errors import Conflict
from ml_service.data.datasets import Datasets, Shard
from ml_service.data.experiments import Experiments
from ml_service.data.tables import Experiment
from ml_service.pipeline.gate import NEW
from ml_service.pipeline.layout import RUN
from ml_service.training.run_files import MODEL_DIRECTORY, WEIGHTS_FILE

REPLAY = "replay"
"""What the store already had when the parent was trained."""
READABLE_AGAIN = ("stdlib", "packages")
"""Corpora that are no one's upload: they lie on every machine that runs the service."""
CHOSEN_ELSEWHERE = frozenset(
    {"data", "run", "strategy", "start_from", "experiment", "seconds", "tokens", "steps", "mixture", "seed"}
)
CORPUS_VALIDATION_SHARE = 0.05
"""With this share the shipped model's corpora were split; the same files stay held out."""
PACKAGES_SHARE = 1 / 16
"""Of the packages' source: enough to replay, and read in a second."""
_TOKENS_PER_STEP = 4096
_WARM_START = {"learning_rate": 2e-4, "muon_learning_rate": 1e-3, "warmup_share": 0.02, "decay_share": 0.9}
"""A twentieth of a first training's peaks, and falling nearly all the time: what is known must not be shaken off
(`benchmarks/NOTES.md`)."""
_SMALLEST_WINDOW = 32
_LARGEST_WINDOW = 1024
_BYTES_PER_TOKEN = 5
"""More than any of our tokenizers reaches: so many tokens there are at least."""


@dataclass(frozen=True)
class Begin:
    """From where a training starts."""

    parent: Experiment | None
    preset: str | None
    context: int | None
    corpora: tuple[str, ...]
    """Of those that can be read again, which the parent had learned from."""
    known_version: int | None
    """The dataset version that the parent had learned from."""
    new_bytes: int
    """Train text that it has not seen."""
    replay_bytes: int
    """Train text of the store that it has seen."""

    @classmethod
    def of(cls, experiments: Experiments, parent: Experiment | None, version: int, datasets: Datasets) -> Begin:
        """Raises Conflict where the parent's network is none that can be trained further, or too little is new."""
        known = parent.plan.get("version") if parent is not None else None
        new, replay = _parts(datasets, version, known)
        sizes = [sum(shard.size_bytes for shard in part if shard.split == "train") for part in (new, replay)]
        if sizes[0] < 2 * (_SMALLEST_WINDOW + 1) * _BYTES_PER_TOKEN:
            raise Conflict(f"dataset version {version} has only {sizes[0]} bytes of new text: add more")
        if parent is None:
            return cls(None, None, None, (), known, *sizes)
        bundle = experiments.bundle_of(parent.id).path
        architecture = load_architecture(bundle)
        preset = preset_of(architecture.transformers)
        if preset is None:
            raise Conflict(
                f"experiment {parent.id} is a {architecture.model_type} whose shape is none of our presets: only those "
                f"can be trained further; say `start_from` scratch"
            )
        return cls(parent, preset, architecture.context_length, _corpora_of(parent, bundle), known, *sizes)


def recipe_of(begin: Begin, budget: dict[str, Any], replay: float, hyperparameters: dict[str, Any]) -> dict[str, Any]:
    """The training plan without its places: defaults for a warm start or a new model, the wishes on top."""
    window = _window_for(begin, hyperparameters)
    recipe: dict[str, Any] = {"window": window, "batch_size": max(_TOKENS_PER_STEP // window, 1)}
    # Scoring is paid from the budget: three sources, five times, are to cost a twentieth of five minutes.
    recipe |= {"evaluations": 5, "validation_tokens": 16_384, "checkpoints": 10, "mixture": _mixture(begin, replay)}
    if begin.parent is not None:
        recipe |= {"preset": begin.preset, "context": begin.context, **_WARM_START}
    return recipe | budget | hyperparameters


def stage_parameters(experiment: Experiment, experiments: Experiments, datasets: Datasets) -> dict[str, Any]:
    """What `params.yaml` says for this experiment's stages; the very file that the pipeline under DVC reads."""
    plan = experiment.plan
    new, replay = _parts(datasets, plan["version"], plan["known_version"])
    parts = [
        {"path": str(shard.path), "source": source, "split": shard.split}
        for source, shards in ((NEW, new), (REPLAY, replay))
        for shard in shards
    ]
    corpora: list[str] = plan["corpora"]
    extract: dict[str, Any] = {"parts": parts, "validation_share": CORPUS_VALIDATION_SHARE}
    extract |= {name: name in corpora for name in READABLE_AGAIN} | {"packages_share": PACKAGES_SHARE}
    train = plan["training"] | {"experiment": experiment.name, "seed": experiment.seed}
    wish = plan["wish"]
    train["strategy"] = {"mode": {"single": "baseline"}.get(wish["strategy"], wish["strategy"])}
    judge: dict[str, Any] = {}
    if experiment.parent_id is not None:
        bundle = experiments.bundle_of(experiment.parent_id).path
        extract["tokenizer"] = str(bundle / TOKENIZER_FILE)
        trained = experiments.directory(experiment.parent_id) / RUN / MODEL_DIRECTORY
        train["start_from"] = str(trained if (trained / WEIGHTS_FILE).is_file() else bundle)
        judge["baseline"] = str(bundle)
    return {
        "extract_data": extract,
        "train_model": train,
        "export_model": {
            "precision": wish["precision"], "licence": "see the data's", "experiment_id": experiment.id,
            "parent_experiment_id": experiment.parent_id,
        },
        "inference_model": judge,
    }  # fmt: skip


def _parts(datasets: Datasets, version: int, known: int | None) -> tuple[list[Shard], list[Shard]]:
    """The version's shards: those that are new, and those that the parent has seen; all are new where none are."""
    shards = datasets.shards(version)
    seen = {shard.path for shard in datasets.shards(known)} if known is not None else set()
    new = [shard for shard in shards if shard.path not in seen]
    return (new, [shard for shard in shards if shard.path in seen]) if new else (shards, [])


def _corpora_of(parent: Experiment, bundle: Path) -> tuple[str, ...]:
    """An imported bundle's scores name the sources that it was trained on."""
    if parent.kind != "import":
        return tuple(parent.plan.get("corpora", ()))
    metrics = load_manifest(bundle).metrics
    return tuple(name for name in READABLE_AGAIN if f"validation_{name}_loss" in metrics)


def _mixture(begin: Begin, replay: float) -> dict[str, float]:
    """The new text, and in equal parts what was known: shares of the windows."""
    old = [*([REPLAY] if begin.replay_bytes else []), *begin.corpora]
    if not old or replay == 0:
        return {NEW: 1.0}
    return {NEW: 1.0 - replay} | {source: replay / len(old) for source in old}


def _window_for(begin: Begin, hyperparameters: dict[str, Any]) -> int:
    """As long as the model's context, unless the new text is too short for two of them."""
    wanted = min(begin.context or 512, _LARGEST_WINDOW)
    tokens = begin.new_bytes // _BYTES_PER_TOKEN
    while wanted > _SMALLEST_WINDOW and 2 * wanted + 1 > tokens:
        wanted //= 2
    given = hyperparameters.get("window", wanted)
    return given if isinstance(given, int) and given > 0 else wanted
