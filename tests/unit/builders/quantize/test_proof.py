"""The proof of quantized rank files: it passes what is right, and names what is not."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from builders.asked_quantization import PORTABLE
from builders.conversion.convert import Conversion
from builders.proof.verify import ShardReport, verify_shards
from builders.quantize.proof.verification import dequantized_weights
from builders.sources import open_source
from builders.sources.safetensors_reader import SafetensorsFile
from tests.support.conversions import load_source
from tests.support.families.cases import CASES
from tests.support.families.configs import write_tiny_family
from tests.support.quantized.quantizing import make
from tests.support.tiny import write_tiny_llama
from tpforge.quantization import find_format

MADE_HERE = ("int8_wo", "int4_wo", "fp8_rowwise", "fp8_block", "mxfp4", "nvfp4")


def prove(out: Path, location: Path, conversion: Conversion) -> ShardReport:
    with open_source(str(location)) as source:
        return verify_shards(source, out, plan=conversion.plan, dtype=conversion.dtype)


@pytest.mark.parametrize(
    ("name", "form"), [*((name, "packed") for name in MADE_HERE), *((name, "portable") for name in PORTABLE)]
)
@pytest.mark.parametrize(("tp_size", "num_heads", "num_kv_heads"), [(1, 4, 2), (2, 9, 3), (4, 8, 2)])
def test_shards_of_whole_duplicated_and_padded_heads_pass(
    tmp_path: Path, tp_size: int, num_heads: int, num_kv_heads: int, name: str, form: str
) -> None:
    source = write_tiny_llama(
        tmp_path / "source", num_heads=num_heads, num_kv_heads=num_kv_heads, dtype="bfloat16"
    )
    conversion = make(tmp_path / "out", source, name, tp_size=tp_size, form=form)

    report = prove(tmp_path / "out", source, conversion)

    assert report.problems == ()
    assert len(report.weight_errors) == 2 * 5
    bits = find_format(name).weight_bits
    assert all(0 < error.relative < {8: 0.04, 4: 0.25}[bits] for error in report.weight_errors), (
        report.weight_errors
    )


@pytest.mark.parametrize("case_name", ["mixtral", "phi3", "gpt2", "gpt_neox"])
def test_fused_transposed_and_stacked_matrices_pass(tmp_path: Path, case_name: str) -> None:
    case = next(one for one in CASES if one.name == case_name)
    write_tiny_family(tmp_path / "source", case)
    experts = 2 if case_name == "mixtral" else 1
    conversion = make(tmp_path / "out", tmp_path / "source", "int8_wo", tp_size=4, moe_ep_size=experts)

    assert prove(tmp_path / "out", tmp_path / "source", conversion).problems == ()
    with open_source(str(tmp_path / "source")) as source:
        files = [SafetensorsFile(tmp_path / "out" / f"rank{rank}.safetensors") for rank in range(4)]
        found = dict(dequantized_weights(source, files, plan=conversion.plan, dtype=conversion.dtype))
        assert found
        for key, value in found.items():
            whole = source.read(key).float()
            # A value is off by half a step, the largest of a row by a whole one; steps are absmax / 128.
            assert value.shape == whole.shape
            assert not torch.equal(value, whole)
            assert float((value - whole).abs().max()) <= 1.01 * float(whole.abs().max()) / 128, key


@pytest.mark.parametrize("tensor", ["mlp.proj.weight", "mlp.proj.per_channel_scale", "attention.qkv.weight"])
def test_one_changed_byte_is_named(tmp_path: Path, tensor: str) -> None:
    source = write_tiny_llama(tmp_path / "source", dtype="bfloat16")
    conversion = make(tmp_path / "out", source, "int8_wo", tp_size=2)
    path = tmp_path / "out" / "rank1.safetensors"
    tensors = load_file(path)
    name = f"transformer.layers.1.{tensor}"
    tensors[name].view(torch.uint8).view(-1)[0] ^= 1
    path.unlink()
    save_file(tensors, path)

    problems = prove(tmp_path / "out", source, conversion).problems

    assert len(problems) == 1
    assert problems[0].startswith(f"rank1: {name}: 1 of {tensors[name].numel()} quantized values differ")


def test_a_missing_scale_is_named(tmp_path: Path) -> None:
    source = write_tiny_llama(tmp_path / "source")
    conversion = make(tmp_path / "out", source, "int8_wo", tp_size=1)
    path = tmp_path / "out" / "rank0.safetensors"
    tensors = load_file(path)
    del tensors["transformer.layers.0.mlp.fc.per_channel_scale"]
    save_file(tensors, path)

    assert prove(tmp_path / "out", source, conversion).problems == (
        "rank0: transformer.layers.0.mlp.fc.per_channel_scale: missing",
    )


def test_dequantized_weights_are_within_half_a_step_of_the_source(tmp_path: Path) -> None:
    source = write_tiny_llama(tmp_path / "source", num_heads=9, num_kv_heads=3)
    conversion = make(tmp_path / "out", source, "int8_wo", tp_size=2)
    whole = load_source(source)
    with open_source(str(source)) as opened:
        files = [SafetensorsFile(tmp_path / "out" / f"rank{rank}.safetensors") for rank in range(2)]
        found = dict(dequantized_weights(opened, files, plan=conversion.plan, dtype=conversion.dtype))

    assert set(found) == {name for name in whole if name.endswith("proj.weight")}
    for name, values in found.items():
        step = whole[name].abs().amax(1, keepdim=True) / 128
        off = (values - whole[name]).abs() / step
        # The largest value of a row is clipped from 128 to 127 steps where it is positive.
        assert float(off.max()) <= 1 + 1e-4
        assert float((off > 0.5001).float().mean()) < 0.05
