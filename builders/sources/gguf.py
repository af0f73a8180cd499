"""A .gguf file of the llama architecture as a source: dequantized, under Hugging Face names and layouts.

It does not write .gguf files, and refuses what its metadata cannot express exactly.
Source: llama.cpp, convert_hf_to_gguf.py (LlamaModel) and gguf-py, constants.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from builders.audit.tokenizer import FoundTokenizer
from builders.families.common.base import Family
from builders.families.common.reading import ConfigReader
from builders.families.common.registry import find_family
from builders.sources.gguf_bounds import check_header
from builders.sources.gguf_metadata import read_hf_config
from builders.sources.gguf_parts import find_parts, refuse_mixed
from builders.sources.input_file import refuse_lfs_pointer
from builders.sources.mapped_file import MappedFile
from builders.sources.tokenizer_files import as_llama_cpp_spaces, convert_tokenizer, remove_volatile_keys
from tpforge.closing import Closing
from tpforge.dtypes import DType
from tpforge.errors import InputRefused
from tpforge.model import ModelSpec

if TYPE_CHECKING:
    import torch

_MAGIC = b"GGUF"
_PLAIN = {"F32": DType.FLOAT32, "F16": DType.FLOAT16, "BF16": DType.BFLOAT16}
_GLOBAL_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_LAYER_NAME = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
# Read into config.json's rope_scaling, so not a tensor of the model.
ROPE_FACTORS = "rope_freqs.weight"


@dataclass(frozen=True)
class GgufTensor:
    """Where one tensor lies: its file, ggml type, Hugging Face shape, and bytes [start, start + size)."""

    file: MappedFile
    kind: str
    shape: tuple[int, ...]
    start: int
    size: int


@dataclass(frozen=True)
class GgufSource(Closing):
    """An open .gguf file; see `builders.sources.base.Source`."""

    location: str
    path: Path
    license: str | None
    tokenizer: FoundTokenizer
    spec: ModelSpec
    family: Family
    tensors: dict[str, GgufTensor]
    files: tuple[MappedFile, ...]
    adds_space: bool | None = None
    kind: Literal["gguf"] = "gguf"
    revision: None = None
    quantized: None = None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor, [out, in]."""
        return {name: tensor.shape for name, tensor in self.tensors.items()}

    @property
    def dtypes(self) -> dict[str, DType]:
        """The type in which `read` gives each tensor: quantized ones come as float32."""
        return {name: _PLAIN.get(tensor.kind, DType.FLOAT32) for name, tensor in self.tensors.items()}

    @property
    def input_files(self) -> tuple[Path, ...]:
        """The file itself, or all parts of a split one."""
        return tuple(file.path for file in self.files)

    @property
    def notes(self) -> tuple[str, ...]:
        """How many weights were dequantized."""
        kinds = [tensor.kind for tensor in self.tensors.values() if tensor.kind not in _PLAIN]
        if not kinds:
            return ()
        return (f"{len(kinds)} tensors of types {', '.join(sorted(set(kinds)))} dequantized",)

    def read(self, name: str) -> torch.Tensor:
        """One tensor, dequantized; rows of q and k in Hugging Face's order."""
        tensor = _read_tensor(self.tensors[name])
        attention = self.spec.attention
        if ".q_proj." in name:
            return unpermute(tensor, num_heads=attention.num_heads)
        if ".k_proj." in name:
            return unpermute(tensor, num_heads=attention.num_kv_heads)
        return tensor

    def write_tokenizer(self, out: Path) -> None:
        """Write the tokenizer that the metadata describes, by transformers' reading of it."""
        from builders.sources.gguf_reader import in_place_of_gguf_py

        with in_place_of_gguf_py():
            convert_tokenizer(self.path.parent, out, gguf_file=self.path.name)
        if self.adds_space is not None:
            as_llama_cpp_spaces(out / "tokenizer.json", adds_space=self.adds_space)
        remove_volatile_keys(out / "tokenizer_config.json")

    def close(self) -> None:
        """Release the mapped files."""
        for file in self.files:
            file.close()


