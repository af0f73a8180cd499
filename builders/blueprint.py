"""What a plan is made for: a model from its config.json alone, by its family's tables or its architecture's.

It reads no weights and plans nothing; `tpforge.plan` does.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from builders.described import declared_notes, read_described
from builders.families.common.base import Family
from builders.families.common.reading import ConfigReader
from builders.families.common.registry import find_family, is_of_family
from builders.model_type import model_type_problem
from builders.sources.other_layouts import is_converted, no_checkpoint
from builders.sources.quantization import MODELOPT_FILE
from builders.stored_format import refuse_unseen, stored_format
from builders.transforms import transformed_shape
from tpforge.architectures.declared import Declared, read_declared
from tpforge.architectures.spec import declared_spec
from tpforge.architectures.stored import declared_kv, stored_formats
from tpforge.architectures.table import find_architecture, refuse_unknown
from tpforge.architectures.weights import DeclaredTensors
from tpforge.dtypes import DType
from tpforge.errors import InputRefused
from tpforge.plan.models.known import find_known, known_models
from tpforge.quantization import find_format, kv_formats
from tpforge.shards.sharding import ShardPlan
from tpforge.shards.weights import Blueprint, FamilyTensors
from tpforge.trtllm.architectures import advice_on_unknown, pytorch_only

# What config.json says of quantized weights: `stored_format` reads it.
_QUANTIZED = ("quantization_config", "compression_config")
_DEMO = "smollm2-135m"


def find_blueprint(location: str, *, describe: Path | None = None) -> Blueprint:
    """The model at `location`; see `find_config`. `describe` is a file of sizes that the user states.

    Raises:
        InputRefused: there is none, or its config is wrong or of an unknown architecture.
    """
    found = find_config(location)
    if describe is not None:
        blueprint = declared_blueprint(read_described(describe, found.values, where=found.where), found)
    else:
        blueprint = blueprint_of(found)
    unnamed = model_type_problem(found.values, where=found.where)
    return blueprint if unnamed is None else replace(blueprint, warnings=(unnamed, *blueprint.warnings))


@dataclass(frozen=True)
class FoundConfig:
    """A config.json: what the model is called, where the config is from, its values.

    `folder` is where it lies, None for the known models. `modelopt` is hf_quant_config.json beside it.
    """

    name: str
    where: str
    values: dict[str, Any]
    folder: Path | None = None
    modelopt: dict[str, Any] | None = None


def find_config(location: str) -> FoundConfig:
    """The config of a directory, a config.json, a short name or hub id of a known model, or `demo`.

    Raises:
        InputRefused: `location` is none of these.
    """
    path = Path(location)
    if path.is_dir():
        if not (path / "config.json").is_file() or is_converted(path):
            raise InputRefused(no_checkpoint(path))
        return _read(path / "config.json", name=location)
    if path.exists():
        return _read(path, name=location)
    known = find_known(_DEMO if location == "demo" else location.partition("@")[0])
    if known is not None:
        where = f"{known.id} (built in)"
        return FoundConfig(known.name, where, known.config, modelopt=known.hf_quant_config)
    return _from_hub(location)


def blueprint_from_config(config: dict[str, Any], *, name: str, where: str) -> Blueprint:
    """What a config.json declares, without any weights.

    Raises:
        InputRefused: the architecture is not known, or values are missing or wrong; all are listed.
    """
    return blueprint_of(FoundConfig(name, where, config))


def blueprint_of(found: FoundConfig) -> Blueprint:
    """By its family's tables where TensorRT engines are made of them, else by the table of architectures.

    Raises:
        InputRefused: the architecture is not known, or values are missing or wrong; all are listed.
    """
    class_name = _class_name(found.values, where=found.where)
    has_family = is_of_family(class_name) and pytorch_only(class_name) is None
    is_read, reason = _is_read(found, class_name) if has_family else (False, None)
    if find_architecture(class_name) is not None and not is_read:
        try:
            return declared_blueprint(read_declared(found.values, where=found.where), found)
        except InputRefused as error:
            if reason is None:
                raise
            raise InputRefused(f"{error}; TensorRT engines are not made of it either: {reason}") from error
    if not has_family:
        raise refuse_unknown(class_name, where=found.where, advice=advice_on_unknown(class_name))
    blueprint = _of_family(found)
    if found.folder is None:
        return blueprint
    stored = stored_format(found.values, folder=found.folder, where=found.where)
    kv, warnings = _stored_kv(found)
    return replace(blueprint, stored_format=stored, stored_kv=kv, warnings=warnings)


def _of_family(found: FoundConfig) -> Blueprint:
    family = find_family(found.values.get("architectures"), where=found.where)
    values = {key: value for key, value in found.values.items() if key not in _QUANTIZED}
    model = family.read_model(ConfigReader(values, where=found.where, weight_dtype=DType.BFLOAT16))
    tensors = FamilyTensors(
        model=model,
        rules=family.rules,
        shapes=family.expected_shapes,
        reshape=partial(transformed_shape, model=model),
    )
    return Blueprint(
        name=found.name,
        model=model,
        num_parameters=tensors.num_parameters,
        shapes=tensors.on_rank,
        objections=partial(_objections, family),
    )


def declared_blueprint(declared: Declared, found: FoundConfig) -> Blueprint:
    """A model by its row of the table of architectures; the PyTorch backend loads its checkpoint as it is.

    Raises:
        InputRefused: TensorRT-LLM does not load its weights as they are quantized.
    """
    stored = stored_formats(declared, config=found.values, modelopt=found.modelopt, where=found.where)
    if stored is None and found.folder is not None:
        refuse_unseen(found.values, folder=found.folder, where=found.where)
    model = declared_spec(declared, where=found.where)
    kv, warnings = _stored_kv(found)
    tensors = DeclaredTensors(declared, model, None if stored is None else stored.of)
    return Blueprint(
        name=found.name,
        model=model,
        num_parameters=declared.num_parameters,
        shapes=tensors.on_rank,
        stored_format=None if stored is None else stored.main,
        stored_kv=kv,
        runtimes=("pytorch",),
        notes=declared_notes(declared, stored),
        warnings=warnings,
    )


def _stored_kv(found: FoundConfig) -> tuple[str | None, tuple[str, ...]]:
    """The KV cache that the files declare, and a warning where it is none that is planned."""
    kv = declared_kv(found.values, modelopt=found.modelopt)
    known = [one.name for one in kv_formats()]
    if kv is None or kv in known:
        return kv, ()
    return None, (
        f"{found.where}: the checkpoint declares a KV cache in {kv}, which is not planned, expected one of "
        f"{', '.join(known)}; its memory is shown for others",
    )


def _is_read(found: FoundConfig, class_name: str) -> tuple[bool, str | None]:
    """Whether TensorRT engines are made of the weights as they lie; where a declaration is not read, why."""
    if found.folder is None:
        return not any(key in found.values for key in _QUANTIZED) and found.modelopt is None, None
    try:
        stored = stored_format(found.values, folder=found.folder, where=found.where)
    except InputRefused as error:
        return False, str(error.__cause__ or error)
    if stored is None:
        return found.modelopt is None, None
    support = find_format(stored).tensorrt
    return support is not None and (not support.architectures or class_name in support.architectures), None


def _read(path: Path, *, name: str) -> FoundConfig:
    from builders.sources.json_files import read_json_object

    if path.suffix == ".gguf":
        raise InputRefused(f"{path}: a plan is made of a config.json; give its directory or the model's name")
    return FoundConfig(name, str(path), read_json_object(path), path.parent, _beside(path))


def _beside(path: Path) -> dict[str, Any] | None:
    """hf_quant_config.json beside a config.json; NAME_hf_quant_config.json beside a NAME_config.json."""
    from builders.sources.json_files import read_json_object

    quantized = path.with_name(path.name.removesuffix("config.json") + MODELOPT_FILE)
    return read_json_object(quantized) if quantized.is_file() else None


def _class_name(config: dict[str, Any], *, where: str) -> str:
    names = config.get("architectures")
    held = names if isinstance(names, list) else [names]
    if len(held) != 1 or not isinstance(held[0], str):
        raise InputRefused(f"{where}: architectures is {names!r}, expected a list of one class name")
    return held[0]


def _from_hub(location: str) -> FoundConfig:
    """The config.json of a hub id, from the cache or downloaded."""
    names = [known.name for known in known_models()]
    near = get_close_matches(location.lower().rpartition("/")[2], names, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    if location.count("/") != 1 or location.startswith((".", "~", "/")):
        raise InputRefused(
            f"{location}: found no such directory, config.json or known model"
            f"{hint or '. Known are ' + ', '.join(names)}"
        )
    from huggingface_hub import errors, hf_hub_download

    http_error: type[Exception] = getattr(errors, "HTTPError", OSError)
    bare, _, revision = location.partition("@")
    try:
        path = hf_hub_download(bare, "config.json", revision=revision or None)
    except (OSError, http_error) as error:
        raise InputRefused(
            f"{location}: its config.json is neither known here, nor cached, nor could it be downloaded "
            f"({type(error).__name__}){hint}"
        ) from error
    # How ModelOpt quantized lies in a file of its own; most repositories have none.
    with suppress(OSError, http_error):
        hf_hub_download(bare, MODELOPT_FILE, revision=revision or None)
    return _read(Path(path), name=location)


def _objections(family: Family, plan: ShardPlan) -> list[str]:
    return [objection for check in family.restrictions if (objection := check(plan))]
