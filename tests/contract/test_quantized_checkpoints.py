"""Published checkpoints of several formats at once are planned as large as their files.

The judge is the bytes of those files, kept as data with their source; nothing is loaded.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from builders.blueprint import FoundConfig, blueprint_of
from tests.contract.test_model_configs import models
from tpforge.dtypes import DType
from tpforge.shards.mapping import Mapping
from tpforge.shards.weights import Blueprint, rank_shapes, weight_bytes

_FILE = Path(__file__).parent / "upstream" / "quantized_checkpoints.json"
CHECKPOINTS: dict[str, dict[str, Any]] = json.loads(_FILE.read_text())["checkpoints"]


def _blueprint(name: str) -> Blueprint:
    row = CHECKPOINTS[name]
    config = {**models()[row["shapes_of"]]["config"], "quantization_config": row["quantization_config"]}
    return blueprint_of(FoundConfig(name, name, config))


@pytest.mark.parametrize("name", list(CHECKPOINTS))
def test_a_checkpoint_of_compressed_tensors_is_as_large_as_its_files(name: str) -> None:
    row, blueprint = CHECKPOINTS[name], _blueprint(name)
    assert blueprint.stored_format == row["main"]
    assert blueprint.stored_kv == row["kv_cache"]
    shapes = rank_shapes(blueprint, mapping=Mapping())
    held = weight_bytes(shapes, stage=0, dtype=DType.BFLOAT16, weight_format=blueprint.stored_format)
    assert held == pytest.approx(row["bytes"], rel=2e-3)


def test_of_two_groups_that_name_a_matrix_the_first_pattern_of_the_alphabet_decides() -> None:
    shapes = rank_shapes(_blueprint("RedHatAI/Qwen3.8-27B-NVFP4"), mapping=Mapping())
    stored = {one.name: one.stored_as for held in shapes.layer.values() for one in held}
    stored |= {one.name: one.stored_as for one in shapes.last}
    by_end = {
        (end, value)
        for name, value in stored.items()
        for end in (
            "mlp.down_proj.weight",
            "linear_attn.out_proj.weight",
            "in_proj_a.weight",
            "lm_head.weight",
        )
        if name.endswith(end)
    }
    # The last eight layers are of the FP8 group; the ignored block of a layer is not what lies in it.
    assert by_end == {
        ("mlp.down_proj.weight", "nvfp4"),
        ("mlp.down_proj.weight", "fp8_rowwise"),
        ("linear_attn.out_proj.weight", "fp8_rowwise"),
        ("in_proj_a.weight", "floats"),
        ("lm_head.weight", "fp8_rowwise"),
    }
