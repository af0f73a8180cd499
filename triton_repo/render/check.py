"""Whether a model repository is what Triton and the clients expect, before any server is started.

It parses every config.pbtxt back with Triton's own ModelConfig protobuf and compares it with the
contract; it does not load models.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from triton_repo.render.contract import (
    LLM_MODEL,
    MODELS,
    ModelContract,
    TensorContract,
    ensemble_steps,
    expected_tensors,
    llm_tensors,
)
from triton_repo.render.parameters import parameter_tables

_LEFTOVERS = re.compile(r"\$\{[^}\n]*\}?|\{\{|\}\}|\{%|%\}|<[A-Z_]+>")
_LLM_FILES = (
    "config.pbtxt",
    "1/model.py",
    "1/llm_metrics.py",
    "1/llm_requests.py",
    "1/llm_stats.py",
    "1/model.yaml",
)
_FILES = {
    "preprocessing": ("1/model.py", "1/serving/__init__.py"),
    "tensorrt_llm": ("1/model.py", "1/serving/__init__.py", "1/reference/__init__.py"),
    "postprocessing": ("1/model.py", "1/serving/__init__.py"),
    "ensemble": (),
    "tensorrt_llm_bls": ("1/model.py", "1/serving/__init__.py"),
}


Checked = Literal["reference", "tensorrt", "front"]


@dataclass(frozen=True)
class _Rules:
    """What differs between models: files beside config.pbtxt, the backend, what paths must lead to."""

    files: dict[str, tuple[str, ...]]
    backend: str
    paths: dict[str, str]


_RULES = _Rules(_FILES, "python", {"tokenizer_dir": "tokenizer.json", "gpt_model_path": "engine.json"})
_FRONT = _Rules(
    {"tensorrt_llm": ("1/model.py", "1/model.yaml", "1/serving/__init__.py", "1/llm/__init__.py")},
    "python",
    {"tokenizer_dir": "tokenizer.json"},
)
FRONT_PARAMETERS = (
    "tokenizer_dir",
    "exclude_input_in_output",
    "cancellation_check_period_ms",
    "stats_check_period_ms",
    "max_queue_size",
    "vocab_size",
    "end_ids",
)
"""Parameters of tensorrt_llm over the LLM API, whose arguments are in model.yaml."""
_TENSORRT = _Rules({}, "tensorrtllm", {"tokenizer_dir": "tokenizer.json", "gpt_model_path": "config.json"})
_GENERATORS: dict[str, _Rules] = {"reference": _RULES, "tensorrt": _TENSORRT, "front": _FRONT}


def check_repository(path: Path, *, runtime: Checked = "reference") -> list[str]:
    """Everything that is wrong with the repository at `path`; empty when nothing is.

    In a repository of runtime tensorrt the model tensorrt_llm is TensorRT-LLM's own backend; with
    "front" it is ours over the LLM API.
    """
    if not path.is_dir():
        return [f"{path}: is not a folder; render the repository first"]
    present = {child.name for child in path.iterdir() if child.is_dir() and not child.name.startswith(".")}
    problems = [f"{model}: the model's folder is missing" for model in MODELS if model not in present]
    problems += [f"{name}: is not a model of the contract" for name in sorted(present - set(MODELS))]
    for model in MODELS:
        if model in present:
            rules = _GENERATORS[runtime] if model == "tensorrt_llm" else _RULES
            problems.extend(f"{model}/{problem}" for problem in _check_model(path / model, rules, runtime))
    problems.extend(_check_streaming(path))
    return problems


def _check_streaming(path: Path) -> Iterator[str]:
    """A stream passes through both models that generate, so both are decoupled or neither is."""
    found = {}
    for model in ("tensorrt_llm", "tensorrt_llm_bls"):
        file = path / model / "config.pbtxt"
        try:
            config = _parse(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        found[model] = bool(config.model_transaction_policy.decoupled)
    if len(set(found.values())) > 1:
        yield (
            f"decoupled is {found['tensorrt_llm']} in tensorrt_llm and {found['tensorrt_llm_bls']} in "
            "tensorrt_llm_bls: streaming would give one response (tensorrtllm_backend 626)"
        )


def check_llm_repository(path: Path) -> list[str]:
    """Everything that is wrong with a repository of the LLM API; empty when nothing is."""
    folder = path / LLM_MODEL
    missing = [name for name in _LLM_FILES if not (folder / name).is_file()]
    if missing:
        return [f"{LLM_MODEL}/{name}: missing" for name in missing]
    text = (folder / "config.pbtxt").read_text(encoding="utf-8")
    try:
        config = _parse(text)
    except ValueError as error:
        return [f"{LLM_MODEL}/config.pbtxt:{error}"]
    from tpforge.yaml_text import parse_table

    contract = llm_tensors()
    problems = [
        *_leftovers(text, own=_own_paths(config, folder)),
        *_check_tensors("input", config.input, contract.inputs),
        *_check_tensors("output", config.output, contract.outputs),
    ]
    if config.max_batch_size != 0:
        problems.append(f"max_batch_size is {config.max_batch_size}, expected 0")
    yaml = (folder / "1" / "model.yaml").read_text(encoding="utf-8")
    table = parse_table(yaml, where=folder / "1" / "model.yaml")
    own = [value for value in table.values() if isinstance(value, str) and _is_there(Path(value))]
    problems += [f"model.yaml: {line}" for line in _leftovers(yaml, own=own)]
    decoupled = config.model_transaction_policy.decoupled
    told = table.get("triton_config")
    if not isinstance(told, dict) or told.get("decoupled") is not decoupled:
        problems.append(f"decoupled is {str(decoupled).lower()} in config.pbtxt, and not so in model.yaml")
    return [f"{LLM_MODEL}/config.pbtxt: {problem}" for problem in problems]


def _check_model(folder: Path, rules: _Rules, runtime: str) -> Iterator[str]:
    if not (folder / "1").is_dir():
        yield "1: the version folder is missing"
    for name in rules.files.get(folder.name, ()):
        if not (folder / name).is_file():
            yield f"{name}: missing"
    file = folder / "config.pbtxt"
    if not file.is_file():
        yield "config.pbtxt: missing"
        return
    text = file.read_text(encoding="utf-8")
    try:
        config, broken = _parse(text), ""
    except ValueError as error:
        config, broken = None, str(error)
    own = () if config is None else _own_paths(config, folder)
    leftovers = list(_leftovers(text, own=own))
    if leftovers or broken:
        yield from (f"config.pbtxt:{problem}" for problem in leftovers or [broken])
        return
    yield from (f"config.pbtxt: {problem}" for problem in _check_config(config, folder, rules, runtime))


def _leftovers(text: str, *, own: Iterable[str]) -> Iterator[str]:
    """What a template left in a text, but for what is in the names of `own`."""
    for name in own:
        text = text.replace(name, "")
    for number, line in enumerate(text.splitlines(), start=1):
        for match in _LEFTOVERS.finditer(line):
            yield f"{number}: {match.group()!r} is left over from a template"


def _own_paths(config: Any, folder: Path) -> list[str]:
    """The parameters that name what exists, as they are written: braces in them are a folder's."""
    from google.protobuf.text_encoding import CEscape

    values = [value.string_value for value in config.parameters.values()]
    return [CEscape(value, as_utf8=True) for value in values if value and _is_there(folder / "1" / value)]


