"""The bundle format: a directory with graph, tokenizer, config, manifest, golden sample and model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from lib.files import sha256_of_file
from ml_service.common.errors import BundleRefused

FORMAT_VERSION = 2
GRAPH_FILE = "model.onnx"
CHECKPOINT_FILE = "model.safetensors"
"""In place of the graph where the graph cannot express the network: the torch runtime alone serves it."""
TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "config.json"
GOLDEN_FILE = "golden.json"
CARD_FILE = "README.md"
MANIFEST_FILE = "manifest.json"
CHAT_TEMPLATE_FILE = "chat_template.jinja"
"""Optional: how the model wants to be told of messages."""
PROVEN_FILES = (TOKENIZER_FILE, CONFIG_FILE, GOLDEN_FILE)
"""Without these, and a graph or a checkpoint, a bundle cannot answer."""

INPUT_IDS = "input_ids"
"""int64 (tokens,): the tokens of all rows, below each other, without padding."""
GRID = "grid"
"""int64 (batch, length): which of the tokens stand where in a row, right-padded with any."""
PLACES = "places"
"""int64 (tokens,): where in the flattened grid each token stands."""
QUERY_LENGTHS = "query_lengths"
"""int32 (batch,): how many places of a row are filled; 0 leaves the row's cache as it is."""
LAST_POSITIONS = "last_positions"
"""int32 (batch,): the position of the last filled place, so the cache holds one more than that after the step."""
MAX_TOTAL_LENGTH = "max_total_length"
"""int32 scalar: more than any row's cache holds after the step."""
LOGIT_ROWS = "logit_rows"
"""int64 (rows,): which of the tokens want logits."""
STEP_INPUTS = frozenset({INPUT_IDS, GRID, PLACES, QUERY_LENGTHS, LAST_POSITIONS, MAX_TOTAL_LENGTH, LOGIT_ROWS})
"""What a graph is told in each step; besides there is the cache."""
LOGITS = "logits"
"""float32 (rows, vocabulary)."""

_Schema = TypeVar("_Schema", bound=BaseModel)
Precision = Literal["fp32", "int8", "int4"]

CacheKind = Literal["key", "value"]
CACHE_KINDS: tuple[CacheKind, ...] = ("key", "value")


def past_name(layer: int, kind: CacheKind) -> str:
    """Cache input of a layer: float32 (batch, key-value heads, capacity, head size)."""
    return f"past.{layer}.{kind}"


def present_name(layer: int, kind: CacheKind) -> str:
    """Cache output of a layer; bound to the memory of its input, so that a step writes in place."""
    return f"present.{layer}.{kind}"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Architecture(_Frozen):
    """What the runtimes must know of the network; `config.json`."""

    model_type: str
    vocabulary_size: int
    context_length: int
    layers: int
    heads: int
    key_value_heads: int
    head_size: int
    tied_embeddings: bool
    end_of_text_id: int
    """Ends an answer, and stands before the first token where a text is scored."""
    further_end_ids: tuple[int, ...] = ()
    """What else ends an answer, where a checkpoint names several."""
    without_graph: str = ""
    """Why the bundle holds a checkpoint and no graph, in words; empty where it holds one."""
    transformers: dict[str, Any]
    """The network's configuration in transformers' own words: what the torch runtime builds it from."""


class Golden(_Frozen):
    """A prompt, its first logits and its greedy tokens as PyTorch gave them for the very weights in the graph."""

    prompt_ids: list[int]
    first_logits: list[float]
    """After the whole prompt; shape (vocabulary,)."""
    greedy_ids: list[int]
    margins: list[float]
    """How far PyTorch's best logit was ahead of its second at each greedy token."""
    tolerance: float
    """The largest difference of a logit that this precision may show."""


class Manifest(_Frozen):
    """What a bundle is and where it comes from; `manifest.json`."""

    format_version: int
    experiment: str
    experiment_id: int | None
    parent_experiment_id: int | None
    commit: str
    """The tree at the export; ends in `-dirty` where it differed from the commit."""
    training_commit: str
    date: str
    """Of the export: UTC, ISO 8601."""
    precision: Precision
    parameters: int
    dataset_fingerprint: str
    tokenizer_sha256: str
    opset: int
    """0 where there is no graph."""
    versions: dict[str, str]
    metrics: dict[str, float]
    licence: str
    files: dict[str, str]
    """File name → SHA-256, of every file but this one."""


