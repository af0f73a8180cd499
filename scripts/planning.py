"""A plan composed: a model from its config.json alone, its family's tables, and `tpforge.plan`.

It prints nothing and reads no weights.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from builders.families.base import Family
from builders.families.reading import ConfigReader
from builders.families.registry import find_family
from builders.transforms import transformed_shape
from tpforge.dtypes import DType
from tpforge.plan.weights import Blueprint
from tpforge.sharding import ShardPlan

# What config.json says of quantized weights: a plan asks about formats itself.
_QUANTIZED = ("quantization_config", "compression_config")


def blueprint_from_config(config: dict[str, Any], *, name: str, where: str) -> Blueprint:
    """What a config.json declares, without any weights.

    Raises:
        InputRefused: the architecture is not known, or values are missing or wrong; all are listed.
    """
    family = find_family(config.get("architectures"), where=where)
    values = {key: value for key, value in config.items() if key not in _QUANTIZED}
    reader = ConfigReader(values, where=where, weight_dtype=DType.BFLOAT16)
    model = family.read_model(reader)
    return Blueprint(
        name=name,
        model=model,
        rules=family.rules,
        shapes=family.expected_shapes,
        reshape=partial(transformed_shape, model=model),
        objections=partial(_objections, family),
    )


def _objections(family: Family, plan: ShardPlan) -> list[str]:
    return [objection for check in family.restrictions if (objection := check(plan))]
