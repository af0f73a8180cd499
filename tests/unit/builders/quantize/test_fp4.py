"""MXFP4 and NVFP4: numbers, scales and packing against exact fractions; how the shards of tp differ."""

import struct
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from builders.conversion.convert import convert
from builders.conversion.planned import plan_conversion
from builders.quantize.formats.mxfp4 import pack_mxfp4
from builders.quantize.formats.nvfp4 import pack_nvfp4
from builders.sources import open_source
from tests.support.conversions import Tensors, load_ranks, load_source
from tests.support.quantized.checkpoints import write_quantized
from tests.support.quantized.quantizing import make
from tests.support.tiny import write_tiny_llama
from tpforge.dtypes import DType
from tpforge.errors import InputRefused, PlanError
from tpforge.quantization import Quantization
from tpforge.shards.mapping import Mapping

E2M1 = [Fraction(half, 2) for half in (0, 1, 2, 3, 4, 6, 8, 12)]
# e4m3: subnormals in steps of 2^-9, then eight numbers an exponent, up to 448.
E4M3 = [Fraction(step, 512) for step in range(8)] + [
    Fraction(8 + step, 8) * Fraction(2) ** power for power in range(-6, 9) for step in range(8)
][:-1]


def single(value: Fraction) -> Fraction:
    """Rounded to float32; that it is a double first changes nothing for a quotient or product of two."""
    return Fraction(struct.unpack("f", struct.pack("f", value))[0])


def nearest(numbers: list[Fraction], value: Fraction) -> int:
    """The place of the number that is nearest; of two, the even place; the last for all that is larger."""
    return min(range(len(numbers)), key=lambda place: (abs(numbers[place] - value), place % 2))