def open_gguf(path: Path, *, location: str) -> GgufSource:
    """Open a .gguf file, or the first of a split one with all others.

    Raises:
        InputRefused: not a whole .gguf file, of another architecture, or with tensors that are unknown.
    """
    files = [MappedFile(path)]
    try:
        readers = [_reader(files[0])]
        fields = dict(readers[0].fields)
        for part in find_parts(path, fields)[1:]:
            files.append(MappedFile(part))
            readers.append(_reader(files[-1]))
        tensors = _all_tensors(readers, files)
        factors = tensors.pop(ROPE_FACTORS, None)
        config = read_hf_config(
            fields,
            shapes={name: tensor.shape for name, tensor in tensors.items()},
            rope_factors=None if factors is None else _read_tensor(factors).tolist(),
            where=str(path),
        )
        family = find_family(config["architectures"], where=str(path))
        spec = family.read_model(ConfigReader(config, where=str(path), weight_dtype=_auto_dtype(tensors)))
    except InputRefused:
        for file in files:
            file.close()
        raise
    license_field = fields.get("general.license")
    return GgufSource(
        location=location,
        path=path,
        tokenizer=_tokenizer(fields),
        license=str(license_field.contents()) if license_field is not None else None,
        spec=spec,
        family=family,
        tensors=tensors,
        files=tuple(files),
        adds_space=_adds_space(fields),
    )


def _adds_space(fields: dict[str, Any]) -> bool | None:
    """Whether a sentencepiece tokenizer puts a space before the text; None for another kind."""
    model = fields.get("tokenizer.ggml.model")
    if model is None or model.contents() != "llama":
        return None
    stated = fields.get("tokenizer.ggml.add_space_prefix")
    return True if stated is None else bool(stated.contents())


def _merge_problems(fields: dict[str, Any]) -> Iterator[str]:
    """Merges of tokens that the vocabulary does not have, with which no tokenizer can be made."""
    merges, tokens = (fields.get(f"tokenizer.ggml.{key}") for key in ("merges", "tokens"))
    if merges is None or tokens is None:
        return
    try:
        known, pairs = set(tokens.contents()), merges.contents()
    except UnicodeDecodeError as error:
        yield f"tokenizer.ggml.tokens and merges: their text is not UTF-8 ({error.reason})"
        return
    for merge in pairs:
        left, space, right = str(merge).partition(" ")
        missing = [one for one in (left, right, left + right) if one not in known]
        if not space or missing:
            yield (
                f"tokenizer.ggml.merges: {str(merge)[:40]!r} is of tokens that tokenizer.ggml.tokens lacks "
                f"({', '.join(repr(one[:20]) for one in missing) or 'no space in it'}): its tokenizer is "
                "broken; make the .gguf again from the original, or give its Hugging Face directory"
            )
            return


def _tokenizer(fields: dict[str, Any]) -> FoundTokenizer:
    """What the metadata says of the tokenizer, which lies in the same file."""
    tokens = fields.get("tokenizer.ggml.tokens")
    return FoundTokenizer(
        files=() if tokens is None else ("tokenizer.ggml.*",),
        num_ids=None if tokens is None else len(tokens.data),
        largest="",
        has_chat_template="tokenizer.chat_template" in fields,
        problems=tuple(_merge_problems(fields)),
    )


