"""What a plan is made for: a model from its config.json alone, by its family's tables.

It reads no weights and plans nothing; `tpforge.plan` does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from builders.families.common.base import Family
from builders.families.common.reading import ConfigReader
from builders.families.common.registry import find_family
from builders.stored_format import stored_format
from builders.transforms import transformed_shape
from tpforge.dtypes import DType
from tpforge.errors import InputRefused
from tpforge.plan.known import find_known, known_models
from tpforge.plan.weights import Blueprint
from tpforge.shards.sharding import ShardPlan
from tpforge.trtllm.architectures import pytorch_only

# What config.json says of quantized weights: `stored_format` reads it.
_QUANTIZED = ("quantization_config", "compression_config")
_DEMO = "smollm2-135m"


def find_blueprint(location: str) -> Blueprint:
    """The model at `location`; see `find_config`.

    Raises:
        InputRefused: there is none, or its config is wrong or of an unknown architecture.
    """
    found = find_config(location)
    blueprint = blueprint_from_config(found.values, name=found.name, where=found.where)
    if found.folder is None:
        return blueprint
    stored = stored_format(found.values, folder=found.folder, where=found.where)
    return replace(blueprint, stored_format=stored)


@dataclass(frozen=True)
class FoundConfig:
    """A config.json: what the model is called, where the config is from, its values.

    `folder` is where it lies, None for the known models, which are kept as their floats.
    """

    name: str
    where: str
    values: dict[str, Any]
    folder: Path | None = None


def find_config(location: str) -> FoundConfig:
    """The config of a directory, a config.json, a short name or hub id of a known model, or `demo`.

    Raises:
        InputRefused: `location` is none of these.
    """
    path = Path(location)
    if path.exists():
        return _read(path / "config.json" if path.is_dir() else path, name=location)
    known = find_known(_DEMO if location == "demo" else location.partition("@")[0])
    if known is not None:
        return FoundConfig(known.name, f"{known.id} (built in)", known.config)
    return _from_hub(location)


def blueprint_from_config(config: dict[str, Any], *, name: str, where: str) -> Blueprint:
    """What a config.json declares, without any weights.

    Raises:
        InputRefused: the architecture is not known, or values are missing or wrong; all are listed.
    """
    family = _family(config.get("architectures"), where=where)
    values = {key: value for key, value in config.items() if key not in _QUANTIZED}
    reader = ConfigReader(values, where=where, weight_dtype=DType.BFLOAT16)
    model = family.read_model(reader)
    return Blueprint(
        name=name,
        model=model,
        rules=family.rules,
        shapes=family.expected_shapes,
        reshape=partial(transformed_shape, model=model),
        objections=partial(_objections, family),
    )


def _read(path: Path, *, name: str) -> FoundConfig:
    from builders.sources.json_files import read_json_object

    if path.suffix == ".gguf":
        raise InputRefused(f"{path}: a plan is made of a config.json; give its directory or the model's name")
    return FoundConfig(name, str(path), read_json_object(path), path.parent)


def _family(architectures: object, *, where: str) -> Family:
    names = architectures if isinstance(architectures, list) else [architectures]
    advice = pytorch_only(names[0]) if len(names) == 1 and isinstance(names[0], str) else None
    if advice is not None:
        raise InputRefused(f"{where}: {advice}; it cannot be planned, since its tensors are not in a table")
    return find_family(architectures, where=where)


def _from_hub(location: str) -> FoundConfig:
    """The config.json of a hub id, from the cache or downloaded."""
    names = [known.name for known in known_models()]
    near = get_close_matches(location.lower().rpartition("/")[2], names, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    if location.count("/") != 1 or location.startswith((".", "~", "/")):
        raise InputRefused(
            f"{location}: found no such directory, config.json or known model{hint or '.'} Known are "
            f"{', '.join(names)}"
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
    return _read(Path(path), name=location)


def _objections(family: Family, plan: ShardPlan) -> list[str]:
    return [objection for check in family.restrictions if (objection := check(plan))]
