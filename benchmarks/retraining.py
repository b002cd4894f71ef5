"""The loop, closed: add text, retrain the model that answers, judge it, deploy it; what is learned, what is lost."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.server import RunningServer, running_server

FINISHED = ("succeeded", "failed", "cancelled")
GAIN_GOAL, LOSS_GOAL = 0.25, 0.02


def main() -> None:
    """Print the table; exit with 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", type=Path, help="a file to learn, such as tiny Shakespeare's input.txt")
    parser.add_argument("--seconds", type=float, default=300.0, help="budget of the training (300)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one retraining each, from the shipped model")
    arguments = parser.parse_args()
    missed = 0
    print("| seed | held out | bytes | before | after | change | deployed |\n|---|---|---|---|---|---|---|")
    for seed in arguments.seeds:
        with tempfile.TemporaryDirectory() as store, running_server(None, store=Path(store)) as server:
            missed += _one(server, arguments.text, arguments.seconds, seed)
    raise SystemExit(1 if missed else 0)


def _one(server: RunningServer, text: Path, seconds: float, seed: int) -> int:
    first = server.post_first({"text": "a", "max_new_tokens": 1}).json()["model"]
    with text.open("rb") as file:
        added = server.client.post("/add_data", files={"files": (text.name, file)}, data={"name": "new-text"})
    added.raise_for_status()
    wish = {"budget": {"seconds": seconds}, "deploy_if": {}, "seed": seed}
    started = time.monotonic()
    experiment_id = server.client.post("/retrain", json=wish).raise_for_status().json()["experiment_id"]
    account = follow(server, experiment_id)
    if account["state"] != "succeeded":
        raise SystemExit(f"experiment {experiment_id} {account['state']}: {account['error']}")
    deployed = _answers_with(server, experiment_id)
    scores, baseline = account["metrics"]["scores"], account["metrics"]["baseline"]
    missed = 0
    for source in scores:
        before, after = baseline[source]["bits_per_byte"], scores[source]["bits_per_byte"]
        change = after / before - 1
        missed += change > -GAIN_GOAL if source == "new" else change > LOSS_GOAL
        size = f"{scores[source]['bytes']:,}"
        change_told = f"{before:.4f} | {after:.4f} | {change:+.1%}"
        print(f"| {seed} | {source} | {size} | {change_told} | {'yes' if deployed else 'no'} |")
    tokens = f"{account['metrics']['tokens']:,} tokens in {account['metrics']['steps']:,} updates"
    seconds_all = time.monotonic() - started
    print(f"\nfrom experiment {first['experiment_id']} ({first['experiment']}): {tokens}, all in {seconds_all:.0f} s")
    return missed + (not deployed)


def follow(server: RunningServer, experiment_id: int, until: tuple[str, ...] = FINISHED) -> dict[str, Any]:
    """Watch an experiment until it is in one of these states; its account then."""
    with tqdm(
        total=100.0, desc=f"experiment {experiment_id}", bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}"
    ) as bar:
        while True:
            account: dict[str, Any] = server.client.get(f"/metrics/{experiment_id}").raise_for_status().json()
            bar.update(100.0 * account["progress"].get("share", 0.0) - bar.n)
            if account["state"] in until:
                return account
            time.sleep(0.5)


def _answers_with(server: RunningServer, experiment_id: int, patience_s: float = 60.0) -> bool:
    """Whether the model answers by itself soon: the gate lets it through, and the server takes it over."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        answer = server.client.post("/forward", json={"text": "a", "max_new_tokens": 1}).json()
        if answer["model"]["experiment_id"] == experiment_id:
            return True
        time.sleep(0.5)
    return False


if __name__ == "__main__":
    main()
