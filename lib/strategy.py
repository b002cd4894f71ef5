"""How the processes of a training share its work: which mode, what is sharded, what is off-loaded."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Mode = Literal["baseline", "ddp", "fsdp", "deepspeed"]
Sharding = Literal["full_shard", "shard_grad_op", "hybrid_shard"]


class Strategy(BaseModel):
    """How the work of a step is shared among the processes that `torchrun` started."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Mode = "baseline"
    """One process; a replica each (DDP); parameters sharded by torch (FSDP2); by DeepSpeed (ZeRO)."""
    fsdp_sharding: Sharding = "full_shard"
    """Parameters, gradients and optimizer state; gradients and state, parameters whole between forward and backward;
    the first within each machine and replicas over the machines."""
    fsdp_cpu_offload: bool = False
    """Keep parameters, gradients and optimizer state in the machine's memory."""
    fsdp_activation_checkpointing: bool = False
    """Compute activations anew in the backward pass rather than keep them."""
    fsdp_state_dict: Literal["sharded", "full"] = "sharded"
    """A checkpoint of one file a rank, or one in the form that a single process reads."""
    deepspeed_stage: Literal[1, 2, 3] = 2
    """ZeRO: optimizer state sharded; gradients too; parameters too."""
    deepspeed_offload_optimizer: bool = False
    deepspeed_offload_parameters: bool = False
    timeout_s: float = Field(600.0, gt=0)
    """How long a rank waits for the others before it gives up."""

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.deepspeed_offload_parameters and (self.mode != "deepspeed" or self.deepspeed_stage != 3):
            raise ValueError("parameters can be off-loaded with DeepSpeed's stage 3 only")
        return self

    @property
    def shards_parameters(self) -> bool:
        """Whether a rank holds only a part of the network between steps."""
        return self.mode == "fsdp" or (self.mode == "deepspeed" and self.deepspeed_stage == 3)
