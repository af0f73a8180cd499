"""Every architecture that TensorRT-LLM lists or registers: planned and built, or refused with its reason.

Upstream's table of models and its index of classes are data (upstream/models_pytorch.csv). What is built is a
dry run of published configs with holes for weights; TensorRT-LLM itself was not run.
"""

from __future__ import annotations

import csv
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from builders.blueprint import FoundConfig, blueprint_of
from builders.families.common.registry import is_of_family
from builders.llm_api.engine import plan_llm_engine
from builders.llm_api.model import open_llm_model
from tests.support.checkpoints.hollow import write_hollow_checkpoint
from tests.support.upstream.schema import misfits
from tpforge.architectures.table import find_architecture
from tpforge.errors import InputRefused
from tpforge.plan.models.known import known_models
from tpforge.recipe import EngineRecipe
from tpforge.trtllm.architectures import Support, architecture_support, llm_backend, supported_architectures
from tpforge.trtllm.versions import find_release

UPSTREAM = Path(__file__).parent / "upstream"
OTHER_SPELLINGS = {"DeepSeekV2ForCausalLM": "DeepseekV2ForCausalLM"}
"""Of upstream's page, where config.json files say otherwise."""
OF_NO_TABLE = ("Ministral3ForCausalLM", "Olmo2ForCausalLM", "FalconH1ForCausalLM", "Lfm2ForCausalLM")
"""Served by others, and neither in upstream's page nor in its index."""
NOT_HOLLOW = ("nvfp4", '"num_bits": 4', "mixed_precision", "expert_dtype")
"""Of formats that tests/support/checkpoints/hollow.py does not write."""


@cache
def rows() -> dict[str, dict[str, str]]:
    with (UPSTREAM / "models_pytorch.csv").open(encoding="utf-8") as file:
        found = list(csv.DictReader(line for line in file if not line.startswith("#")))
    return {OTHER_SPELLINGS.get(row["architecture"], row["architecture"]): row for row in found}


def support_of(name: str) -> Support:
    (found,) = (one for one in architecture_support(name) if one.runtime == "pytorch")
    return found


def has_sizes(name: str) -> bool:
    return find_architecture(name) is not None or is_of_family(name)


@pytest.mark.parametrize("name", list(rows()))
def test_the_backend_is_the_one_whose_index_or_page_has_the_class(name: str) -> None:
    row = rows()[name]
    by_autodeploy = row["page"] == "AutoDeploy" and not row["index"]
    assert llm_backend(name) == ("_autodeploy" if by_autodeploy else "pytorch")
    assert support_of(name).versions


def test_no_architecture_is_said_to_run_that_upstream_does_not_list() -> None:
    own = set(supported_architectures("pytorch")) - set(rows())
    # Hunyuan's page spells the classes without V1, the index with it.
    assert own == set()


@pytest.mark.parametrize("name", [name for name in rows() if not has_sizes(name)])
def test_a_class_without_sizes_is_refused_with_what_upstream_does_with_it(name: str) -> None:
    with pytest.raises(InputRefused) as refused:
        blueprint_of(FoundConfig(name, name, {"architectures": [name]}))
    support = support_of(name)
    if support.generates:
        assert f"({support.versions}): state its sizes in a file for --describe" in str(refused.value)
    else:
        assert f"TensorRT-LLM runs it {support.note}" in str(refused.value)


LLAMA: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 288,
    "max_position_embeddings": 512,
}


def generating() -> list[str]:
    return [name for name in rows() if not has_sizes(name) and support_of(name).generates]


@pytest.mark.parametrize("name", generating())
def test_the_advice_to_describe_it_leads_to_an_engine_of_the_first_release(name: str, tmp_path: Path) -> None:
    model = write_hollow_checkpoint(tmp_path / "model", {**LLAMA, "architectures": ["LlamaForCausalLM"]})
    (model / "config.json").write_text(json.dumps({**LLAMA, "architectures": [name], "model_type": "own"}))
    (tmp_path / "sizes.toml").write_text('like = "LlamaForCausalLM"\n')
    release = find_release(support_of(name).first)
    found = open_llm_model(str(model), release=release, describe=tmp_path / "sizes.toml")
    assert (found.spec.architecture, found.spec.hidden_size) == (name, 64)


@pytest.mark.parametrize("name", OF_NO_TABLE)
def test_a_class_that_upstream_does_not_have_is_refused_as_such(name: str) -> None:
    assert name not in rows()
    with pytest.raises(InputRefused, match="TensorRT-LLM lists it for no runtime"):
        blueprint_of(FoundConfig(name, name, {"architectures": [name]}))


@cache
def published() -> dict[str, tuple[str, dict[str, Any]]]:
    """Of every class that no family reads a published model whose format the hollow checkpoints can have."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    models: dict[str, dict[str, Any]] = json.loads((UPSTREAM / "model_configs.json").read_text())["models"]
    known = {one.id: {"config": one.config, "hf_quant_config": one.hf_quant_config} for one in known_models()}
    models = {**known, **models}
    for name, row in sorted(models.items(), key=lambda item: len(json.dumps(item[1]))):
        text = json.dumps(row).lower()
        (kind,) = row["config"]["architectures"]
        if (
            find_architecture(kind) is not None
            and not is_of_family(kind)
            and not any(word in text for word in NOT_HOLLOW)
        ):
            found.setdefault(kind, (name, row))
    return found


@pytest.mark.parametrize("kind", sorted(published()))
def test_a_published_model_of_each_class_is_built_for_a_release_that_has_it(
    kind: str, tmp_path: Path
) -> None:
    _, row = published()[kind]
    model = write_hollow_checkpoint(tmp_path / "model", row["config"], modelopt=row.get("hf_quant_config"))
    recipe = EngineRecipe(model=str(model), runtime="pytorch", trtllm="1.4.0rc1", tp=2, sm=100)
    engine = plan_llm_engine(recipe, out=tmp_path / "engine", sm=100)
    assert engine.plan.arguments["backend"] == llm_backend(kind)
    if engine.plan.arguments["backend"] == "pytorch":
        assert misfits({"model": "x", **engine.plan.nested}) == []
