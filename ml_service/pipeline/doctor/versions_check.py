"""Python, the libraries against what the project asks for and what was locked, operators, processor, runtime, GPU."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

from lib.processor import processor_flags
from ml_service.common.settings import PROJECT
from ml_service.inference.operators import NEEDED_FLAGS, compiled_operators, library_file
from ml_service.pipeline.doctor.finding import Finding, Patient, fail, ok, warn
from ml_service.utils.logs import SERVICE

LOCK_FILE = PROJECT / "requirements.lock"
_OLDEST_PYTHON = (3, 11)
_SHOWN = 4
_GPU_TIMEOUT_S = 4.0


def versions_fit(_: Patient) -> Iterator[Finding]:
    """Python and libraries."""
    python = platform.python_version()
    if sys.version_info < _OLDEST_PYTHON:
        yield fail("python", python, "3.11 or newer is needed: make PYTHON=/path/to/python3.11 setup")
    else:
        yield ok("python", f"{python}, {SERVICE} {_version(SERVICE)}")
    wrong = list(_unmet())
    if wrong:
        yield fail("libraries", _listed(wrong), "install what is asked for: make setup")
        return
    others = _other_than_locked(LOCK_FILE)
    if others:
        yield warn("libraries", f"{len(others)} are not as locked: {_listed(others)}",
                   "what was tested is the lock file: make setup")  # fmt: skip
    else:
        yield ok("libraries", "all that is asked for, as locked")


def arithmetic_is_fast(patient: Patient) -> Iterator[Finding]:
    """Compiled operators, the processor's instructions, ONNX Runtime."""
    missing = sorted(NEEDED_FLAGS - processor_flags())
    if missing:
        yield warn("processor", f"{platform.machine()} without {', '.join(missing)}",
                   "ONNX Runtime's own operators serve; AVX512-VNNI would be some times as fast")  # fmt: skip
    elif library_file() is None:
        yield warn(
            "operators", "not compiled", "apt install g++, then make setup: int8 is some times as fast with them"
        )
    elif compiled_operators() is not None and patient.settings.compiled_operators:
        yield ok("operators", "compiled, with AVX512-VNNI")
    else:
        yield warn("operators", "compiled and turned off", "unset ML_SERVICE_COMPILED_OPERATORS")
    import onnxruntime

    providers = [name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()]
    yield ok("onnxruntime", f"{onnxruntime.__version__} on {', '.join(providers)}")


def gpu_is_used(_: Patient) -> Iterator[Finding]:
    """A GPU is for trainings; none is fine."""
    devices = sorted(Path("/dev").glob("nvidia[0-9]*"))
    torch = _version("torch") or "none"
    tool = shutil.which("nvidia-smi")
    if not devices and tool is None:
        yield ok("gpu", "none: trainings run on the processor, as answering does")
        return
    names = _gpu_names(tool)
    if names is None:
        yield warn("gpu", f"{len(devices)} devices, and nvidia-smi does not answer",
                   "is the driver loaded, and is the container started with --gpus?")  # fmt: skip
    elif not importlib.metadata.packages_distributions().get("nvidia") and "+cpu" in torch:
        yield warn("gpu", f"{', '.join(names)}; torch is {torch}", "install a torch with CUDA: trainings do not use it")
    else:
        yield ok("gpu", f"{', '.join(names)}, for trainings; torch {torch}")


def _gpu_names(tool: str | None) -> list[str] | None:
    if tool is None:
        return None
    command = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=_GPU_TIMEOUT_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return told.strip().splitlines() or None


def _unmet() -> Iterator[str]:
    """What the project asks for without an extra, and is not there or too old."""
    try:
        wanted = importlib.metadata.requires(SERVICE) or []
    except importlib.metadata.PackageNotFoundError:
        yield f"{SERVICE} itself is not installed"
        return
    for line in wanted:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        found = _version(requirement.name)
        if found is None:
            yield f"{requirement.name} is missing"
        elif not requirement.specifier.contains(found, prereleases=True):
            yield f"{requirement.name} {found} is not {requirement.specifier}"


def _other_than_locked(lock: Path) -> list[str]:
    if not lock.is_file():  # an installed wheel has none
        return []
    others = []
    for name, wanted in re.findall(r"^([\w.-]+)==([^\s;]+)", lock.read_text(encoding="utf-8"), re.MULTILINE):
        found = _version(name)
        if found is not None and found.partition("+")[0] != wanted.partition("+")[0]:
            others.append(f"{name} {found} rather than {wanted}")
    return others


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _listed(items: list[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more
