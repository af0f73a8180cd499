"""Compares the tensors of a checkpoint with those that its family's table and config.json imply.

It reads headers only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from builders.families.common.base import Family
from tpforge.dtypes import DType
from tpforge.model import ModelSpec

_OF_ADAPTERS = (".lora_A.", ".lora_B.", ".lora_embedding_A", ".lora_magnitude_vector", ".base_layer.")
_ALIKE = 4
"""Up to so many problems that differ in a number only are listed one by one."""


@dataclass
class TensorFindings:
    """What is wrong, and which tensors will be left out, with the reason for each.

    `ties` are LM heads that repeat a tied embedding, if their values do; `biases` are those of matrices that
    the family computes without one, which may be left out if they are zeros.
    """

    problems: list[str] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)
    ties: dict[str, str] = field(default_factory=dict)
    biases: tuple[str, ...] = ()


def check_tensors(
    family: Family,
    spec: ModelSpec,
    *,
    shapes: Mapping[str, tuple[int, ...]],
    dtypes: Mapping[str, DType],
    is_whole: bool = True,
) -> TensorFindings:
    """Every tensor that is unknown, misshapen, of a wrong type or missing.

    `is_whole` False: a file could not be read, so that no tensor is called missing.
    """
    expected = family.expected_shapes(spec)
    found = TensorFindings()
    for name, shape in shapes.items():
        if name not in expected:
            _judge_unknown(name, family, spec, expected, shapes=shapes, found=found)
        elif 0 in shape:
            found.problems.append(
                f"{name}: found shape {list(shape)}, without a value in it: DeepSpeed's ZeRO-3 saves so when "
                "the parts are not gathered; make the weights whole with its zero_to_fp32.py"
            )
        elif shape != expected[name]:
            found.problems.append(
                f"{name}: found shape {list(shape)}, config.json implies {list(expected[name])}"
                + (" (transposed)" if shape == expected[name][::-1] else "")
            )
        elif name not in dtypes:
            found.problems.append(f"{name}: found a type that is not float32, float16 or bfloat16")
    if is_whole:
        found.problems += [f"{name}: missing" for name in expected if name not in shapes]
    found.dropped = dict(sorted(found.dropped.items()))
    return found


def _judge_unknown(
    name: str,
    family: Family,
    spec: ModelSpec,
    expected: Mapping[str, tuple[int, ...]],
    *,
    shapes: Mapping[str, tuple[int, ...]],
    found: TensorFindings,
) -> None:
    reason = family.reason_to_drop(name)
    embedding = "model.embed_tokens.weight"
    if reason is not None:
        found.dropped[name] = reason
    elif name == "lm_head.weight" and spec.tie_word_embeddings and shapes.get(embedding) == shapes[name]:
        found.ties[name] = embedding
    elif name.endswith(".bias") and f"{name.removesuffix('.bias')}.weight" in expected:
        found.biases = (*found.biases, name)
    elif any(part in name for part in _OF_ADAPTERS):
        found.problems.append(
            f"{name}: is of a LoRA adapter that was not merged into the model; load it with PEFT and save "
            "what merge_and_unload() gives"
        )
    else:
        found.problems.append(f"{name}: unknown to the {family.name} family")


def grouped(problems: Iterable[str]) -> list[str]:
    """The problems, but one line for a problem that many layers or experts share.

    A wrong config.json makes every tensor of a large model wrong in the same way.
    """
    alike: dict[str, list[str]] = {}
    for problem in sorted(problems):
        alike.setdefault(
            re.sub(r"\d+", "#", problem.partition(": ")[0]) + problem.partition(": ")[2], []
        ).append(problem)
    lines = []
    for group in alike.values():
        name, colon, text = group[0].partition(": ")
        many = len(group) > _ALIKE
        lines += [f"{name} and {len(group) - 1} more like it{colon}{text}"] if many else group
    return lines
