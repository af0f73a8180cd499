"""Which quantized Hugging Face checkpoints the LLM API loads, before it tries.

Some it refuses late, some it would run wrongly without a word. The table of formats is
`tpforge.quantization`; here a checkpoint's own declaration is matched with it.
Source: TensorRT-LLM 1.2, _torch/model_config.py, quant_config_utils.py, _torch/modules/linear.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from builders.sources.quantization import FoundQuantization
from tpforge.errors import InputRefused
from tpforge.quantization import Format, find_format, formats
from tpforge.quantization_gate import Question, judge

_OTHERWISE = "quantize the original with `tpforge quantize --format fp8`, or serve it unquantized"


@dataclass(frozen=True)
class LoadedFormat:
    """How the LLM API will take the weights: the row of the table, None for floats; and what to know."""

    row: Format | None
    notes: tuple[str, ...] = ()

    @property
    def algo(self) -> str | None:
        """Upstream's name of the algorithm."""
        return self.row.algo if self.row else None


def require_loadable(
    found: FoundQuantization | None, *, where: str, trtllm: str, sm: int | None, architecture: str
) -> LoadedFormat:
    """The format of a checkpoint that the LLM API loads on GPUs of `sm`.

    Raises:
        InputRefused: it does not load it, or would run it wrongly; says what to use instead.
    """
    if found is None:
        return LoadedFormat(None)
    name = format_name(found)
    if name is None:
        raise InputRefused(
            f"{where}: its weights are quantized in a way that the LLM API does not load ({found.title}, "
            f"{found.declared_in}); {_OTHERWISE}"
        )
    return require_format(
        name,
        kv_cache=_kv_name(found),
        title=found.title,
        where=where,
        trtllm=trtllm,
        sm=sm,
        architecture=architecture,
    )


def require_format(
    name: str,
    *,
    kv_cache: str | None,
    title: str,
    where: str,
    trtllm: str,
    sm: int | None,
    architecture: str,
) -> LoadedFormat:
    """The format of that name, which most matrices of a checkpoint are in, if GPUs of `sm` run it.

    Raises:
        InputRefused: they do not; says what to use instead.
    """
    question = Question(
        format=name,
        runtime="pytorch",
        kv_cache=kv_cache,
        version=trtllm,
        sm=sm,
        architecture=architecture,
    )
    verdict = judge(question)
    if not verdict.works:
        instead = f"use {verdict.nearest}" if verdict.nearest else _OTHERWISE
        raise InputRefused.listing(
            f"{where}: the LLM API does not run its weights ({title}); {instead}:", verdict.problems
        )
    return LoadedFormat(find_format(name), verdict.notes)


def format_name(found: FoundQuantization) -> str | None:
    """The table's name of a declared quantization; None when no row is it."""
    details = found.details
    match found.method:
        case "gptq" | "awq":
            return found.method
        case "mxfp4" | "nvfp4":
            return found.method
        case "fp8":
            # Without blocks it is one scale per tensor, which the LLM API reads from ModelOpt's files only.
            return "fp8_block" if details.get("weight_block_size") in ("[128, 128]", "[128,128]") else None
        case "modelopt":
            return next((row.name for row in formats() if row.algo == details.get("quant_algo")), None)
        case "compressed-tensors":
            return _compressed(details)
    return None


def _compressed(details: dict[str, str]) -> str | None:
    bits, kind, strategy = (details.get(key) for key in ("num_bits", "type", "strategy"))
    group = details.get("group_size")
    match (kind, bits, strategy):
        case ("float", "8", "channel"):
            return "fp8_rowwise"
        case ("float", "8", "block"):
            return "fp8_block"
        case ("float", "4", _):
            return {"16": "nvfp4", "32": "mxfp4"}.get(group or "")
        case ("int", "8", _):
            return "int8_w8a8"
    # A static scale a tensor and packed INT4 are refused when loading.
    return None


def _kv_name(found: FoundQuantization) -> str | None:
    algo = found.details.get("kv_cache_quant_algo")
    return None if algo in (None, "None", "null", "auto") else str(algo).lower()
