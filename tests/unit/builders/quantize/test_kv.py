"""Quantized KV caches: steps measured, written beside the weights, emulated, proven, scored."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from builders.conversion.planned import plan_of
from builders.proof.verify import verify_shards
from builders.sources import open_source
from engines.perplexity import load_texts
from engines.reference.dequantize import kv_rounding
from engines.store import read_manifest
from scripts.main import main
from tests.support.quantized.checkpoints import write_quantized
from tests.support.tiny import write_tiny_llama

OPTIONS = ["--max-seq-len", "320", "--max-input-len", "256"]


def test_int8_rounds_to_steps_and_saturates() -> None:
    found = kv_rounding("INT8", 0.5)(torch.tensor([0.2, 0.3, -0.9, 63.4, 80.0, -80.0]))

    assert found.tolist() == [0.0, 0.5, -1.0, 63.5, 63.5, -64.0]


def test_fp8_rounds_to_e4m3_and_saturates() -> None:
    # Above 16 e4m3 steps by 2, below 2^-6 by 2^-9; halves go to the even code.
    found = kv_rounding("FP8", 1.0)(torch.tensor([17.0, 19.0, 0.001, 500.0, -500.0]))

    assert found.tolist() == [16.0, 20.0, 2.0**-9 * round(0.001 * 512), 448.0, -448.0]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize(("kv_cache", "limit"), [("int8", 127), ("fp8", 448)])
def test_steps_are_those_of_the_largest_key_or_value(
    tmp_path: Path, model: Path, kv_cache: str, limit: int
) -> None:
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM

    words = ["--tp", "2", "--kv-cache", kv_cache, *OPTIONS, "--out", str(tmp_path / "engine")]
    assert main(["build", str(model), *words]) == 0

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    truth = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    largest = [0.0, 0.0]
    for text in load_texts():
        ids = torch.tensor([tokenizer.encode(text.text).ids[:320]])
        with torch.inference_mode():
            cache = truth(ids, use_cache=True).past_key_values
        for layer, held in enumerate(cache.layers):
            sizes = (held.keys.abs().max(), held.values.abs().max())
            largest[layer] = max(largest[layer], *(float(size) for size in sizes))
    for rank in range(2):
        tensors = load_file(tmp_path / "engine" / "checkpoint" / f"rank{rank}.safetensors")
        for layer in range(2):
            step = tensors[f"transformer.layers.{layer}.attention.kv_cache_scaling_factor"]
            assert step.dtype == torch.float32 and step.shape == (1,)
            assert float(step) == pytest.approx(largest[layer] / limit, rel=1e-5)
    declared = json.loads((tmp_path / "engine" / "checkpoint" / "config.json").read_text())["quantization"]
    assert (declared["quant_algo"], declared["kv_cache_quant_algo"]) == (None, kv_cache.upper())


def test_an_engine_with_a_quantized_cache_is_proven_and_scored_as_it_serves(
    tmp_path: Path, model: Path
) -> None:
    words = ["--quantize", "int8_wo", "--kv-cache", "int8", *OPTIONS, "--out", str(tmp_path / "engine")]
    assert main(["build", str(model), *words]) == 0
    assert main(["verify", str(tmp_path / "engine")]) == 0

    manifest = json.loads((tmp_path / "engine" / "engine.json").read_text())
    # The shards are exact; the cache is in the error of every dtype as served, and in the quality.
    assert manifest["parity"]["max_abs_logit_error"] < 1e-3
    rounding = {one["compute_dtype"]: one["max_abs_logit_error"] for one in manifest["parity"]["rounding"]}
    assert set(rounding) == {"float32", "bfloat16"}
    assert rounding["float32"] > 1e-3
    assert manifest["quality"]["mean_kl_divergence"] > 0


def test_a_wrong_step_is_named(tmp_path: Path, model: Path) -> None:
    assert main(["build", str(model), "--kv-cache", "fp8", *OPTIONS, "--out", str(tmp_path / "engine")]) == 0
    path = tmp_path / "engine" / "checkpoint" / "rank0.safetensors"
    tensors = load_file(path)
    name = "transformer.layers.1.attention.kv_cache_scaling_factor"
    tensors[name] = tensors[name] * 2
    save_file(tensors, path)
    manifest = read_manifest(tmp_path / "engine")

    with open_source(str(model)) as source:
        report = verify_shards(source, path.parent, plan=plan_of(manifest), dtype=manifest.dtype)

    assert len(report.problems) == 1
    assert report.problems[0].startswith(f"rank0: {name}: found [")


def test_an_int8_cache_for_the_llm_api_is_refused(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--kv-cache", "int8", "--runtime", "pytorch", "--sm", "90", "--out", str(tmp_path / "engine")]

    assert main(["build", str(model), *words]) == 4
    assert "it has no INT8 cache" in capsys.readouterr().err
    assert not (tmp_path / "engine").exists()


def with_kv_scales(folder: Path, *, algorithm: str = "FP8", scales: dict[str, float] | None = None) -> Path:
    """FP8 weights as nvidia-modelopt exports them, with the scales of layer 1's keys and values."""
    plain = write_tiny_llama(folder / "plain", dtype="float16")
    write_quantized(plain, folder / "model", method="fp8", kv_cache_quant_algo=algorithm)
    path = folder / "model" / "model.safetensors"
    tensors = load_file(path)
    for name, value in (
        {"k_proj.k_scale": 0.25, "v_proj.v_scale": 0.5} if scales is None else scales
    ).items():
        tensors[f"model.layers.1.self_attn.{name}"] = torch.tensor(value)
    save_file(tensors, path)
    return folder / "model"


