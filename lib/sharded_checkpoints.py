"""Checkpoints of models whose parameters are spread over ranks; any number of ranks may read them again."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)

from lib.distributed import is_first

SHARDS_DIRECTORY = "shards"
FULL_FILE = "state.pt"


def save_state(folder: Path, model: nn.Module, optimizers: Iterable[torch.optim.Optimizer], *, full: bool) -> None:
    """Write parameters and optimizer state, by name; every rank calls it.

    Sharded: each rank writes what it holds. Full: the first rank gathers all of it and writes one file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    options = StateDictOptions(full_state_dict=full, cpu_offload=full)
    weights, state = get_state_dict(model, tuple(optimizers), options=options)
    if not full:
        state_dict_saver.save({"model": weights, "optimizer": state}, checkpoint_id=folder / SHARDS_DIRECTORY)
    elif is_first():
        torch.save({"model": weights, "optimizer": state}, folder / FULL_FILE)


def load_state(folder: Path, model: nn.Module, optimizers: Iterable[torch.optim.Optimizer]) -> None:
    """Read what `save_state` wrote, in either form; every rank calls it.

    Raises FileNotFoundError where there is neither.
    """
    parts = tuple(optimizers)
    if (folder / SHARDS_DIRECTORY).is_dir():
        weights, state = get_state_dict(model, parts)
        state_dict_loader.load({"model": weights, "optimizer": state}, checkpoint_id=folder / SHARDS_DIRECTORY)
        set_state_dict(model, parts, model_state_dict=weights, optim_state_dict=state)
    elif (folder / FULL_FILE).is_file():
        read: dict[str, Any] = {"model": {}, "optimizer": {}}
        if is_first():
            read = torch.load(folder / FULL_FILE, map_location="cpu", weights_only=True)
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        set_state_dict(
            model, parts, model_state_dict=read["model"], optim_state_dict=read["optimizer"], options=options
        )
    else:
        raise FileNotFoundError(f"{folder} has no state of a sharded model: give the mode with which it was begun")


def full_weights(model: nn.Module) -> dict[str, Any]:
    """All parameters in the first rank's memory, nothing on the others; every rank calls it."""
    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
