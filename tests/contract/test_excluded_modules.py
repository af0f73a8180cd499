"""What config.json excludes from quantization is what has no scales, by TensorRT-LLM's own rule.

No engine is built: the rule is upstream's data, the modules are those of rank files.
"""

from __future__ import annotations

import json
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from builders.conversion.convert import convert
from builders.conversion.planned import plan_conversion
from builders.sources import open_source
from tests.support.conversions import Tensors
from tests.support.families.cases import CASES
from tests.support.families.configs import write_tiny_family
from tests.support.quantized.checkpoints import write_quantized
from tests.support.tiny import write_tiny_llama
from tpforge.quantization import Quantization
from tpforge.shards.mapping import Mapping

RULES = tomllib.loads((Path(__file__).parent / "upstream" / "excluded_modules.toml").read_text())
FAMILIES = ("llama", "qwen2", "mixtral", "qwen2_moe", "gpt2", "bloom")
READ = {"gptq": "gptq", "awq": "awq", "fp8": "fp8", "modelopt awq": "int4_awq", "modelopt nvfp4": "nvfp4"}


def write_family(folder: Path, name: str) -> Path:
    write_tiny_family(folder, next(case for case in CASES if case.name == name))
    return folder


def rank_files(location: Path, out: Path, quantization: Quantization | None) -> tuple[list[Tensors], Any]:
    """The tensors of both ranks, and `quantization` of config.json."""
    out.mkdir()
    with open_source(str(location)) as source:
        planned = plan_conversion(
            source,
            mapping=Mapping(tp_size=2),
            dtype=None,
            pad=True,
            parallel_embedding_dim=None,
            quantization=quantization,
        )
        convert(source, planned, out=out)
    config = json.loads((out / "config.json").read_text())
    return [load_file(out / f"rank{rank}.safetensors") for rank in range(2)], config["quantization"]


def excluded(module: str, patterns: list[str]) -> bool:
    return any(fnmatchcase(module, pattern) for pattern in patterns)


def modules(rank: Tensors, *, dims: tuple[int, ...]) -> list[str]:
    """The modules whose weight has so many dimensions; norms have one, linears two, experts three."""
    return [
        name.removesuffix(".weight")
        for name, tensor in rank.items()
        if name.endswith(".weight") and tensor.dim() in dims
    ]


def has_scales(rank: Tensors, module: str) -> bool:
    return any(name.startswith(f"{module}.") and "scal" in name for name in rank)


@pytest.mark.parametrize("name", ["int8_wo", "int4_wo", "fp8_block"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_modules_without_scales_are_the_excluded_ones(tmp_path: Path, family: str, name: str) -> None:
    source = write_family(tmp_path / "source", family)
    plain, _ = rank_files(source, tmp_path / "plain", None)

    ranks, declared = rank_files(source, tmp_path / "out", Quantization(format=name))

    for rank, floats in zip(ranks, plain, strict=True):
        found = modules(floats, dims=(2, 3))
        assert any(has_scales(rank, module) for module in found)
        for module in found:
            assert excluded(module, declared["exclude_modules"]) is not has_scales(rank, module), module


@pytest.mark.parametrize("name", ["int8_wo", "int4_wo"])
def test_the_portable_form_excludes_what_the_packed_form_leaves_as_it_is(tmp_path: Path, name: str) -> None:
    source = write_family(tmp_path / "source", "qwen2_moe")

    _, portable = rank_files(source, tmp_path / "portable", Quantization(format=name, form="portable"))
    _, packed = rank_files(source, tmp_path / "packed", Quantization(format=name))

    assert portable == packed


@pytest.mark.parametrize("method", READ)
def test_checkpoints_that_were_read_exclude_what_has_no_scales(tmp_path: Path, method: str) -> None:
    plain = write_tiny_llama(
        tmp_path / "plain", dtype="float16", num_heads=4, num_kv_heads=2, head_size=128, hidden_size=256,
        intermediate_size=512,
    )  # fmt: skip
    write_quantized(plain, tmp_path / "source", method=method)
    with open_source(str(tmp_path / "source")) as source:
        assert source.quantized is not None
        layout = source.quantized.layout
    quantization = Quantization(format=READ[method], group_size=layout.group)

    ranks, declared = rank_files(tmp_path / "source", tmp_path / "out", quantization)

    for rank in ranks:
        for module in modules(rank, dims=(2, 3)):
            assert excluded(module, declared["exclude_modules"]) is not has_scales(rank, module), module


@pytest.mark.parametrize("family", ["llama", "mixtral", "qwen2"])
def test_fp8_by_rows_excludes_the_last_norm_and_no_block_with_scales(tmp_path: Path, family: str) -> None:
    source = write_family(tmp_path / "source", family)

    ranks, declared = rank_files(source, tmp_path / "out", Quantization(format="fp8_rowwise"))

    patterns = declared["exclude_modules"]
    for rank in ranks:
        for module in modules(rank, dims=(1,)):
            feeds_a_block = ".layers." in module
            assert excluded(module, patterns) is not feeds_a_block, module
        for module in modules(rank, dims=(2, 3)):
            block = module.rpartition(".")[0]
            replaced = block.endswith(tuple(RULES["fp8_rowwise"]["blocks"])) and not excluded(block, patterns)
            is_kept = excluded(module, RULES["linears"]["default"])
            assert has_scales(rank, module) is (replaced and not is_kept), module


@pytest.mark.parametrize(
    ("name", "rule"), [("int8_wo", "linears"), ("nvfp4", "linears"), ("fp8_rowwise", "fp8_rowwise")]
)
def test_the_list_is_upstreams_own_default(tmp_path: Path, name: str, rule: str) -> None:
    source = write_family(tmp_path / "source", "llama")

    _, declared = rank_files(source, tmp_path / "out", Quantization(format=name))

    assert declared["exclude_modules"] == RULES[rule]["default"]
