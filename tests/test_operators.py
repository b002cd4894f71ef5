"""The compiled operators against NumPy, each alone in a graph; and what becomes of a bundle's graph with them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from lib.packing import interleaved, pack_columns
from ml_service.common.bundle import GRAPH_FILE, load_architecture
from ml_service.common.errors import BundleRefused
from ml_service.inference.fused_graph import CACHE_BLOCK, DOMAIN, FusedGraph, cache_block_bytes
from ml_service.inference.operators import Arithmetic, choose_arithmetic, compiled_operators, nats_by

Array = npt.NDArray[Any]
LIBRARY = compiled_operators()
needs_operators = pytest.mark.skipif(LIBRARY is None, reason="no compiled operators here")


def run_alone(operator: str, inputs: list[Array | None], **attributes: Any) -> Array:
    """One node in a session of its own; inputs keep their memory, so that what is written into them is seen."""
    names = ["" if value is None else f"i{index}" for index, value in enumerate(inputs)]
    there = [(name, value) for name, value in zip(names, inputs, strict=True) if value is not None]
    infos = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in there
    ]
    node = helper.make_node(operator, names, ["y"], domain=DOMAIN, **attributes)
    output = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["rows", "columns"])
    graph = helper.make_graph([node], operator, infos, [output])
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid(DOMAIN, 1)]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 2, 3
    options.register_custom_ops_library(str(LIBRARY))
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for name, value in there:
        binding.bind_input(name, "cpu", 0, value.dtype.type, value.shape, value.ctypes.data)
    binding.bind_output("y")
    session.run_with_iobinding(binding)
    return binding.copy_outputs_to_cpu()[0]


@needs_operators
@given(st.integers(1, 40), st.sampled_from([1, 15, 16, 17, 512, 2048, 2049, 9000]), st.integers(0, 99))
def test_likelihoods_are_those_of_numpy(rows: int, width: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    logits = random.normal(0, random.choice([0.1, 5, 300]), (rows, width)).astype(np.float32)
    targets, bests = random.integers(0, width, rows).tolist(), logits.argmax(axis=1).tolist()
    plain = nats_by(None)(logits.astype(np.float32, copy=True), targets, bests)
    before = logits.copy()
    np.testing.assert_allclose(nats_by(LIBRARY)(logits, targets, bests), plain, rtol=2e-6, atol=2e-6)
    np.testing.assert_array_equal(logits, before)


def rounded(values: Array) -> tuple[Array, Array]:
    """Codes of each row by its largest magnitude, and their scales, in fp32 as the operators do it."""
    largest = np.abs(values).max(axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        factors = np.where(largest > 0, np.float32(127) / largest, np.float32(0))
    return np.rint(values * factors).astype(np.int32), (largest / np.float32(127)).astype(np.float64)


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


@needs_operators
@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 40), inputs=st.integers(1, 200), outputs=st.integers(1, 150), seed=st.integers(0, 9),
    norm=st.booleans(), bias=st.booleans(), end=st.sampled_from(["", "residual", "gated"]), zero_row=st.booleans(),
    announces=st.booleans(),
)  # fmt: skip
def test_a_row_product_is_what_numpy_makes_of_the_same_codes(
    rows: int, inputs: int, outputs: int, seed: int, norm: bool, bias: bool, end: str, zero_row: bool, announces: bool
) -> None:
    random = np.random.default_rng(seed)
    columns = 2 * outputs if end == "gated" else outputs
    x = random.normal(size=(rows, inputs)).astype(np.float32)
    if zero_row:
        x[rows // 2] = 0
    codes = random.integers(-127, 128, (inputs, columns)).astype(np.int8)
    scales = random.uniform(0.001, 0.01, columns).astype(np.float32)
    biases = random.normal(size=columns).astype(np.float32) if bias else None
    weight = random.uniform(0.5, 2, inputs).astype(np.float32) if norm else None
    residual = random.normal(size=(rows, outputs)).astype(np.float32) if end == "residual" else None

    x_codes, x_scales = rounded(x if weight is None else x * weight)
    if norm:
        x_scales = x_scales / np.sqrt((x.astype(np.float64) ** 2).mean(axis=1, keepdims=True) + 1e-5)
    expected = (x_codes @ codes.astype(np.int32)) * (x_scales * scales) + (0 if biases is None else biases)
    if end == "gated":
        expected = silu(expected[:, :outputs]) * expected[:, outputs:]
    if residual is not None:
        expected = expected + residual

    if end == "gated":
        order = interleaved(columns)
        codes, scales = codes[:, order] * (order >= 0).astype(np.int8), scales[order]
        biases = None if biases is None else biases[order]
    packed = pack_columns(codes, scales, biases)
    following = pack_columns(codes[:, ::2], scales[::2]).codes if announces else None
    ours = run_alone(
        "RowProduct", [x, *packed, weight, residual, following],
        width=outputs, gated=int(end == "gated"), epsilon=1e-5, threads=2,
    )  # fmt: skip
    np.testing.assert_allclose(ours, expected, rtol=2e-5, atol=2e-5 * np.abs(expected).max())


def rotate(x: Array, cosines: Array, sines: Array) -> Array:
    half = cosines.shape[-1]
    a, b = x[..., :half], x[..., half : 2 * half]
    return np.concatenate([a * cosines - b * sines, b * cosines + a * sines, x[..., 2 * half :]], axis=-1)


@needs_operators
@settings(max_examples=60, deadline=None)
@given(
    head=st.sampled_from([16, 32, 48, 64, 80, 128, 256]), key_heads=st.integers(1, 3), shared=st.integers(1, 9),
    pasts=st.lists(st.integers(0, 90), min_size=1, max_size=4),
    news=st.lists(st.integers(0, 40), min_size=4, max_size=4),
    window=st.sampled_from([0, 1, 7, 40]), cap=st.sampled_from([0.0, 5.0]), packed=st.booleans(),
    turned=st.sampled_from([1.0, 0.5]), seed=st.integers(0, 9),
)  # fmt: skip
def test_attention_over_the_cache_is_what_numpy_makes_of_the_same_codes(
    head: int, key_heads: int, shared: int, pasts: list[int], news: list[int], window: int, cap: float, packed: bool,
    turned: float, seed: int,
) -> None:  # fmt: skip
    random = np.random.default_rng(seed)
    batch, heads, half = len(pasts), key_heads * shared, int(head * turned) // 2
    lengths = [past + new for past, new in zip(pasts, news, strict=False)]
    blocks = max(lengths) // CACHE_BLOCK + 1
    cache = np.zeros((batch, key_heads, blocks, cache_block_bytes(head)), np.uint8)
    angles = np.outer(np.arange(200), random.uniform(0.01, 1, half)).astype(np.float32)
    cosines, sines = np.cos(angles), np.sin(angles)
    widths = np.array([heads, key_heads, key_heads]) * head
    values = [[random.normal(size=(length, width)).astype(np.float32) for width in widths] for length in lengths]

    def step(starts: list[int], stops: list[int]) -> Array:
        """All rows' tokens from their start to their stop, in one call."""
        counts = np.subtract(stops, starts).astype(np.int32)
        flat = [np.concatenate([row[part][a:b] for row, a, b in zip(values, starts, stops, strict=True)])
                for part in range(3)]  # fmt: skip
        grid = np.zeros((batch, max(counts.max(), 1)), np.int64)
        for row, first in enumerate(np.cumsum(counts) - counts):
            grid[row, : counts[row]] = np.arange(first, first + counts[row])
        tensors = [np.concatenate(flat, axis=1), None, None] if packed else flat
        last = np.array(stops, np.int32) - 1
        return run_alone(
            "CachedAttention", [*tensors, grid, counts, last, cosines, sines, cache],
            heads=heads, key_heads=key_heads, scale=0.2, cap=cap, window=window,
        )  # fmt: skip

    if sum(pasts):
        step([0] * batch, pasts)
    if not sum(lengths) - sum(pasts):
        return
    ours = step(pasts, lengths)

    expected = []
    for row, length in enumerate(lengths):
        turns = cosines[:length, None], sines[:length, None]
        query, key, value = (part.reshape(length, part.shape[1] // head, head) for part in values[row])
        (q, q_scale), (k, k_scale) = rounded(rotate(query, *turns)), rounded(rotate(key, *turns))
        v, v_scale = rounded(value)
        for position in range(pasts[row], length):
            first = max(position - window + 1, 0) if window else 0
            seen = slice(first, position + 1)
            mixed = []
            for index in range(heads):
                h = index // shared
                scores = (k[seen, h] @ q[position, index]) * (k_scale[seen, h, 0] * q_scale[position, index, 0] * 0.2)
                if cap:
                    scores = cap * np.tanh(scores / cap)
                weights = np.exp(scores - scores.max())
                mixed.append((weights / weights.sum()) @ (v[seen, h] * v_scale[seen, h]))
            expected.append(np.concatenate(mixed))
    # A rotated value may be one rounding away from the edge of a code, on which the two sides can differ.
    difference = np.abs(ours - np.array(expected))
    assert np.median(difference) < 1e-5
    assert difference.max() < 0.05


@needs_operators
def test_a_llama_like_layer_becomes_five_nodes(bundle: Path) -> None:
    architecture = load_architecture(bundle)
    model = onnx.load(bundle / GRAPH_FILE)
    fused = FusedGraph(model, 1, fuse_attention=True).model.graph
    ours = [node.op_type for node in fused.node if node.domain == DOMAIN]
    assert ours.count("CachedAttention") == architecture.layers
    assert ours.count("RowProduct") == 4 * architecture.layers + 1
    assert len(fused.node) < len(model.graph.node) / 2
    products = [node for node in fused.node if node.op_type == "RowProduct"]
    for node, following in itertools.pairwise(products):
        assert node.input[7] == following.input[1], "each asks for the next one's matrix"
    assert len(products[-1].input) == 7


def test_what_cannot_be_had_is_refused_in_words(bundle: Path) -> None:
    architecture, library = load_architecture(bundle), Path("library.so")
    assert choose_arithmetic(architecture, "int8", None, library) == Arithmetic(library, "int8")
    assert choose_arithmetic(architecture, "int4", "fp32", library) == Arithmetic(library, "fp32")
    assert choose_arithmetic(architecture, "int8", None, None) == Arithmetic(None, "fp32")
    assert choose_arithmetic(architecture, "fp32", None, library) == Arithmetic(None, "fp32")
    assert choose_arithmetic(architecture, "fp32", "int8", library) == Arithmetic(library, "int8")
    with pytest.raises(BundleRefused, match="CACHE_PRECISION=int8 cannot be had without the compiled operators"):
        choose_arithmetic(architecture, "int8", "int8", None)
    odd = architecture.model_copy(update={"head_size": 40})
    assert choose_arithmetic(odd, "int8", None, library) == Arithmetic(library, "fp32")
    with pytest.raises(BundleRefused, match="heads whose size is a multiple of 16 and at most 256; these have 40"):
        choose_arithmetic(odd, "int8", "int8", library)
