"""Where the pipeline's stages put their files, relative to the directory over which they run."""

from __future__ import annotations

DATA, RUN, BUNDLE = "data", "run", "bundle"
START = "start"
"""The weights of a bundle with which a run begins, as a checkpoint."""
TRAINING_METRICS, SCORES, SAMPLES = "training.json", "scores.json", "samples.md"
BASELINE_SCORES = "baseline_scores.json"
"""Of the bundle that the new one is compared with, on the same documents."""
TRAINING_CURVE, VALIDATION_CURVE, CURVE_PICTURE = "training.csv", "validation.csv", "curve.png"
