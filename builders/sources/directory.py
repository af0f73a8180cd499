"""Looks at everything a Hugging Face directory holds and collects what is wrong, instead of stopping at it.

It reads configs and headers, no weights. `huggingface` opens what has no problems; `audit` describes all.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builders.audit.rope import rope_disagreements
from builders.audit.tensors import TensorFindings, check_tensors, grouped
from builders.described import read_described
from builders.families.common.base import Family
from builders.families.common.passed_over import passed_over
from builders.families.common.reading import ConfigReader
from builders.families.common.registry import find_family
from builders.model_type import model_type_problem
from builders.sources.base import each_problem
from builders.sources.end_ids import NO_END, tokenizer_end_id
from builders.sources.fused_experts import ExpertPart, split_experts
from builders.sources.input_file import refuse_lfs_pointer
from builders.sources.json_files import read_json_object
from builders.sources.other_layouts import is_converted, no_checkpoint
from builders.sources.outside_links import outside_link_problems
from builders.sources.quantization import FoundQuantization, declared_values, find_quantization
from builders.sources.tokenizer_files import find_tokenizer_files
from builders.sources.weight_files import Weights
from builders.sources.wrapped_names import unwrapped
from tpforge.architectures.declared import Declared, read_declared
from tpforge.architectures.table import find_architecture, nearest_classes
from tpforge.dtypes import DType, parse_dtype
from tpforge.errors import InputRefused
from tpforge.model import ModelSpec
from tpforge.trtllm.architectures import advice_on_unknown, pytorch_only

if TYPE_CHECKING:
    import torch

    from builders.sources.quantized.reading import QuantizedWeights

_FLOATS = {dtype.safetensors for dtype in DType}
# A key of config.json that says how the weights are quantized; without it the rest can be read.
_QUANTIZED = ("quantization_config", "compression_config")


@dataclass
class Directory:
    """What was found. `names` are the family's names of the tensors, each with the name in the file.

    `spec` is read as if the weights were not quantized. `quantized` are the matrices of a quantization that
    is read, under plain names; of another one `problems` say why it is not. `parts` are matrices of experts
    that lie in one tensor with others. `renamed` says what is read under other names than the files give,
    which other programs do not do; `has_own_names`: transformers finds the tensors nevertheless. `declared`
    is the model where no family reads it, but the table of architectures; `elsewhere` says then what runs it.
    """

    path: Path
    config: dict[str, Any]
    weights: Weights
    family: Family | None = None
    declared: Declared | None = None
    spec: ModelSpec | None = None
    quantization: FoundQuantization | None = None
    quantized: QuantizedWeights | None = None
    names: dict[str, str] = field(default_factory=dict)
    parts: dict[str, ExpertPart] = field(default_factory=dict)
    renamed: list[str] = field(default_factory=list)
    has_own_names: bool = True
    remarks: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    elsewhere: str | None = None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor."""
        held = self.quantized.shapes if self.quantized else {}
        held = {**held, **{name: part.shape for name, part in self.parts.items()}}
        plain = self.weights.entries
        return {name: held[one] if one in held else plain[one].shape for name, one in self.names.items()}

    @property
    def dtypes(self) -> dict[str, DType]:
        """The types of the tensors that have one of ours."""
        held = self.quantized.shapes if self.quantized else {}
        plain = self.weights.entries
        stored = {name: one for name, one in self.names.items() if one not in held}
        inner = {name: self.parts[one].given if one in self.parts else one for name, one in stored.items()}
        types = {name: plain[one].dtype for name, one in inner.items()}
        found = {name: parse_dtype(own) for name, own in types.items() if own in _FLOATS}
        common = most_common_dtype(found)
        return found | {name: common for name, one in self.names.items() if one in held}

    def read(self, name: str) -> torch.Tensor:
        """One tensor, as a view of its file; only where the files have no problems."""
        one = self.names[name]
        if self.quantized is not None and one in self.quantized.shapes:
            return self.quantized.components(one).values()
        if one in self.parts:
            return self.parts[one].of(self.weights.read(self.parts[one].given))
        return self.weights.read(one)

    def check_tensors(self) -> TensorFindings:
        """Compare the tensors with the family's table; nothing is found where that cannot be done."""
        if self.family is None or self.spec is None:
            return TensorFindings()
        if self.quantization is not None and self.quantized is None:
            return TensorFindings()
        return check_tensors(
            self.family, self.spec, shapes=self.shapes, dtypes=self.dtypes, is_whole=self.weights.is_whole
        )

    def refuse(self) -> None:
        """Raise InputRefused with all the problems, those of the tensors among them, when there are any."""
        own = [*self.problems, *([self.elsewhere] if self.elsewhere is not None else [])]
        if not own:
            return
        problems = [*own, *grouped(self.check_tensors().problems)]
        if len(problems) == 1:
            raise InputRefused(problems[0])
        raise InputRefused.listing(f"{self.path}: cannot be converted:", problems)


