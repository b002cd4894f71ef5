"""A model that answers: a bundle that was opened and has proved itself, and its engine."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from lib.memory import free_bytes
from lib.provenance import usable_cores
from ml_service.common.bundle import (
    TOKENIZER_FILE,
    Golden,
    Manifest,
    bundle_sha256,
    load_architecture,
    load_golden,
    load_manifest,
    metadata_props,
    read_metadata_props,
    verify_files,
)
from ml_service.common.errors import BundleRefused, ModelFailure
from ml_service.common.settings import Settings
from ml_service.inference.caches import bytes_per_token, spare_tokens
from ml_service.inference.capacity import Capacity, Machine, Wishes, plan_capacity
from ml_service.inference.chat import ChatTemplate, load_chat_template
from ml_service.inference.engine import Engine, EngineOptions
from ml_service.inference.operators import Arithmetic, choose_arithmetic, compiled_operators
from ml_service.inference.session import GraphInfo, OnnxSession, Row, Session, prefill
from ml_service.inference.vocabulary import Vocabulary, load_vocabulary
from ml_service.utils.logs import EventLogger
from ml_service.utils.telemetry import Telemetry
from ml_service.utils.tracing import detail

log = EventLogger("live")


@dataclass(frozen=True)
class LiveModel:
    """An opened and proved bundle with its engine; requests end on the one that they took."""

    manifest: Manifest
    metadata: dict[str, Any]
    """As the loaded graph file itself has them, typed."""
    graph: GraphInfo
    engine: Engine
    chat: ChatTemplate
    sha256: str
    """What the bundle is known by."""
    experiment_id: int | None
    """Of the deployment, else what the bundle itself names."""
    deployment_id: int | None = None
    generation: int = 0
    """Of the deployment; 0 where there is none."""

    @property
    def created(self) -> int:
        """When the bundle was exported, in seconds since 1970."""
        return int(datetime.fromisoformat(self.manifest.date).timestamp())


def open_live_model(
    bundle: Path, settings: Settings, telemetry: Telemetry, others: Iterable[LiveModel] = (), spared_bytes: int = 0
) -> LiveModel:
    """Check every file, open the graph, replay the golden sample, start the engine.

    A tokenizer that one of the `others` has already is shared with it. Of the free memory `spared_bytes` are left.

    Raises BundleRefused, in words, where anything is not as the manifest says or the model does not prove itself.
    """
    started = time.perf_counter()
    manifest = verify_files(bundle)
    capacity = capacity_for(bundle, settings, spared_bytes)
    with detail("open model", gen_ai__request__model=manifest.experiment):
        session = open_session(bundle, settings, capacity)
    try:
        if session.graph.metadata_props != metadata_props(manifest):
            raise BundleRefused("the graph's own metadata are not those of the manifest: it belongs to another bundle")
        vocabulary = _matching_vocabulary(bundle, manifest, session, others)
        chat = load_chat_template(bundle, vocabulary.tokenizer.id_to_token(session.architecture.end_of_text_id) or "")
        with detail("prove model", gen_ai__request__model=manifest.experiment):
            prove(session, load_golden(bundle))
    except BaseException:
        session.close()
        raise
    seconds = time.perf_counter() - started
    log.info("model.proved", experiment=manifest.experiment, precision=manifest.precision, seconds=round(seconds, 3))
    metadata = read_metadata_props(session.graph.metadata_props)
    options = EngineOptions(
        capacity.max_waiting,
        capacity.prefix_cache_bytes,
        settings.lookup_rows,
        settings.request_timeout_s,
        model=manifest.experiment,
    )
    engine = Engine(session, vocabulary, options, telemetry)
    log.info("engine.started", slots=capacity.slots, context=capacity.context, waiting=capacity.max_waiting,
             prefix_cache_mib=capacity.prefix_cache_bytes >> 20)  # fmt: skip
    known_by = bundle_sha256(bundle)
    return LiveModel(manifest, metadata, session.graph, engine, chat, known_by, manifest.experiment_id)


def capacity_for(bundle: Path, settings: Settings, spared_bytes: int = 0) -> Capacity:
    """Slots, context, waiting places and prefix cache for a bundle on this machine. Raises BundleRefused in words."""
    wishes = Wishes(settings.slots, settings.context, settings.max_waiting, settings.prefix_cache_mib)
    architecture = load_architecture(bundle)
    precision = arithmetic_for(bundle, settings).cache_precision
    token_bytes = bytes_per_token(architecture, precision)
    spare = spare_tokens(precision, settings.prefill_chunk)
    # The weights once in the file's own form and once as the runtime packs them.
    model_bytes = 2 * sum(file.stat().st_size for file in bundle.glob("model.*"))
    machine = Machine(usable_cores(), free_bytes() - spared_bytes)
    return plan_capacity(wishes, machine, architecture.context_length, spare, token_bytes, model_bytes)


def open_session(bundle: Path, settings: Settings, capacity: Capacity | None = None) -> Session:
    """The runtime that the settings ask for."""
    capacity = capacity or capacity_for(bundle, settings)
    architecture = load_architecture(bundle).model_copy(update={"context_length": capacity.context})
    sizes = capacity.slots, settings.prefill_chunk, settings.threads
    if settings.runtime == "torch":
        from ml_service.inference.torch_session import TorchSession  # a serving process never loads torch otherwise

        return TorchSession(bundle, architecture, *sizes)
    return OnnxSession(bundle, architecture, *sizes, arithmetic_for(bundle, settings))


def arithmetic_for(bundle: Path, settings: Settings) -> Arithmetic:
    """The operators and the cache that a bundle is served with. Raises BundleRefused in words."""
    library = compiled_operators() if settings.compiled_operators and settings.runtime == "onnx" else None
    weights = load_manifest(bundle).precision
    return choose_arithmetic(load_architecture(bundle), weights, settings.cache_precision, library)


def prove(session: Session, golden: Golden) -> None:
    """Replay the golden sample: the prompt in chunks, then token by token, as PyTorch did it.

    The first logits must agree within the sample's tolerance, and each greedy token must be the same wherever
    PyTorch's own choice was not closer than twice that. Raises BundleRefused where they do not.
    """
    if not golden.prompt_ids:
        raise BundleRefused("the golden sample has no prompt")
    try:
        logits_V = prefill(session, 0, golden.prompt_ids)
        difference = _largest_difference(logits_V, golden.first_logits)
        if not difference <= golden.tolerance:
            raise BundleRefused(
                f"the model does not prove itself: its first logits differ from PyTorch's by {difference:.3g}, "
                f"more than {golden.tolerance:.3g}"
            )
        position = len(golden.prompt_ids)
        for index, (token_id, margin) in enumerate(zip(golden.greedy_ids, golden.margins, strict=True)):
            if int(logits_V.argmax()) != token_id and margin > 2 * golden.tolerance:
                raise BundleRefused(f"the model does not prove itself: greedy token {index} is not PyTorch's")
            logits_V = session.run([Row(0, position + index, [token_id])])[0]
    except ModelFailure as error:
        raise BundleRefused("the model does not prove itself: the runtime refused the golden prompt") from error


def _largest_difference(logits_V: np.ndarray[Any, Any], expected: list[float]) -> float:
    if len(logits_V) != len(expected):
        return float("inf")
    return float(np.abs(logits_V - np.asarray(expected, np.float32)).max())


def _matching_vocabulary(bundle: Path, manifest: Manifest, session: Session, others: Iterable[LiveModel]) -> Vocabulary:
    sha256 = manifest.files[TOKENIZER_FILE]
    known = (other.engine.vocabulary for other in others if other.engine.vocabulary.sha256 == sha256)
    vocabulary = next(known, None) or load_vocabulary(bundle / TOKENIZER_FILE, sha256)
    tokens = vocabulary.tokenizer.get_vocab_size()
    if tokens > session.architecture.vocabulary_size:
        raise BundleRefused(f"the tokenizer has {tokens} tokens, the model only {session.architecture.vocabulary_size}")
    return vocabulary
