"""Writes a Hugging Face checkpoint with padded heads and MLP, for a loader that divides and pads nothing.

It decides no layout: heads lie where `tpforge.shards.padding` puts them for rank files too, and which dim of
a tensor is padded is what its family's rules say. The vocabulary stays: the LLM API pads it itself. Source:
TensorRT-LLM, _torch/modules/attention.py (asserts that tp_size divides the heads, rounds the KV heads of a
rank up; head_dim is the config's where it has one, and so are the rotary dims, in
_torch/attention_backend/interface.py) and _torch/modules/embedding.py (LMHead pads the vocabulary); read in
files of the 1.2 line, not at its tag.
"""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builders.conversion.layout import write_config
from builders.families.common.base import Family
from builders.sources.directory import Directory, examine
from builders.sources.json_files import read_json_object
from builders.sources.safetensors_reader import SafetensorsFile
from builders.sources.weight_files import INDEX
from tpforge.dtypes import parse_dtype
from tpforge.errors import InputRefused, PlanError
from tpforge.model import ModelSpec
from tpforge.shards.mapping import Mapping
from tpforge.shards.padding import Padding, plan_padding
from tpforge.shards.sections import Section, Span
from tpforge.shards.sharding import Cut, ShardPlan, Slice, spans

if TYPE_CHECKING:
    from builders.llm_api.model import LlmModel

PADDABLE = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
"""Separate q, k, v and o, norms that no head count enters, and a head size that config.json may state.

Source: transformers 5, models/{llama,mistral,qwen2,qwen3}/modeling_*.py; TensorRT-LLM, _torch/models/
modeling_{llama,mistral,qwen}.py, whose attention is that of _torch/modules/attention.py and whose MLP is
that of _torch/modules/gated_mlp.py (files of the 1.2 line). Mistral has no biases there.
"""
DIVIDED_MLP = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM")
"""With enable_attention_dp a rank has tokens of its own, and needs the whole MLP, but here gets its share.

Source: TensorRT-LLM, _torch/models/modeling_{llama,mistral,qwen}.py: GatedMLP without overridden_tp_size,
which modeling_qwen3.py has since pull request 7780 (files of the 1.2 line).
"""
_ALIGNMENT = 8
_MOST_RANKS = 64
_PADDED = (Cut.QUERY_ROWS, Cut.QUERY_COLUMNS, Cut.KV_ROWS, Cut.MLP_ROWS, Cut.MLP_COLUMNS)


def refuse_padding(model: LlmModel, mapping: Mapping, padding: Padding) -> str | None:
    """Why the checkpoint cannot be padded as planned, and what to do; None when it can, or need not be."""
    spec = model.spec
    if not padding.notes:
        return None
    if model.quantization is not None:
        reason = f"its weights are quantized ({model.quantization.title}), and only float ones are padded"
    elif spec.architecture not in PADDABLE:
        reason = f"no padded checkpoint is written of {spec.architecture}, only of {', '.join(PADDABLE)}"
    else:
        return None
    sizes = ", ".join(str(size) for size in sizes_without_padding(spec, moe_ep_size=mapping.moe_ep_size))
    return (
        f"tp={mapping.tp_size}: {'; '.join(padding.notes)}; {reason}; use tp={sizes}, or --runtime tensorrt"
    )


def padding_notes(spec: ModelSpec, padding: Padding) -> tuple[str, ...]:
    """What is worth knowing of a padded checkpoint; nothing when there is none.

    Source: transformers 4.57.3, which TensorRT-LLM 1.2 requires, and transformers 5, both
    models/llama/configuration_llama.py; only the latter compares heads and hidden_size.
    """
    notes = [f"{note}; model/ holds a padded copy of the weights" for note in padding.notes]
    heads = padding.heads.num_heads
    if notes and spec.architecture == "LlamaForCausalLM" and spec.hidden_size % heads:
        notes.append(
            f"{heads} heads do not divide hidden_size {spec.hidden_size}: transformers 5 refuses such a "
            "config.json of a Llama, transformers 4.57 of TensorRT-LLM 1.2 does not"
        )
    return tuple(notes)


def sizes_without_padding(spec: ModelSpec, *, moe_ep_size: int = 1) -> tuple[int, ...]:
    """The tp sizes that divide a model as it is."""
    return tuple(
        size
        for size in range(moe_ep_size, min(spec.attention.num_heads, _MOST_RANKS) + 1, moe_ep_size)
        if _divides(spec, size, moe_ep_size=moe_ep_size)
    )


def _divides(spec: ModelSpec, tp_size: int, *, moe_ep_size: int) -> bool:
    try:
        plan_padding(spec, tp_size=tp_size, moe_ep_size=moe_ep_size, allow=False)
    except PlanError:
        return False
    return True


def kept_files(model: LlmModel) -> tuple[Path, ...]:
    """The files that a padded directory takes as they are: all but config.json, weights and their index."""
    root = model.located.path
    return tuple(
        path
        for path in model.files
        if path.suffix != ".safetensors" and path not in (root / "config.json", root / INDEX)
    )


