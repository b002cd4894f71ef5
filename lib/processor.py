"""What the processor can do that decides which arithmetic is exact on it, and which is fast."""

from __future__ import annotations

import platform
from pathlib import Path

CPU_FACTS = Path("/proc/cpuinfo")


def processor_flags(facts: Path = CPU_FACTS) -> frozenset[str]:
    """The names of an x86 processor's abilities as Linux gives them; empty where nothing tells."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return frozenset()
    try:
        lines = facts.read_text(encoding="utf-8", errors="ignore").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith("flags")), "").partition(":")[2].split())


def saturates_8_bit_products(facts: Path = CPU_FACTS) -> bool:
    """Whether it may add two products of unsigned and signed 8-bit numbers in 16 bit, which can overflow.

    x86 without VNNI does (`vpmaddubsw`). Where nothing tells, it is taken to.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    return processor_flags(facts).isdisjoint({"avx512_vnni", "avx_vnni"})
