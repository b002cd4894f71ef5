"""What a machine can hold: defaults from cores and memory, refusals in words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.memory import free_bytes
from ml_service.common.errors import BundleRefused
from ml_service.inference.capacity import Capacity, Machine, Wishes, plan_capacity

GIB = 2**30
NOTHING_SET = Wishes()


def plan(wishes: Wishes = NOTHING_SET, cores: int = 2, free: int = 16 * GIB, **changes: int) -> Capacity:
    facts = {"context_length": 1024, "spare": 256, "token_bytes": 4096, "model_bytes": 10**7} | changes
    return plan_capacity(wishes, Machine(cores, free), **facts)


def test_the_defaults_follow_cores_and_memory() -> None:
    assert plan() == Capacity(slots=32, context=1024, max_waiting=128, prefix_cache_bytes=plan().prefix_cache_bytes)
    assert plan(cores=1).slots == 16
    assert plan(cores=64).slots == 64
    assert plan(free=GIB // 8).slots == (GIB // 8 - 10**7) // 4 // (1280 * 4096)
    assert plan(token_bytes=50_000).slots == 32
    assert plan(token_bytes=500_000).slots < 8
    assert 0 < plan().prefix_cache_bytes <= GIB


def test_what_was_set_is_kept() -> None:
    wishes = Wishes(slots=3, context=100, max_waiting=0, prefix_cache_mib=5)
    assert plan(wishes) == Capacity(3, 100, 0, 5 * 2**20)
    assert plan(Wishes(prefix_cache_mib=0)).prefix_cache_bytes == 0


def test_what_does_not_fit_is_refused_in_words() -> None:
    with pytest.raises(
        BundleRefused, match=r"it does not fit: .* 256 slots of 1,024 tokens .* are free: set ML_SERVIC"
    ):
        plan(Wishes(slots=256), free=GIB)
    with pytest.raises(BundleRefused, match="prefix cache 40,000 MiB"):
        plan(Wishes(prefix_cache_mib=40_000))
    with pytest.raises(BundleRefused, match="it does not fit"):
        plan(model_bytes=17 * GIB)
    with pytest.raises(BundleRefused, match="a context of 2,000 tokens is more than the 1,024"):
        plan(Wishes(context=2000))


@given(cores=st.integers(1, 128), free=st.integers(2**28, 2**40), token_bytes=st.integers(0, 10**6))
def test_a_plan_by_default_always_fits(cores: int, free: int, token_bytes: int) -> None:
    try:
        made = plan(cores=cores, free=free, token_bytes=token_bytes)
    except BundleRefused:
        assert 1280 * token_bytes > 0.9 * (free - 10**7), "one slot fits, so something does"
        return
    assert made.slots * 1280 * token_bytes + made.prefix_cache_bytes <= free - 10**7


def test_free_memory_is_what_the_system_says() -> None:
    assert 2**24 < free_bytes() < 2**50