def write_padded(root: Path, out: Path, *, padding: Padding) -> None:
    """Write config.json, the weights and their index of the checkpoint at `root` into the folder `out`.

    Files keep their names, and tensors their files, order and type. It is read tensor by tensor.

    Raises:
        InputRefused: the checkpoint is not what its family's table says, or cannot be padded.
    """
    found = examine(root)
    with closing(found.weights):
        _refuse(found)
        padder = _padder(found, padding)
        names = {given: name for name, given in found.names.items()}
        total = sum(
            _write_weights(path, out / path.relative_to(root), names=names, padder=padder)
            for path in found.weights.paths
        )
        if found.weights.index_file is not None:
            index = read_json_object(root / INDEX)
            metadata = index.get("metadata")
            index["metadata"] = (metadata if isinstance(metadata, dict) else {}) | {"total_size": total}
            write_config(out / INDEX, index)
    write_config(out / "config.json", padded_config(found.config, padder.plan))
    _refuse_result(out, padder.plan)


def padded_config(config: dict[str, Any], plan: ShardPlan) -> dict[str, Any]:
    """A config.json with the padded sizes; the head size is stated, since it follows from them no longer."""
    return config | {
        "num_attention_heads": plan.padding.heads.num_heads,
        "num_key_value_heads": plan.padding.heads.num_kv_heads,
        "head_dim": plan.model.attention.head_size,
        "intermediate_size": plan.padding.intermediate_size,
    }


@dataclass(frozen=True)
class _Padder:
    """How each tensor is padded: `cuts` by the family's name of those that are; the plan has one rank."""

    plan: ShardPlan
    cuts: dict[str, Cut]

    def piece(self, name: str, shape: tuple[int, ...]) -> Slice:
        """The spans of tensor `name`, all of it and the zeros in between.

        Raises:
            PlanError: its shape is not what config.json says.
        """
        cut = self.cuts.get(name)
        if cut is None:
            return Slice(name, 0, (Span(0, shape[0]),))
        return Slice(name, cut.dim, spans(cut, shape[cut.dim], plan=self.plan, tp_rank=0))


def _padder(found: Directory, padding: Padding) -> _Padder:
    """As rank files are planned, but with one rank, which holds all the padded heads."""
    assert found.family is not None and found.spec is not None
    if found.spec.architecture not in PADDABLE:
        raise InputRefused(f"{found.path}: {found.spec.architecture} is not padded; see the table PADDABLE")
    plan = ShardPlan(model=found.spec, mapping=Mapping(), padding=padding)
    return _Padder(plan, _cuts(found.family, plan))


def _cuts(family: Family, plan: ShardPlan) -> dict[str, Cut]:
    cuts: dict[str, Cut] = {}
    for rule in family.rules(plan):
        for part in rule.parts:
            if part.cut not in _PADDED:
                continue
            assert part.section is Section.WHOLE and part.transform is None, "a fused tensor is not paddable"
            cuts |= {part.source.format(layer=layer): part.cut for layer in range(plan.model.num_layers)}
    return cuts


def _refuse(found: Directory) -> None:
    problems = [*found.problems, *found.check_tensors().problems]
    if found.quantization is not None:
        problems.append(f"{found.quantization.declared_in}: the weights are quantized; they are not padded")
    if problems or found.spec is None:
        raise InputRefused.listing(f"{found.path}: cannot be padded:", problems)


def _refuse_result(out: Path, plan: ShardPlan) -> None:
    """Read the headers back: the padded directory must be a sound checkpoint of the padded sizes."""
    written = examine(out)
    with closing(written.weights):
        _refuse(written)
        assert written.spec is not None
        heads = plan.padding.heads
        expected = (heads.num_heads, heads.num_kv_heads, plan.model.attention.head_size)
        attention = written.spec.attention
        assert (attention.num_heads, attention.num_kv_heads, attention.head_size) == expected
        assert written.spec.mlp.intermediate_size == plan.padding.intermediate_size


def _write_weights(path: Path, target: Path, *, names: dict[str, str], padder: _Padder) -> int:
    """Write one file of tensors, of which `names` gives the family's names; the bytes of its tensors."""
    # Late, because a dry run needs no torch, whose import takes longer than it does.
    from builders.conversion.blocks import slice_blocks
    from builders.conversion.hashed_file import HashedFile, Workers

    target.parent.mkdir(parents=True, exist_ok=True)
    with closing(SafetensorsFile(path)) as file:
        pieces = {given: padder.piece(names[given], entry.shape) for given, entry in file.entries.items()}
        header, total = _header(file, pieces)
        with Workers(1) as workers:
            writer = HashedFile(target, whole=len(header) + total, workers=workers)
            try:
                writer.write(header)
                for given, piece in pieces.items():
                    dtype = parse_dtype(file.entries[given].dtype)
                    for block in slice_blocks(file.read(given), piece, dtype=dtype):
                        writer.write(block)
            finally:
                written = writer.close()
    assert written.size == len(header) + total
    return total


def _header(file: SafetensorsFile, pieces: dict[str, Slice]) -> tuple[bytes, int]:
    """The header of the padded file, and the bytes of the tensors behind it."""
    # "format" is what Hugging Face's loaders ask for.
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for given, piece in pieces.items():
        entry = file.entries[given]
        shape = [piece.length if dim == piece.dim else size for dim, size in enumerate(entry.shape)]
        stop = offset + prod(shape) * parse_dtype(entry.dtype).num_bytes
        entries[given] = {"dtype": entry.dtype, "shape": shape, "data_offsets": [offset, stop]}
        offset = stop
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text, offset
