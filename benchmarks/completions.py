"""The README's completions: real output of a bundle, as Markdown."""

from __future__ import annotations

import argparse
import io
from pathlib import Path

from ml_service.common.settings import Settings
from ml_service.common.types import GenerationParameters
from ml_service.pipeline.generate import write_continuation

PROMPTS = (
    ("def read_lines(path):", GenerationParameters(max_new_tokens=64)),
    ("    def __init__(self, name, value=None):", GenerationParameters(max_new_tokens=64)),
    ("import os\n", GenerationParameters(max_new_tokens=96, temperature=0.7, top_p=0.95, seed=7)),
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
