"""Describes a checkpoint as far as it can be described, with every problem in it, instead of refusing it.

It reads configs and headers; weights only when it is asked for NaN and infinite values.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builders.audit import judge_biases, tied_problems, tied_reasons
from builders.audit.as_is import as_is_problems
from builders.audit.formats import other_formats
from builders.audit.tensors import TensorFindings, check_tensors
from builders.audit.tokenizer import FoundTokenizer, find_tokenizer, vocabulary_problem
from builders.audit.values import non_finite
from builders.families.common.base import Family
from builders.sources import Located
from builders.sources.base import SourceKind, WeightReader, each_problem
from builders.sources.directory import Directory, examine
from builders.sources.huggingface import declared_license, snapshot_commit
from builders.sources.quantization import FoundQuantization
from builders.sources.tokenizer_files import tokenizer_missing
from builders.sources.tokenizer_loading import loading_problem
from tpforge.architectures.declared import Declared
from tpforge.errors import InputRefused
from tpforge.model import ModelSpec
from tpforge.progress import BytesProgress

if TYPE_CHECKING:
    from builders.sources.quantized.reading import QuantizedWeights


@dataclass
class Survey:
    """What is known of a checkpoint.

    `config` is its config.json, {} where there is none. `spec` and `family` are None when the architecture
    is unknown or the config contradicts itself; `declared` is then the model by the table of architectures,
    where that has it. `shapes` are those of the tensors that are kept, `stored`
    counts the tensors of each type in the files. `quantized` are the matrices of a `quantization` that is
    read. `files` are name and bytes. `as_is` keeps runtimes from it that load the directory itself.
    `warnings` do not keep it from being converted, `problems` do.
    """

    kind: SourceKind
    location: str
    path: Path
    revision: str | None = None
    license: str | None = None
    architecture: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    family: Family | None = None
    declared: Declared | None = None
    spec: ModelSpec | None = None
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    stored: dict[str, int] = field(default_factory=dict)
    files: tuple[tuple[str, int], ...] = ()
    quantization: FoundQuantization | None = None
    quantized: QuantizedWeights | None = None
    tokenizer: FoundTokenizer | None = None
    dropped: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    as_is: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def num_parameters(self) -> int | None:
        """Elements of the tensors that are kept; by the config when their quantization is not read."""
        if self.declared is not None:
            return self.declared.num_parameters
        if self.quantization is None or self.quantized is not None:
            return sum(prod(shape) for shape in self.shapes.values())
        if self.family is None or self.spec is None:
            return None
        return sum(prod(shape) for shape in self.family.expected_shapes(self.spec).values())


def survey(
    located: Located,
    *,
    deep: bool = False,
    describe: Path | None = None,
    progress: BytesProgress | None = None,
) -> Survey:
    """Look at the checkpoint; with `deep` at every weight of it too, by the sizes of `describe` if given.

    Raises:
        InputRefused: it has no config.json or no header that can be read: nothing is known of it.
    """
    if located.kind == "gguf" and describe is not None:
        raise InputRefused(f"{located.location}: a .gguf file says its own sizes; leave out --describe")
    if located.kind == "gguf":
        return _survey_gguf(located, deep=deep, progress=progress)
    found = examine(located.path, describe=describe)
    try:
        return _survey_directory(found, located, deep=deep, progress=progress)
    finally:
        found.weights.close()


def _survey_directory(
    found: Directory, located: Located, *, deep: bool, progress: BytesProgress | None
) -> Survey:
    path = located.path
    tensors = found.check_tensors()
    tokenizer = find_tokenizer(path)
    result = Survey(
        kind=located.kind,
        location=located.location,
        path=path,
        revision=snapshot_commit(path),
        license=declared_license(path / "README.md"),
        architecture=_architecture(found.config),
        config=found.config,
        family=found.family,
        declared=found.declared,
        spec=found.spec,
        stored=dict(Counter(entry.dtype for entry in found.weights.entries.values()).most_common()),
        files=_files(path),
        quantization=found.quantization,
        quantized=None if found.quantized is None else found.quantized.renamed(found.names),
        tokenizer=tokenizer,
        notes=(*found.remarks, *(f"read nevertheless: {one}" for one in found.renamed)),
        problems=[*found.problems, *tensors.problems, *tokenizer.problems],
        warnings=other_formats(path, used={one.name for one in found.weights.paths}),
    )
    if not tokenizer.problems and (problem := loading_problem(path)) is not None:
        result.problems.append(problem)
    if not tokenizer.is_there:
        result.warnings.append(f"{path}: {tokenizer_missing(path)}; convert needs none, but build does")
    if found.spec is not None:
        problem = vocabulary_problem(tokenizer, vocab_size=found.spec.vocab_size)
        result.problems += [problem] if problem else []
    # With a file that is truncated or of overlapping tensors, there is nothing to read.
    reader = None if found.weights.problems else found
    _look_at_weights(result, tensors, found.shapes, reader, deep=deep, progress=progress)
    result.as_is = as_is_problems(found)
    if found.declared is not None and found.elsewhere is not None:
        # One runtime alone loads it, and it loads it as it is.
        result.notes = (*result.notes, found.elsewhere.removesuffix(" Nothing was written."))
        result.problems += [one for one in result.as_is if one not in result.problems]
    return result


def _survey_gguf(located: Located, *, deep: bool, progress: BytesProgress | None) -> Survey:
    from builders.sources.gguf import open_gguf

    path = located.path
    result = Survey(
        kind="gguf", location=located.location, path=path, files=((path.name, path.stat().st_size),)
    )
    try:
        source = open_gguf(path, location=located.location)
    except InputRefused as error:
        result.problems += each_problem(error)
        return result
    with source:
        result.files = tuple((one.name, one.stat().st_size) for one in source.input_files)
        result.license, result.spec, result.family = source.license, source.spec, source.family
        result.architecture, result.notes = source.spec.architecture, source.notes
        result.stored = dict(Counter(tensor.kind for tensor in source.tensors.values()).most_common())
        result.tokenizer = source.tokenizer
        tensors = check_tensors(source.family, source.spec, shapes=source.shapes, dtypes=source.dtypes)
        result.problems += [*tensors.problems, *(f"{path}: {one}" for one in source.tokenizer.problems)]
        _look_at_weights(result, tensors, source.shapes, source, deep=deep, progress=progress)
    return result


def _look_at_weights(
    result: Survey,
    tensors: TensorFindings,
    shapes: dict[str, tuple[int, ...]],
    reader: WeightReader | None,
    *,
    deep: bool,
    progress: BytesProgress | None,
) -> None:
    """Compare tied heads, look for values that are not finite, and leave out what is dropped."""
    result.dropped = dict(sorted({**tensors.dropped, **tied_reasons(tensors.ties)}.items()))
    result.shapes = {name: shape for name, shape in shapes.items() if name not in result.dropped}
    if reader is None:
        if deep:
            result.warnings.append("--deep: the weights were not read, because their files are broken")
        return
    result.problems += tied_problems(reader, tensors.ties)
    zeros, others = judge_biases(reader, tensors.biases)
    result.problems += others
    result.dropped = dict(sorted({**result.dropped, **zeros}.items()))
    result.shapes = {name: shape for name, shape in result.shapes.items() if name not in zeros}
    if deep:
        result.problems += non_finite(reader, progress=progress)


def _architecture(config: dict[str, Any]) -> str | None:
    found = config.get("architectures")
    names = found if isinstance(found, list) else [found]
    return ", ".join(str(name) for name in names) if found else None


def _files(path: Path) -> tuple[tuple[str, int], ...]:
    """Every file of the directory itself, those that hidden folders hold left out."""
    return tuple(
        (one.name, one.stat().st_size)
        for one in sorted(path.iterdir())
        if one.is_file() and one.name[0] != "."
    )
