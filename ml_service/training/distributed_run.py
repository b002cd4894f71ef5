"""A training whose cost is measured on every process, and the word of the model that came of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TextIO

from transformers import AutoModelForCausalLM

from lib.distributed import largest, world_size
from lib.throughput import peak_memory_mib
from lib.token_shards import TOKENIZER_FILE
from lib.tokenizer import load_tokenizer
from ml_service.training.comparison import Result, save_result, theory_bytes
from ml_service.training.plan import TrainingPlan
from ml_service.training.progress import ProgressLog
from ml_service.training.run_files import MODEL_DIRECTORY, PROGRESS_FILE, load_facts
from ml_service.training.workflow import build_training_artifacts, train

_MIB = 1 << 20


def measured_training(plan: TrainingPlan) -> Result:
    """Train as planned; every process calls it, inside of `process_group`. The first one writes the result down."""
    artifacts = build_training_artifacts(plan)
    train(artifacts)
    peak_mib = largest(peak_memory_mib())
    facts, processes = load_facts(plan.run), world_size()
    points = ProgressLog(plan.run / PROGRESS_FILE).points()
    last = next(point for point in reversed(points) if any(name.endswith("_bits_per_byte") for name in point))
    sources = list(artifacts.validation_windows)
    on_a_machine = int(os.environ.get("LOCAL_WORLD_SIZE", processes))
    theory = theory_bytes(facts["parameters"], plan.strategy, processes, on_a_machine)
    result = Result(
        name=plan.experiment,
        mode=_mode_of(plan),
        processes=processes,
        samples=facts["steps"] * plan.batch_size * plan.accumulation,
        tokens=facts["tokens"],
        seconds=facts["seconds"],
        tokens_per_second=facts["tokens_per_second"],
        peak_memory_mib=peak_mib,
        model_memory_mib=theory / _MIB,
        evaluation_loss=sum(last[f"validation_{source}_loss"] for source in sources) / len(sources),
        bits_per_byte=sum(last[f"validation_{source}_bits_per_byte"] for source in sources) / len(sources),
    )
    save_result(plan.run, result)
    return result


def write_continuation(run: Path, prompt: str, out: TextIO, new_tokens: int = 64) -> None:
    """Continue a prompt greedily with the trained model, as transformers does."""
    import torch

    model = AutoModelForCausalLM.from_pretrained(run / MODEL_DIRECTORY)
    tokenizer = load_tokenizer(run / MODEL_DIRECTORY / TOKENIZER_FILE)
    ids = torch.tensor([tokenizer.encode(prompt).ids])
    answer = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False, repetition_penalty=1.15,
        pad_token_id=model.config.eos_token_id,
    )  # fmt: skip
    out.write(f"\n{tokenizer.decode(answer[0].tolist())}\n")


def _mode_of(plan: TrainingPlan) -> str:
    strategy = plan.strategy
    words = {
        "baseline": "one process",
        "ddp": "DDP",
        "fsdp": f"FSDP2 {strategy.fsdp_sharding}",
        "deepspeed": f"ZeRO {strategy.deepspeed_stage}",
    }
    extras = {
        "off-load": strategy.fsdp_cpu_offload or strategy.deepspeed_offload_optimizer,
        "activations anew": strategy.fsdp_activation_checkpointing,
    }
    return ", ".join([words[strategy.mode], *(name for name, has in extras.items() if has)])
