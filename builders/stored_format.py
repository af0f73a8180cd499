"""The format that a checkpoint's weights are stored in, by its config alone, for a plan.

It reads no weights; whether they lie as declared is `builders.sources`' to say.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from builders.sources.quantization import declared_values, find_quantization
from tpforge.errors import InputRefused


def stored_format(config: dict[str, Any], *, folder: Path, where: str) -> str | None:
    """A row of quantization.toml; None where the weights are floats. `folder` is where config.json lies.

    Raises:
        InputRefused: the quantization is none that can be read.
    """
    found, problems = find_quantization(folder, config)
    if problems:
        raise InputRefused.listing(f"{where}: the quantization is not clear:", problems)
    if found is None:
        return None
    # Late, because it imports torch, which takes longer than a plan.
    from builders.sources.quantized.layouts import find_layout

    try:
        return find_layout(found.method, declared_values(folder, config)).format
    except InputRefused as error:
        raise InputRefused(
            f"{where}: the weights are quantized ({found.title}): {error}; or name what a plan is to take "
            "them for, by a config.json without quantization_config and --format"
        ) from error


def refuse_unseen(config: dict[str, Any], *, folder: Path, where: str) -> None:
    """Refuse what is quantized, though its formats were not found in it: MLX, older files of GPTQ and AWQ.

    Raises:
        InputRefused: with what the files declare.
    """
    found, problems = find_quantization(folder, config)
    if problems:
        raise InputRefused.listing(f"{where}: the quantization is not clear:", problems)
    has_weights = found is not None and (found.method != "modelopt" or "quant_algo" in found.details)
    if found is None or not has_weights:
        return
    beside = "" if found.declared_in == "config.json" else f", {found.declared_in}"
    raise InputRefused(
        f"{where}: its weights are quantized ({found.title}{beside}), which TensorRT-LLM's PyTorch backend "
        "does not load; give a checkpoint in FP8, NVFP4 or MXFP4, or the unquantized one"
    )