def codes_of(packed: torch.Tensor) -> list[list[int]]:
    return [[half for byte in row for half in (byte % 16, byte // 16)] for row in packed.tolist()]


def hard_values(columns: int) -> torch.Tensor:
    """Values over many sizes, with rows of halves between e2m1 numbers, of zeros, and of tiny ones."""
    weight = torch.randn(12, columns, generator=torch.Generator().manual_seed(3))
    weight[1] = torch.linspace(-6, 6, 49).repeat(columns)[:columns]
    weight[1, ::16] = 6.0
    weight[2] = 0
    weight[3] *= 1e-5
    weight[4, 1:16] = 0
    return weight.bfloat16()


def test_nvfp4_is_rounded_as_exact_fractions_are() -> None:
    weight = hard_values(64)

    packed, scales, of_matrix, inputs = pack_nvfp4([weight[:5], weight[5:]], (12, 64), DType.BFLOAT16)

    rows = [[Fraction(value) for value in row] for row in weight.tolist()]
    largest = max(abs(value) for row in rows for value in row)
    whole = single(largest / 2688)
    assert Fraction(of_matrix.item()) == whole
    assert inputs.tolist() == [1.0]
    for row, held, codes in zip(rows, scales.float().tolist(), codes_of(packed), strict=True):
        for group in range(4):
            values = row[16 * group : 16 * group + 16]
            size = max(abs(value) for value in values)
            wanted = single(size / single(6 * whole)) if size else Fraction(1)
            scale = E4M3[max(nearest(E4M3, wanted), 1)]
            assert Fraction(held[group]) == scale
            step = single(scale * whole)
            for value, code in zip(values, codes[16 * group :], strict=False):
                ratio = single(value / step)
                assert code == nearest(E2M1, abs(ratio)) + 8 * (ratio < 0)


def test_mxfp4_is_rounded_as_exact_fractions_are() -> None:
    weight = hard_values(64)

    packed, exponents = pack_mxfp4([weight], (12, 64), DType.BFLOAT16)

    for row, held, codes in zip(weight.tolist(), exponents.tolist(), codes_of(packed), strict=True):
        for group in range(2):
            values = [Fraction(value) for value in row[32 * group : 32 * group + 32]]
            size = max(abs(value) for value in values)
            if size:
                # 6 is the largest number, 4 the largest power of two among them.
                step = Fraction(2) ** (held[group] - 127)
                assert 4 * step <= size < 8 * step
            for value, code in zip(values, codes[32 * group :], strict=False):
                step = Fraction(2) ** (held[group] - 127)
                assert code == nearest(E2M1, abs(value) / step) + 8 * (value < 0)


@pytest.mark.parametrize("pack", [pack_mxfp4, pack_nvfp4])
def test_halves_go_to_the_even_code_and_what_is_too_large_to_six(pack: object) -> None:
    # The group's largest is 6, and the steps are 1.
    middles = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0]
    row = torch.tensor([[6.0, *middles, *(-one for one in middles), -0.2] * 2 + [6.0] * 480])
    row[0, 100] = 7.0 if pack is pack_mxfp4 else 6.0

    packed, *_ = pack([row], (1, 512), DType.FLOAT32)  # type: ignore[operator]

    assert codes_of(packed)[0][:16] == [7, 0, 2, 2, 4, 4, 6, 6, 8, 10, 10, 12, 12, 14, 14, 8]
    assert codes_of(packed)[0][100] == 7


def quantized(tmp_path: Path, source: Path, *, tp_size: int) -> list[Tensors]:
    make(tmp_path / f"tp{tp_size}", source, "nvfp4", tp_size=tp_size)
    return load_ranks(tmp_path / f"tp{tp_size}")


def test_a_rank_scales_its_own_largest_weight_and_cuts_columns_between_groups(tmp_path: Path) -> None:
    source = write_tiny_llama(tmp_path / "source", num_heads=8, num_kv_heads=4, dtype="bfloat16")
    whole = load_source(source)

    for tp_size in (1, 2, 4):
        for rank, tensors in enumerate(quantized(tmp_path, source, tp_size=tp_size)):
            down = whole["model.layers.0.mlp.down_proj.weight"]
            held = down.chunk(tp_size, dim=1)[rank].float()
            assert held.shape[1] % 16 == 0
            alone = pack_nvfp4([held], (held.shape[0], held.shape[1]), DType.BFLOAT16)
            name = "transformer.layers.0.mlp.proj"
            names = ("weight", "weights_scaling_factor", "weights_scaling_factor_2")
            for suffix, wanted in zip(names, alone, strict=False):
                assert torch.equal(tensors[f"{name}.{suffix}"].view(torch.uint8), wanted.view(torch.uint8)), (
                    tp_size,
                    rank,
                    suffix,
                )
            # q, k and v are one matrix with one scale: the largest of the three.
            parts = [
                whole[f"model.layers.0.self_attn.{one}_proj.weight"].chunk(tp_size)[rank] for one in "qkv"
            ]
            largest = max(float(part.float().abs().max()) for part in parts)
            found = tensors["transformer.layers.0.attention.qkv.weights_scaling_factor_2"]
            assert found.tolist() == [float(single(Fraction(largest) / 2688))]


def test_columns_that_are_no_whole_groups_are_refused(tmp_path: Path) -> None:
    source = write_tiny_llama(tmp_path / "source", intermediate_size=72, dtype="bfloat16")

    with pytest.raises(InputRefused, match=r"mlp\.proj has 36 columns on a rank, expected a multiple of 16"):
        make(tmp_path / "out", source, "nvfp4", tp_size=2)


def test_joined_matrices_of_a_checkpoint_that_have_scales_of_their_own_are_refused(tmp_path: Path) -> None:
    plain = write_tiny_llama(tmp_path / "plain", dtype="bfloat16")
    write_quantized(plain, tmp_path / "quantized", method="modelopt nvfp4")
    path = tmp_path / "quantized" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.self_attn.k_proj.weight_scale_2"] *= 2
    save_file(tensors, path)
    (tmp_path / "out").mkdir()

    with (
        open_source(str(tmp_path / "quantized")) as source,
        pytest.raises(PlanError, match=r"must have one scale for all \(weight_scale_2\)"),
    ):
        convert(
            source,
            plan_conversion(
                source,
                mapping=Mapping(),
                quantization=Quantization(format="nvfp4", group_size=16),
            ),
            out=tmp_path / "out",
        )
