"""Weights in 8 and 4 bit: how far they are off, what they expand to, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lib.processor import saturates_8_bit_products
from lib.quantization import GROUP_SIZE, dequantize_rows, quantize_nibbles, quantize_rows


def weights(outputs: int = 300, inputs: int = 128) -> np.ndarray:  # type: ignore[type-arg]
    """Outputs and groups of very different sizes, and one output of zeros."""
    source = np.random.default_rng(0)
    sizes = source.uniform(0.2, 1, (outputs, inputs // GROUP_SIZE, 1))
    weight = (source.normal(size=(outputs, inputs // GROUP_SIZE, GROUP_SIZE)) * sizes).reshape(outputs, inputs)
    weight *= source.uniform(0.01, 3, (outputs, 1))
    weight[3] = 0
    return weight.astype(np.float32)


def test_8_bit_weights_come_back_within_half_a_step() -> None:
    weight = weights()
    codes, scales = quantize_rows(weight)
    back = dequantize_rows(codes, scales)
    assert (np.abs(back - weight) <= scales[:, None] * 0.5001).all()
    assert (quantize_rows(back)[0] == codes).all()
    assert codes.min() >= -127
    assert (back[3] == 0).all()


def test_4_bit_weights_expand_to_8_bit_codes_exactly() -> None:
    quantized = quantize_nibbles(weights())
    assert (quantized.nibbles_NK.min(), quantized.nibbles_NK.max()) == (-8, 7)
    assert quantized.factors_NG.min() >= 1
    wide = quantized.nibbles_NK.astype(int) * np.repeat(quantized.factors_NG, GROUP_SIZE, axis=1)
    assert (wide == quantized.expanded()).all()
    assert np.abs(wide).max() <= 127


def test_4_bit_weights_lose_less_than_plain_rounding_with_exact_scales_of_groups() -> None:
    weight = weights()
    quantized = quantize_nibbles(weight)
    ours = np.square(dequantize_rows(quantized.expanded(), quantized.scales_N) - weight).mean()
    groups = weight.reshape(len(weight), -1, GROUP_SIZE)
    steps = np.abs(groups).max(axis=2, keepdims=True) / 7
    plain = np.square(np.rint(groups / np.where(steps == 0, 1, steps)) * steps - groups).mean()
    assert ours < plain


def test_what_cannot_be_quantised_is_refused_in_words() -> None:
    for quantize in (quantize_rows, quantize_nibbles):
        with pytest.raises(ValueError, match="not finite"):
            quantize(np.full((1, 64), np.nan, np.float32))
    with pytest.raises(ValueError, match="multiple of the group size"):
        quantize_nibbles(np.zeros((1, 63), np.float32))


def test_a_processor_without_vnni_is_known_to_saturate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    facts = tmp_path / "cpuinfo"
    assert saturates_8_bit_products(facts)
    facts.write_text("flags: fpu avx2")
    assert saturates_8_bit_products(facts)
    facts.write_text("flags: fpu avx2 avx512_vnni")
    assert not saturates_8_bit_products(facts)
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert not saturates_8_bit_products(tmp_path / "nothing")