def test_the_scales_of_a_modelopt_kv_cache_become_its_steps(tmp_path: Path) -> None:
    model, engine = with_kv_scales(tmp_path), tmp_path / "engine"
    assert main(["build", str(model), "--tp", "2", *OPTIONS, "--out", str(engine)]) == 0
    for rank in range(2):
        tensors = load_file(engine / "checkpoint" / f"rank{rank}.safetensors")
        steps = [tensors[f"transformer.layers.{n}.attention.kv_cache_scaling_factor"] for n in range(2)]
        assert [step.tolist() for step in steps] == [[1.0], [0.5]]
    declared = json.loads((engine / "checkpoint" / "config.json").read_text())["quantization"]
    assert (declared["quant_algo"], declared["kv_cache_quant_algo"]) == ("FP8", "FP8")
    assert main(["verify", str(engine), "--baseline", str(tmp_path / "plain")]) == 0
    manifest = read_manifest(engine)
    assert manifest.quantization is not None
    assert (manifest.quantization.kv_cache, manifest.quantization.kv_scales) == ("fp8", (1.0, 0.5))
    assert manifest.parity is not None and manifest.parity.passed
    assert manifest.parity.rounding[0].max_abs_logit_error > manifest.parity.max_abs_logit_error


def test_steps_that_are_not_those_of_the_checkpoint_are_named(tmp_path: Path) -> None:
    model, engine = with_kv_scales(tmp_path), tmp_path / "engine"
    assert main(["build", str(model), *OPTIONS, "--out", str(engine)]) == 0
    path = model / "model.safetensors"
    save_file(load_file(path) | {"model.layers.1.self_attn.k_proj.k_scale": torch.tensor(2.0)}, path)
    manifest = read_manifest(engine)
    with open_source(str(model)) as source:
        report = verify_shards(source, engine / "checkpoint", plan=plan_of(manifest), dtype=manifest.dtype)
    assert report.problems == (
        "the steps of the KV cache are not those of the source: build the engine again",
    )


@pytest.mark.parametrize(
    ("options", "words", "status", "said"),
    [
        ({}, ["--kv-cache", "fp8"], 2, "holds the scales of a fp8 KV cache; leave it out"),
        ({}, ["--runtime", "tensorrt", "--sm", "80", "--dry-run"], 4, "SM80 is not supported"),
        ({"scales": {"k_proj.k_scale": 0.5}}, [], 4, "k_proj.k_scale: has no counterpart"),
        (
            {"scales": {"k_proj.k_scale": 0.5, "v_proj.v_scale": -1.0}},
            [],
            4,
            "v_proj.v_scale: found [-1.0], expected one positive number",
        ),
        ({"algorithm": "NVFP4"}, [], 4, "kv_cache_quant_algo NVFP4 is not read, expected FP8"),
    ],
)
def test_scales_that_cannot_be_kept_are_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: dict[str, object],
    words: list[str],
    status: int,
    said: str,
) -> None:
    model = with_kv_scales(tmp_path, **options)  # type: ignore[arg-type]
    assert main(["build", str(model), *words, *OPTIONS, "--out", str(tmp_path / "engine")]) == status
    assert said in capsys.readouterr().err
    assert not (tmp_path / "engine").exists()
