"""Whether config.json names a class of transformers, which all who load a checkpoint as it is choose by it.

It judges no other key; a type that contradicts the architecture is `families.common.keys`'s. Conversion goes
by the architecture and needs none.
"""

from __future__ import annotations

from typing import Any

from builders.families.common.registry import FAMILIES, is_of_family
from builders.families.config_classes import model_types, model_types_of

_OF_TENSORRT_LLM = (
    "cosmos3",
    "cosmos3_omni",
    "deepseek_v32",
    "glm_moe_dsa",
    "k3_dspark",
    "kimi_k2",
    "kimi_k3",
    "kimi_linear",
    "laguna",
    "minicpmv4_6",
    "qwen3_5",
    "qwen3_5_moe",
    "qwen3_5_moe_text",
    "qwen3_5_text",
    "qwen4_exp",
    "qwen4_exp_text",
)
"""Types of which TensorRT-LLM has a class of its own, whatever its transformers has.

Source: NVIDIA/TensorRT-LLM, tensorrt_llm/_torch/pyexecutor/config_utils.py @00679c66c3e3.
"""


def model_type_problem(config: dict[str, Any], *, where: str) -> str | None:
    """What is wrong with the model type of a config.json; None where transformers finds a class.

    A type that nobody here knows is wrong only beside an architecture of a family here: others may be newer.
    """
    code = config.get("auto_map")
    if isinstance(code, dict) and "AutoConfig" in code:
        return None
    found, architecture = config.get("model_type"), _architecture(config)
    if isinstance(found, str) and found and (found in known_types() or not is_of_family(architecture)):
        return None
    expected = _expected(architecture)
    said = "found none" if found is None else f"found {found!r}, of which transformers has no class"
    which = " or ".join(f"{one!r}" for one in expected) or "the one that its authors give"
    return (
        f"{where}: model_type: {said}; runtime pytorch and `tpforge verify` load the model by it; "
        f"expected {which}"
    )


def known_types() -> frozenset[str]:
    """The model types of transformers, of remote code here, and of TensorRT-LLM itself."""
    return model_types() | {*_OF_TENSORRT_LLM}


def _architecture(config: dict[str, Any]) -> str:
    names = config.get("architectures")
    held = names if isinstance(names, list) else [names]
    return held[0] if len(held) == 1 and isinstance(held[0], str) else ""


def _expected(architecture: str) -> tuple[str, ...]:
    of_family = tuple(one.keys.model_type for one in FAMILIES if architecture in one.architectures)
    return of_family or model_types_of(architecture)
