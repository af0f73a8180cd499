"""A Hugging Face checkpoint as the LLM API takes it: unconverted, and quantized if it is.

Unlike `sources.open_source` it opens quantized weights, which nobody reads here: TensorRT-LLM does.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from builders.audit.as_is import as_is_problems
from builders.llm_api.declared import declared_model
from builders.sources import Located, locate
from builders.sources.base import each_problem
from builders.sources.directory import Directory, examine
from builders.sources.huggingface import declared_license, snapshot_commit
from builders.sources.quantization import FoundQuantization
from builders.sources.tokenizer_files import find_tokenizer_files
from builders.sources.tokenizer_loading import loading_problem
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

    `is_declared`: no family of ours reads it, and `spec` is what config.json says.
    """

    located: Located
    spec: ModelSpec
    quantization: FoundQuantization | None
    files: tuple[Path, ...]
    inputs: tuple[Path, ...]
    revision: str | None
    license: str | None
    is_declared: bool = False


def open_llm_model(location: str, *, release: Release) -> LlmModel:
    """The checkpoint at a directory or hub id, if the LLM API of the release runs its architecture.

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
    found = examine(path)
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
    refuse_architecture(spec.architecture, release, where=location)
    return LlmModel(
        located=located,
        spec=spec,
        quantization=found.quantization,
        files=tuple(_files(path)),
        inputs=tuple(sorted(inputs)),
        revision=snapshot_commit(path),
        license=declared_license(path / "README.md"),
        is_declared=found.family is None,
    )


def _spec_of(found: Directory, problems: list[str]) -> tuple[ModelSpec | None, list[str]]:
    """The model and what is left of the problems, where the LLM API alone knows the architecture."""
    names = found.config.get("architectures")
    name = names[0] if isinstance(names, list) and len(names) == 1 else None
    if found.family is not None or not isinstance(name, str) or (advice := pytorch_only(name)) is None:
        return found.spec, problems
    others = [problem for problem in problems if advice not in problem]
    try:
        return declared_model(found, architecture=name), others
    except InputRefused as error:
        return None, [*others, *each_problem(error)]


def refuse_architecture(architecture: str, release: Release, *, where: str) -> None:
    """Refuse an architecture that a family of ours reads, and the LLM API of the release does not run.

    Raises:
        InputRefused: with the runtimes and releases that do run it.
    """
    if release.learned is not None and (names := learned_architectures(release)):
        if architecture in names:
            return
        raise InputRefused(
            f"{where}: the installed TensorRT-LLM {release.trtllm} registers no {architecture}, by what was "
            f"learned from it; use --runtime reference, or another release"
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
    raise InputRefused(f"{where}: {said}; use {', or '.join([*instead, '--runtime reference'])}")


def _files(root: Path) -> list[Path]:
    """The files of the checkpoint: weights, configs and tokenizer, but no second copy of the weights."""
    return [
        path
        for path in sorted(root.rglob("*"))
        if path.is_file()
        and not any(Path(part).match(skip) for part in path.relative_to(root).parts for skip in _SKIPPED)
    ]
