"""Who takes part: the module of the worker, its environment with pinned versions, the precisions that it has."""

from __future__ import annotations

from dataclasses import dataclass

TORCH = "torch==2.13.0"
"""For converters, in every environment: a newer one would draw gigabytes of CUDA packages."""
OURS = "ours"


@dataclass(frozen=True)
class Participant:
    """One row of the tables."""

    name: str
    worker: str
    """A module of `benchmarks.serving.workers`."""
    requirements: tuple[str, ...] = ()
    """What its environment holds; where empty, the project's own environment is used."""
    unwanted: tuple[str, ...] = ()
    """Removed after the installation."""
    bits: tuple[int, ...] = (8, 4)
    lacks: str = ""
    """Why it has no other precision."""

    @property
    def module(self) -> str:
        """What `python -m` runs."""
        return f"benchmarks.serving.workers.{self.worker}"


PARTICIPANTS = (
    Participant(OURS, "ours"),
    Participant(
        "openvino-genai",
        "openvino",
        ("openvino-genai==2026.4.1.0", "openvino==2026.4.1", "optimum-intel==2.2.0", "nncf==3.4.0", TORCH),
        # optimum-intel asks for it, text does not need it, and the one that comes does not fit a CPU build of torch.
        unwanted=("torchvision",),
    ),
    Participant(
        "onnxruntime-genai",
        "onnxruntime_genai",
        (
            "onnxruntime-genai==0.18.0",
            "onnxruntime==1.32.0",
            "transformers==5.24.0",
            "onnx==1.23.2",
            "onnx-ir==1.1.0",
            TORCH,
        ),
    ),
    Participant("llama.cpp", "llama_cpp", ("llama-cpp-python==0.3.36", "gguf==0.19.0", "safetensors==0.8.0")),
    Participant(
        "ctranslate2",
        "ctranslate2",
        ("ctranslate2==4.8.5", "transformers==5.24.0", TORCH),
        bits=(8,),
        lacks="its 4 bit (AWQ) needs a GPU",
    ),
    Participant(
        "transformers",
        "transformers",
        bits=(8,),
        lacks="no 4 bit on a CPU; its fp32 stands beside 8 bit",
    ),
)


def participant_named(name: str) -> Participant:
    """Raises ValueError in words."""
    for participant in PARTICIPANTS:
        if participant.name == name:
            return participant
    raise ValueError(f"there is no participant {name!r}: {', '.join(one.name for one in PARTICIPANTS)}")
