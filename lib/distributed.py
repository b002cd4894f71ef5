"""Training on several processes: DDP, FSDP2, DeepSpeed ZeRO; what all ranks must agree on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

from lib.interruption import TrainingStopped
from lib.strategy import Strategy


class RankLost(TrainingStopped):
    """A collective operation ended without the others."""

    ends_at_once = True


def world_size() -> int:
    """How many processes `torchrun` started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """The number of this process among all of them."""
    return int(os.environ.get("RANK", "0"))


def is_first() -> bool:
    """Whether this process decides and writes for all."""
    return rank() == 0


@contextmanager
def process_group(strategy: Strategy) -> Iterator[None]:
    """The ranks' common ground: NCCL between GPUs, gloo between processors. Nothing where there is one process.

    Raises ValueError where the strategy does not fit the number of processes.
    """
    if strategy.mode == "baseline" and world_size() > 1:
        raise ValueError(f"mode baseline is one process, and torchrun started {world_size()}")
    if world_size() == 1 and strategy.mode not in ("fsdp", "deepspeed", "ddp"):
        yield
        return
    if "RANK" not in os.environ:
        raise ValueError(f"mode {strategy.mode} runs under torchrun: torchrun --nproc-per-node 2 SCRIPT …")
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group(backend, timeout=timedelta(seconds=strategy.timeout_s))
    is_lost = False
    try:
        yield
    except RuntimeError as error:
        if not _is_of_the_network(error):
            raise
        is_lost = True
        raise RankLost(
            f"another process hangs, has died or cannot be reached (waited up to {strategy.timeout_s:g} s): "
            f"{str(error).splitlines()[0][:200]}; its own output tells more, and the same command goes on from the "
            f"last checkpoint"
        ) from error
    finally:
        if not is_lost:  # to leave the others in order would mean to wait for them once more
            dist.destroy_process_group()


def agree(value: float, *, any_wants_to_stop: bool = False) -> tuple[float, bool]:
    """The first rank's value, and whether any rank wants to stop; the same answer on every rank."""
    if not dist.is_initialized():
        return value, any_wants_to_stop
    told = torch.tensor([value if is_first() else 0.0, float(any_wants_to_stop)], dtype=torch.float64, device=_device())
    dist.all_reduce(told)
    return float(told[0]), bool(told[1] > 0)


def largest(value: float) -> float:
    """The largest of all ranks' values."""
    if not dist.is_initialized():
        return value
    told = torch.tensor(value, dtype=torch.float64, device=_device())
    dist.all_reduce(told, op=dist.ReduceOp.MAX)
    return float(told)


def summed(*values: float) -> tuple[float, ...]:
    """Each value summed over all ranks."""
    if not dist.is_initialized():
        return values
    told = torch.tensor(values, dtype=torch.float64, device=_device())
    dist.all_reduce(told)
    return tuple(told.tolist())


def shard(model: nn.Module, layers: list[nn.Module], strategy: Strategy, *, in_bf16: bool) -> None:
    """FSDP2 (`fully_shard`), in place: each layer is gathered when its turn comes, the rest with the root.

    Tied embeddings stay in the root, which both ends of the network use.
    """
    mesh = _mesh(strategy)
    offloads = strategy.fsdp_cpu_offload and torch.cuda.is_available()  # without a GPU all of it lies there already
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32) if in_bf16 else None
    options: dict[str, Any] = {
        "mesh": mesh,
        "reshard_after_forward": strategy.fsdp_sharding != "shard_grad_op",
        "mp_policy": policy or MixedPrecisionPolicy(),
        "offload_policy": CPUOffloadPolicy() if offloads else OffloadPolicy(),
    }
    for layer in layers:
        fully_shard(layer, **options)
    fully_shard(model, **options)


def _is_of_the_network(error: RuntimeError) -> bool:
    """Whether a collective operation ended without an answer; gloo tells it in a message only."""
    words = ("Timed out", "timed out", "Connection closed", "Connection reset", "Connection refused", "Broken pipe")
    return isinstance(error, dist.DistError) or any(word in str(error) for word in words)


def _mesh(strategy: Strategy) -> Any:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    on_a_machine = int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))
    if strategy.fsdp_sharding == "hybrid_shard":
        return init_device_mesh(
            device, (world_size() // on_a_machine, on_a_machine), mesh_dim_names=("replicate", "shard")
        )
    return init_device_mesh(device, (world_size(),), mesh_dim_names=("shard",))


def _device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
