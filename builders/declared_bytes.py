"""A model by the table of architectures as a directory holds it: its formats, and the bytes of a rank.

It reads declarations only; `builders.audit.declared` compares them with the headers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from builders.sources.json_files import read_json_object
from builders.sources.quantization import MODELOPT_FILE
from builders.stored_format import refuse_unseen
from tpforge.architectures.declared import Declared
from tpforge.architectures.spec import declared_spec
from tpforge.architectures.stored import StoredFormats, stored_formats
from tpforge.architectures.weights import DeclaredTensors
from tpforge.dtypes import DType
from tpforge.shards.mapping import Mapping as RankMapping
from tpforge.shards.weights import weight_bytes


def formats_in(
    declared: Declared, config: Mapping[str, Any], *, folder: Path, where: str
) -> StoredFormats | None:
    """How the matrices of a directory are quantized; None: floats.

    Raises:
        InputRefused: TensorRT-LLM loads no such checkpoint.
    """
    beside = folder / MODELOPT_FILE
    modelopt = read_json_object(beside) if beside.is_file() else None
    stored = stored_formats(declared, config=config, modelopt=modelopt, where=where)
    if stored is None:
        refuse_unseen(dict(config), folder=folder, where=where)
    return stored


def stored_bytes(declared: Declared, config: Mapping[str, Any], *, folder: Path, where: str) -> int | None:
    """The bytes of a quantized model, None of one of floats.

    Raises:
        InputRefused: TensorRT-LLM loads no such checkpoint.
    """
    stored = formats_in(declared, config, folder=folder, where=where)
    if stored is None:
        return None
    return sum(rank_bytes(declared, stored, mapping=RankMapping(), dtype=DType.BFLOAT16, where=where))


def rank_bytes(
    declared: Declared, stored: StoredFormats | None, *, mapping: RankMapping, dtype: DType, where: str
) -> tuple[int, ...]:
    """The bytes that each rank holds, in the order of the ranks.

    Raises:
        PlanError: the model does not divide so.
    """
    tensors = DeclaredTensors(declared, declared_spec(declared, where=where), stored.of if stored else None)
    flat = tensors.on_rank(mapping.tp_size, mapping.moe_ep_size, False)
    shapes = replace(flat, mapping=mapping)
    main = stored.main if stored else None
    sizes = [
        weight_bytes(shapes, stage=stage, dtype=dtype, weight_format=main) for stage in range(mapping.pp_size)
    ]
    return tuple(sizes[mapping.pp_rank(rank)] for rank in range(mapping.world_size))
