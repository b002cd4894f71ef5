"""Optimizers: fused AdamW, and Muon for the hidden matrices with AdamW for the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def adamw(model: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW with decay on matrices only (norm weights have nothing to gain from it)."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95), fused=True)


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) for 2-D hidden weights, AdamW for embeddings, head and vectors, as one optimizer.

    Both keep their own groups, so that a learning-rate schedule scales each from its own peak.
    """

    def __init__(self, model: nn.Module, learning_rate: float, muon_learning_rate: float, weight_decay: float) -> None:
        hidden, rest = _split_parameters(model)
        self._muon = torch.optim.Muon(hidden, lr=muon_learning_rate, weight_decay=weight_decay, momentum=0.95)
        self._adamw = torch.optim.AdamW(rest, lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
        super().__init__([*hidden, *rest], {"lr": learning_rate})
        self.param_groups = [*self._muon.param_groups, *self._adamw.param_groups]

    @property
    def parts(self) -> tuple[torch.optim.Optimizer, ...]:
        """Muon, and AdamW."""
        return self._muon, self._adamw

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of both."""
        loss = closure() if closure is not None else None
        self._muon.step()  # type: ignore[no-untyped-call]
        self._adamw.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Both states, by name."""
        return {"muon": self._muon.state_dict(), "adamw": self._adamw.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore both; their groups are replaced, so the shared list is made again."""
        self._muon.load_state_dict(state_dict["muon"])
        self._adamw.load_state_dict(state_dict["adamw"])
        self.param_groups = [*self._muon.param_groups, *self._adamw.param_groups]


def parts_of(optimizer: Any) -> tuple[torch.optim.Optimizer, ...]:
    """The plain optimizers that one is made of, also where accelerate has wrapped it."""
    inner = getattr(optimizer, "optimizer", optimizer)
    return inner.parts if isinstance(inner, MuonWithAdamW) else (inner,)


def _split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    outer = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    head = getattr(model, "lm_head", None)
    if isinstance(head, nn.Module):
        outer |= {id(p) for p in head.parameters()}
    parameters = [p for p in model.parameters() if p.requires_grad]
    hidden = [p for p in parameters if p.ndim == 2 and id(p) not in outer]
    return hidden, [p for p in parameters if p.ndim != 2 or id(p) in outer]
