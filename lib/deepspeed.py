"""DeepSpeed's configuration for a strategy: ZeRO's stage, what is off-loaded."""

from __future__ import annotations

from typing import Any

from lib.strategy import Strategy


def deepspeed_config(strategy: Strategy) -> dict[str, Any]:
    """As DeepSpeed reads it; `auto` takes the Trainer's own value. The optimizer is ours, so it must be allowed."""
    zero: dict[str, Any] = {
        "stage": strategy.deepspeed_stage,
        "overlap_comm": True,
        "contiguous_gradients": True,
        "stage3_gather_16bit_weights_on_model_save": True,
    }
    if strategy.deepspeed_offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if strategy.deepspeed_offload_parameters:
        zero["offload_param"] = {"device": "cpu", "pin_memory": True}
    return {
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": "auto"},
        "gradient_clipping": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "train_batch_size": "auto",
        "gradient_accumulation_steps": "auto",
    }
