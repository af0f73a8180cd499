"""Whether the INT4 matrices of a checkpoint lie as trtllm-build takes them, by the headers of its rank files.

Only types and shapes are looked at: which GPU the integers are laid out for, a header does not say, nor
whether INT8 is laid out at all.
Source: TensorRT-LLM 1.2, quantization/layers.py, models/modeling_utils.py (preprocess_perlayer_weights).
"""

from __future__ import annotations

from pathlib import Path

from builders.sources.safetensors_reader import SafetensorsFile, TensorEntry

_AGAIN = "convert the model again with --runtime tensorrt"


def order_problems(folder: Path, algo: str | None) -> list[str]:
    """What is wrong in rank 0 of a checkpoint; nothing where there is no such file.

    Raises:
        InputRefused: the file's header cannot be read.
    """
    path = folder / "rank0.safetensors"
    if algo not in ("W4A16_GPTQ", "W4A16_AWQ") or not path.is_file():
        return []
    file = SafetensorsFile(path)
    try:
        problem = _gptq if algo == "W4A16_GPTQ" else _awq
        found = (problem(name, file.entries) for name in sorted(file.entries) if name.endswith(".weight"))
        return [one for one in found if one is not None]
    finally:
        file.close()


def _gptq(name: str, entries: dict[str, TensorEntry]) -> str | None:
    entry = entries[name]
    if entry.dtype != "I8":
        return None
    return (
        f"{name}: found I8 {list(entry.shape)}, integers in plain order, expected 16-bit floats "
        f"[in, out / 4] that hold them laid out for a GPU; {_AGAIN}"
    )


def _awq(name: str, entries: dict[str, TensorEntry]) -> str | None:
    entry = entries[name]
    scales = entries.get(f"{name.removesuffix('.weight')}.weights_scaling_factor")
    if entry.dtype != "I8" or scales is None or scales.shape[-2] == 2 * entry.shape[-2]:
        return None
    return (
        f"{name}: found I8 {list(entry.shape)} with scales {list(scales.shape)}, expected [out / 2, in] with "
        f"scales [out, in / group], which trtllm-build transposes; {_AGAIN}"
    )
