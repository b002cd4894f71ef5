"""Completions to show: real output of a bundle, as Markdown."""

from __future__ import annotations

import argparse
import io
from pathlib import Path

from ml_service.common.settings import Settings
from ml_service.common.types import GenerationParameters
from ml_service.pipeline.generate import write_continuation

SAMPLED = {"temperature": 0.5, "top_p": 0.95, "repetition_penalty": 1.15}
PROMPTS = (
    ("def read_lines(path):", GenerationParameters(max_new_tokens=64, seed=2, **SAMPLED)),
    ("    def __init__(self, name, value=None):", GenerationParameters(max_new_tokens=72, seed=3, **SAMPLED)),
    ("import os\nimport sys\n", GenerationParameters(max_new_tokens=72, seed=1, **SAMPLED)),
    ("def read_lines(path):", GenerationParameters(max_new_tokens=32)),
)


def main() -> None:
    """Print prompt and continuation of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="directory of the bundle")
    arguments = parser.parse_args()
    for prompt, parameters in PROMPTS:
        out = io.StringIO()
        write_continuation(prompt, parameters, Settings(bundle=arguments.bundle, slots=1), out)
        given = parameters.model_dump(exclude_defaults=True)
        print(f"`{given}`:\n\n```python\n{out.getvalue().rstrip()}\n```\n")


if __name__ == "__main__":
    main()
