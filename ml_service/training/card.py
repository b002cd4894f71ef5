"""A bundle's model card and the curve of its training, drawn."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_service.common.bundle import Architecture, Manifest
from ml_service.training.plan import TrainingPlan

CURVE_FILE = "curve.png"


def draw_curve(points: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Training loss (left axis, nats a token) and validation bits per byte (right) over trained tokens, as PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, left = pyplot.subplots(figsize=(7, 3.6), dpi=90)
    train = [(p["tokens"] / 1e6, p["train_loss"]) for p in points if "train_loss" in p]
    if train:
        left.plot(*zip(*train, strict=True), color="#9aa5b1", linewidth=1, label="train loss")
    left.set_xlabel("tokens, millions")
    left.set_ylabel("train loss, nats a token")
    right = left.twinx()
    right.set_ylabel("validation, bits per byte")
    names = sorted({name for p in points for name in p if name.endswith("_bits_per_byte")})
    for name, colour in zip(names, ("#1f6feb", "#d9822b", "#2da44e", "#8250df"), strict=False):
        curve = [(p["tokens"] / 1e6, p[name]) for p in points if name in p]
        label = name.removeprefix("validation_").removesuffix("_bits_per_byte")
        right.plot(*zip(*curve, strict=True), color=colour, marker=".", label=f"{label}, bits per byte")
    figure.legend(loc="upper right", bbox_to_anchor=(0.88, 0.88), frameon=False)
    figure.tight_layout()
    figure.savefig(path, format="png")
    pyplot.close(figure)


def model_card(plan: TrainingPlan, facts: Mapping[str, Any], manifest: Manifest, architecture: Architecture) -> str:
    """Markdown: what the model is, how it was made, on what data, how good it is, and what it is not for."""
    data = "\n".join(
        f"| {split} | {source} | {part['documents']:,} | {part['bytes']:,} | {part['tokens']:,} |"
        for split, sources in facts["dataset"]["parts"].items()
        for source, part in sources.items()
    )
    scores = "\n".join(f"| {name} | {value:.4f} |" for name, value in manifest.metrics.items())
    return f"""# {manifest.experiment}

A language model trained from scratch by `ml_service`.

| | |
|---|---|
{_facts_table(plan, facts, manifest, architecture)}

## How it was made

```
{_corpus_command(facts["dataset"])}
{_command(plan)}
ml-service export RUN BUNDLE --precision {manifest.precision}
```

| split | source | documents | bytes | tokens |
|---|---|---|---|---|
{data}

## How good it is

At the end of training, in fp32, over the first {plan.validation_tokens:,} tokens of each held-out source:

| score | value |
|---|---|
{scores}

![curve]({CURVE_FILE})

## What it is not for

A small model completes text in the manner of its corpus. It knows no facts, follows no instructions, and its
output must not be run or published unread.
"""


def imported_card(manifest: Manifest, architecture: Architecture) -> str:
    """Markdown: what is known of a model that was trained elsewhere."""
    return f"""# {manifest.experiment}

A checkpoint of transformers ({architecture.model_type}), imported by `ml_service`. How it was trained is not known.

| | |
|---|---|
| parameters | {manifest.parameters:,} in {architecture.layers} layers |
| context | {architecture.context_length} tokens, vocabulary {architecture.vocabulary_size:,} |
| stored as | {manifest.precision} |
| served by | {_runtimes(architecture)} |
| code | import: commit `{manifest.commit}` |
| licence | {manifest.licence} |
"""


def _runtimes(architecture: Architecture) -> str:
    return f"the torch runtime: {architecture.without_graph}" if architecture.without_graph else "every runtime"


def _facts_table(plan: TrainingPlan, facts: Mapping[str, Any], manifest: Manifest, architecture: Architecture) -> str:
    rows = [
        ("model", f"Qwen3, preset `{plan.preset}`: {manifest.parameters:,} parameters, {architecture.layers} layers"),
        ("context", f"{architecture.context_length} tokens, vocabulary {architecture.vocabulary_size:,}"),
        ("stored as", manifest.precision),
        ("trained", f"{facts['tokens']:,} tokens in {facts['seconds']:,.0f} s, {facts['steps']:,} updates"),
        ("finished", f"{facts['finished']} on {facts['machine']['cores']} cores ({facts['machine']['machine']})"),
        ("code", f"commit `{manifest.training_commit}` (export: `{manifest.commit}`)"),
        ("data", f"fingerprint `{manifest.dataset_fingerprint}`"),
        ("licence", manifest.licence),
    ]
    return "\n".join(f"| {name} | {value} |" for name, value in rows)


def _corpus_command(dataset: Mapping[str, Any]) -> str:
    sources = {source for parts in dataset["parts"].values() for source in parts}
    words = ["ml-service", "corpus", "build", "DATA"]
    words += [] if "stdlib" in sources else ["--no-stdlib"]
    words += ["--packages"] if "packages" in sources else []
    for source in sorted(sources - {"stdlib", "packages"}):
        first, *names = source.split("--")
        words += ["--hub", ":".join(["/".join(names[:2]), *names[2:]])] if first == "hub" else ["--folder", source]
    words += ["--vocabulary-size", str(dataset["vocabulary_size"])]
    words += ["--validation-share", str(dataset["validation_share"])]
    return shlex.join(words)


def _command(plan: TrainingPlan) -> str:
    named = ("experiment", "preset", "seconds", "tokens", "steps", "mixture")
    given = plan.model_dump(exclude_defaults=True, exclude={"data", "run", "strategy", "start_from"})
    words = ["ml-service", "train", "RUN", "--data", "DATA"]
    for name in ("experiment", "preset", "seconds", "tokens", "steps"):
        if name in given:
            words += [f"--{name}", str(given[name])]
    for source, share in (plan.mixture or {}).items():
        words += ["--mixture", f"{source}={share}"]
    for name, value in given.items():
        if name not in named:
            words += ["--set", f"{name}={value}"]
    return shlex.join(words)
