"""What every quantization format must have, whatever it is: a row, an object, a proof, a reader."""

import pytest
import torch

from builders.quantize.formats.registry import FORMATS
from builders.quantize.proof.formats.registry import PROOFS
from engines.reference.dequantize import quantization_problems
from tpforge.dtypes import DType
from tpforge.quantization import find_format, formats
from tpforge.shards.packing import STORED, Packing

MADE_HERE = [row.name for row in formats() if row.made_by == "convert"]
SAFETENSORS = {
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
}


def test_a_format_of_rank_files_has_a_row_an_object_and_a_proof() -> None:
    assert FORMATS.keys() == PROOFS.keys() == STORED.keys()
    assert all(name == one.name for name, one in (*FORMATS.items(), *PROOFS.items()))
    # Its tensors are not known: rank files do not hold it.
    assert {row.name for row in formats()} - STORED.keys() == {"w4a8_awq"}


def test_the_proof_can_tell_whatever_conversion_makes() -> None:
    assert {name for name, one in FORMATS.items() if one.pack} == set(MADE_HERE)
    assert {name for name, one in PROOFS.items() if one.encode} == set(MADE_HERE)
    assert {name for name, one in PROOFS.items() if one.kept} == {
        name for name, one in FORMATS.items() if one.keep
    }
    assert all(one.pack or one.keep for one in FORMATS.values())


@pytest.mark.parametrize("name", STORED)
def test_the_runtime_reads_every_format_that_rank_files_hold(name: str) -> None:
    assert quantization_problems({"quantization": {"quant_algo": find_format(name).algo}}) == []


@pytest.mark.parametrize("name", MADE_HERE)
def test_a_packed_matrix_has_the_tensors_that_plans_count(name: str) -> None:
    # 200 rows and 160 columns: the last blocks of 128 are smaller.
    matrix = torch.randn(200, 160, generator=torch.Generator().manual_seed(1)).bfloat16()
    pack, encode = FORMATS[name].pack, PROOFS[name].encode
    assert pack is not None and encode is not None

    made = pack([matrix[:70], matrix[70:]], (200, 160), DType.BFLOAT16)

    planned = Packing(name, find_format(name).group_size).stored("a.weight", (200, 160), dtype=DType.BFLOAT16)
    assert [(SAFETENSORS[one.dtype], tuple(one.shape)) for one in made] == [
        (one.dtype, one.shape) for one in planned
    ]
    wanted = encode(matrix, DType.BFLOAT16)
    assert [one.tolist() for one in made] == [one.tolist() for one in wanted]
