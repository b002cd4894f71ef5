"""Packing: a document in a window is read as if it stood alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib.modeling import LanguageModel, create_model
from lib.packed_windows import document_positions, within_documents
from lib.throughput import flops_per_token, matmul_parameters

END = 0
VOCABULARY = 40


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60))
def test_places_begin_anew_behind_each_end(ids: list[int]) -> None:
    expected, place = [], 0
    for token in ids:
        expected.append(place)
        place = 0 if token == END else place + 1
    assert document_positions(np.array(ids), END).tolist() == expected


@given(st.lists(st.lists(st.integers(0, 3), min_size=9, max_size=9), min_size=1, max_size=3))
def test_attention_goes_back_and_over_no_border(rows: list[list[int]]) -> None:
    positions = np.stack([document_positions(np.array(row), END) for row in rows])
    for row, may_see in zip(rows, within_documents(torch.from_numpy(positions))[:, 0].tolist(), strict=True):
        for query in range(len(row)):
            assert may_see[query] == [key <= query and END not in row[key:query] for key in range(len(row))]


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    torch.manual_seed(0)
    return create_model("nano", VOCABULARY, 64, END).eval()


def loss_of(model: LanguageModel, ids: list[int], reduction: str = "sum") -> torch.Tensor:
    tokens = torch.tensor([ids])
    positions = torch.from_numpy(document_positions(np.array(ids[:-1]), END))[None]
    return model(input_ids=tokens[:, :-1], next_tokens=tokens[:, 1:], position_ids=positions, reduction=reduction)


def test_packed_equals_one_document_at_a_time_forward_and_backward(model: LanguageModel) -> None:
    source = np.random.default_rng(0)
    documents = [[*source.integers(1, VOCABULARY, size).tolist(), END] for size in (9, 1, 20, 5)]
    # The end of a document predicts how the next one begins.
    begins = [document[:1] for document in documents[1:]] + [[]]
    alone = [loss_of(model, document + begin) for document, begin in zip(documents, begins, strict=True)]
    together = loss_of(model, [token for document in documents for token in document])
    assert together.item() == pytest.approx(sum(loss.item() for loss in alone), rel=1e-5)
    parameters = list(model.parameters())
    ours, plain = torch.autograd.grad(together, parameters), torch.autograd.grad(sum(alone), parameters)
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


def test_without_places_a_window_is_one_document(model: LanguageModel) -> None:
    ids = [3, 4, END, 5, 6, END]
    tokens = torch.tensor([ids])
    as_one = model(input_ids=tokens[:, :-1], next_tokens=tokens[:, 1:], reduction="sum")
    assert loss_of(model, ids).item() != pytest.approx(as_one.item(), rel=1e-4)


def test_the_loss_is_that_of_the_plain_network(model: LanguageModel) -> None:
    tokens = torch.from_numpy(np.random.default_rng(1).integers(0, VOCABULARY, (3, 33)))
    logits = model(input_ids=tokens[:, :-1]).logits
    plain = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    ours = model(input_ids=tokens[:, :-1], next_tokens=tokens[:, 1:])
    assert ours.item() == pytest.approx(plain.item(), rel=1e-6)
    slopes = [torch.autograd.grad(loss, model.lm_head.weight, retain_graph=True)[0] for loss in (plain, ours)]
    torch.testing.assert_close(slopes[1], slopes[0], atol=1e-6, rtol=1e-4)


def test_operations_are_counted_as_palm_does() -> None:
    config = create_model("nano", 8192, 512, END).config
    model = create_model("nano", 8192, 512, END)
    attention, mlp = 192 * 64 * (3 + 3 + 3 + 3), 3 * 192 * 512
    weights = 4 * (attention + mlp) + 8192 * 192
    assert matmul_parameters(model, config) == weights
    assert flops_per_token(config, weights, 512) == 6 * weights + 12 * 4 * 192 * 512 / 2
