"""What a folder or file is that was given in another one's place, for the words of a refusal.

It goes by names alone: nothing is opened, and nothing that is recognized is thereby sound.
"""

from __future__ import annotations

from pathlib import Path

_BY_FILE = (
    ("engine.json", "an engine folder"),
    ("run.json", "a run of `tpforge bench`"),
    ("decision.json", "a decision of `tpforge decide`"),
    ("deployment.json", "a deployment of `tpforge deploy`"),
    ("rank0.engine", "a folder of compiled engines"),
    ("rank0.safetensors", "a converted checkpoint of TensorRT-LLM"),
    ("engine/engine.json", "the folder around an engine"),
)
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin")


def what_it_is(path: Path) -> str | None:
    """``a model repository of Triton``: what lies at a path, where that is seen; the first that fits."""
    if path.is_file():
        return _file(path)
    for name, kind in _BY_FILE:
        if (path / name).is_file():
            return kind
    if any(path.glob("*/config.pbtxt")):
        return "a model repository of Triton"
    if (path / "config.json").is_file() and any(any(path.glob(pattern)) for pattern in _WEIGHTS):
        return "a Hugging Face checkpoint"
    return None


def instead(path: Path) -> str:
    """`` is a Hugging Face checkpoint;``: the same amid a sentence; empty where it is not seen."""
    kind = what_it_is(path)
    return f" is {kind};" if kind else ""


def _file(path: Path) -> str | None:
    if path.name == "config.json":
        return "the config.json of a model"
    if path.suffix == ".gguf":
        return "a .gguf model"
    if path.suffix == ".safetensors":
        return "a file of weights"
    return None
