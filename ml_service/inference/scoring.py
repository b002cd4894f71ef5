"""The likelihood of a text under the model that serves, in the very session that serves it."""

from __future__ import annotations

from collections.abc import Sequence

from lib.scores import Score, Window, nats_of, rolling_windows
from ml_service.inference.session import Row, Session


def score_text(session: Session, token_ids: Sequence[int], size_bytes: int) -> Score:
    """Rolling log-likelihood: one prefix token, disjoint windows of the model's context, each token scored once."""
    architecture = session.architecture
    windows = rolling_windows(token_ids, architecture.end_of_text_id, architecture.context_length)
    nats = sum(_score_window(session, window) for window in windows)
    return Score(nats, len(token_ids), size_bytes)


def _score_window(session: Session, window: Window) -> float:
    nats = 0.0
    for start in range(0, len(window.inputs), session.chunk):
        piece = slice(start, start + session.chunk)
        logits_TV = session.run([Row(0, start, window.inputs[piece], wants_all=True)])
        nats += float(nats_of(logits_TV, window.targets[piece]).sum())
    return nats
