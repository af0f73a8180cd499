"""The layout of a safetensors rank file, known before any data, and config.json beside it.

It does not decide which tensors a file has, and writes no weights: `rank_writing` does.
Source: safetensors README, "Format".
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from tpforge.dtypes import DType
from tpforge.manifest import FileRecord
from tpforge.shards.sharding import RankTensor, stored_tensors

_ALIGNMENT = 8


@dataclass(frozen=True)
class RankFilePlan:
    """One rank file before it is written: its tensors in order, its header, its size in bytes."""

    name: str
    tensors: tuple[RankTensor, ...]
    header: bytes
    size: int


def plan_rank_file(name: str, tensors: tuple[RankTensor, ...], *, dtype: DType) -> RankFilePlan:
    """Lay the tensors one after another behind a header that is padded to 8 bytes with spaces.

    `dtype` is the type of the tensors that have none of their own.
    """
    entries = {}
    offset = 0
    for tensor in tensors:
        for stored in stored_tensors(tensor, dtype=dtype):
            stop = offset + stored.num_bytes
            entries[stored.name] = {
                "dtype": stored.dtype,
                "shape": list(stored.shape),
                "data_offsets": [offset, stop],
            }
            offset = stop
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    header = len(text).to_bytes(8, "little") + text
    return RankFilePlan(name=name, tensors=tensors, header=header, size=len(header) + offset)


def write_config(path: Path, config: dict[str, object]) -> FileRecord:
    """Write a config.json as upstream does: four spaces, keys in the order given."""
    content = config_bytes(config)
    with path.open("xb") as file:
        file.write(content)
    return FileRecord(path=path.name, size=len(content), sha256=hashlib.sha256(content).hexdigest())


def config_bytes(config: dict[str, object]) -> bytes:
    """The content of a config.json."""
    return (json.dumps(config, indent=4) + "\n").encode()
