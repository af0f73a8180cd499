"""tpforge inspect on checkpoints whose quantized weights are read: described, divided, counted."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from scripts.main import main
from tests.support.quantized.checkpoints import CONFIGS, write_quantized
from tests.support.tiny import write_tiny_llama

PARAMETERS = 2 * 320 * 256 + 2 * 256 * 1024 + 2 * 256 * 512 + 3 * 256 * 512 + 3 * 256
"""Embedding and head; q and o; k and v; gate, up and down; three norms."""


@pytest.mark.parametrize("method", CONFIGS)
def test_bytes_of_ranks_are_those_that_convert_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    plain = write_tiny_llama(
        tmp_path / "plain",
        dtype="float16",
        num_layers=1,
        num_heads=8,
        num_kv_heads=4,
        head_size=128,
        hidden_size=256,
        intermediate_size=512,
    )
    write_quantized(plain, tmp_path / "model", method=method)
    assert main(["inspect", str(tmp_path / "model"), "--tp", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["problems"] == []
    assert found["num_parameters"] == PARAMETERS
    assert found["quantization"] is not None
    assert main(["convert", str(tmp_path / "model"), "--tp", "2", "--out", str(tmp_path / "out")]) == 0
    written = [(tmp_path / "out" / f"rank{rank}.safetensors").stat().st_size for rank in range(2)]
    assert found["asked"]["rank_bytes"] == written
    assert found["asked"]["padding_bytes"] == 0


def test_a_size_that_cuts_through_a_group_is_impossible_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = write_tiny_llama(tmp_path / "plain", dtype="float16", hidden_size=64, intermediate_size=128)
    write_quantized(plain, tmp_path / "model", method="gptq", group=32)
    assert main(["inspect", str(tmp_path / "model"), "--json"]) in (0, 4)
    divisions = {one["tp"]: one for one in json.loads(capsys.readouterr().out)["divisions"]}
    assert divisions[4]["rank_bytes"] is None
    assert divisions[4]["division"].startswith("impossible: ")


def test_a_lost_scale_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = write_tiny_llama(tmp_path / "plain", dtype="float16", hidden_size=64, intermediate_size=128)
    write_quantized(plain, tmp_path / "model", method="gptq")
    path = tmp_path / "model" / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.up_proj.scales"]
    save_file(tensors, path)
    assert main(["inspect", str(tmp_path / "model")]) == 4
    captured = capsys.readouterr()
    assert "model.layers.1.mlp.up_proj.scales: missing" in captured.err
    assert "quantization     GPTQ: bits 4, group_size 32" in captured.out
