"""The homework's contract, name by name, without a network."""

from __future__ import annotations

import inspect
import itertools
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from transformers import Trainer, TrainerControl, TrainingArguments

import solution
import train_distributed
from lib.token_shards import load_manifest, load_tokens

TEXTS = ["def value_total(count):\n    return count\n", "", "import os\n" * 700]


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The hub is out of reach; what is written goes to an empty folder."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network in the tests")

    monkeypatch.setattr(solution.AutoTokenizer, "from_pretrained", refuse)
    original = solution.load_dataset

    def only_files(kind: str, *args: object, **kwargs: Any) -> Dataset:
        return original(kind, *args, **kwargs, cache_dir=str(tmp_path / "cache")) if kind == "parquet" else refuse()

    monkeypatch.setattr(solution, "load_dataset", only_files)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def tokenizer() -> Any:
    with pytest.warns(UserWarning, match="the shipped tokenizer stands in"):
        return solution.prepare_tokenizer()


def test_the_constants_are_the_homework_s() -> None:
    assert (solution.MAX_TRAINING_TIME_SECONDS, solution.MAX_LENGTH) == (1800, 512)
    assert (solution.INPUT_IDS, solution.ATTENTION_MASK, solution.LABELS) == ("input_ids", "attention_mask", "labels")
    assert solution.TOKENIZER_NAME == "ai-forever/rugpt3small_based_on_gpt2"
    assert (solution.OUTPUT_DIR, solution.NUM_SHARDS, solution.VALIDATION_SIZE) == ("./output_dir", 32, 5000)
    assert TrainingArguments(**solution.TRAINING_CONFIG, use_cpu=True).output_dir == solution.OUTPUT_DIR
    assert inspect.signature(solution.save_as_parquets).parameters["num_shards"].default == 32
    assert inspect.signature(solution.generate_examples).parameters["max_new_tokens"].default == 100


def test_the_timeout_counts_from_the_beginning_of_training_and_asks_for_an_end() -> None:
    callback, control = solution.TimeoutCallback(timeout_seconds=10), TrainerControl()
    assert callback.start_time is None
    assert callback.on_step_end(None, None, control) is control
    assert not control.should_training_stop
    callback.on_train_begin(None, None, control)
    assert callback.start_time == pytest.approx(time.time(), abs=5)
    assert not callback.on_step_end(None, None, control).should_training_stop
    callback.start_time -= 11
    assert callback.on_step_end(None, None, control) is control
    assert control.should_training_stop
    assert control.should_evaluate
    assert control.should_save


def test_the_tokenizer_pads_with_its_end(tokenizer: Any) -> None:
    assert tokenizer.pad_token == tokenizer.eos_token == "<|endoftext|>"


def test_rows_are_padded_to_512_and_the_first_end_is_a_target(tokenizer: Any) -> None:
    rows = solution.tokenize_function({"text": TEXTS}, tokenizer)
    assert set(rows) == {"input_ids", "attention_mask", "labels"}
    for column in rows.values():
        assert isinstance(column, list)
        assert [len(row) for row in column] == [512] * len(TEXTS)
    for ids, mask, labels, text in zip(*rows.values(), TEXTS, strict=True):
        length = sum(mask)
        expected = tokenizer(text)["input_ids"][:512]
        assert ids[:length] == labels[:length] == expected
        if length < 512:
            assert labels[length] == tokenizer.eos_token_id
            assert set(labels[length + 1 :]) == {-100}
            assert set(ids[length:]) == {tokenizer.eos_token_id}
    assert sum(rows["attention_mask"][2]) == 512


def test_parquets_are_contiguous_in_order_and_read_again_by_name(tmp_path: Path) -> None:
    data = Dataset.from_dict({"input_ids": [[number] for number in range(10)]})
    solution.save_as_parquets(data, str(tmp_path / "out"), 3)
    files = sorted((tmp_path / "out").iterdir())
    assert [file.name for file in files] == ["00000.parquet", "00001.parquet", "00002.parquet"]
    parts = [[row[0] for row in pq.read_table(file)["input_ids"].to_pylist()] for file in files]
    assert list(itertools.chain(*parts)) == list(range(10))
    (tmp_path / "out" / "notes.txt").write_text("no rows")
    read = solution.load_tokenized_dataset(str(tmp_path / "out"))
    assert [row[0] for row in read["input_ids"]] == list(range(10))
    with pytest.raises(FileNotFoundError, match="prepare_dataset"):
        solution.load_tokenized_dataset(str(tmp_path / "nothing"))


