"""The whole path in under five minutes: read, train `nano`, export, serve, complete."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.server import running_server

PROMPT = "import os\n\n\ndef read_lines(path):"


def main() -> None:
    """Run the verbs that a user would type, and show what comes out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=180, help="training budget")
    parser.add_argument("--store", type=Path, help="where to keep the results; a temporary folder by default")
    arguments = parser.parse_args()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        store = arguments.store or Path(temporary)
        data, run, bundle = store / "corpora/demo", store / "runs/demo", store / "bundles/demo"
        verb("corpus", "build", str(data))
        verb(
            "train", str(run), "--data", str(data), "--preset", "nano", "--seconds", str(arguments.seconds),
            "--set", "batch_size=8", "--set", "evaluations=6",
        )  # fmt: skip
        verb("export", str(run), str(bundle))
        show_completion(bundle)
    print(f"\nFrom text to an answer in {time.perf_counter() - started:.0f} s.")


def verb(*words: str) -> None:
    """Run `ml-service` with these words, as typed."""
    print(f"\n$ ml-service {shlex.join(words)}", flush=True)
    subprocess.run([sys.executable, "-m", "ml_service.cli", *words], check=True)


def show_completion(bundle: Path) -> None:
    """Serve the bundle and ask it once."""
    print(f"\n$ ml-service serve --bundle {bundle} &", flush=True)
    with running_server(bundle, shows_log=True) as server:
        body = server.post_first({"text": PROMPT, "max_new_tokens": 64, "stop": ["\n\n\n"]}).json()
    print(f"\nPOST /forward answered at {body['timings']['tokens_per_second']:.0f} tokens a second:\n")
    print(PROMPT + body["prediction"])


if __name__ == "__main__":
    main()