def unpermute(tensor: torch.Tensor, *, num_heads: int) -> torch.Tensor:
    """Undo llama.cpp's permutation of the rows of a q or k projection (or bias).

    llama.cpp interleaves the two halves of each head, because it rotates neighbouring pairs.
    """
    rows = tensor.shape[0]
    pairs = tensor.reshape(num_heads, rows // num_heads // 2, 2, *tensor.shape[1:])
    return pairs.transpose(1, 2).reshape(tensor.shape)


def _reader(file: MappedFile) -> Any:
    refuse_lfs_pointer(file.path, file.bytes(0, 64))
    magic = file.bytes(0, 4)
    if magic != _MAGIC:
        raise InputRefused(f"{file.path}: found first bytes {magic!r}, expected {_MAGIC!r}: not a .gguf file")
    check_header(file)
    from builders.sources.gguf_reader import Reader

    try:
        return Reader(file.path, before_tensors=lambda fields: _refuse_unknown_types(fields, file))
    # gguf-py has no exception of its own: these come of reading beyond the end, or of broken fields.
    except (ValueError, IndexError, KeyError, OverflowError, UnicodeDecodeError, MemoryError) as error:
        raise InputRefused(
            f"{file.path}: truncated or broken ({type(error).__name__}: {error}): "
            f"found {file.size} bytes; download it again"
        ) from error


def _refuse_unknown_types(fields: Any, file: MappedFile) -> None:
    """Types of tensors that gguf-py does not list, or that cannot have the shape of their tensor."""
    import gguf

    problems = []
    for field in fields:
        name = bytes(field.parts[1]).decode("utf-8", errors="replace")
        kind, sizes = int(field.parts[-2][0]), [int(size) for size in field.parts[-3]]
        known = next((one for one in gguf.GGMLQuantizationType if one.value == kind), None)
        if known is None:
            problems.append(f"{name}: found type {kind}, which gguf-py {version('gguf')} does not know")
        elif sizes and sizes[0] % gguf.GGML_QUANT_SIZES[known][0]:
            problems.append(
                f"{name}: found type {kind} ({known.name}), whose blocks of "
                f"{gguf.GGML_QUANT_SIZES[known][0]} do not divide its {sizes[0]} inputs"
            )
    if problems:
        raise InputRefused.listing(
            f"{file.path}: holds tensors of types that cannot be read (of a newer or another llama.cpp); "
            "quantize it again with llama.cpp's own types, or use the Hugging Face directory:",
            problems,
        )


def _all_tensors(readers: list[Any], files: list[MappedFile]) -> dict[str, GgufTensor]:
    """The tensors of all parts."""
    if len(files) > 1:
        refuse_mixed(
            [file.path for file in files],
            [reader.fields for reader in readers],
            names=[[one.name for one in reader.tensors] for reader in readers],
        )
    held = [_tensors(reader, file) for reader, file in zip(readers, files, strict=True)]
    return {name: tensor for one in held for name, tensor in one.items()}


def _tensors(reader: Any, file: MappedFile) -> dict[str, GgufTensor]:
    """Every tensor under its Hugging Face name; gguf lists sizes from the innermost."""
    tensors: dict[str, GgufTensor] = {}
    problems = []
    end = 0
    for found in reader.tensors:
        name = found.name if found.name == ROPE_FACTORS else _hf_name(found.name)
        if name is None:
            problems.append(f"{found.name}: unknown to the llama architecture")
            continue
        tensors[name] = GgufTensor(
            file=file,
            kind=found.tensor_type.name,
            shape=tuple(int(size) for size in reversed(found.shape)),
            start=int(found.data_offset),
            size=int(found.n_bytes),
        )
        end = max(end, tensors[name].start + tensors[name].size)
    if problems:
        raise InputRefused.listing(f"{file.path}: tensors that cannot be converted:", problems)
    if file.size < end:
        raise InputRefused(f"{file.path}: truncated: found {file.size} bytes, expected {end}")
    return tensors


def _hf_name(name: str) -> str | None:
    match = _LAYER_NAME.fullmatch(name)
    if match is None:
        return _GLOBAL_NAMES.get(name)
    layer, role, suffix = match.groups()
    return f"model.layers.{layer}.{_LAYER_NAMES[role]}.{suffix}" if role in _LAYER_NAMES else None


def _read_tensor(tensor: GgufTensor) -> torch.Tensor:
    file = tensor.file
    # Late, because `inspect` reads headers only, and torch takes longer to import than they to read.
    import torch

    from builders.torch_types import TORCH_DTYPES

    if tensor.kind in _PLAIN:
        dtype = TORCH_DTYPES[_PLAIN[tensor.kind]]
        flat = file.tensor(tensor.start, count=tensor.size // dtype.itemsize, dtype=dtype)
        return flat.reshape(tensor.shape)
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    raw = file.tensor(tensor.start, count=tensor.size, dtype=torch.uint8).numpy()
    try:
        values = dequantize(raw.reshape(tensor.shape[0], -1), GGMLQuantizationType[tensor.kind])
    except NotImplementedError:
        raise InputRefused(
            f"{file.path}: type {tensor.kind} cannot be dequantized by gguf-py; use another file"
        ) from None
    return torch.from_numpy(values).reshape(tensor.shape)


def _auto_dtype(tensors: dict[str, GgufTensor]) -> DType:
    """The type of the matrices when they are not quantized, else bfloat16."""
    kinds = [tensor.kind for tensor in tensors.values() if len(tensor.shape) > 1]
    most = max(sorted(set(kinds)), key=kinds.count) if kinds else "F32"
    return _PLAIN.get(most, DType.BFLOAT16)
