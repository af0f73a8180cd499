"""What a checkpoint says of how its weights are quantized: GPTQ, AWQ, compressed-tensors, FP8, ModelOpt, ...

It reads declarations, not weights, and converts nothing.
Source: transformers 5, utils/quantization_config.py; nvidia-modelopt 0.47, hf_quant_config.json.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builders.sources.base import each_problem
from builders.sources.json_files import read_json_object, shown
from tpforge.errors import InputRefused

MODELOPT_FILE = "hf_quant_config.json"
# AutoGPTQ and AutoAWQ wrote these before config.json held the same.
_OLD_FILES = {"quantize_config.json": "gptq", "quant_config.json": "awq"}
_TITLES = {
    "gptq": "GPTQ",
    "awq": "AWQ",
    "compressed-tensors": "compressed-tensors",
    "fp8": "FP8",
    "fbgemm_fp8": "FP8 (FBGEMM)",
    "modelopt": "ModelOpt",
    "bitsandbytes": "bitsandbytes",
    "mlx": "MLX",
}
LLM_API_LOADS = ("compressed-tensors", "fp8", "modelopt", "mxfp4", "mxfp8", "nvfp4")
"""The methods that TensorRT-LLM's LLM API loads. Source: its _torch/model_config.py."""


@dataclass(frozen=True)
class FoundQuantization:
    """A declared quantization: its method as files name it, the file, and what it says of bits and groups."""

    method: str
    declared_in: str
    details: dict[str, str]

    @property
    def title(self) -> str:
        """``GPTQ: bits 4, group_size 128``."""
        name = _TITLES.get(self.method, self.method)
        details = ", ".join(f"{key} {value}" for key, value in self.details.items())
        return f"{name}: {details}" if details else name


def find_quantization(folder: Path, config: dict[str, Any]) -> tuple[FoundQuantization | None, list[str]]:
    """The quantization that config.json or a file beside it declares, and what is wrong with that."""
    problems: list[str] = []
    found = [one for one in [_in_config(config)] if one is not None]
    for name in (MODELOPT_FILE, *_OLD_FILES):
        if not (folder / name).is_file():
            continue
        try:
            values = read_json_object(folder / name)
        except InputRefused as error:
            problems += each_problem(error)
            continue
        found.append(_modelopt(values) if name == MODELOPT_FILE else _old(name, values))
    problems += [
        f"{one.declared_in} says {one.title}, but {found[0].declared_in} says {found[0].title}; "
        "one of them is wrong"
        for one in found[1:]
        if one.method != found[0].method or _disagree(one.details, found[0].details)
    ]
    return (found[0] if found else None), problems


def declared_values(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The object that `find_quantization` found first: in config.json, or in a file beside it."""
    values = _stated(config)
    if isinstance(values, dict):
        # ModelOpt leaves the group size out of config.json.
        return _modelopt_values(folder) | values
    for name in (MODELOPT_FILE, *_OLD_FILES):
        if (folder / name).is_file():
            return read_json_object(folder / name)
    return {}


def _modelopt_values(folder: Path) -> dict[str, Any]:
    if not (folder / MODELOPT_FILE).is_file():
        return {}
    inner = read_json_object(folder / MODELOPT_FILE).get("quantization")
    return inner if isinstance(inner, dict) else {}


def _in_config(config: dict[str, Any]) -> FoundQuantization | None:
    values = _stated(config)
    if _is_mlx(config, values):
        return FoundQuantization(
            "mlx", "config.json", _picked(config["quantization"], ("bits", "group_size"))
        )
    if values is None:
        return None
    if not isinstance(values, dict):
        return FoundQuantization("unknown", "config.json", {"quantization_config": shown(values)})
    method = str(values.get("quant_method") or _unnamed_method(values))
    if method == "modelopt":
        return _modelopt(values, declared_in="config.json")
    if method == "compressed-tensors":
        return FoundQuantization(method, "config.json", _compressed(values))
    keys = {
        "gptq": ("bits", "group_size", "desc_act"),
        "awq": ("bits", "w_bit", "group_size", "q_group_size", "zero_point"),
        "fp8": ("activation_scheme", "weight_block_size"),
        "bitsandbytes": ("load_in_4bit", "load_in_8bit", "bnb_4bit_quant_type"),
    }.get(method, ("bits", "group_size"))
    told = {key: value for key, value in values.items() if key != "desc_act" or value}
    return FoundQuantization(method, "config.json", _picked(told, keys))


def _stated(config: dict[str, Any]) -> object:
    """The key of today, else that of compressed-tensors before transformers took it up; null says nothing."""
    found = config.get("quantization_config")
    return config.get("compression_config") if found is None else found


def _is_mlx(config: dict[str, Any], values: object) -> bool:
    """mlx-lm says it under a key of its own, and again under the usual one without a method."""
    own = config.get("quantization")
    names_a_method = isinstance(values, dict) and values.get("quant_method") is not None
    return isinstance(own, dict) and {"bits", "group_size"} <= own.keys() and not names_a_method


def _unnamed_method(values: dict[str, Any]) -> str:
    """Older files of bitsandbytes do not name themselves."""
    by_key = {
        "load_in_4bit": "bitsandbytes",
        "load_in_8bit": "bitsandbytes",
        "config_groups": "compressed-tensors",
    }
    return next((method for key, method in by_key.items() if key in values), "unknown")


def _modelopt(values: dict[str, Any], *, declared_in: str = MODELOPT_FILE) -> FoundQuantization:
    inner = values.get("quantization")
    held = inner if isinstance(inner, dict) else values
    return FoundQuantization(
        "modelopt", declared_in, _picked(held, ("quant_algo", "kv_cache_quant_algo", "group_size"))
    )


def _old(name: str, values: dict[str, Any]) -> FoundQuantization:
    return FoundQuantization(_OLD_FILES[name], name, _picked(values, ("bits", "w_bit", "group_size")))


def _compressed(values: dict[str, Any]) -> dict[str, str]:
    details = _picked(values, ("format",))
    groups = values.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        weights = group.get("weights") if isinstance(group, dict) else None
        if isinstance(weights, dict):
            return details | _picked(weights, ("num_bits", "type", "strategy", "group_size"))
    return details


def _picked(values: dict[str, Any], keys: tuple[str, ...]) -> dict[str, str]:
    """The values of `keys` that are there; old AWQ files spell the first two of them otherwise."""
    spelled = {"w_bit": "bits", "q_group_size": "group_size"}
    return {spelled.get(key, key): shown_plain(values[key]) for key in keys if values.get(key) is not None}


def shown_plain(value: object) -> str:
    """A value without the quotes of a text."""
    return value if isinstance(value, str) and len(value) <= 60 else shown(value)


def _disagree(one: dict[str, str], other: dict[str, str]) -> bool:
    return any(one[key] != other[key] for key in one.keys() & other.keys())
