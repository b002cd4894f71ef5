"""The stack of containers: image sizes, seconds to start, stop and scale; what nginx and a training beside cost."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import httpx

from ml_service.common.settings import PROJECT
from tests.docker.stack import Stack, docker, until

IMAGES = ("ml-service", "ml-service-page")
PROMPT = "def read_lines(path):\n"
WISH = {"start_from": "scratch", "replay": 0.0, "hyperparameters": {"preset": "mini", "window": 256}}


def main() -> None:
    """Print the figures, and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--output", type=Path, default=PROJECT / "build" / "compose.json")
    arguments = parser.parse_args()
    stack = Stack("ml-service-figures")
    figures: dict[str, Any] = {"build_s": stack.build()}
    for image in IMAGES:
        figures[f"{image}_mb"] = int(docker("image", "inspect", "--format", "{{.Size}}", f"{image}:tests")) / 1e6
    with stack.gone_afterwards():
        figures["first_up_s"] = stack.up()
        figures["down_s"] = stack.down()
        figures["up_again_s"] = stack.up()
        figures |= _answers(stack, arguments.requests)
        figures["scale_to_three_s"] = stack.up("--scale", "backend=3")
    for name, value in figures.items():
        print(f"{name:<40}{value:>10,.2f}")
    arguments.output.parent.mkdir(exist_ok=True)
    arguments.output.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def _answers(stack: Stack, requests: int) -> dict[str, float]:
    """Latencies: straight from the backend, through nginx, and there while a training runs at full speed."""
    found = {f"direct_{name}": value for name, value in _latencies(_address(stack), requests).items()}
    found |= {f"nginx_{name}": value for name, value in _latencies(stack.url, requests).items()}
    with stack.client() as client:
        words = [f"def name_{number}(): return {number} * {number + 1}\n" * 40 for number in range(400)]
        client.post("/add_data", json={"texts": words, "name": "figures"}).raise_for_status()
        asked = client.post("/retrain", json=WISH | {"budget": {"seconds": 60 + requests / 10}}).raise_for_status()
        number = asked.json()["experiment_id"]
        until(lambda: client.get(f"/metrics/{number}").json()["progress"].get("step", 0) > 5, "a training", 300)
        found |= {f"beside_training_{name}": value for name, value in _latencies(stack.url, requests).items()}
        client.post(f"/experiments/{number}/cancel").raise_for_status()
    return found


def _latencies(url: str, requests: int) -> dict[str, float]:
    with httpx.Client(base_url=url, timeout=60) as client:
        taken = []
        for number in range(requests + 20):
            started = time.perf_counter()
            body = {"text": f"{PROMPT}# {number}\n", "max_new_tokens": 16}
            client.post("/forward", json=body).raise_for_status()
            taken.append(1000 * (time.perf_counter() - started))
    quantiles = statistics.quantiles(taken[20:], n=100)
    return {"p50_ms": quantiles[49], "p99_ms": quantiles[98]}


def _address(stack: Stack) -> str:
    (networks,) = (each["NetworkSettings"]["Networks"] for each in stack.inspect("backend"))
    return f"http://{next(iter(networks.values()))['IPAddress']}:8000"


if __name__ == "__main__":
    main()
