"""What keeps a runtime that loads a Hugging Face directory as it is from computing what it should.

The same tensors are judged as for a conversion; what is only read here under other names, it does not read.
No weights are read but those of tied heads and of biases that the model does not have.
"""

from __future__ import annotations

from builders.audit import judge_biases, tied_problems
from builders.audit.declared import declared_problems
from builders.audit.tensors import grouped
from builders.declared_bytes import stored_bytes
from builders.model_type import model_type_problem
from builders.sources.base import each_problem
from builders.sources.directory import Directory
from builders.sources.wrapped_names import unwrapped
from tpforge.architectures.declared import Declared
from tpforge.errors import InputRefused

_EMBEDDINGS = ("embed_tokens", "embed_in", "embedding", "embeddings", "wte", "tok_embeddings")
_NEVER_LOADED = ("_orig_mod.", "module.")


def as_is_problems(found: Directory) -> list[str]:
    """Every problem of the tensors, and every name that is not one of the model's."""
    unnamed = model_type_problem(found.config, where=str(found.path / "config.json"))
    problems = [*found.weights.problems, *([] if unnamed is None else [unnamed])]
    problems += [f"{one}; runtime pytorch looks for the names of the model" for one in found.renamed]
    if found.declared is not None:
        return [*problems, *_of_unknown(found), *_of_declared(found, found.declared)]
    if found.family is None or found.spec is None or (found.quantization and not found.quantized):
        return [*problems, *_of_unknown(found)]
    tensors = found.check_tensors()
    problems += grouped(tensors.problems)
    if found.weights.is_whole and not found.weights.problems:
        problems += tied_problems(found, tensors.ties)
        problems += judge_biases(found, tensors.biases)[1]
    return problems


def _of_declared(found: Directory, declared: Declared) -> list[str]:
    """What the headers contradict of a model by the table of architectures."""
    if not found.weights.is_whole or found.weights.problems:
        return []
    where = str(found.path / "config.json")
    try:
        stored = stored_bytes(declared, found.config, folder=found.path, where=where)
    except InputRefused as error:
        return each_problem(error)
    return [
        f"{where}: {one}" for one in declared_problems(declared, found.weights.entries, stored_bytes=stored)
    ]


def _of_unknown(found: Directory) -> list[str]:
    """Without a table of the tensors: empty ones, wrappers, and an embedding that is not there."""
    entries = found.weights.entries
    empty = sorted(name for name, entry in entries.items() if 0 in entry.shape)
    problems = [f"{name}: found shape {list(entries[name].shape)}, without a value in it" for name in empty]
    if found.family is None:
        problems += [
            f"the names of its tensors begin with {one.prefix}, as {one.origin} saves them"
            for one in unwrapped(entries)[1]
            if one.prefix in _NEVER_LOADED
        ]
    if entries and found.weights.is_whole and not any(_is_embedding(name) for name in entries):
        problems.append(f"found no embedding among its {len(entries)} tensors")
    return grouped(problems)


def _is_embedding(name: str) -> bool:
    return any(part in _EMBEDDINGS or part.endswith("embeddings") for part in name.split("."))