def examine(path: Path, *, describe: Path | None = None) -> Directory:
    """Look at a directory. The caller closes `weights`. `describe` is a file of sizes that the user states.

    Raises:
        InputRefused: it has no config.json that can be read, so that nothing can be said of it.
    """
    config_file = path / "config.json"
    if not config_file.is_file():
        raise InputRefused(no_checkpoint(path))
    config = read_json_object(config_file)
    if "architectures" not in config and is_converted(path):
        raise InputRefused(no_checkpoint(path))
    weights = Weights(path)
    found = Directory(path=path, config=config, weights=weights, problems=list(weights.problems))
    found.problems += _pointers(path)
    found.problems += outside_link_problems(path)
    found.problems += [f"{config_file}: {problem}" for problem in rope_disagreements(config)]
    found.quantization, problems = find_quantization(path, config)
    found.problems += problems
    if describe is not None:
        _read_described(found, config_file, describe)
    else:
        _read_model(found, config_file)
    return found


def _read_described(found: Directory, config_file: Path, describe: Path) -> None:
    """Set `declared` by a user's file, whoever else may know the model."""
    found.names = {name: name for name in found.weights.entries}
    try:
        found.declared = read_described(describe, found.config, where=str(config_file))
    except InputRefused as error:
        found.problems += each_problem(error)
        return
    found.elsewhere = (
        f"{config_file}: its sizes are those of {describe}, by which the pytorch runtime (TensorRT-LLM's LLM "
        "API) alone is planned; it loads the Hugging Face checkpoint as it is. Nothing was written."
    )


def _read_model(found: Directory, config_file: Path) -> None:
    """Set family, names and spec as far as they can be known."""
    architectures = found.config.get("architectures")
    names = list(found.weights.entries)
    found.names = dict(zip(names, names, strict=True))
    try:
        found.family = find_family(architectures, where=str(config_file))
    except InputRefused as error:
        _read_declared(found, config_file, unknown=str(error))
        return
    if found.quantization is not None:
        _find_quantized(found)
        names = _plain_names(found)
    _rename(found, found.family, names)
    generation, problems = _read_generation(found.path / "generation_config.json")
    found.problems += problems
    reader = ConfigReader(
        {key: value for key, value in found.config.items() if key not in _QUANTIZED},
        where=str(config_file),
        weight_dtype=most_common_dtype(found.dtypes),
        generation=_with_end(found, generation),
    )
    try:
        found.spec = found.family.read_model(reader)
    except InputRefused as error:
        found.problems += each_problem(error)
    else:
        found.remarks += passed_over(found.family, found.config)
        unnamed = model_type_problem(found.config, where=str(config_file))
        found.remarks += [] if unnamed is None else [unnamed]
        _take_head_for_embedding(found, found.family, found.spec)


def _read_declared(found: Directory, config_file: Path, *, unknown: str) -> None:
    """Set `declared` by the table of architectures, or say why the model cannot be known."""
    architectures = found.config.get("architectures")
    names = architectures if isinstance(architectures, list) else [architectures]
    name = names[0] if len(names) == 1 and isinstance(names[0], str) else ""
    found.elsewhere = _elsewhere(architectures, config_file)
    near = nearest_classes(name)
    hint = f" Nearest in the table of architectures: {' and '.join(near)}." if near else ""
    if find_architecture(name) is None:
        found.problems.append(found.elsewhere or f"{unknown}{hint} {advice_on_unknown(name)}.")
        found.elsewhere = None
        return
    found.elsewhere = found.elsewhere or f"{unknown} {advice_on_unknown(name)}."
    try:
        found.declared = read_declared(found.config, where=str(config_file))
    except InputRefused as error:
        found.problems += [found.elsewhere, *each_problem(error)]
        found.elsewhere = None


