"""Engines of INT4 in the order of TensorRT-LLM's loader: built, kept, proven, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engines.host import Gpu, Host
from engines.store import read_manifest, write_manifest
from scripts.main import main
from tests.support.quantized.checkpoints import write_quantized
from tests.support.quantized.int4_orders import LAYER, SIZES, checkpoint
from tests.support.servers.standin_trtllm_build import write_standin
from tests.support.tiny import write_tiny_llama


def build(model: Path, out: Path, *options: str) -> int:
    limits = ["--max-seq-len", "320", "--max-input-len", "256", "--max-batch-size", "4"]
    return main(["build", str(model), "--runtime", "tensorrt", "--out", str(out), *limits, *options])


def use_gpus(monkeypatch: pytest.MonkeyPatch, sm: int) -> None:
    gpus = tuple(Gpu(index, "made up", f"GPU-{index}", 1 << 36, 0, sm) for index in range(2))
    monkeypatch.setattr("engines.host.find_host", lambda: Host(gpus=gpus))


def use_standin(monkeypatch: pytest.MonkeyPatch, folder: Path, *, sm: int = 90, **behaviour: Any) -> None:
    """trtllm-build on a host with two GPUs."""
    use_gpus(monkeypatch, sm)
    write_standin(folder, **behaviour)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.parametrize(
    ("method", "order", "options"),
    [
        ("gptq", "sm80", ["--sm", "89"]),
        ("packed zeros", "sm90", ["--sm", "90"]),
        ("awq", "sm90", ["--sm", "90", "--dtype", "bfloat16"]),
        ("modelopt awq", "modelopt", []),
    ],
)
def test_an_engine_of_laid_out_rank_files_is_proven_by_the_reference_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, order: str, options: list[str]
) -> None:
    plain = write_tiny_llama(tmp_path / "plain", **SIZES)
    write_quantized(plain, tmp_path / "model", method=method, group=64)
    use_standin(monkeypatch, tmp_path / "bin", sm=int(options[1]) if options else 90)
    engine = tmp_path / "engine"

    assert build(tmp_path / "model", engine, "--tp", "2", *options) == 0
    assert main(["verify", str(engine), "--baseline", str(plain)]) == 0

    manifest = read_manifest(engine)
    assert manifest.quantization is not None and manifest.quantization.order == order
    assert manifest.parity is not None and manifest.parity.passed
    assert ("--sm" in manifest.command) is (order != "modelopt")


def test_an_order_that_the_reference_runtime_does_not_know_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from engines.reference import EngineError, load_config

    engine = tmp_path / "engine"
    words = ["--max-seq-len", "320", "--max-input-len", "256", "--out", str(engine)]
    assert main(["build", str(checkpoint(tmp_path, "gptq")), *words]) == 0
    manifest = read_manifest(engine)
    assert manifest.quantization is not None and manifest.quantization.order == "plain"
    other = manifest.quantization.model_copy(update={"order": "sm100"})
    write_manifest(engine, manifest.model_copy(update={"quantization": other}))

    with pytest.raises(EngineError, match="integers in order sm100, known are plain, sm80"):
        load_config(engine)


def test_a_kept_checkpoint_of_another_order_or_another_model_is_not_reused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = checkpoint(tmp_path, "gptq")
    use_standin(monkeypatch, tmp_path / "bin", sm=80, status=1)
    engine, kept = tmp_path / "engine", tmp_path / ".engine.checkpoint" / "rank0.safetensors"
    assert build(model, engine, "--sm", "80") == 4
    first = kept.read_bytes()
    use_gpus(monkeypatch, 89)
    assert build(model, engine, "--sm", "89") == 4
    assert "of an earlier run" in capsys.readouterr().err

    use_gpus(monkeypatch, 90)
    assert build(model, engine, "--sm", "90") == 4
    second = kept.read_bytes()
    assert "of an earlier run" not in capsys.readouterr().err
    assert len(second) == len(first) and second != first

    kept.write_bytes(second[:-1] + bytes([second[-1] ^ 1]))
    assert build(model, engine, "--sm", "90") == 4
    assert kept.read_bytes() == second

    path = model / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"] += 1
    save_file(tensors, path)
    assert build(model, engine, "--sm", "90") == 4
    assert kept.read_bytes() != second
    assert "of an earlier run" not in capsys.readouterr().err


def test_trtllm_build_on_a_gpu_of_another_order_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_standin(monkeypatch, tmp_path / "bin", sm=80)
    model = checkpoint(tmp_path, "gptq")

    assert build(model, tmp_path / "engine", "--sm", "90") == 4
    assert "trtllm-build compiles for the GPUs that it sees, SM80" in capsys.readouterr().err
    assert build(model, tmp_path / "engine") == 0
    quantization = read_manifest(tmp_path / "engine").quantization
    assert quantization is not None and quantization.order == "sm80"


def test_convert_writes_the_order_of_tensorrt_llm_where_it_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = checkpoint(tmp_path, "gptq")
    words = ["convert", str(model), "--tp", "2", "--out"]
    assert main([*words, str(tmp_path / "plain-order")]) == 0
    assert "integers in plain order, for the runtime reference" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "laid-out"), "--runtime", "tensorrt", "--sm", "90"]) == 0
    assert "integers in order sm90, for trtllm-build" in capsys.readouterr().err
    name = f"{LAYER}.mlp.fc.weight"
    assert load_file(tmp_path / "plain-order" / "rank1.safetensors")[name].dtype == torch.int8
    assert load_file(tmp_path / "laid-out" / "rank1.safetensors")[name].dtype == torch.float16
    for quantize in ("int8_wo", "int4_wo"):
        refused = ["--quantize", quantize, "--runtime", "tensorrt", "--out", str(tmp_path / "c")]
        assert main(["convert", str(tmp_path / "plain"), *refused]) == 2
        assert "give --portable too" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("method", "sizes", "options", "status", "said"),
    [
        ("gptq", {}, [], 2, "depends on the GPU, and there is none here; give --sm"),
        (
            "gptq",
            {},
            ["--sm", "100"],
            4,
            "SM100: the order of the integers that 1.2 takes",
        ),
        ("awq", {}, ["--sm", "120"], 4, "SM120: the order of the integers that 1.2 takes"),
        ("gptq", {}, ["--sm", "90", "--dtype", "float32"], 4, "found float32; give --dtype float16"),
        ("gptq", {"hidden_size": 192}, ["--sm", "80", "--tp", "2"], 4, "mlp.fc has 192 columns on a rank"),
        (
            "awq",
            {"intermediate_size": 320},
            ["--sm", "80", "--tp", "2"],
            4,
            "160 columns on a rank, exp",
        ),
        (
            "gptq",
            {"bias": True},
            ["--sm", "80", "--tp", "2"],
            4,
            "attention.dense.bias: TensorRT-LLM would add",
        ),
    ],
)
def test_what_cannot_be_laid_out_is_refused_before_anything_is_written(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    method: str,
    sizes: dict[str, Any],
    options: list[str],
    status: int,
    said: str,
) -> None:
    model = checkpoint(tmp_path, method, **sizes)

    assert build(model, tmp_path / "engine", *options, "--dry-run") == status

    assert said in capsys.readouterr().err
    assert not (tmp_path / "engine").exists()


def test_groups_that_the_kernels_do_not_take_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = write_tiny_llama(tmp_path / "plain", **SIZES)
    for method in ("gptq", "awq", "modelopt awq"):
        write_quantized(plain, tmp_path / method, method=method, group=32)
        assert build(tmp_path / method, tmp_path / "engine", "--sm", "80", "--dry-run") == 4
        assert "groups of 32; the kernels of TensorRT-LLM take those of 64 and 128" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("gptq", "mlp.fc.weight: found I8 [256, 64], integers in plain order, expected 16-bit floats"),
        ("modelopt awq", "mlp.fc.weight: found I8 [256, 64] with scales [4, 128], expected [out / 2, in]"),
    ],
)
def test_a_checkpoint_in_plain_order_is_refused_for_trtllm_build_and_one_in_its_order_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str, said: str
) -> None:
    model = checkpoint(tmp_path, method)
    words = ["convert", str(model), "--tp", "2", "--out"]
    assert main([*words, str(tmp_path / "plain-order")]) == 0
    assert main([*words, str(tmp_path / "laid-out"), "--runtime", "tensorrt", "--sm", "90"]) == 0

    assert build(tmp_path / "plain-order", tmp_path / "engine", "--sm", "90", "--dry-run") == 4
    assert said in capsys.readouterr().err
    assert build(tmp_path / "laid-out", tmp_path / "engine", "--sm", "90", "--dry-run") == 0