def _is_there(path: Path) -> bool:
    """Whether it exists; a text that no path can be is none."""
    try:
        return path.exists()
    except (OSError, ValueError):  # Longer than names may be, or with a NUL.
        return False


def _parse(text: str) -> Any:
    """The ModelConfig of a text.

    Raises:
        ValueError: line, column and what is wrong: broken syntax, an unknown key, a value of a wrong type.
    """
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    try:
        return text_format.Parse(text, model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise ValueError(str(error)) from error


def _check_config(config: Any, folder: Path, rules: _Rules, runtime: str) -> Iterator[str]:
    model = folder.name
    contract = expected_tensors(model)
    if config.name != model:
        yield f"name is {config.name!r}, expected {model!r}"
    if config.max_batch_size < 1:
        yield f"max_batch_size is {config.max_batch_size}, expected 1 or more"
    yield from _check_tensors("input", config.input, contract.inputs)
    yield from _check_tensors("output", config.output, contract.outputs)
    if model == "ensemble":
        yield from _check_steps(config)
        return
    if config.backend != rules.backend:
        yield f"backend is {config.backend!r}, expected {rules.backend!r}"
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    yield from _check_parameters(parameters, contract, runtime)
    for key, file in rules.paths.items():
        if key in parameters:
            # Relative paths are relative to the version folder, as the models resolve them.
            target = folder / "1" / parameters[key] / file
            if not target.is_file():
                yield f"parameter {key}: {parameters[key]!r} holds no {file}"


def _check_tensors(
    direction: str, found: Iterable[Any], expected: tuple[TensorContract, ...]
) -> Iterator[str]:
    from tritonclient.grpc import model_config_pb2

    tensors = {tensor.name: tensor for tensor in found}
    yield from _check_keys(direction, tensors, [tensor.name for tensor in expected])
    for want in expected:
        if want.name not in tensors:
            continue
        have = tensors[want.name]
        datatype = model_config_pb2.DataType.Name(have.data_type)
        if datatype != want.config_datatype:
            yield f"{direction} {want.name}: data_type is {datatype}, expected {want.config_datatype}"
        if tuple(have.dims) != want.dims:
            yield f"{direction} {want.name}: dims are {list(have.dims)}, expected {list(want.dims)}"
        if direction == "output":
            continue
        is_scalar = have.HasField("reshape") and not have.reshape.shape
        if have.HasField("reshape") is not want.scalar or is_scalar is not want.scalar:
            shape = list(have.reshape.shape) if have.HasField("reshape") else None
            yield f"input {want.name}: reshape is {shape}, expected {[] if want.scalar else None}"
        for key, expected_flag in (("optional", want.optional), ("allow_ragged_batch", want.ragged)):
            if getattr(have, key) != expected_flag:
                yield f"input {want.name}: {key} is {getattr(have, key)}, expected {expected_flag}"


def _check_parameters(found: Iterable[str], contract: ModelContract, runtime: str) -> Iterator[str]:
    """The keys are those of the contract; in a repository of runtime tensorrt, upstream's too."""
    if runtime != "tensorrt":
        is_front = runtime == "front" and contract.model == "tensorrt_llm"
        expected = FRONT_PARAMETERS if is_front else contract.parameters
        yield from _check_keys("parameter", found, expected)
        return
    table = parameter_tables()[contract.model]
    ours = () if contract.model == "tensorrt_llm" else contract.parameters
    have = set(found)
    yield from (f"parameter {name}: missing" for name in sorted({*table.required, *ours} - have))
    yield from (f"parameter {name}: unknown" for name in sorted(have - {*table.names, *ours}))


def _check_steps(config: Any) -> Iterator[str]:
    found = [
        (step.model_name, dict(step.input_map), dict(step.output_map))
        for step in config.ensemble_scheduling.step
    ]
    expected = [(step.model, dict(step.inputs), dict(step.outputs)) for step in ensemble_steps()]
    if found != expected:
        yield "ensemble_scheduling: the steps are not those of the contract"


def _check_keys(kind: str, found: Iterable[str], expected: Iterable[str]) -> Iterator[str]:
    have, want = set(found), set(expected)
    yield from (f"{kind} {name}: missing" for name in sorted(want - have))
    yield from (f"{kind} {name}: unknown" for name in sorted(have - want))
