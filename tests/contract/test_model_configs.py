"""Sizes of today's models by their config.json files, as NVIDIA's aiconfigurator-core ships them.

The judge of parameters is transformers, on the meta device, wherever it has the class; published files say
the bytes of whole checkpoints.
"""

from __future__ import annotations

import json
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from builders.blueprint import FoundConfig, blueprint_of
from tpforge.architectures.declared import Declared, read_declared
from tpforge.dtypes import DType
from tpforge.errors import InputRefused
from tpforge.shards.mapping import Mapping
from tpforge.shards.weights import rank_shapes, weight_bytes

_FILE = Path(__file__).parent / "upstream" / "model_configs.json"
_NOT_OF_THE_SHAPE = ("quantization_config", "auto_map", "transformers_version")

REFUSED = {
    "MiniMaxAI/MiniMax-M3": "MiniMaxM3ForCausalLM are in no table",
    "XiaomiMiMo/MiMo-7B-Base": "TensorRT-LLM lists it for no runtime",
    "XiaomiMiMo/MiMo-V2-Flash": "TensorRT-LLM lists it for no runtime",
    "moonshotai/Kimi-K2.5": "int4 of compressed-tensors",
    "moonshotai/Kimi-K3": "state its sizes in a file for --describe",
    "stepfun-ai/Step-3.7-Flash": "TensorRT-LLM lists it for no runtime",
    "stepfun-ai/Step-3.7-Flash-FP8": "TensorRT-LLM lists it for no runtime",
}
"""Those that are not planned, and why."""


@cache
def models() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads(_FILE.read_text())["models"]
    return found


def found_config(name: str) -> FoundConfig:
    row = models()[name]
    return FoundConfig(name, name, row["config"], modelopt=row.get("hf_quant_config"))


def declared(name: str) -> Declared:
    return read_declared(models()[name]["config"], where=name)


@pytest.mark.parametrize("name", [name for name in models() if name not in REFUSED])
def test_a_model_of_today_is_planned_in_whole_and_over_eight_ranks(name: str) -> None:
    blueprint = blueprint_of(found_config(name))
    bytes_of = {
        tp: weight_bytes(
            rank_shapes(blueprint, mapping=Mapping(tp_size=tp)),
            stage=0,
            dtype=DType.BFLOAT16,
            weight_format=blueprint.stored_format,
        )
        for tp in (1, 8)
    }
    assert bytes_of[8] < bytes_of[1] <= 8 * bytes_of[8]
    assert (blueprint.stored_format is None) == (bytes_of[1] > 1.9 * blueprint.num_parameters)


@pytest.mark.parametrize(("name", "reason"), list(REFUSED.items()))
def test_a_model_that_is_not_planned_is_refused_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(InputRefused, match=reason):
        blueprint_of(found_config(name))


def _class_names() -> list[str]:
    return sorted({row["config"]["architectures"][0] for row in models().values()})


def _smallest_of(class_name: str) -> str | None:
    """The model of a class with the fewest layers, of those that are in a table."""
    found = []
    for name, row in models().items():
        if row["config"]["architectures"][0] == class_name:
            with suppress(InputRefused):
                found.append((declared(name).num_layers, name))
    return min(found)[1] if found else None


def _meta_parameters(name: str, class_name: str) -> int | None:
    """What transformers makes of the config, without any memory; corrections of routers are buffers there."""
    import torch
    import transformers

    aliases = {"KimiK25ForConditionalGeneration": "Kimi_K25ForConditionalGeneration"}
    if class_name == "Llama4ForConditionalGeneration":
        # Without vision_config transformers would put a tower of its own choice.
        class_name = "Llama4ForCausalLM"
    kind = getattr(transformers, aliases.get(class_name, class_name), None)
    if kind is None:
        return None
    config = json.loads(json.dumps(models()[name]["config"]))
    values = config["text_config"] if class_name == "Llama4ForCausalLM" else config
    for one in (values, *(held for held in values.values() if isinstance(held, dict))):
        for key in _NOT_OF_THE_SHAPE:
            one.pop(key, None)
    with torch.device("meta"):
        model = kind(kind.config_class.from_dict(values))
    corrections = ("e_score_correction_bias", "expert_bias", "layer_scalar")
    buffers = sum(value.numel() for key, value in model.named_buffers() if key.endswith(corrections))
    return buffers + sum(value.numel() for value in model.parameters())


@pytest.mark.parametrize("class_name", _class_names())
def test_the_parameters_are_those_of_transformers(class_name: str) -> None:
    name = _smallest_of(class_name)
    if name is None:
        pytest.skip(f"{class_name} is in no table")
    model = declared(name)
    found = _meta_parameters(name, model.class_name)
    if found is None:
        pytest.skip(f"transformers has no {model.class_name}")
    assert model.num_parameters == found


@pytest.mark.parametrize(
    ("name", "gib"),
    [
        # model.safetensors.index.json of the checkpoints, metadata.total_size.
        ("openai/gpt-oss-120b", 65_248_815_744 / 2**30),
        ("openai/gpt-oss-20b", 13_761_264_768 / 2**30),
        # All files of the repository on huggingface.co, as they were added up in 2026.
        ("nvidia/Kimi-K2.6-NVFP4", 554.34),
    ],
)
def test_a_quantized_checkpoint_is_as_large_as_its_files(name: str, gib: float) -> None:
    blueprint = blueprint_of(found_config(name))
    shapes = rank_shapes(blueprint, mapping=Mapping())
    held = weight_bytes(shapes, stage=0, dtype=DType.BFLOAT16, weight_format=blueprint.stored_format)
    assert held / 2**30 == pytest.approx(gib, rel=1e-3)
