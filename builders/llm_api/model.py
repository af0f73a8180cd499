"""A Hugging Face checkpoint as the LLM API takes it: unconverted, and quantized if it is.

Unlike `sources.open_source` it opens quantized weights, which nobody reads here: TensorRT-LLM does.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builders.audit.as_is import as_is_problems
from builders.llm_api.declared import declared_model
from builders.sources import Located, locate
from builders.sources.base import each_problem
from builders.sources.directory import Directory, examine, most_common_dtype
from builders.sources.end_ids import tokenizer_end_id
from builders.sources.huggingface import declared_license, snapshot_commit
from builders.sources.json_files import read_json_object
from builders.sources.quantization import FoundQuantization
from builders.sources.tokenizer_files import find_tokenizer_files
from builders.sources.tokenizer_loading import loading_problem
from tpforge.architectures.declared import Declared
from tpforge.architectures.spec import declared_spec
from tpforge.architectures.table import find_architecture
from tpforge.errors import InputRefused
from tpforge.model import ModelSpec
from tpforge.trtllm.architectures import architecture_support, pytorch_only
from tpforge.trtllm.argument_tables import learned_architectures
from tpforge.trtllm.versions import DEFAULT_RELEASE, Release, version_key

_SKIPPED = ("*.gguf", "*.bin", "*.pt", "*.pth", "*.h5", "*.msgpack", "*.onnx", "original", ".*")
"""Second copies of the weights, which the LLM API does not read."""
_QUANTIZED = ": the weights are quantized ("


@dataclass(frozen=True)
class LlmModel:
    """What was found: `files` go into the engine folder, `inputs` decide what the model is.

    `is_declared`: no family of ours reads it, and `spec` is what config.json says; by `declared` where the
    table of architectures has it.
    """

    located: Located
    spec: ModelSpec
    quantization: FoundQuantization | None
    files: tuple[Path, ...]
    inputs: tuple[Path, ...]
    revision: str | None
    license: str | None
    declared: Declared | None = None
    is_declared: bool = False


def open_llm_model(location: str, *, release: Release, describe: Path | None = None) -> LlmModel:
    """The checkpoint at a directory or hub id, if the LLM API of the release runs its architecture.

    `describe` is a file of sizes, where the architecture is in no table.

    Raises:
        InputRefused: it is no whole Hugging Face checkpoint, or one of another architecture.
    """
    located = locate(location)
    if located.kind == "gguf":
        raise InputRefused(
            f"{location}: is a .gguf file, and the LLM API loads Hugging Face checkpoints; give the original "
            "model, or use --runtime tensorrt or reference"
        )
    path = located.path
    found = examine(path, describe=describe)
    with closing(found.weights):
        problems = [problem for problem in found.problems if _QUANTIZED not in problem]
        spec, problems = _spec_of(found, problems)
        problems += [one for one in as_is_problems(found) if one not in problems]
        problems += [one for one in (loading_problem(path),) if one is not None]
        if spec is None and not problems:
            problems = [f"{path / 'config.json'}: its architecture cannot be read"]
        if problems or spec is None:
            raise InputRefused.listing(f"{location}: not for runtime pytorch:", problems)
        weights = found.weights
        index = (weights.index_file,) if weights.index_file else ()
        inputs = {path / "config.json", *index, *weights.paths, *find_tokenizer_files(path)}
    refuse_architecture(spec.architecture, release, where=location, is_read=found.family is not None)
    return LlmModel(
        located=located,
        spec=spec,
        quantization=found.quantization,
        files=tuple(_files(path)),
        inputs=tuple(sorted(inputs)),
        revision=snapshot_commit(path),
        license=declared_license(path / "README.md"),
        declared=found.declared,
        is_declared=found.family is None,
    )


def _spec_of(found: Directory, problems: list[str]) -> tuple[ModelSpec | None, list[str]]:
    """The model and what is left of the problems, where the LLM API alone knows the architecture."""
    names = found.config.get("architectures")
    name = names[0] if isinstance(names, list) and len(names) == 1 else None
    if found.declared is None and (
        found.family is not None or not isinstance(name, str) or pytorch_only(name) is None
    ):
        return found.spec, problems
    assert isinstance(name, str)
    advice = pytorch_only(name) or name
    others = [problem for problem in problems if advice not in problem] if pytorch_only(name) else problems
    if found.declared is not None:
        where = str(found.path / "config.json")
        dtype, generation = most_common_dtype(found.dtypes), _special_ids(found)
        return declared_spec(found.declared, where=where, dtype=dtype, generation=generation), others
    if find_architecture(name) is not None:
        return None, others
    try:
        return declared_model(found, architecture=name), others
    except InputRefused as error:
        return None, [*others, *each_problem(error)]


def _special_ids(found: Directory) -> dict[str, Any]:
    """The ids of generation_config.json; the tokenizer's end where no config names one."""
    file = found.path / "generation_config.json"
    ids = read_json_object(file) if file.is_file() else {}
    given = {key: value for key, value in ids.items() if key.endswith("_token_id") and value is not None}
    if "eos_token_id" not in given and found.declared is not None:
        end_id = tokenizer_end_id(found.path)
        if found.declared.config.get("eos_token_id") is None and end_id is not None:
            given["eos_token_id"] = end_id
    return given


def refuse_architecture(architecture: str, release: Release, *, where: str, is_read: bool = True) -> None:
    """Refuse an architecture that the LLM API of the release does not run; `is_read` by a family of ours.

    Raises:
        InputRefused: with the runtimes and releases that do run it.
    """
    if release.learned is not None and (names := learned_architectures(release)):
        if architecture in names:
            return
        raise InputRefused(
            f"{where}: the installed TensorRT-LLM {release.trtllm} registers no {architecture}, by what was "
            f"learned from it; use {'--runtime reference, or ' if is_read else ''}another release"
        )
    known = architecture_support(architecture)
    found = next((one for one in known if one.runtime == "pytorch"), None)
    if found is not None and version_key(release.trtllm) >= version_key(found.first):
        return
    instead = [f"--trtllm {found.first} or later"] if found is not None else []
    if any(one.runtime == "tensorrt" for one in known):
        instead.append(f"--runtime tensorrt --trtllm {DEFAULT_RELEASE}")
    said = (
        f"upstream lists no {architecture} for the LLM API"
        if found is None
        else f"the LLM API runs {architecture} in TensorRT-LLM {found.versions}, not in {release.trtllm}"
    )
    instead += ["--runtime reference"] if is_read else []
    advice = f"; use {', or '.join(instead)}" if instead else ""
    raise InputRefused(f"{where}: {said}{advice}")


def _files(root: Path) -> list[Path]:
    """The files of the checkpoint: weights, configs and tokenizer, but no second copy of the weights."""
    return [
        path
        for path in sorted(root.rglob("*"))
        if path.is_file()
        and not any(Path(part).match(skip) for part in path.relative_to(root).parts for skip in _SKIPPED)
    ]
