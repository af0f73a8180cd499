"""Where every INT4 integer lies for the kernels of a GPU, and the two ways back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from builders.quantize.proof.in_order import in_plain_order
from builders.quantize.writing.interleave import interleave
from engines.reference.dequantize import low_high
from engines.reference.layers.interleaved import signed_codes
from tests.support.quantized.int4_orders import SMS
from tests.support.quantized.interleaved import laid_out
from tpforge.dtypes import DType
from tpforge.shards.packing import Packing


def numbered(num_inputs: int, num_outputs: int, *, digit: int) -> torch.Tensor:
    """Packed integers [in, out / 2], each four bits of its own number: four digits tell all apart."""
    codes = (np.arange(num_inputs * num_outputs).reshape(num_inputs, num_outputs) >> (4 * digit)) & 15
    return torch.from_numpy((codes[:, 0::2] + 16 * codes[:, 1::2]).astype(np.uint8)).view(torch.int8)


def signed(packed: torch.Tensor) -> list[list[int]]:
    rows = []
    for line in packed.view(torch.uint8).tolist():
        numbers = [half for byte in line for half in (byte % 16, byte // 16)]
        rows.append([number - 16 if number > 7 else number for number in numbers])
    return rows


@pytest.mark.parametrize("order", SMS)
@pytest.mark.parametrize("digit", range(4))
@pytest.mark.parametrize(("num_inputs", "num_outputs"), [(64, 64), (192, 128), (64, 320)])
def test_every_integer_lies_where_upstream_puts_it(
    num_inputs: int, num_outputs: int, digit: int, order: str
) -> None:
    packed = numbered(num_inputs, num_outputs, digit=digit)

    found = interleave(packed, tiled=order == "sm80")

    assert found.numpy().tobytes() == laid_out(signed(packed), sm=SMS[order])


def test_a_matrix_of_several_blocks_is_laid_out_as_one_of_a_single_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    packed = numbered(128, 320, digit=1)
    whole = interleave(packed, tiled=True)
    monkeypatch.setattr("builders.quantize.writing.interleave._BLOCK_BYTES", 128 * 6)

    assert torch.equal(interleave(packed, tiled=True), whole)


@pytest.mark.parametrize("dtype", [DType.FLOAT16, DType.BFLOAT16])
@pytest.mark.parametrize("order", SMS)
def test_both_ways_back_give_the_very_integers(order: Any, dtype: DType) -> None:
    own = {DType.FLOAT16: torch.float16, DType.BFLOAT16: torch.bfloat16}[dtype]
    for digit in range(4):
        packed = numbered(192, 320, digit=digit)
        stored = interleave(packed, tiled=order == "sm80").view(own)
        assert stored.shape == (192, 80)

        packing = Packing("gptq", 64, order)
        undone, *_ = in_plain_order((stored, torch.empty(3, 320), torch.empty(3, 320)), packing, dtype=dtype)

        assert torch.equal(undone, packed)
        assert signed_codes(stored, order).tolist() == low_high(packed).tolist() == signed(packed)
