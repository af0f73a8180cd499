"""builders.conversion.writer, builders.conversion.blocks, builders.transforms: bytes in order, hashed as they
are written."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from builders.conversion import blocks
from builders.conversion.blocks import slice_blocks
from builders.conversion.writer import HashingWriter, plan_rank_file, write_config
from builders.transforms import transformed, transformed_shape
from tests.support.models import model_of
from tpforge.dtypes import DType
from tpforge.shards.sections import Span
from tpforge.shards.sharding import RankTensor, Slice


def test_the_header_is_complete_and_aligned_before_any_data() -> None:
    tensors = (RankTensor("a", (), (3, 5)), RankTensor("b.weight", (), (7,)))
    plan = plan_rank_file("rank0.safetensors", tensors, dtype=DType.BFLOAT16)
    length = int.from_bytes(plan.header[:8], "little")
    assert (len(plan.header), length % 8) == (8 + length, 0)
    assert json.loads(plan.header[8:]) == {
        "a": {"dtype": "BF16", "shape": [3, 5], "data_offsets": [0, 30]},
        "b.weight": {"dtype": "BF16", "shape": [7], "data_offsets": [30, 44]},
    }
    assert plan.size == len(plan.header) + 44


def test_a_file_is_hashed_as_it_is_written(tmp_path: Path) -> None:
    writer = HashingWriter(tmp_path / "file")
    for chunk in (b"abc", b"", memoryview(b"defg")):
        writer.write(chunk)
    record = writer.close()
    assert (tmp_path / "file").read_bytes() == b"abcdefg"
    assert (record.path, record.size) == ("file", 7)
    assert record.sha256 == hashlib.sha256(b"abcdefg").hexdigest()


def test_an_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(FileExistsError):
        HashingWriter(tmp_path / "file")


def test_config_json_ends_with_a_newline_and_keeps_the_order(tmp_path: Path) -> None:
    write_config(tmp_path / "config.json", {"b": 1, "a": None})
    assert (tmp_path / "config.json").read_text() == '{\n    "b": 1,\n    "a": null\n}\n'


@pytest.mark.parametrize("block_bytes", [1, 7, 64, 1 << 20])
@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.BFLOAT16])
@pytest.mark.parametrize("dim", [0, 1])
def test_blocks_join_to_the_slice_whatever_their_size(
    monkeypatch: pytest.MonkeyPatch, block_bytes: int, dtype: DType, dim: int
) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", block_bytes)
    tensor = torch.arange(12 * 12, dtype=torch.float32).reshape(12, 12)
    piece = Slice("w", dim, (Span(6, 3), Span(None, 4), Span(0, 2)))
    zeros = torch.zeros(4, 12) if dim == 0 else torch.zeros(12, 4)
    parts = [tensor.narrow(dim, 6, 3), zeros, tensor.narrow(dim, 0, 2)]
    expected = torch.cat(parts, dim=dim).to(getattr(torch, dtype))
    found = b"".join(slice_blocks(tensor, piece, dtype=dtype))
    assert found == expected.reshape(-1).view(torch.uint8).numpy().tobytes()


def test_a_bias_is_cut_like_rows() -> None:
    found = b"".join(
        slice_blocks(torch.arange(6.0), Slice("b", 0, (Span(4, 2), Span(None, 1))), dtype=DType.FLOAT32)
    )
    assert torch.frombuffer(bytearray(found), dtype=torch.float32).tolist() == [4.0, 5.0, 0.0]


def test_blocks_of_an_unchanged_type_are_views_of_the_source() -> None:
    tensor = torch.zeros(4, 4)
    (block,) = slice_blocks(tensor, Slice("w", 0, (Span(0, 4),)), dtype=DType.FLOAT32)
    tensor[0, 0] = 1.0
    assert torch.frombuffer(bytearray(block), dtype=torch.float32)[0] == 1.0


def test_a_transform_changes_tensor_and_shape_alike() -> None:
    tensor = torch.arange(6.0).reshape(2, 3)
    model = model_of()
    assert transformed(tensor, "transpose", model=model).tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
    assert transformed_shape((2, 3), "transpose", model=model) == (3, 2)
    assert transformed(tensor, None, model=model) is tensor
    assert transformed_shape((2, 3), None, model=model) == (2, 3)
