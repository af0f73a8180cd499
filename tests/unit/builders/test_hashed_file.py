"""builders.conversion: a file in blocks, hashed and written by threads; its layout; slices as blocks."""

import errno
import fcntl
import hashlib
import json
import mmap
import os
import random
import threading
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from builders.conversion import blocks, hashed_file
from builders.conversion.blocks import slice_blocks
from builders.conversion.hashed_file import HashedFile, Workers, read_beginning
from builders.conversion.layout import plan_rank_file, write_config
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


@pytest.fixture
def workers() -> Iterator[Workers]:
    with Workers(2) as workers:
        yield workers


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashed_file, "_LEAST_BLOCK_BYTES", 4096)
    monkeypatch.setattr(hashed_file, "_MOST_BLOCK_BYTES", 4096)


CONTENT = random.Random(0).randbytes(50_001)
"""13 blocks of 4096 bytes, the last one not whole."""


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("chunk_bytes", [1, 777, 4096, 12_288, 50_001])
@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 8192, 50_001])
def test_a_file_is_hashed_as_it_is_written(
    tmp_path: Path, workers: Workers, size: int, chunk_bytes: int
) -> None:
    file = HashedFile(tmp_path / "file", whole=size, workers=workers)
    for first in range(0, size, chunk_bytes):
        file.write(memoryview(CONTENT)[first : min(size, first + chunk_bytes)])
    record = file.close()
    assert (tmp_path / "file").read_bytes() == CONTENT[:size]
    assert (record.path, record.size) == ("file", size)
    assert record.sha256 == hashlib.sha256(CONTENT[:size]).hexdigest()
    assert file.close() is record


@pytest.mark.usefixtures("small_blocks")
def test_what_was_given_may_be_changed_at_once(tmp_path: Path, workers: Workers) -> None:
    file, buffer = HashedFile(tmp_path / "file", whole=40_960, workers=workers), bytearray(1024)
    for number in range(40):
        buffer[:] = bytes([number]) * 1024
        file.write(buffer)
    file.close()
    assert (tmp_path / "file").read_bytes() == b"".join(bytes([number]) * 1024 for number in range(40))


@pytest.mark.usefixtures("small_blocks")
def test_marks_come_in_order_with_the_hash_up_to_them(tmp_path: Path, workers: Workers) -> None:
    places = [0, 10, 10, 4095, 4096, 4097, 30_000, 49_152, 50_001]
    told: list[tuple[int, str]] = []
    file = HashedFile(tmp_path / "file", whole=len(CONTENT), workers=workers)
    for before, place in pairwise([0, *places]):
        file.write(CONTENT[before:place])
        file.mark(lambda size, digest: told.append((size, digest)))
    file.close()
    assert told == [(place, hashlib.sha256(CONTENT[:place]).hexdigest()) for place in places]


@pytest.mark.usefixtures("small_blocks")
def test_no_mark_is_told_before_all_bytes_up_to_it_are_with_the_kernel(
    tmp_path: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first block waits until all others are written."""
    held, told, seen = threading.Event(), threading.Event(), []
    write_at = hashed_file._write_at

    def held_back(descriptor: int, buffer: mmap.mmap, *, stop: int, start: int) -> None:
        if start == 0:
            held.wait()
        write_at(descriptor, buffer, stop=stop, start=start)
        seen.append((start, told.is_set()))
        if start == 4096:
            held.set()

    monkeypatch.setattr(hashed_file, "_write_at", held_back)
    file = HashedFile(tmp_path / "file", whole=8192, workers=workers)
    file.write(CONTENT[:4096])
    file.mark(lambda size, digest: told.set())
    file.write(CONTENT[4096:8192])
    file.close()
    assert told.is_set()
    assert sorted(seen) == [(0, False), (4096, False)]


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("size", [0, 1, 4096, 5000, 16_384, 40_000, 50_001])
def test_a_file_is_gone_on_with_where_it_was_left(tmp_path: Path, workers: Workers, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(CONTENT[:size] + b"lost" * 3000)
    after = read_beginning(path, size)
    assert after is not None
    assert after.digest.hexdigest() == hashlib.sha256(CONTENT[:size]).hexdigest()
    file = HashedFile(path, whole=len(CONTENT), workers=workers, after=after)
    assert file.size == size
    file.write(CONTENT[size:])
    record = file.close()
    assert path.read_bytes() == CONTENT
    assert (record.size, record.sha256) == (len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


def test_a_file_that_is_too_short_or_missing_has_no_such_beginning(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert read_beginning(tmp_path / "file", 4) is None
    assert read_beginning(tmp_path / "missing", 1) is None


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("refused", ["open", "write"])
def test_a_file_system_without_direct_writes_gets_the_same_bytes(
    tmp_path: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    real_open, real_write = os.open, os.pwrite

    def no_open(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real_open(path, flags, mode)

    def no_write(descriptor: int, data: memoryview, offset: int) -> int:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real_write(descriptor, data, offset)

    if refused == "open":
        monkeypatch.setattr("builders.conversion.hashed_file.os.open", no_open)
    else:
        monkeypatch.setattr("builders.conversion.hashed_file.os.pwrite", no_write)
    file = HashedFile(tmp_path / "file", whole=len(CONTENT), workers=workers)
    file.write(CONTENT)
    record = file.close()
    assert record.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert (tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.usefixtures("small_blocks")
def test_a_disk_that_is_full_is_said_with_the_file_and_no_mark_is_told(
    tmp_path: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, data: memoryview, offset: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("builders.conversion.hashed_file.os.pwrite", full)
    told: list[int] = []
    file = HashedFile(tmp_path / "file", whole=1 << 20, workers=workers)

    def write_all() -> None:
        for _ in range(200):
            file.write(CONTENT[:5000])
            file.mark(lambda size, digest: told.append(size))
        file.close()

    with pytest.raises(OSError, match="No space left") as caught:
        write_all()
    assert caught.value.filename == str(tmp_path / "file")
    with suppress(OSError):
        file.close()
    assert told == []


def test_an_existing_file_is_never_overwritten(tmp_path: Path, workers: Workers) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(FileExistsError):
        HashedFile(tmp_path / "file", whole=1, workers=workers)
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("num_files", [1, 2, 8, 64])
def test_blocks_of_all_files_together_take_no_more_memory_than_is_allowed(num_files: int) -> None:
    size = hashed_file._block_bytes(num_files)
    assert size % 4096 == 0
    assert 4 * size * num_files <= max(24 << 20, num_files << 20)


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


def test_columns_that_are_all_held_are_views_too() -> None:
    tensor = torch.zeros(4, 6)
    (block,) = slice_blocks(tensor, Slice("w", 1, (Span(0, 6),)), dtype=DType.FLOAT32)
    tensor[0, 0] = 1.0
    assert torch.frombuffer(bytearray(block), dtype=torch.float32).tolist() == [1.0, *[0.0] * 23]


def test_a_transform_changes_tensor_and_shape_alike() -> None:
    tensor = torch.arange(6.0).reshape(2, 3)
    model = model_of()
    assert transformed(tensor, "transpose", model=model).tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
    assert transformed_shape((2, 3), "transpose", model=model) == (3, 2)
    assert transformed(tensor, None, model=model) is tensor
    assert transformed_shape((2, 3), None, model=model) == (2, 3)
