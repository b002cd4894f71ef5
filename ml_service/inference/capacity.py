"""What a machine can hold: slots, context, waiting places and the prefix cache, from cores and free memory; pure."""

from __future__ import annotations

from dataclasses import dataclass

from ml_service.common.errors import BundleRefused, DoesNotFit

_SLOTS_PER_CORE = 16
_MAX_DEFAULT_SLOTS = 64
_WAITING_PER_SLOT = 4
_CACHE_SHARE = 0.25
"""Of the free memory, for the slots' keys and values where nobody says how many."""
_PREFIX_SHARE = 1 / 32
_MAX_DEFAULT_PREFIX_BYTES = 2**28
_MIB = 2**20


@dataclass(frozen=True)
class Wishes:
    """What was set; None is to be computed."""

    slots: int | None = None
    context: int | None = None
    max_waiting: int | None = None
    prefix_cache_mib: int | None = None


@dataclass(frozen=True)
class Machine:
    """What there is."""

    cores: int
    free_bytes: int


@dataclass(frozen=True)
class Capacity:
    """What will be used."""

    slots: int
    context: int
    max_waiting: int
    prefix_cache_bytes: int


def plan_capacity(
    wishes: Wishes, machine: Machine, context_length: int, spare: int, token_bytes: int, model_bytes: int
) -> Capacity:
    """Fill in what was not set.

    `token_bytes` are the keys and values of a token, `model_bytes` the weights in memory, `spare` the tokens that a
    slot has room for beyond its context. Raises BundleRefused in words where what was set is not possible, DoesNotFit
    where there is too little memory for it.
    """
    context = wishes.context or context_length
    if context > context_length:
        raise BundleRefused(
            f"a context of {context:,} tokens is more than the {context_length:,} that the model was made for: "
            "set ML_SERVICE_CONTEXT lower or not at all"
        )
    free_bytes = machine.free_bytes - model_bytes
    slot_bytes = (context + spare) * token_bytes
    if wishes.slots is None:
        fitting = int(_CACHE_SHARE * free_bytes) // slot_bytes if slot_bytes else _MAX_DEFAULT_SLOTS
        slots = max(min(_SLOTS_PER_CORE * machine.cores, _MAX_DEFAULT_SLOTS, fitting), 1)
    else:
        slots = wishes.slots
    left_bytes = free_bytes - slots * slot_bytes
    if wishes.prefix_cache_mib is None:
        prefix_cache_bytes = max(min(int(_PREFIX_SHARE * left_bytes), _MAX_DEFAULT_PREFIX_BYTES), 0)
    else:
        prefix_cache_bytes = wishes.prefix_cache_mib * _MIB
    if left_bytes < prefix_cache_bytes:
        raise DoesNotFit(
            f"it does not fit: the weights take {_mib(model_bytes)}, {slots} slots of {context:,} tokens "
            f"{_mib(slots * slot_bytes)} and the prefix cache {_mib(prefix_cache_bytes)}, but only "
            f"{_mib(machine.free_bytes)} of memory are free: set ML_SERVICE_SLOTS, ML_SERVICE_CONTEXT or "
            "ML_SERVICE_PREFIX_CACHE_MIB lower"
        )
    waiting = _WAITING_PER_SLOT * slots if wishes.max_waiting is None else wishes.max_waiting
    return Capacity(slots, context, waiting, prefix_cache_bytes)


def _mib(size_bytes: int) -> str:
    return f"{max(size_bytes, 0) / _MIB:,.0f} MiB"
