"""Weight-only INT8 and INT4: the rounding rules, packing and shards, against independent arithmetic."""

import json
import struct
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import pytest
import torch

from builders.conversion.convert import convert
from builders.conversion.planned import plan_conversion
from builders.quantize.formats.weight_only import quantize_rows
from builders.sources import open_source
from tests.support.conversions import Tensors, load_ranks
from tests.support.families.cases import CASES
from tests.support.families.configs import write_tiny_family
from tests.support.tiny import write_tiny_llama
from tpforge.errors import InputRefused
from tpforge.quantization import Quantization
from tpforge.shards.mapping import Mapping


def single(value: float) -> float:
    """Rounded to float32."""
    return float(struct.unpack("f", struct.pack("f", value))[0])


def by_hand(row: list[float], *, bits: int) -> tuple[list[int], float]:
    """One row by decimal arithmetic: divide in float32, round half away from zero, clip."""
    limit = 2 ** (bits - 1)
    scale = single(max(abs(value) for value in row) / limit)
    if scale == 0:
        return [0] * len(row), 0.0
    rounded = [
        int(Decimal(single(value / scale)).quantize(Decimal(1), rounding=ROUND_HALF_UP)) for value in row
    ]
    return [min(max(code, -limit), limit - 1) for code in rounded], scale


@pytest.mark.parametrize("bits", [4, 8])
def test_integers_and_scales_follow_the_rounding_rule(bits: int) -> None:
    weight = torch.randn(40, 33, generator=torch.Generator().manual_seed(1)).bfloat16()
    weight[3] = 0

    codes, scales = quantize_rows(weight, bits=bits)

    for row, held, scale in zip(weight.tolist(), codes.tolist(), scales.tolist(), strict=True):
        assert (held, scale) == by_hand(row, bits=bits)


def test_halves_are_rounded_away_from_zero_and_the_largest_is_clipped() -> None:
    # Of absmax 128 the scale is 1, so that the integers are the rounded values.
    weight = torch.tensor([[128.0, -128.0, 0.5, -0.5, 2.5, -2.5, 0.49999997, -0.49999997, 126.5, 1.4999999]])

    codes, scales = quantize_rows(weight, bits=8)

    assert scales.tolist() == [1.0]
    assert codes.tolist() == [[127, -128, 1, -1, 3, -3, 0, 0, 127, 1]]


def quantized(out: Path, location: Path, *, tp_size: int, name: str, form: str = "packed") -> list[Tensors]:
    out.mkdir(parents=True)
    with open_source(str(location)) as source:
        quantization = Quantization(format=name, form=form)  # type: ignore[arg-type]
        planned = plan_conversion(source, mapping=Mapping(tp_size=tp_size), quantization=quantization)
        convert(source, planned, out=out)
    return load_ranks(out)


def plain(out: Path, location: Path, *, tp_size: int) -> list[Tensors]:
    out.mkdir(parents=True)
    with open_source(str(location)) as source:
        convert(
            source,
            plan_conversion(
                source,
                mapping=Mapping(tp_size=tp_size),
            ),
            out=out,
        )
    return load_ranks(out)


def unpacked(weight: torch.Tensor, *, bits: int) -> torch.Tensor:
    """The integers [out, in] of a stored weight."""
    if bits == 8:
        return weight.T
    columns = torch.empty(weight.shape[0], weight.shape[1] * 2, dtype=torch.int8)
    for column in range(weight.shape[1]):
        low, high = weight[:, column].int() & 15, weight[:, column].int() >> 4 & 15
        columns[:, 2 * column] = (low - 16 * (low > 7)).to(torch.int8)
        columns[:, 2 * column + 1] = (high - 16 * (high > 7)).to(torch.int8)
    return columns.T


LINEARS = ("attention.qkv", "attention.dense", "mlp.fc", "mlp.gate", "mlp.proj")


