"""Learning-rate shapes over the progress of a run: pure functions of a share between 0 and 1."""

from __future__ import annotations


def warmup_stable_decay(
    progress: float, warmup_share: float = 0.01, decay_share: float = 0.4, final_share: float = 0.02
) -> float:
    """The factor on the peak learning rate: linear warm-up, a plateau, linear decay to `final_share` of the peak.

    `progress` is the share of the budget that is spent, whichever unit the budget has: seconds, tokens or steps.
    Values outside [0, 1] are taken as the nearer end. (Warmup-stable-decay: Hu et al. 2024, MiniCPM.)
    """
    progress = min(max(progress, 0.0), 1.0)
    if progress < warmup_share:
        return max(progress / warmup_share, 1e-3)
    decay_start = 1.0 - decay_share
    if progress <= decay_start or decay_share <= 0:
        return 1.0
    return 1.0 - (1.0 - final_share) * (progress - decay_start) / decay_share
