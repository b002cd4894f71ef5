"""The homework's names over the training workflow: code of 2025 that calls them runs unchanged."""

from __future__ import annotations

import os
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, load_dataset
from pyarrow.parquet import ParquetFile
from tokenizers import Tokenizer
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerFast,
    Qwen3ForCausalLM,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.utils import is_flash_attn_2_available

from lib import corpora, modeling
from lib.files import sha256_of_text
from lib.text_data import Document, read_documents
from lib.tokenized_rows import IGNORED_LABEL, pack_tokenised
from lib.tokenizer import END_OF_TEXT
from ml_service.common.settings import PROJECT
from ml_service.training.plan import TrainingPlan
from ml_service.training.workflow import build_training_artifacts, train

MAX_TRAINING_TIME_SECONDS = 60 * 30
MAX_LENGTH = 512
INPUT_IDS, ATTENTION_MASK, LABELS = "input_ids", "attention_mask", "labels"
TOKENIZER_NAME = "ai-forever/rugpt3small_based_on_gpt2"
DATASET_NAME, DATASET_CONFIG = "wikimedia/wikipedia", "20231101.ru"
OUTPUT_DIR = "./output_dir"
NUM_SHARDS = 32
VALIDATION_SIZE = 5000
PRESET = "1b"
TRAINING_CONFIG: dict[str, Any] = {
    "output_dir": OUTPUT_DIR,
    "per_device_train_batch_size": 16,
    "gradient_accumulation_steps": 4,
    "learning_rate": 3e-4,
    "weight_decay": 0.1,
    "bf16": torch.cuda.is_available(),
    "seed": 42,
}
"""Words of `TrainingArguments`; `train_model` makes a training plan of them."""
SHIPPED_TOKENIZER = PROJECT / "data/bundle/tokenizer.json"


class TimeoutCallback(TrainerCallback):
    """Stops a Trainer when its time is over, with a last evaluation and checkpoint."""

    def __init__(self, timeout_seconds: float) -> None:
        self.timeout_seconds = timeout_seconds
        self.start_time: float | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.start_time = time.time()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        if self.start_time is not None and time.time() - self.start_time > self.timeout_seconds:
            control.should_training_stop = control.should_evaluate = control.should_save = True
        return control


def prepare_tokenizer() -> Any:
    """The tokenizer of `TOKENIZER_NAME`, padded with its end token; the shipped one where the hub is out of reach."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(TOKENIZER_NAME)
    except (OSError, ValueError) as error:
        warnings.warn(
            f"{TOKENIZER_NAME} cannot be had ({type(error).__name__}): the shipped tokenizer stands in", stacklevel=2
        )
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(SHIPPED_TOKENIZER), eos_token=END_OF_TEXT)
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def tokenize_function(examples: dict[str, list[str]], tokenizer: Any) -> dict[str, list[list[int]]]:
    """`text` → `input_ids`, `attention_mask`, `labels`, each of 512; the loss passes over padding.

    The first end token behind a text stays a target: a model that never sees one never ends.
    """
    encoded = tokenizer(examples["text"], padding="max_length", truncation=True, max_length=MAX_LENGTH)
    labels = []
    for ids, mask in zip(encoded[INPUT_IDS], encoded[ATTENTION_MASK], strict=True):
        length = sum(mask) + 1
        labels.append([*ids[:length], *[IGNORED_LABEL] * (MAX_LENGTH - length)])
    return {INPUT_IDS: encoded[INPUT_IDS], ATTENTION_MASK: encoded[ATTENTION_MASK], LABELS: labels}


def save_as_parquets(ds: Dataset, output_dir: str = OUTPUT_DIR, num_shards: int = NUM_SHARDS) -> None:
    """Write `{index:05d}.parquet`, each a contiguous part, in order."""
    Path(output_dir).mkdir(parents=True, exist_ok=True)
    for index in range(num_shards):
        ds.shard(num_shards, index, contiguous=True).to_parquet(str(Path(output_dir) / f"{index:05d}.parquet"))


def prepare_dataset() -> None:
    """Load, tokenise, save. Python's standard library stands in where the hub is out of reach, with a warning."""
    tokenizer = prepare_tokenizer()
    dataset = _load_texts()
    tokenised = dataset.map(
        lambda examples: tokenize_function(examples, tokenizer), batched=True, remove_columns=dataset.column_names
    )
    save_as_parquets(tokenised, OUTPUT_DIR, NUM_SHARDS)


def load_tokenized_dataset(data_dir: str = OUTPUT_DIR) -> Dataset:
    """The rows of all `*.parquet`, files sorted by name. Raises FileNotFoundError where there is none."""
    return load_dataset("parquet", data_files=[str(path) for path in _parquet_files(data_dir)], split="train")


