"""Our figures beside those of lm-evaluation-harness itself, for the same checkpoint: equal to four decimals."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from ml_service.common.bundle import TOKENIZER_FILE, load_architecture
from ml_service.common.evaluation_options import EvaluationOptions
from ml_service.pipeline.judging.question import Question
from ml_service.pipeline.judging.report import Report
from ml_service.pipeline.judging.stage import judge

TEXTS = (
    "def value_total(count):\n    return count\n", "  two  spaces\n", "import name\n" * 60, "naïve, 日本, 🙂",
    "x = [1, 2, 3]\n" * 9,
)  # fmt: skip
CHOICES = (
    ("def value_total(count):\n    return", "count"), ("if name is ", "None"), ("item line", "count"),
    ("buffer = [buffer for buffer in", "None"), ("return ", "count"),
)  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore")  # the harness has some of its own


@pytest.fixture(scope="module")
def harness(bundle_fp32: Path) -> Any:
    from lm_eval.models.huggingface import HFLM
    from transformers import PreTrainedTokenizerFast

    from ml_service.inference.torch_session import load_model

    architecture = load_architecture(bundle_fp32)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(bundle_fp32 / TOKENIZER_FILE))
    tokenizer.eos_token = tokenizer.pad_token = tokenizer.convert_ids_to_tokens(architecture.end_of_text_id)
    return HFLM(
        pretrained=load_model(bundle_fp32, architecture), tokenizer=tokenizer, device="cpu", batch_size=1,
        max_length=architecture.context_length,
    )  # fmt: skip


def rows_in(folder: Path, rows: Iterable[Mapping[str, str]]) -> Path:
    path = folder / "data.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def theirs(harness: Any, path: Path, **task: Any) -> dict[str, float]:
    import lm_eval
    from lm_eval.api.task import ConfigurableTask

    files = {"data_files": {"test": str(path)}, "cache_dir": str(path.parent / "cache")}
    config = {"task": "ours", "dataset_path": "json", "dataset_kwargs": files, "test_split": "test"} | task
    found = lm_eval.simple_evaluate(model=harness, tasks=[ConfigurableTask(config=config)], bootstrap_iters=0)
    return {name.partition(",")[0]: value for name, value in found["results"]["ours"].items()}


def ours(bundle: Path, path: Path, **options: Any) -> Report:
    settings = {"slots": 4, "threads": 1, "prefill_chunk": 32, "prefix_cache_mib": 4}
    question = Question(bundle=bundle, file=path.name, options=EvaluationOptions(**options), settings=settings)
    return judge(path.parent, question)


def test_perplexities_are_those_of_the_harness(bundle_fp32: Path, harness: Any, tmp_path: Path) -> None:
    path = rows_in(tmp_path, ({"text": text} for text in TEXTS))
    names = ("word_perplexity", "byte_perplexity", "bits_per_byte")
    found = ours(bundle_fp32, path).metrics
    wanted = theirs(
        harness, path, output_type="loglikelihood_rolling", doc_to_text="", doc_to_target="{{text}}",
        metric_list=[{"metric": name} for name in names],
    )  # fmt: skip
    for name in names:
        assert found[name].value == pytest.approx(wanted[name], rel=1e-5, abs=5e-5)


def test_labels_are_chosen_as_the_harness_chooses(bundle_fp32: Path, harness: Any, tmp_path: Path) -> None:
    path = rows_in(tmp_path, ({"text": text, "label": label} for text, label in CHOICES))
    found = ours(bundle_fp32, path).metrics
    wanted = theirs(
        harness, path, output_type="multiple_choice", doc_to_text="{{text}}", doc_to_choice=["None", "count"],
        doc_to_target="{{label}}", metric_list=[{"metric": "acc"}, {"metric": "mcc"}],
    )  # fmt: skip
    assert found["accuracy"].value == pytest.approx(wanted["acc"])
    assert found["mcc"].value == pytest.approx(wanted["mcc"])


def test_targets_are_as_likely_as_the_harness_says(bundle_fp32: Path, harness: Any, tmp_path: Path) -> None:
    from lm_eval.api.instance import Instance

    pairs = [(text, f" {label}\n") for text, label in CHOICES]
    path = rows_in(tmp_path, ({"prompt": prompt, "target": target} for prompt, target in pairs))
    ours(bundle_fp32, path, max_new_tokens=2, metrics=["bits_per_byte"])
    with (tmp_path / "rows.csv").open(newline="", encoding="utf-8") as file:
        found = [float(row["target_nats"]) for row in csv.DictReader(file)]
    requests = [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(pairs)]
    wanted = [-nats for nats, _ in harness.loglikelihood(requests)]
    assert found == pytest.approx(wanted, abs=1e-4)
