"""Adapters, Mistral's own layout, split and newer .gguf files: refused as what they are, with what to do."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from builders.sources import open_source
from tests.support.tiny import write_tiny_llama
from tests.unit.builders.sources.test_gguf import write_gguf
from tpforge.errors import InputRefused


def refusal(location: Path) -> str:
    with pytest.raises(InputRefused) as caught:
        open_source(str(location))
    return str(caught.value)


@pytest.mark.parametrize("has_config", [False, True])
def test_a_lora_adapter_is_refused_as_one(tmp_path: Path, has_config: bool) -> None:
    write_tiny_llama(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "a/b", "r": 4}))
    if not has_config:
        (tmp_path / "config.json").unlink()
    words = refusal(tmp_path)
    assert "is a LoRA adapter (PEFT) of 'a/b', not a model" in words and "merge_and_unload" in words


def test_a_broken_adapter_config_is_still_an_adapter(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{")
    assert "is a LoRA adapter (PEFT) of an unnamed model" in refusal(tmp_path)


@pytest.mark.parametrize("has_config", [False, True])
def test_mistrals_own_layout_is_refused_as_that(tmp_path: Path, has_config: bool) -> None:
    write_tiny_llama(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "consolidated.safetensors")
    (tmp_path / "params.json").write_text("{}")
    if not has_config:
        (tmp_path / "config.json").unlink()
    words = refusal(tmp_path)
    assert "is in Mistral's own layout (consolidated.safetensors, params.json)" in words
    assert "download" not in words


def test_a_whole_model_with_an_adapter_beside_it_is_read(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with open_source(str(tmp_path)) as source:
        assert source.spec.num_layers == 2


def test_weights_of_another_name_are_not_called_broken(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "weights.safetensors")
    words = refusal(tmp_path)
    assert "one file must be named so" in words and "download" not in words


@pytest.mark.parametrize("kind", [31, 137, 9999])
def test_a_type_that_gguf_does_not_list_is_named(tmp_path: Path, kind: int) -> None:
    path = write_gguf(write_tiny_llama(tmp_path / "model"), tmp_path / "tiny.gguf")
    content = bytearray(path.read_bytes())
    name = b"blk.0.ffn_down.weight"
    place = content.index(name) + len(name)
    (num_dims,) = struct.unpack_from("<I", content, place)
    struct.pack_into("<I", content, place + 4 + 8 * num_dims, kind)
    path.write_bytes(content)
    words = refusal(path)
    assert f"blk.0.ffn_down.weight: found type {kind}, which gguf-py" in words
    assert "download it again" not in words


def test_a_broken_file_is_still_called_broken(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path)
    held = load_file(tmp_path / "model.safetensors")
    save_file(held, tmp_path / "model.safetensors")
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[:-8])
    assert "truncated" in refusal(tmp_path) and "download it again" in refusal(tmp_path)
