"""Checkpoints whose tensors have other names than the model's: read as what they are, or refused as that.

The judge is the same model under its own names: shards equal bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from builders.audit.survey import survey
from builders.inspection import inspect_survey
from builders.llm_api.model import open_llm_model
from builders.sources import locate
from builders.sources.safetensors_reader import TensorEntry
from builders.sources.weight_files import Weights
from builders.sources.wrapped_names import unwrapped
from tests.support.families.configs import SIZES
from tests.support.tiny import write_tiny_llama
from tests.support.tiny_engine import write_engine_of
from tpforge.errors import InputRefused
from tpforge.shards.mapping import Mapping
from tpforge.trtllm.versions import find_release

Tensors = dict[str, torch.Tensor]


def _prefixed(prefix: str) -> Callable[[str], str]:
    return lambda name: prefix + name


RENAMED: dict[str, Callable[[str], str]] = {
    "_orig_mod.": _prefixed("_orig_mod."),
    "module.": _prefixed("module."),
    "module._orig_mod.": _prefixed("module._orig_mod."),
    "language_model.": _prefixed("language_model."),
    "model.language_model.": lambda name: name.replace("model.", "model.language_model.", 1),
    "base_model.model.": _prefixed("base_model.model."),
    "text_decoder.": _prefixed("text_decoder."),
    "_fsdp_wrapped_module.": lambda name: f"_fsdp_wrapped_module.{name}".replace(
        "layers.1.", "layers.1._fsdp_wrapped_module._checkpoint_wrapped_module."
    ),
    "_forward_module.module.": _prefixed("_forward_module.module."),
    "_orig_mod. of the layers": lambda name: name.replace("layers.0.", "layers.0._orig_mod."),
}


def rank_file(source: Path, out: Path) -> Tensors:
    engine, _ = write_engine_of(source, out, mapping=Mapping())
    return load_file(engine / "checkpoint" / "rank0.safetensors")


def equal(one: Tensors, other: Tensors) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def rewritten(folder: Path, change: Callable[[Tensors], Tensors]) -> None:
    path = folder / "model.safetensors"
    save_file({name: one.contiguous() for name, one in change(load_file(path)).items()}, path)


def pytorch_refusal(folder: Path) -> str:
    with pytest.raises(InputRefused) as caught:
        open_llm_model(str(folder), release=find_release("1.2.1"))
    inspection = inspect_survey(survey(locate(str(folder))), mapping=Mapping())
    (serving,) = (one for one in inspection.runtimes if one.runtime == "pytorch")
    assert not serving.serves
    return str(caught.value)


@pytest.mark.parametrize("name", RENAMED)
def test_wrapped_names_are_read_without_their_wrapper(tmp_path: Path, name: str) -> None:
    write_tiny_llama(tmp_path / "plain")
    write_tiny_llama(tmp_path / "wrapped")
    rewritten(tmp_path / "wrapped", lambda held: {RENAMED[name](key): one for key, one in held.items()})
    plain, wrapped = (rank_file(tmp_path / one, tmp_path / f"{one}-out") for one in ("plain", "wrapped"))
    assert equal(plain, wrapped)
    notes = survey(locate(str(tmp_path / "wrapped"))).notes
    assert any("begin with" in note for note in notes)
    assert "begin with" in pytorch_refusal(tmp_path / "wrapped")


def test_nothing_is_taken_off_where_two_names_would_become_one() -> None:
    names = ("model.norm.weight", "_orig_mod.model.norm.weight")
    assert unwrapped(names) == ({name: name for name in names}, ())


def test_a_prefix_of_two_models_is_not_taken_off(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path / "model")
    rewritten(
        tmp_path / "model",
        lambda held: {
            f"{part}.{name}": one.clone() for part in ("draft", "target") for name, one in held.items()
        },
    )
    assert "model.embed_tokens.weight: missing" in pytorch_refusal(tmp_path / "model")


def test_an_adapter_that_was_not_merged_is_named(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path / "model")
    name = "model.layers.0.self_attn.q_proj"

    def adapted(held: Tensors) -> Tensors:
        base = held.pop(f"{name}.weight")
        lora = {f"{name}.lora_A.default.weight": torch.ones(4, 64), f"{name}.base_layer.weight": base}
        return {f"base_model.model.{key}": one for key, one in (held | lora).items()}

    rewritten(tmp_path / "model", adapted)
    words = pytorch_refusal(tmp_path / "model")
    for part in ("lora_A.default", "base_layer"):
        assert f"{name}.{part}.weight: is of a LoRA adapter that was not merged" in words


def test_the_head_of_a_tied_model_stands_for_its_embedding(tmp_path: Path) -> None:
    for name in ("plain", "headed"):
        write_tiny_llama(tmp_path / name, tie=True)

    def behead(held: Tensors) -> Tensors:
        embedding = held.pop("model.embed_tokens.weight")
        return held | {"lm_head.weight": embedding}

    rewritten(tmp_path / "headed", behead)
    plain, headed = (rank_file(tmp_path / one, tmp_path / f"{one}-out") for one in ("plain", "headed"))
    assert equal(plain, headed)
    assert "model.embed_tokens.weight is missing" in pytorch_refusal(tmp_path / "headed")


def test_an_untied_model_without_an_embedding_is_refused_by_every_runtime(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path / "model")

    def without(held: Tensors) -> Tensors:
        return {name: one for name, one in held.items() if "embed" not in name}

    rewritten(tmp_path / "model", without)
    assert "model.embed_tokens.weight: missing" in pytorch_refusal(tmp_path / "model")
    assert "model.embed_tokens.weight: missing" in survey(locate(str(tmp_path / "model"))).problems


def test_empty_tensors_are_named_as_those_of_zero3(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path / "model")
    rewritten(tmp_path / "model", lambda held: {name: torch.empty(0) for name in held})
    for words in (pytorch_refusal(tmp_path / "model"), *survey(locate(str(tmp_path / "model"))).problems):
        assert "found shape [0], without a value in it" in words and "zero_to_fp32" in words


def test_kv_matrices_of_a_wrong_shape_are_refused_by_every_runtime(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path / "model")
    name = "model.layers.0.self_attn.k_proj.weight"
    rewritten(tmp_path / "model", lambda held: held | {name: held[name][:16]})
    assert f"{name}: found shape [16, 64]" in pytorch_refusal(tmp_path / "model")


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [
        ("qwen3_moe", {"head_dim": 16, "num_experts": 4, "moe_intermediate_size": 48}),
        ("mixtral", {"num_local_experts": 4, "sliding_window": None}),
    ],
)
def test_fused_experts_are_read_as_single_ones(
    tmp_path: Path, model_type: str, settings: dict[str, object]
) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **{**SIZES, **settings, "num_experts_per_tok": 2})
    model = AutoModelForCausalLM.from_config(config)
    for name, is_original in (("plain", True), ("fused", False)):
        model.save_pretrained(tmp_path / name, save_original_format=is_original)
    names = load_file(tmp_path / "fused" / "model.safetensors")
    assert "model.layers.0.mlp.experts.gate_up_proj" in names
    plain, fused = (rank_file(tmp_path / one, tmp_path / f"{one}-out") for one in ("plain", "fused"))
    assert equal(plain, fused)
    assert "the experts of a layer are one tensor" in pytorch_refusal(tmp_path / "fused")


def test_biases_of_zeros_are_left_out_and_others_refused(tmp_path: Path) -> None:
    for name in ("plain", "zeros", "values"):
        write_tiny_llama(tmp_path / name)
    bias = "model.layers.0.mlp.down_proj.bias"
    rewritten(tmp_path / "zeros", lambda held: held | {bias: torch.zeros(64)})
    rewritten(tmp_path / "values", lambda held: held | {bias: torch.ones(64)})
    plain, zeros = (rank_file(tmp_path / one, tmp_path / f"{one}-out") for one in ("plain", "zeros"))
    assert equal(plain, zeros)
    assert bias in survey(locate(str(tmp_path / "zeros"))).dropped
    problems = survey(locate(str(tmp_path / "values"))).problems
    assert problems == [f"{bias}: has values, but the model of this config.json has no bias there"]
    with pytest.raises(InputRefused, match=r"down_proj\.bias: has values"):
        rank_file(tmp_path / "values", tmp_path / "values-out")


def test_models_that_the_llm_api_alone_knows_are_looked_at_too(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    changed = config | {"architectures": ["Exaone4ForCausalLM"], "model_type": "exaone4"}
    (tmp_path / "model" / "config.json").write_text(json.dumps(changed))
    rewritten(tmp_path / "model", lambda held: {f"_orig_mod.{name}": one for name, one in held.items()})
    assert "begin with _orig_mod." in pytorch_refusal(tmp_path / "model")


def test_the_tensors_of_a_checkpoint_are_gathered_as_often_whatever_their_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a name, a header of 300,000 tensors would take hours."""
    right = vars(Weights)["entries"].func
    asked: list[int] = []

    def counted(weights: Weights) -> dict[str, TensorEntry]:
        asked.append(1)
        found: dict[str, TensorEntry] = right(weights)
        return found

    watched = cached_property(counted)
    watched.__set_name__(Weights, "entries")
    monkeypatch.setattr(Weights, "entries", watched)
    counts = []
    for num_more in (0, 500):
        write_tiny_llama(tmp_path / f"{num_more}")
        path = tmp_path / f"{num_more}" / "model.safetensors"
        save_file(load_file(path) | {f"t{one}": torch.zeros(1) for one in range(num_more)}, path)
        asked.clear()
        survey(locate(str(tmp_path / f"{num_more}")))
        counts.append(len(asked))
    assert counts[0] == counts[1] > 0