def _rename(found: Directory, family: Family, names: list[str]) -> None:
    """Set the family's names: without wrappers, and with a name for each matrix of fused experts."""
    bare, wrappers = unwrapped(names, embedding=_embedding_of(family))
    found.has_own_names = not wrappers
    found.renamed += [
        f"the names of its tensors begin with {one.prefix}, as {one.origin} saves them" for one in wrappers
    ]
    if found.quantization is None:
        is_mixtral = any("block_sparse_moe" in tensor.name for tensor in family.source_tensors)
        # Once: it is put together anew each time it is asked for.
        held = found.weights.entries
        entries = {name: held[given] for name, given in bare.items()}
        parts, routers = split_experts(entries, is_mixtral=is_mixtral)
        if parts:
            fused = {part.given for part in parts.values()} | set(routers.values())
            kept = {name: given for name, given in bare.items() if name not in fused}
            found.parts = {name: replace(part, given=bare[part.given]) for name, part in parts.items()}
            kept |= {name: bare[given] for name, given in routers.items()}
            bare = kept | {name: name for name in parts}
            found.renamed.append(
                "the experts of a layer are one tensor (gate_up_proj), as transformers 5 holds them"
            )
    found.names = {name: bare[given] for name, given in family.canonical(bare).items()}


def _embedding_of(family: Family) -> str | None:
    """The first of the tables of the vocabulary; None where names may lack their beginning anyway."""
    if family.optional_prefix:
        return None
    return next((one.name for one in family.source_tensors if one.dims == ("vocab", "hidden")), None)


def _take_head_for_embedding(found: Directory, family: Family, spec: ModelSpec) -> None:
    """Of a tied model that was saved with its head alone, the head is the embedding."""
    tables = [one.name for one in family.source_tensors if one.dims == ("vocab", "hidden")]
    if not spec.tie_word_embeddings or len(tables) < 2:
        return
    embedding = next(name for name in tables if name in family.expected_shapes(spec))
    heads = [name for name in tables if name != embedding and name in found.names]
    if embedding not in found.names and len(heads) == 1:
        found.names[embedding] = found.names.pop(heads[0])
        found.has_own_names = False
        found.renamed.append(f"{embedding} is missing, and {heads[0]}, to which it is tied, stands for it")


def _with_end(found: Directory, generation: dict[str, Any] | None) -> dict[str, Any] | None:
    """The generation config, with the tokenizer's end id where neither config has one."""
    if any(values.get("eos_token_id") is not None for values in (found.config, generation or {})):
        return generation
    end_id = tokenizer_end_id(found.path)
    if end_id is None:
        if find_tokenizer_files(found.path):
            found.remarks.append(NO_END)
        return generation
    found.remarks.append(f"answers end at the tokenizer's eos_token {end_id}: no config says another")
    return {**(generation or {}), "eos_token_id": end_id}


def _read_generation(path: Path) -> tuple[dict[str, Any] | None, list[str]]:
    try:
        return (read_json_object(path) if path.is_file() else None), []
    except InputRefused as error:
        return None, each_problem(error)


def _elsewhere(architectures: object, config_file: Path) -> str | None:
    """What is said of an architecture that another runtime serves without a conversion."""
    names = architectures if isinstance(architectures, list) else [architectures]
    advice = pytorch_only(names[0]) if len(names) == 1 and isinstance(names[0], str) else None
    return None if advice is None else f"{config_file}: {advice}. Nothing was written."


def _find_quantized(found: Directory) -> None:
    """Set `quantized`, or say why the quantization is not read."""
    # Late, because they import torch, which takes longer than `inspect` of weights that are not quantized.
    from builders.sources.quantized.layouts import find_layout
    from builders.sources.quantized.reading import find_quantized

    assert found.quantization is not None
    what = f"{found.path / found.quantization.declared_in}: the weights are quantized"
    what = f"{what} ({found.quantization.title})"
    try:
        layout = find_layout(found.quantization.method, declared_values(found.path, found.config))
    except InputRefused as error:
        found.problems.append(f"{what}: {error}")
        return
    quantized, problems = find_quantized(layout, found.weights.entries, tensor=found.weights.read)
    found.problems += [f"{what}: {problem}" for problem in problems]
    found.quantized = None if problems else quantized


def _plain_names(found: Directory) -> list[str]:
    """The names of all tensors, with one name for the tensors of a quantized matrix."""
    if found.quantized is None:
        return list(found.weights.entries)
    others = [name for name in found.weights.entries if name not in found.quantized.belonging]
    return [*others, *found.quantized.shapes]


def _pointers(path: Path) -> list[str]:
    problems = []
    for file in find_tokenizer_files(path):
        with file.open("rb") as opened:
            head = opened.read(64)
        try:
            refuse_lfs_pointer(file, head)
        except InputRefused as error:
            problems += each_problem(error)
    return problems


def most_common_dtype(dtypes: dict[str, DType]) -> DType:
    """The type of most tensors; float32 when there are none."""
    found = list(dtypes.values())
    return max(sorted(set(found)), key=found.count) if found else DType.FLOAT32
