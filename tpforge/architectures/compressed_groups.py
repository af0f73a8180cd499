"""In which format compressed-tensors holds a matrix: by its group, or by the groups that name it.

It reads declarations, no weights; what TensorRT-LLM would not load, or load as another format, is refused.
Source: TensorRT-LLM 1.4, tensorrt_llm/models/quant_config_utils.py; compressed-tensors 0.20, utils/match.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tpforge.architectures.declared import Tensor
from tpforge.architectures.module_names import expression, full_names
from tpforge.errors import InputRefused

_INSTEAD = "give a checkpoint in FP8, NVFP4 or MXFP4, or the unquantized one"
_NO_LOAD = "which TensorRT-LLM's PyTorch backend does not load"


def compressed_groups(
    declared: Mapping[str, Any], *, matrices: list[Tensor], where: str
) -> Callable[[Tensor], str | None]:
    """The row of quantization.toml of a matrix; None where no group names it. `matrices` are the model's.

    Raises:
        InputRefused: TensorRT-LLM loads no such checkpoint.
    """
    sparsity = declared.get("sparsity_config")
    sparse = sparsity.get("format") if isinstance(sparsity, Mapping) else None
    if sparse not in (None, "dense"):
        raise InputRefused(f"{where}: its matrices are sparse ({sparse}), {_NO_LOAD}; {_INSTEAD}")
    groups = declared.get("config_groups")
    schemes = list(groups.values()) if isinstance(groups, Mapping) else []
    if not schemes or not all(isinstance(one, Mapping) for one in schemes):
        raise InputRefused(f"{where}: compressed-tensors without config_groups, which say the format")
    names = [_name(one, whole=declared.get("format"), where=where) for one in schemes]
    if len(schemes) == 1:
        return lambda tensor: names[0]
    targets: dict[str, str] = {}
    for scheme, name in zip(schemes, names, strict=True):
        own = _targets(scheme, count=len(schemes), where=where)
        if not any(map(_by_target(dict.fromkeys(own, name)), matrices)):
            raise InputRefused(
                f"{where}: a group of compressed-tensors selects no matrix of the model, expected one of its "
                f"targets to name some: {', '.join(own[:4])}; TensorRT-LLM refuses it"
            )
        targets |= dict.fromkeys(own, name)
    return _by_target(targets)


def _targets(scheme: Mapping[str, Any], *, count: int, where: str) -> list[str]:
    found = scheme.get("targets")
    targets = [one for one in found if isinstance(one, str)] if isinstance(found, list) else []
    classes = [one for one in targets if "." not in one and not one.startswith("re:") and one != "lm_head"]
    if classes or not targets:
        raise InputRefused(
            f"{where}: compressed-tensors with {count} groups of matrices, one of which selects by "
            f"{', '.join(classes) or 'nothing'}: of several groups TensorRT-LLM reads names and "
            f"re: patterns of modules alone; {_INSTEAD}"
        )
    return targets


def _by_target(targets: dict[str, str]) -> Callable[[Tensor], str | None]:
    """Exact names before patterns, each in the order of the alphabet: the first that matches decides."""
    patterns = [(expression(one), one) for one in sorted(targets) if one.startswith("re:")]

    def of(tensor: Tensor) -> str | None:
        names = full_names(tensor)
        exact = next((targets[one] for one in sorted(names) if one in targets), None)
        if exact is not None:
            return exact
        return next((targets[key] for one, key in patterns if any(map(one.match, names))), None)

    return of


def _name(scheme: Mapping[str, Any], *, whole: object, where: str) -> str:
    weights, inputs = scheme.get("weights"), scheme.get("input_activations")
    if not isinstance(weights, Mapping):
        raise InputRefused(f"{where}: a group of compressed-tensors has no weights, which say the format")
    kind, bits, strategy = (weights.get(key) for key in ("type", "num_bits", "strategy"))
    form = scheme.get("format") or whole
    fed = inputs.get("strategy") if isinstance(inputs, Mapping) else None
    match kind, bits, strategy, weights.get("group_size"), fed:
        case "float", 8, "channel", _, "token":
            return "fp8_rowwise"
        case "float", 8, "block", _, "group" if _of_128(weights, inputs):
            return "fp8_block"
        case "float", 4, "tensor_group", 16, "tensor_group":
            return "nvfp4"
        case "float", 4, _, 32, _ if fed is None or form == "mxfp4-pack-quantized":
            return "mxfp4"
        case "int", 8, "channel", _, "token":
            # Loaded as FP8 by its number of bits; quantization.toml refuses it for that.
            return "int8_w8a8"
    by = "" if strategy is None else f" by {strategy}"
    group = f" of {weights['group_size']}" if weights.get("group_size") else ""
    acts = "activations as they are" if fed is None else f"activations by {fed}"
    raise InputRefused(
        f"{where}: its weights are {kind}{bits} of compressed-tensors{by}{group}, with {acts}, {_NO_LOAD}; "
        f"{_INSTEAD}"
    )


def _of_128(weights: Mapping[str, Any], inputs: Any) -> bool:
    return weights.get("block_structure") in (None, [128, 128], "128x128") and inputs.get("group_size") == 128