def split_dataset(dataset: Dataset, validation_size: int = VALIDATION_SIZE) -> tuple[Dataset, Dataset]:
    """(train, eval): the first rows are for evaluation."""
    size = min(validation_size, len(dataset))
    held_out, rest = dataset.select(range(size)), dataset.select(range(size, len(dataset)))
    print(f"train: {len(rest)} rows, eval: {len(held_out)} rows")
    return rest, held_out


def create_model(tokenizer: Any) -> Any:
    """The Qwen3 of 960,881,664 parameters (with 50,257 tokens) in bf16; flash attention on a GPU that has it."""
    config = modeling.create_config(PRESET, len(tokenizer), MAX_LENGTH, tokenizer.eos_token_id)
    config.pad_token_id = tokenizer.pad_token_id
    model = Qwen3ForCausalLM(config).to(torch.bfloat16)
    if torch.cuda.is_available() and is_flash_attn_2_available():
        model.set_attn_implementation("flash_attention_2")
    print(f"pad token id: {model.config.pad_token_id}")
    print(f"parameters: {modeling.count_parameters(model):,}")
    return model


def initialize_wandb() -> None:
    """Begin a run at Weights & Biases; nothing without a key."""
    if not os.environ.get("WANDB_API_KEY"):
        return
    try:
        import wandb
    except ImportError:
        warnings.warn("WANDB_API_KEY is set and wandb is missing: pip install wandb", stacklevel=2)
        return
    wandb.init(project="ml-service", config=TRAINING_CONFIG)


def train_model() -> tuple[Any, Any]:
    """All of it within `MAX_TRAINING_TIME_SECONDS`, then a final evaluation; returns (trainer, tokenizer)."""
    started = time.monotonic()
    initialize_wandb()
    tokenizer = prepare_tokenizer()
    if not any(Path(OUTPUT_DIR).glob("*.parquet")):
        prepare_dataset()
    data = packed_data(tokenizer)
    seconds = max(MAX_TRAINING_TIME_SECONDS - (time.monotonic() - started), 1.0)
    config = TRAINING_CONFIG
    plan = TrainingPlan(
        data=data,
        run=Path(OUTPUT_DIR) / f"run-{time.strftime('%Y%m%d-%H%M%S')}",
        experiment="homework",
        preset=PRESET,
        seconds=seconds,
        window=MAX_LENGTH,
        batch_size=config["per_device_train_batch_size"],
        accumulation=config["gradient_accumulation_steps"],
        learning_rate=config["learning_rate"],
        weight_decay=config["weight_decay"],
        precision="bf16" if config["bf16"] else "auto",
        seed=config["seed"],
    )
    artifacts = build_training_artifacts(plan)
    train(artifacts)
    for name, value in artifacts.trainer.evaluate().items():
        print(f"{name}: {value:.4f}")
    return artifacts.trainer, tokenizer


def generate_examples(model: Any, tokenizer: Any, prompts: list[str], max_new_tokens: int = 100) -> dict[str, str]:
    """prompt → text, greedily, the prompt included."""
    texts = {}
    for prompt in prompts:
        inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False).to(model.device)
        ids = model.generate(
            **inputs, max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id
        )
        texts[prompt] = tokenizer.decode(ids[0], skip_special_tokens=True)
    return texts


def _parquet_files(data_dir: str) -> list[Path]:
    files = sorted(Path(data_dir).glob("*.parquet"))
    if not files:
        raise FileNotFoundError(f"{data_dir} has no *.parquet: run prepare_dataset() first")
    return files


def _load_texts() -> Dataset:
    try:
        return load_dataset(DATASET_NAME, DATASET_CONFIG, split="train")
    except (OSError, ValueError) as error:
        warnings.warn(
            f"{DATASET_NAME} cannot be had ({type(error).__name__}): Python's standard library stands in", stacklevel=2
        )
        documents = read_documents(corpora.standard_library())
        return Dataset.from_dict({"text": [item.text for item in documents if isinstance(item, Document)]})


def packed_data(tokenizer: Any, data_dir: str = OUTPUT_DIR) -> Path:
    """The tokenised rows without their padding, as the workflow reads them; made once for the same files."""
    files = _parquet_files(data_dir)
    rows = sum(ParquetFile(path).metadata.num_rows for path in files)
    held_out = min(VALIDATION_SIZE, max(rows // 20, 1))
    state = [held_out, *((path.stat().st_mtime_ns, path.stat().st_size) for path in files)]
    directory = Path(data_dir) / f"packed-{sha256_of_text(str(state))[:12]}"
    if not directory.exists():
        pack_tokenised(files, directory, Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()), held_out)
    return directory


if __name__ == "__main__":
    trainer, its_tokenizer = train_model()
    for text in generate_examples(trainer.model, its_tokenizer, ["Россия — это", "import os\n"]).values():
        print(text)
