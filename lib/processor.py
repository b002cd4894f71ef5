"""What the processor can do that decides which arithmetic is exact on it."""

from __future__ import annotations

import platform
from pathlib import Path

CPU_FACTS = Path("/proc/cpuinfo")


def saturates_8_bit_products(facts: Path = CPU_FACTS) -> bool:
    """Whether it may add two products of unsigned and signed 8-bit numbers in 16 bit, which can overflow.

    x86 without VNNI does (`vpmaddubsw`). Where nothing tells, it is taken to.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        flags = facts.read_text(encoding="utf-8", errors="ignore")
    except OSError:
        return True
    return "avx512_vnni" not in flags and "avx_vnni" not in flags
