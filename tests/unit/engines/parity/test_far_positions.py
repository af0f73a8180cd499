"""The proof reaches past windows and scaled ropes: a reading that is wrong on purpose there fails it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Gemma3TextConfig, LlamaConfig, MistralConfig, Qwen2Config

from engines.parity.far_positions import far_tokens, thresholds
from engines.parity.parity import measure_parity
from engines.store import write_manifest
from tests.support.tiny import write_tiny_llama
from tests.support.tiny_engine import write_engine_of
from tpforge.manifest import Limits, Manifest, Parity
from tpforge.model import ModelSpec
from tpforge.shards.mapping import Mapping

WINDOW = 320
LIMITS = Limits(max_batch_size=1, max_input_len=448, max_seq_len=480)
MISTRAL = {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": WINDOW}
LENGTH = {"max_position_embeddings": 512}
YARN = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": WINDOW}


def built(tmp_path: Path, **config: Any) -> tuple[Path, Manifest, Path]:
    """An engine of a tiny llama whose config.json says otherwise."""
    source = write_tiny_llama(tmp_path / "source")
    values = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(values | LENGTH | config))
    engine, manifest = write_engine_of(source, tmp_path / "engine", mapping=Mapping(), limits=LIMITS)
    return engine, manifest, source


def proof(engine: Path, manifest: Manifest, source: Path, model: ModelSpec | None = None) -> Parity:
    """The parity of the engine; with `model` it takes that for what it executes."""
    held = manifest if model is None else manifest.model_copy(update={"model": model})
    write_manifest(engine, held)
    return measure_parity(engine, held, source_path=source, progress=lambda _: None)[0]


def test_right_windows_pass(tmp_path: Path) -> None:
    parity = proof(*built(tmp_path, **MISTRAL))
    assert parity.problems == ()
    assert parity.passed


@pytest.mark.parametrize("window", [None, 300])
def test_a_wrong_window_that_no_prompt_reaches_is_found(tmp_path: Path, window: int | None) -> None:
    engine, manifest, source = built(tmp_path, **MISTRAL)
    attention = manifest.model.attention.model_copy(update={"sliding_window": window})
    parity = proof(engine, manifest, source, manifest.model.model_copy(update={"attention": attention}))
    assert not parity.passed
    words = f"layer 0: the engine has a sliding window of {window}, transformers' config of 320"
    assert words in parity.problems
    assert any(one.startswith("a prompt of 384 tokens: logits of its last") for one in parity.problems)


def test_a_window_on_the_wrong_layers_is_found(tmp_path: Path) -> None:
    kinds = ["sliding_attention", "full_attention"]
    qwen = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "use_sliding_window": True,
        "sliding_window": WINDOW,
        "layer_types": kinds,
    }
    source = write_tiny_llama(tmp_path / "source")
    values = json.loads((source / "config.json").read_text())
    tensors = load_file(source / "model.safetensors")
    for layer in range(values["num_hidden_layers"]):
        for name in ("q_norm", "k_norm"):
            tensors[f"model.layers.{layer}.self_attn.{name}.weight"] = torch.ones(values["head_dim"])
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    layers = [kinds[layer % 2] for layer in range(values["num_hidden_layers"])]
    (source / "config.json").write_text(json.dumps(values | LENGTH | qwen | {"layer_types": layers}))
    engine, manifest = write_engine_of(source, tmp_path / "engine", mapping=Mapping(), limits=LIMITS)
    assert proof(engine, manifest, source).passed
    sliding = manifest.model.attention.sliding_layers
    assert sliding is not None
    attention = manifest.model.attention.model_copy(
        update={"sliding_layers": tuple(not one for one in sliding)}
    )
    parity = proof(engine, manifest, source, manifest.model.model_copy(update={"attention": attention}))
    assert any(one.startswith("a prompt of 384 tokens") for one in parity.problems)


def test_a_rope_whose_scaling_is_lost_is_found(tmp_path: Path) -> None:
    engine, manifest, source = built(tmp_path, rope_scaling=YARN, rope_theta=10000.0)
    assert proof(engine, manifest, source).passed
    config = json.loads((engine / "checkpoint/config.json").read_text())
    (engine / "checkpoint/config.json").write_text(json.dumps(config | {"rotary_scaling": None}))
    assert not proof(engine, manifest, source).passed


def test_thresholds_are_those_of_transformers_configs() -> None:
    assert thresholds(LlamaConfig()) == []
    assert thresholds(MistralConfig(sliding_window=77)) == [77]
    assert thresholds(MistralConfig(sliding_window=None)) == []
    assert thresholds(Qwen2Config(use_sliding_window=False, sliding_window=77)) == []
    dynamic = {"rope_type": "dynamic", "factor": 2.0}
    assert thresholds(LlamaConfig(max_position_embeddings=99, rope_parameters=dynamic))[-1] == 99
    assert 512 in thresholds(Gemma3TextConfig(sliding_window=512))


def test_a_prompt_goes_as_far_as_the_engine_and_never_too_far() -> None:
    def length(window: int, *, most: int) -> int:
        limits = Limits(max_input_len=most, max_seq_len=most + 1)
        return len(far_tokens(MistralConfig(sliding_window=window), limits=limits, vocab_size=100))

    assert length(100, most=1000) == 164
    assert length(100, most=120) == 120
    assert length(100, most=100) == 0
    assert length(1 << 20, most=1 << 21) == 0