class Lineage(_Frozen):
    """Which experiment a bundle comes from, and which one that began with; None where they are not remembered."""

    experiment_id: int | None = None
    parent_experiment_id: int | None = None


def load_manifest(bundle: Path) -> Manifest:
    """Read `manifest.json`. Raises BundleRefused in words."""
    path = bundle / MANIFEST_FILE
    if not path.is_file():
        raise BundleRefused(f"{bundle.name} is no bundle: it has no {MANIFEST_FILE}")
    manifest = _parse(Manifest, path)
    if manifest.format_version != FORMAT_VERSION:
        raise BundleRefused(f"the bundle has format {manifest.format_version}, this service reads {FORMAT_VERSION}")
    return manifest


def bundle_sha256(bundle: Path) -> str:
    """What a bundle is known by: the SHA-256 of its manifest, which names those of all its files."""
    return sha256_of_file(bundle / MANIFEST_FILE)


def load_architecture(bundle: Path) -> Architecture:
    """Read `config.json`. Raises BundleRefused in words."""
    return _parse(Architecture, bundle / CONFIG_FILE)


def load_golden(bundle: Path) -> Golden:
    """Read `golden.json`. Raises BundleRefused in words."""
    return _parse(Golden, bundle / GOLDEN_FILE)


def verify_files(bundle: Path) -> Manifest:
    """Every file that the manifest names is there and unchanged. Raises BundleRefused naming the first that is not."""
    manifest = load_manifest(bundle)
    weights_file = CHECKPOINT_FILE if CHECKPOINT_FILE in manifest.files else GRAPH_FILE
    if missing := sorted({*PROVEN_FILES, weights_file} - set(manifest.files)):
        raise BundleRefused(f"the manifest does not name {missing[0]}")
    for name, expected in sorted(manifest.files.items()):
        path = bundle / name
        if Path(name).name != name:
            raise BundleRefused(f"the manifest names {name!r}, which is no plain file name")
        if not path.is_file():
            raise BundleRefused(f"{name} is missing from the bundle")
        if sha256_of_file(path) != expected:
            raise BundleRefused(
                f"{name} is not the file that the manifest describes: its SHA-256 differs, so it was cut short, "
                "changed or swapped"
            )
    return manifest


def _parse(schema: type[_Schema], path: Path) -> _Schema:
    try:
        return schema.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError:
        raise BundleRefused(f"{path.name} is missing from the bundle") from None
    except (ValidationError, UnicodeDecodeError) as error:
        where = ".".join(map(str, error.errors()[0]["loc"])) if isinstance(error, ValidationError) else "encoding"
        raise BundleRefused(f"{path.name} is not readable as this format: at {where or 'the top'}") from None


_TEXT_PROPS = frozenset(name for name, field in Manifest.model_fields.items() if field.annotation in (str, Precision))
_PROPS = {
    name: "text" if name in _TEXT_PROPS else "json"
    for name in Manifest.model_fields
    if name not in ("files", "format_version")
}


def metadata_props(manifest: Manifest) -> dict[str, str]:
    """What the graph file itself must say: text as it is, everything else as JSON."""
    facts = manifest.model_dump(exclude={"files", "format_version"})
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}


def read_metadata_props(props: dict[str, str]) -> dict[str, Any]:
    """The way back. Raises BundleRefused where a value is missing or is not what the format says."""
    try:
        facts = {name: props[name] if kind == "text" else json.loads(props[name]) for name, kind in _PROPS.items()}
    except KeyError as error:
        raise BundleRefused(f"{GRAPH_FILE} carries no metadata {error.args[0]!r}: it is not of this project") from None
    except ValueError:
        raise BundleRefused(f"the metadata of {GRAPH_FILE} are not readable") from None
    return facts
