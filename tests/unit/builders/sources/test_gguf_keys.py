"""Keys of a .gguf's model that are not read are refused by name: llama.cpp computes otherwise with them.

Source: llama.cpp, llama-model.cpp (load_hparams of LLM_ARCH_LLAMA); gguf-py 0.19, constants.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFWriter

from builders.sources import open_source
from tests.support.tiny import write_tiny_llama
from tests.unit.builders.sources.test_gguf import write_gguf
from tpforge.errors import InputRefused


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("keys") / "model")


def with_key(
    model: Path, path: Path, monkeypatch: pytest.MonkeyPatch, add: str, key: str, value: Any
) -> Path:
    right = GGUFWriter.write_header_to_file

    def write(self: GGUFWriter, *args: Any) -> None:
        getattr(self, add)(key, value)
        right(self, *args)

    monkeypatch.setattr(GGUFWriter, "write_header_to_file", write)
    return write_gguf(model, path)


@pytest.mark.parametrize(
    ("add", "key", "value"),
    [
        ("add_uint32", "llama.attention.sliding_window", 64),
        ("add_float32", "llama.attention.scale", 0.5),
        ("add_float32", "llama.attention.clamp_kqv", 8.0),
        ("add_float32", "llama.logit_scale", 0.25),
        ("add_float32", "llama.residual_scale", 0.5),
        ("add_float32", "llama.embedding_scale", 12.0),
        ("add_float32", "llama.final_logit_softcapping", 30.0),
        ("add_float32", "llama.rope.scale_linear", 4.0),
        ("add_float32", "llama.rope.scaling.attn_factor", 1.5),
        ("add_float32", "llama.rope.scaling.yarn_ext_factor", 1.0),
        ("add_string", "llama.pooling_type", "mean"),
        ("add_bool", "llama.attention.causal", False),
        ("add_uint32", "llama.attention.value_length", 32),
        ("add_float32", "llama.rope.scaling.factor", 4.0),
    ],
)
def test_a_key_of_the_model_that_is_not_read_is_refused_by_name(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, add: str, key: str, value: Any
) -> None:
    path = with_key(model, tmp_path / "tiny.gguf", monkeypatch, add, key, value)
    with pytest.raises(InputRefused) as caught:
        open_source(str(path))
    assert f"{key}: found" in str(caught.value)


@pytest.mark.parametrize(
    ("add", "key", "value"),
    [
        ("add_uint32", "llama.vocab_size", 320),
        ("add_bool", "llama.attention.causal", True),
        ("add_uint32", "llama.attention.value_length", 16),
        ("add_bool", "llama.rope.scaling.finetuned", False),
        ("add_string", "llama.tensor_data_layout", "Meta AI original pth"),
        ("add_float32", "llama.rope.scaling.factor", 1.0),
        ("add_uint32", "llama.expert_count", 0),
    ],
)
def test_a_key_that_says_what_is_computed_anyway_is_read(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, add: str, key: str, value: Any
) -> None:
    assert json.loads((model / "config.json").read_text())["head_dim"] == 16
    with open_source(str(with_key(model, tmp_path / "tiny.gguf", monkeypatch, add, key, value))) as source:
        assert source.spec.rope is not None and source.spec.rope.scaling is None
