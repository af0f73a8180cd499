"""Quantized checkpoints by their published layouts: read, sharded with scales and zeros, proven, refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from builders.conversion.convert import Conversion, convert
from builders.conversion.planned import plan_conversion
from builders.proof.verify import verify_shards
from builders.quantize.proof.verification import dequantized_weights
from builders.sources import open_source
from builders.sources.safetensors_reader import SafetensorsFile
from scripts.main import main
from tests.support.quantized.checkpoints import CONFIGS, write_quantized
from tests.support.tiny import write_tiny_llama
from tpforge.errors import InputRefused
from tpforge.quantization import Quantization
from tpforge.shards.mapping import Mapping

FORMATS = {
    "gptq": "gptq",
    "awq": "awq",
    "packed": "gptq",
    "packed zeros": "gptq",
    "fp8 static": "fp8",
    "int8": "int8_w8a8",
    "fp8 rows": "fp8_rowwise",
    "fp8 blocks": "fp8_block",
    "fp8": "fp8",
    "smooth": "int8_sq",
    "modelopt awq": "int4_awq",
    "modelopt nvfp4": "nvfp4",
    "packed nvfp4": "nvfp4",
}
INT8_ZEROS = {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": False}
SIZES: dict[str, Any] = {
    "dtype": "float16",
    "num_layers": 1,
    "num_heads": 8,
    "num_kv_heads": 4,
    "head_size": 128,
    "hidden_size": 256,
    "intermediate_size": 512,
}


def shard(location: Path, out: Path, *, tp_size: int) -> Conversion:
    out.mkdir(parents=True)
    with open_source(str(location)) as source:
        assert source.quantized is not None
        layout = source.quantized.layout
        return convert(
            source,
            plan_conversion(
                source,
                mapping=Mapping(tp_size=tp_size),
                quantization=Quantization(format=layout.format, group_size=layout.group),
            ),
            out=out,
        )


@pytest.mark.parametrize("tp_size", [1, 2, 4])
@pytest.mark.parametrize("method", CONFIGS)
def test_shards_of_a_quantized_checkpoint_stand_for_the_values_that_were_written(
    tmp_path: Path, method: str, tp_size: int
) -> None:
    plain = write_tiny_llama(tmp_path / "plain", **SIZES)
    values = write_quantized(plain, tmp_path / "quantized", method=method)

    conversion = shard(tmp_path / "quantized", tmp_path / "out", tp_size=tp_size)

    with open_source(str(tmp_path / "quantized")) as source:
        assert source.quantized is not None and source.quantized.layout.format == FORMATS[method]
        report = verify_shards(source, tmp_path / "out", plan=conversion.plan, dtype=conversion.dtype)
        assert report.problems == ()
        files = [SafetensorsFile(tmp_path / "out" / f"rank{rank}.safetensors") for rank in range(tp_size)]
        found = dict(dequantized_weights(source, files, plan=conversion.plan, dtype=conversion.dtype))
        assert found.keys() == values.keys()
        for name, value in values.items():
            assert torch.equal(source.read(name), value), name
            # q, k and v of FP8 by tensor are rounded again to the largest of their scales; the zero of GPTQ
            # is stored as a product in float16.
            is_rounded = method in ("fp8", "fp8 static") and name.split(".")[-2] in (
                "q_proj",
                "k_proj",
                "v_proj",
            )
            step = float(value.abs().max()) * (2**-4 if is_rounded else 2**-10)
            exact = method not in ("gptq", "awq", "packed zeros") and not is_rounded
            assert float((found[name] - value).abs().max()) <= (0 if exact else step), name


@pytest.mark.parametrize("method", sorted(CONFIGS.keys() - {"fp8 rows", "fp8 blocks"}))
def test_a_quantized_checkpoint_becomes_a_proven_engine_with_padded_heads(
    tmp_path: Path, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = write_tiny_llama(
        tmp_path / "plain",
        num_heads=9,
        num_kv_heads=3,
        head_size=32,
        hidden_size=288,
        dtype="float16",
    )
    write_quantized(plain, tmp_path / "quantized", method=method)
    engine = tmp_path / "engine"
    words = ["--tp", "2", "--max-seq-len", "320", "--max-input-len", "256", "--out", str(engine)]

    assert main(["build", str(tmp_path / "quantized"), *words]) == 0
    assert main(["verify", str(engine), "--baseline", str(plain)]) == 0

    manifest = json.loads((engine / "engine.json").read_text())
    assert manifest["quantization"]["format"] == FORMATS[method]
    assert manifest["parity"]["max_abs_logit_error"] < 2e-3
    assert 0 < manifest["quality"]["mean_kl_divergence"] < 1
    assert "verdict" in capsys.readouterr().out


def test_without_a_baseline_a_quantized_checkpoint_is_proven_but_not_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = write_tiny_llama(tmp_path / "plain", dtype="float16")
    write_quantized(plain, tmp_path / "quantized", method="gptq")
    words = ["--max-seq-len", "320", "--max-input-len", "256", "--out", str(tmp_path / "engine")]
    assert main(["build", str(tmp_path / "quantized"), *words]) == 0

    assert main(["verify", str(tmp_path / "engine")]) == 0

    assert "give --baseline MODEL" in capsys.readouterr().err
    assert json.loads((tmp_path / "engine" / "engine.json").read_text())["quality"] is None


@pytest.mark.parametrize("method", CONFIGS)
def test_a_rank_of_padding_alone_is_proven(tmp_path: Path, method: str) -> None:
    # 3 KV heads at tp=4: the last rank has none of them.
    sizes = {"num_heads": 9, "num_kv_heads": 3, "head_size": 128, "intermediate_size": 512}
    plain = write_tiny_llama(tmp_path / "plain", dtype="float16", num_layers=1, **sizes)
    write_quantized(plain, tmp_path / "quantized", method=method)

    conversion = shard(tmp_path / "quantized", tmp_path / "out", tp_size=4)

    with open_source(str(tmp_path / "quantized")) as source:
        report = verify_shards(source, tmp_path / "out", plan=conversion.plan, dtype=conversion.dtype)
    assert report.problems == ()


def test_modelopts_awq_has_its_group_size_in_a_file_of_its_own_and_scales_in_the_norms(
    tmp_path: Path,
) -> None:
    from safetensors.torch import load_file, save_file

    plain = write_tiny_llama(tmp_path / "plain", dtype="float16")
    values = write_quantized(plain, tmp_path / "quantized", method="modelopt awq")
    config = json.loads((tmp_path / "quantized" / "config.json").read_text())
    group = config["quantization_config"].pop("group_size")
    (tmp_path / "quantized" / "config.json").write_text(json.dumps(config))
    beside = {"quantization": {"quant_algo": "W4A16_AWQ", "group_size": group}}
    (tmp_path / "quantized" / "hf_quant_config.json").write_text(json.dumps(beside))
    path = tmp_path / "quantized" / "model.safetensors"
    tensors = load_file(path)
    folded = {name for name in tensors if name.endswith(("q_proj.pre_quant_scale", "k_proj.pre_quant_scale"))}
    folded |= {name for name in tensors if name.endswith("v_proj.pre_quant_scale")}
    save_file({name: value for name, value in tensors.items() if name not in folded}, path)

    conversion = shard(tmp_path / "quantized", tmp_path / "out", tp_size=2)

    with open_source(str(tmp_path / "quantized")) as source:
        report = verify_shards(source, tmp_path / "out", plan=conversion.plan, dtype=conversion.dtype)
        assert report.problems == ()
        name = "model.layers.0.self_attn.q_proj.weight"
        scale = tensors["model.layers.0.self_attn.q_proj.pre_quant_scale"].float()
        torch.testing.assert_close(source.read(name) * scale, values[name])


def test_a_cut_through_a_group_is_refused(tmp_path: Path) -> None:
    plain = write_tiny_llama(tmp_path / "plain", dtype="float16")
    write_quantized(plain, tmp_path / "quantized", method="gptq", group=64)

    with pytest.raises(InputRefused) as error:
        shard(tmp_path / "quantized", tmp_path / "out", tp_size=4)

    assert "mlp.proj has 32 columns on a rank, expected a multiple of 64" in str(error.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_cut_through_a_block_of_rows_is_refused(tmp_path: Path) -> None:
    plain = write_tiny_llama(tmp_path / "plain", dtype="float16")
    write_quantized(plain, tmp_path / "quantized", method="fp8 blocks")

    with pytest.raises(InputRefused, match="a cut at 32 goes through a group of 128"):
        shard(tmp_path / "quantized", tmp_path / "out", tp_size=2)


def test_blocks_that_end_amid_joined_matrices_are_refused_before_anything_is_converted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # llmcompressor's FP8_BLOCK takes any number of rows: of SmolLM2 q has 576 and k 192, here 160 and 32.
    sizes = {"num_heads": 5, "num_kv_heads": 1, "head_size": 32}
    plain = write_tiny_llama(tmp_path / "plain", dtype="float16", num_layers=1, **sizes)
    write_quantized(plain, tmp_path / "quantized", method="fp8 blocks")

    assert main(["build", str(tmp_path / "quantized"), "--out", str(tmp_path / "engine")]) == 4

    said = capsys.readouterr().err
    assert "self_attn.q_proj.weight: its 160 rows end amid a block of 128" in said
    assert "self_attn.k_proj.weight: its 32 rows end amid a block of 128" in said
    assert "v_proj" not in said
    assert "--quantize fp8_block" in said
    assert "converting" not in said
    assert main(["inspect", str(tmp_path / "quantized")]) == 4


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("gptq", {"desc_act": True}, r"desc_act \(act-order\)"),
        ("gptq", {"bits": 8}, "found 8 bits; only 4 are read"),
        ("gptq", {"checkpoint_format": "marlin"}, "'marlin' is not read; expected gptq or gptq_v2"),
        ("awq", {"version": "gemv"}, "AWQ version 'gemv' is not read"),
        ("gptq", {"quant_method": "bitsandbytes"}, "bitsandbytes packs a matrix as one run of blocks"),
        (
            "int8",
            {"config_groups": {"group_0": {"weights": INT8_ZEROS, "input_activations": {"num_bits": 8}}}},
            "int8 by channel with zero points",
        ),
        ("fp8", {"quant_algo": "NVFP4_AWQ"}, "ModelOpt's NVFP4_AWQ is not read"),
        ("modelopt nvfp4", {"group_size": 32}, "NVFP4 with group_size 32 is not read; expected 16"),
        ("fp8 blocks", {"weight_block_size": [64, 64]}, r"expected \[128, 128\]"),
        (
            "fp8 blocks",
            {"weight_block_size": None, "activation_scheme": "static"},
            "activation_scheme static .one scale per matrix and one for its inputs, as Mistral saves it.",
        ),
    ],
)
def test_what_is_not_read_is_refused_with_the_reason(
    tmp_path: Path, method: str, options: dict[str, Any], message: str
) -> None:
    plain = write_tiny_llama(tmp_path / "plain", dtype="float16")
    write_quantized(plain, tmp_path / "quantized", method=method, **options)

    with pytest.raises(InputRefused, match=message):
        open_source(str(tmp_path / "quantized"))


def test_groups_out_of_order_are_found_though_nothing_declares_them(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    plain = write_tiny_llama(tmp_path / "plain", dtype="float16")
    write_quantized(plain, tmp_path / "quantized", method="gptq")
    path = tmp_path / "quantized" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.mlp.up_proj.g_idx"] = tensors["model.layers.1.mlp.up_proj.g_idx"].flip(0)
    save_file(tensors, path)

    with pytest.raises(InputRefused, match=r"layers\.1\.mlp\.up_proj\.g_idx: its groups are not in order"):
        shard(tmp_path / "quantized", tmp_path / "out", tp_size=1)


def test_a_matrix_left_unquantized_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    plain = write_tiny_llama(tmp_path / "plain", dtype="float16")
    write_quantized(plain, tmp_path / "quantized", method="awq")
    path, name = tmp_path / "quantized" / "model.safetensors", "model.layers.0.mlp.up_proj"
    tensors = {key: value for key, value in load_file(path).items() if not key.startswith(name)}
    tensors[f"{name}.weight"] = load_file(plain / "model.safetensors")[f"{name}.weight"]
    save_file(tensors, path)

    with pytest.raises(InputRefused, match="is not quantized, unlike other matrices"):
        shard(tmp_path / "quantized", tmp_path / "out", tp_size=1)


def test_quantizing_a_quantized_checkpoint_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = write_tiny_llama(tmp_path / "plain", dtype="float16")
    write_quantized(plain, tmp_path / "quantized", method="gptq")

    words = ["--quantize", "int8_wo", "--out", str(tmp_path / "engine")]
    assert main(["build", str(tmp_path / "quantized"), *words]) == 4

    assert "quantized already (gptq), and int8_wo is asked for" in capsys.readouterr().err
    assert not (tmp_path / "engine").exists()