def test_the_first_rows_are_for_evaluation(capsys: pytest.CaptureFixture[str]) -> None:
    data = Dataset.from_dict({"number": list(range(10))})
    train, held_out = solution.split_dataset(data, validation_size=3)
    assert (train["number"][:], held_out["number"][:]) == (list(range(3, 10)), [0, 1, 2])
    told = capsys.readouterr().out
    assert "7" in told
    assert "3" in told


def test_the_model_has_960_881_664_parameters_in_bf16(capsys: pytest.CaptureFixture[str]) -> None:
    class Tokenizer(SimpleNamespace):
        def __len__(self) -> int:
            return 50_257

    with torch.device("meta"):
        model = solution.create_model(Tokenizer(eos_token_id=2, pad_token_id=2))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.config._attn_implementation == "sdpa"
    assert model.config.model_type == "qwen3"
    told = capsys.readouterr().out
    assert "960,881,664" in told
    assert "pad token id: 2" in told


def test_nothing_goes_to_wandb_without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert solution.initialize_wandb() is None


def test_a_plain_trainer_of_the_homework_learns_with_these_parts(
    monkeypatch: pytest.MonkeyPatch, tokenizer: Any, corpus: Path
) -> None:
    """As the homework's code of 2025 puts them together by itself."""
    monkeypatch.setattr(solution, "PRESET", "nano")
    texts = [path.read_text() for path in sorted(corpus.iterdir())[:24]]
    rows = Dataset.from_dict({"text": texts}).map(
        lambda examples: solution.tokenize_function(examples, tokenizer), batched=True, remove_columns=["text"]
    )
    solution.save_as_parquets(rows, solution.OUTPUT_DIR, 2)
    train, held_out = solution.split_dataset(solution.load_tokenized_dataset(), 4)
    model = solution.create_model(tokenizer).float()
    config = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "max_steps": 5, "learning_rate": 3e-3}
    trainer = Trainer(
        model=model,
        args=TrainingArguments(**(solution.TRAINING_CONFIG | config), use_cpu=True, report_to=[], disable_tqdm=True),
        train_dataset=train,
        eval_dataset=held_out,
        callbacks=[solution.TimeoutCallback(600)],
    )
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before - 0.5


@pytest.mark.filterwarnings("ignore:.*the shipped tokenizer stands in")
def test_the_distributed_script_trains_on_the_homework_s_parquet_files(
    tokenizer: Any, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [path.read_text() for path in sorted(corpus.iterdir())[:24]]
    rows = Dataset.from_dict({"text": texts}).map(
        lambda examples: solution.tokenize_function(examples, tokenizer), batched=True, remove_columns=["text"]
    )
    solution.save_as_parquets(rows, "rows", 2)
    words = "--preset pico --window 64 --batch-size 2 --max-steps 2 --data-dir rows --output-dir out --no-generation"
    train_distributed.main(words.split())
    assert "| baseline-1 | one process | 1 | 4 | 256 |" in capsys.readouterr().out
    (packed,) = (tmp_path / "rows").glob("packed-*")
    counts = load_manifest(packed).parts
    assert counts["validation"]["tokenised"].documents == 1
    assert counts["train"]["tokenised"].documents == 23
    targets = [token for labels in rows["labels"] for token in labels if token >= 0]
    parts = {part: load_tokens(packed, part)[0].tokens.tolist() for part in ("validation", "train")}
    assert [*parts["validation"], *parts["train"]] == targets


def test_the_whole_homework_runs_offline(monkeypatch: pytest.MonkeyPatch, corpus: Path) -> None:
    """Data, training, evaluation and examples, with a small network and for seconds."""
    monkeypatch.setattr(solution, "PRESET", "nano")
    monkeypatch.setattr(solution, "MAX_TRAINING_TIME_SECONDS", 8)
    monkeypatch.setattr(solution.corpora, "standard_library", lambda: solution.corpora.folder(corpus))
    config = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 1}
    monkeypatch.setattr(solution, "TRAINING_CONFIG", solution.TRAINING_CONFIG | config)
    with pytest.warns(UserWarning, match="stands in"):
        trainer, tokenizer = solution.train_model()
    assert len(list(Path(solution.OUTPUT_DIR).glob("*.parquet"))) == solution.NUM_SHARDS
    assert trainer.state.global_step > 0
    texts = solution.generate_examples(trainer.model, tokenizer, ["def value", "return "], max_new_tokens=5)
    assert list(texts) == ["def value", "return "]
    for prompt, text in texts.items():
        assert text.startswith(prompt)
        assert len(text) > len(prompt)
