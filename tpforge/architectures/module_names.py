"""Which tensors a checkpoint's quantization names: exactly, by ``*``, by a part of the path, or by ``re:``.

It knows no format; `stored` and `compressed_groups` do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fnmatch import translate
from typing import Any

from tpforge.architectures.declared import Tensor
from tpforge.errors import InputRefused

_KEPT = ("modules_to_not_convert", "exclude_modules", "ignored_layers", "ignore")
"""The keys of modules that stay floats; a checkpoint may have any of them.

Source: TensorRT-LLM, _torch/model_config.py, load_hf_quant_config.
"""
_NUMBERED = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}
_ROOTS = ("", "model.", "language_model.", "model.language_model.", "language_model.model.")


def kept_modules(declared: Mapping[str, Any], *more: str) -> Callable[[Tensor], bool]:
    """Whether a tensor's module is one that the declaration, or `more`, leaves as it is."""
    return matcher([*(one for key in _KEPT for one in _texts(declared, key)), *more])


def kept_by_name(declared: Mapping[str, Any]) -> Callable[[Tensor], bool]:
    """As `kept_modules`, but a name stands for that module alone, not for those within, and ``re:`` is all.

    compressed-tensors names a block of a layer beside matrices of it that are quantized.
    """
    entries = [one for key in _KEPT for one in _texts(declared, key)]
    exact = {one for one in entries if not one.startswith("re:")}
    patterns = [expression(one) for one in entries if one.startswith("re:")]

    def matches(tensor: Tensor) -> bool:
        names = full_names(tensor)
        return not exact.isdisjoint(names) or any(one.match(each) for each in names for one in patterns)

    return matches


def _texts(values: Mapping[str, Any], key: str) -> list[str]:
    found = values.get(key)
    return [one for one in found if isinstance(one, str)] if isinstance(found, list) else []


def modules_of(tensor: Tensor) -> list[str]:
    """The module of a tensor, and the modules around it: ``experts.0.up_proj``, ``experts.0``, ...

    Mixtral, MiniMax and DeepSeek-V4 name the matrices of an expert by numbers.
    """
    parts = tensor.name.removesuffix(".weight").split(".")
    numbered = [".".join((*parts[:-1], _NUMBERED[parts[-1]]))] if parts[-1] in _NUMBERED else []
    return [*numbered, *(".".join(parts[:count]) for count in range(len(parts), 0, -1))]


def matcher(patterns: list[str]) -> Callable[[Tensor], bool]:
    """Whether a tensor's module is named: exactly, by ``*``, by a part of its path, or as ``re:`` says.

    A checkpoint's names may have another root than the table's (``model.``, ``language_model.``), so that an
    exact name is compared by what follows ``layers.``.
    """
    exact, globs, expressions = set(), [], []
    for one in patterns:
        if one.startswith("re:"):
            expressions.append(expression(one))
        elif "*" in one:
            globs.append(translate(f"*{from_layers(one)}"))
            globs.append(translate(f"*{from_layers(one)}.*"))
        else:
            exact.add(from_layers(one))
    wild = re.compile("|".join(globs)) if globs else None

    def matches(tensor: Tensor) -> bool:
        name = tensor.name.removesuffix(".weight")
        parts = name.split(".")
        around = (from_layers(one) for one in modules_of(tensor))
        if any(one in exact for one in around) or any(one in exact for one in parts):
            return True
        if wild is not None and wild.match(name) is not None:
            return True
        names = full_names(tensor) if expressions else []
        return any(one.match(each) for each in names for one in expressions)

    return matches


def full_names(tensor: Tensor) -> list[str]:
    """The names that a checkpoint may give the tensor's module: with every root of a language model."""
    is_numbered = tensor.name.removesuffix(".weight").rpartition(".")[2] in _NUMBERED
    names = modules_of(tensor)[: 2 if is_numbered else 1]
    return [*names, *(root + from_layers(one) for one in names for root in _ROOTS)]


def expression(pattern: str) -> re.Pattern[str]:
    """What follows ``re:``; it is to match the beginning of a name, as compressed-tensors has it.

    Raises:
        InputRefused: it is no regular expression.
    """
    try:
        return re.compile(pattern.removeprefix("re:"))
    except re.error as error:
        raise InputRefused(f"quantization: {pattern} is no regular expression ({error})") from error


def from_layers(name: str) -> str:
    """``model.layers.3.mlp`` and ``language_model.model.layers.3.mlp`` as ``layers.3.mlp``."""
    _, found, rest = name.partition("layers.")
    return f"layers.{rest}" if found else name
