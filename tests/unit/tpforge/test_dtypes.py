"""tpforge.dtypes and builders.torch_types: spellings and casts."""

import pytest
import torch

from builders.torch_types import TORCH_DTYPES, cast
from tpforge.dtypes import DType, parse_dtype
from tpforge.errors import InputRefused


@pytest.mark.parametrize("spelling", ["bfloat16", "torch.bfloat16", "BF16"])
def test_a_type_is_known_by_all_its_spellings(spelling: str) -> None:
    assert parse_dtype(spelling) is DType.BFLOAT16


def test_an_unknown_type_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputRefused, match="'int4' is not supported; use one of float32, float16, bfloat16"):
        parse_dtype("int4")


def test_sizes_agree_with_torch() -> None:
    assert {dtype: dtype.num_bytes for dtype in DType} == {
        dtype: torch_dtype.itemsize for dtype, torch_dtype in TORCH_DTYPES.items()
    }


def test_cast_rounds_to_nearest_even_and_keeps_what_needs_no_cast() -> None:
    values = torch.tensor([1.0, 1.00390625, 1.01171875, -0.0])
    assert cast(values, DType.BFLOAT16, name="w").tolist() == [1.0, 1.0, 1.015625, -0.0]
    assert cast(values, DType.FLOAT32, name="w") is values


def test_a_value_beyond_float16_is_refused_by_name() -> None:
    with pytest.raises(InputRefused, match="w: the value 70000 does not fit float16"):
        cast(torch.tensor([1.0, -70000.0, torch.inf]), DType.FLOAT16, name="w")


def test_a_source_infinity_stays_one() -> None:
    assert cast(torch.tensor([torch.inf, 65504.0]), DType.FLOAT16, name="w").tolist() == [torch.inf, 65504.0]