@pytest.mark.parametrize("tp_size", [1, 2, 4])
@pytest.mark.parametrize(("name", "bits"), [("int8_wo", 8), ("int4_wo", 4)])
def test_every_rank_holds_its_own_slice_quantized(tmp_path: Path, name: str, bits: int, tp_size: int) -> None:
    source = write_tiny_llama(tmp_path / "source", dtype="bfloat16")

    found = quantized(tmp_path / "packed", source, tp_size=tp_size, name=name)
    floats = plain(tmp_path / "plain", source, tp_size=tp_size)

    for rank, expected in zip(found, floats, strict=True):
        linears = {f"transformer.layers.{layer}.{one}" for layer in range(2) for one in LINEARS}
        scales = {f"{one}.per_channel_scale" for one in linears}
        assert set(rank) == set(expected) | scales
        for key in set(expected) - {f"{one}.weight" for one in linears}:
            assert torch.equal(rank[key], expected[key]), key
        for key in linears:
            codes, scale = rank[f"{key}.weight"], rank[f"{key}.per_channel_scale"]
            assert codes.dtype == torch.int8 and scale.dtype == torch.bfloat16
            rows = [by_hand(row, bits=bits) for row in expected[f"{key}.weight"].tolist()]
            assert unpacked(codes, bits=bits).tolist() == [row[0] for row in rows]
            assert torch.equal(scale, torch.tensor([row[1] for row in rows]).bfloat16())


def test_shards_by_rows_equal_the_slices_of_one_rank_and_those_by_columns_have_scales_of_their_own(
    tmp_path: Path,
) -> None:
    source = write_tiny_llama(tmp_path / "source", dtype="bfloat16")
    (whole,) = quantized(tmp_path / "one", source, tp_size=1, name="int8_wo")
    ranks = quantized(tmp_path / "two", source, tp_size=2, name="int8_wo")

    fc, proj = "transformer.layers.0.mlp.fc", "transformer.layers.0.mlp.proj"
    assert torch.equal(torch.cat([rank[f"{fc}.weight"] for rank in ranks], dim=1), whole[f"{fc}.weight"])
    scales = torch.cat([rank[f"{fc}.per_channel_scale"] for rank in ranks])
    assert torch.equal(scales, whole[f"{fc}.per_channel_scale"])
    first, second = (rank[f"{proj}.per_channel_scale"] for rank in ranks)
    assert not torch.equal(first, second)
    assert torch.equal(torch.maximum(first, second), whole[f"{proj}.per_channel_scale"])


def test_the_portable_form_is_the_float_checkpoint_that_declares_the_algorithm(tmp_path: Path) -> None:
    source = write_tiny_llama(tmp_path / "source", dtype="bfloat16")

    quantized(tmp_path / "portable", source, tp_size=2, name="int4_wo", form="portable")
    plain(tmp_path / "plain", source, tp_size=2)

    for name in ("rank0.safetensors", "rank1.safetensors"):
        assert (tmp_path / "portable" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
    declared = json.loads((tmp_path / "portable" / "config.json").read_text())["quantization"]
    assert (declared["quant_algo"], declared["kv_cache_quant_algo"]) == ("W4A16", None)
    assert "*lm_head" in declared["exclude_modules"]


def test_experts_are_quantized_one_by_one(tmp_path: Path) -> None:
    case = next(one for one in CASES if one.name == "mixtral")
    write_tiny_family(tmp_path / "source", case)
    source = tmp_path / "source"
    (rank,) = quantized(tmp_path / "packed", source, tp_size=1, name="int8_wo")
    (expected,) = plain(tmp_path / "plain", source, tp_size=1)

    key = "transformer.layers.0.mlp.fc"
    weight, scale = rank[f"{key}.weight"], rank[f"{key}.per_channel_scale"]
    for expert, matrix in enumerate(expected[f"{key}.weight"]):
        codes, scales = quantize_rows(matrix, bits=8)
        assert torch.equal(weight[expert], codes.T)
        assert torch.equal(scale[expert], scales.to(scale.dtype))


def test_a_format_that_the_shapes_do_not_allow_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    source = write_tiny_llama(tmp_path / "source")

    with pytest.raises(InputRefused, match="expected a multiple of 128"):
        quantized(tmp_path / "out", source, tp_size=1, name="int4_awq")
    assert list((tmp_path / "out").iterdir()) == []
