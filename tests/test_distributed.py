"""Two processes learn what one does: DDP and FSDP2 over gloo; resumed with another number; a lost rank is told."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from pydantic import ValidationError
from safetensors.numpy import load_file

from lib.strategy import Strategy
from ml_service.common.settings import PROJECT
from ml_service.training.comparison import PLOT_FILE, TABLE_FILE, theory_bytes
from ml_service.training.progress import ProgressLog
from ml_service.training.run_files import MODEL_DIRECTORY, PROGRESS_FILE, last_checkpoint
from train_distributed import main, parse_args, plan_of

DEEPSPEED = PROJECT / "build/deepspeed"
COMMON = ["--window", "64", "--eval-steps", "8", "--save-steps", "8", "--learning-rate", "3e-3", "--no-generation"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def command(processes: int, mode: str, dataset: Path, output: Path, *words: str) -> list[str]:
    own = ["--mode", mode, "--batch-size", str(8 // processes), "--data-dir", str(dataset), "--output-dir", str(output)]
    script = [str(PROJECT / "train_distributed.py"), *own, *COMMON, *words]
    if mode == "baseline":
        return [sys.executable, *script]
    port = f"--master-port={free_port()}"
    return [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", port, *script]


def run(processes: int, mode: str, dataset: Path, output: Path, *words: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(processes, mode, dataset, output, *words), cwd=PROJECT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done


def losses(directory: Path) -> dict[int, float]:
    """Validation losses by step: what a training loss is averaged over depends on where a run was stopped."""
    points = ProgressLog(directory / PROGRESS_FILE).points()
    return {point["step"]: point["validation_code_loss"] for point in points if "validation_code_loss" in point}


def weights(directory: Path) -> dict[str, np.ndarray]:
    return load_file(directory / MODEL_DIRECTORY / "model.safetensors")


def assert_alike(directory: Path, plain: Path) -> None:
    assert losses(directory) == pytest.approx(losses(plain), rel=2e-4)
    expected = weights(plain)
    for name, weight in weights(directory).items():
        np.testing.assert_allclose(weight, expected[name], atol=2e-3, err_msg=name)


@pytest.fixture(scope="module")
def baseline(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("distributed")
    run(1, "baseline", dataset, output, "--max-steps", "16", "--run-name", "one")
    return output / "one"


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("ddp", []),
        ("fsdp", []),
        pytest.param(
            "fsdp", ["--fsdp-sharding-strategy", "SHARD_GRAD_OP", "--grad-accum", "1"], marks=pytest.mark.slow
        ),
        pytest.param("fsdp", ["--fsdp-sharding-strategy", "HYBRID_SHARD"], marks=pytest.mark.slow),
        pytest.param("fsdp", ["--fsdp-cpu-offload", "--fsdp-activation-checkpointing"], marks=pytest.mark.slow),
        pytest.param("fsdp", ["--fsdp-state-dict-type", "full"], marks=pytest.mark.slow),
    ],
)
def test_two_processes_learn_what_one_does(baseline: Path, dataset: Path, mode: str, words: list[str]) -> None:
    name = "-".join([mode, *(word.strip("-") for word in words)])
    run(2, mode, dataset, baseline.parent, "--max-steps", "16", "--run-name", name, *words)
    assert_alike(baseline.parent / name, baseline)
    result = json.loads((baseline.parent / name / "distributed.json").read_text())
    assert (result["processes"], result["samples"], result["tokens"]) == (2, 128, 128 * 64)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [["--deepspeed-stage", "1"], ["--deepspeed-stage", "2", "--offload-optimizer"], ["--deepspeed-stage", "3"]],
)
def test_two_processes_of_deepspeed_learn_what_one_does(
    baseline: Path, dataset: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert DEEPSPEED.is_dir(), "`make test-all` puts DeepSpeed there"
    monkeypatch.setenv("PYTHONPATH", str(DEEPSPEED))
    name = "zero" + "".join(words)
    run(2, "deepspeed", dataset, baseline.parent, "--max-steps", "16", "--run-name", name, *words)
    assert_alike(baseline.parent / name, baseline)


@pytest.fixture
def two_hosts() -> Iterator[dict[str, str]]:
    """Two network namespaces joined by a cable: each with its address, and no other way to the other one."""
    hosts = {"ml-a": "10.77.0.1", "ml-b": "10.77.0.2"}
    first, second = hosts
    for words in (
        *(f"netns add {host}" for host in hosts),
        f"link add {first} type veth peer name {second}",
        *(f"link set {host} netns {host}" for host in hosts),
        *(f"-n {host} addr add {address}/24 dev {host}" for host, address in hosts.items()),
        *(f"-n {host} link set {device} up" for host in hosts for device in ("lo", host)),
    ):
        subprocess.run(["ip", *words.split()], check=True)
    yield hosts
    for host in hosts:
        subprocess.run(["ip", "netns", "del", host], check=True)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ip") is None, reason="network namespaces want root and iproute2")
@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_two_hosts_learn_what_one_process_does(
    baseline: Path, dataset: Path, two_hosts: dict[str, str], mode: str
) -> None:
    script = command(1, "baseline", dataset, baseline.parent, "--max-steps", "16", "--run-name", f"hosts-{mode}")[1:]
    script[script.index("baseline")] = mode
    script[script.index("--batch-size") + 1] = "4"
    processes = []
    for rank, host in enumerate(two_hosts):
        launcher = [
            "ip", "netns", "exec", host, sys.executable, "-m", "torch.distributed.run", "--nnodes=2",
            f"--node-rank={rank}", "--nproc-per-node=1", f"--master-addr={two_hosts['ml-a']}", "--master-port=29500",
        ]  # fmt: skip
        environment = os.environ | {"GLOO_SOCKET_IFNAME": host}
        processes.append(
            subprocess.Popen([*launcher, *script], cwd=PROJECT, env=environment, stderr=subprocess.PIPE, text=True)
        )
    for process in processes:
        _, told = process.communicate(timeout=200)
        assert process.returncode == 0, told[-3000:]
    assert_alike(baseline.parent / f"hosts-{mode}", baseline)


@pytest.mark.parametrize(
    ("mode", "words", "before", "after"),
    [
        pytest.param("ddp", [], 2, 1, marks=pytest.mark.slow),
        ("fsdp", ["--fsdp-state-dict-type", "sharded"], 1, 2),
        pytest.param("fsdp", ["--fsdp-state-dict-type", "full"], 2, 1, marks=pytest.mark.slow),
        pytest.param("ddp", [], 1, 2, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_goes_on_with_another_number_of_processes(
    baseline: Path, dataset: Path, tmp_path: Path, mode: str, words: list[str], before: int, after: int
) -> None:
    arguments = ["--max-steps", "16", "--run-name", "run", *words]
    process = subprocess.Popen(
        command(before, mode, dataset, tmp_path, *arguments), cwd=PROJECT, stderr=subprocess.PIPE, text=True
    )
    while last_checkpoint(tmp_path / "run") is None:
        assert process.poll() is None, "the run ended before it could be stopped"
        time.sleep(0.01)
    process.terminate()
    _, told = process.communicate(timeout=60)
    assert "stopped by SIGTERM after step" in told
    assert not (tmp_path / "run" / MODEL_DIRECTORY).exists()
    run(after, mode, dataset, tmp_path, *arguments)
    assert_alike(tmp_path / "run", baseline)


@pytest.mark.slow
def test_a_rank_that_hangs_ends_the_run_with_a_clear_error(dataset: Path, tmp_path: Path) -> None:
    arguments = ["--max-steps", "100000", "--run-name", "run", "--hang-timeout", "5"]
    process = subprocess.Popen(
        command(2, "ddp", dataset, tmp_path, *arguments), cwd=PROJECT, stderr=subprocess.PIPE, text=True
    )
    while not ProgressLog(tmp_path / "run" / PROGRESS_FILE).points():
        assert process.poll() is None
        time.sleep(0.05)
    ranks = {
        child.environ()["RANK"]: child for child in psutil.Process(process.pid).children() if "RANK" in child.environ()
    }
    ranks["1"].suspend()
    try:
        _, told = process.communicate(timeout=90)
    finally:
        for child in ranks.values():
            if child.is_running():
                child.kill()
    assert process.returncode != 0
    assert "rank 0: another process hangs, has died or cannot be reached (waited up to 5 s)" in told


def test_runs_are_compared_in_a_table_and_a_plot(baseline: Path) -> None:
    words = [sys.executable, "train_distributed.py", "--compare", "--output-dir", str(baseline.parent)]
    done = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert "| one | one process | 1 | 128 | 8,192 |" in done.stdout
    assert (baseline.parent / TABLE_FILE).read_text() == done.stdout
    assert (baseline.parent / PLOT_FILE).read_bytes().startswith(b"\x89PNG")


def test_a_comparison_of_nothing_and_a_wrong_number_of_processes_are_told(
    tmp_path: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, message in (
        (["--compare"], "has no finished run to compare"),
        (["--mode", "ddp", "--data-dir", str(dataset)], "runs under torchrun"),
        (["--data-dir", str(tmp_path)], "is no data set"),
    ):
        with pytest.raises(SystemExit) as failed:
            main(["--output-dir", str(tmp_path), *words])
        assert failed.value.code == 1
        assert message in capsys.readouterr().err


def test_steps_between_evaluations_and_checkpoints_are_none_unless_given() -> None:
    given = parse_args([])
    assert (given.eval_steps, given.save_steps, given.mode, given.timeout) == (None, None, "baseline", 1800.0)
    given = parse_args(["--eval-steps", "5", "--save-steps", "7", "--max-steps", "9", "--batch-size", "4"])
    plan = plan_of(given, processes=2)
    assert (plan.evaluation_steps, plan.checkpoint_steps, plan.steps, plan.batch_size) == (5, 7, 9, 8)
    assert plan.budget.clock_seconds == 1800.0


def test_all_flags_reach_the_strategy() -> None:
    words = (
        "--mode deepspeed --deepspeed-stage 3 --offload-optimizer --offload-params --bf16 --torch-compile --no-wandb"
    )
    plan = plan_of(parse_args(words.split()), processes=1)
    assert plan.strategy == Strategy(
        mode="deepspeed", deepspeed_stage=3, deepspeed_offload_optimizer=True, deepspeed_offload_parameters=True
    )
    assert (plan.precision, plan.compile) == ("bf16", "on")
    with pytest.raises(ValidationError, match="stage 3 only"):
        plan_of(parse_args(["--mode", "deepspeed", "--offload-params"]), processes=1)


def test_theory_divides_sixteen_bytes_as_the_strategy_does() -> None:
    def bytes_of(processes: int = 4, on_a_machine: int = 2, **strategy: object) -> float:
        return theory_bytes(1, Strategy(**strategy), processes, on_a_machine)  # type: ignore[arg-type]

    assert bytes_of(mode="ddp") == bytes_of(mode="baseline") == 16
    assert bytes_of(mode="fsdp") == bytes_of(mode="deepspeed", deepspeed_stage=3) == 4
    assert bytes_of(mode="fsdp", fsdp_sharding="hybrid_shard") == 8
    assert bytes_of(mode="fsdp", fsdp_sharding="shard_grad_op") == bytes_of(mode="deepspeed", deepspeed_stage=2) == 7
    assert bytes_of(mode="deepspeed", deepspeed_stage=1) == 10
