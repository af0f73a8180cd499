"""Reads the rotary embedding that config.json declares, in the spelling of transformers 4 or 5.

It computes no frequencies. Which kinds of scaling a family takes, its table says.
Source: transformers 5, modeling_rope_utils.py; 4.57, modeling_rope_utils.py.
"""

from __future__ import annotations

from typing import Any

from builders.families.common.reading import ConfigReader
from tpforge.model import RopeSpec

# "type" is the older spelling of "rope_type".
_PLAIN_ROPE = (None, "default")
_NAMES = ("rope_type", "type")
_NUMBERS: dict[str, tuple[str, ...]] = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "high_freq_factor", "low_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor",),
}
"""What each kind of scaling must state."""
_OPTIONAL: dict[str, tuple[str, ...]] = {
    "linear": (),
    # Transformers takes max_position_embeddings for it, whatever is stated.
    "dynamic": ("original_max_position_embeddings",),
    "yarn": (
        "attention_factor",
        "beta_fast",
        "beta_slow",
        "mscale",
        "mscale_all_dim",
        "original_max_position_embeddings",
        "truncate",
    ),
    # What is stated besides the divisors must agree with the lengths: families compare it.
    "longrope": (
        "attention_factor",
        "factor",
        "long_factor",
        "original_max_position_embeddings",
        "short_factor",
    ),
}
_MAY_BE_ZERO = ("mscale", "mscale_all_dim")
"""Transformers takes 0 for not given."""
_WITH_ORIGINAL = ("llama3", "yarn")
"""Kinds whose original_max_position_embeddings transformers 5 takes from beside the scaling."""
_REMARKS = ("finetuned",)
"""What authors note beside the numbers, and no version of transformers reads."""


def read_rope(
    config: ConfigReader,
    *,
    types: tuple[str, ...],
    base_key: str = "rope_theta",
    share_key: str = "partial_rotary_factor",
    also: tuple[str, ...] = (),
) -> RopeSpec:
    """``rope_parameters`` of transformers 5, or the older ``rope_theta`` and ``rope_scaling``.

    `base_key` and `share_key` are what older configs of a family call the base and the rotary share; `also`
    are further numbers that its scaling may state.
    """
    parameters, older = config.value("rope_parameters"), config.value("rope_scaling")
    where = "rope_parameters" if parameters is not None else "rope_scaling"
    scaling = parameters if parameters is not None else older
    if scaling is not None and not isinstance(scaling, dict):
        config.problem(f"{where}: found {scaling!r}, expected an object or null")
        scaling = None
    scaling = dict(scaling or {})
    base = _base(config, scaling, key=base_key)
    share = _share(config, scaling, key=share_key)
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind in _PLAIN_ROPE:
        unknown = sorted(set(scaling) - {*_NAMES, *_REMARKS})
        if unknown:
            config.problem(f"rope_scaling: holds {', '.join(unknown)}, but no rope_type to use them")
        return RopeSpec(base=base, scaling=None, partial_factor=share)
    if kind not in types:
        expected = (
            f"expected one of {', '.join(types)}" if types else "expected none: the format has no scaling"
        )
        config.problem(f"rope_scaling: found rope_type {kind!r}, {expected}")
    else:
        _check_original(config, scaling, kind=kind)
        if kind == "yarn" and base == 1.0:
            config.problem("rope_theta: found 1, and yarn divides by its logarithm: no frequencies follow")
        _check(config, scaling, kind="longrope" if kind == "su" else kind, also=also)
    return RopeSpec(base=base, scaling=scaling, partial_factor=share)


def read_whole_rope(config: ConfigReader, *, types: tuple[str, ...]) -> RopeSpec:
    """The rope of a family that rotates the whole of each head."""
    rope = read_rope(config, types=types)
    if rope.partial_factor != 1.0:
        config.problem(f"partial_rotary_factor: found {rope.partial_factor}, expected 1.0")
    return rope


def _base(config: ConfigReader, scaling: dict[str, Any], *, key: str) -> float:
    keys = dict.fromkeys((key, "rope_theta"))
    stated = [config.value(one) for one in keys if config.has(one)]
    if len(set(map(str, stated))) > 1:
        config.problem(f"{key}: found {stated[0]!r}, and rope_theta {stated[1]!r}; they mean the same number")
    found = scaling.pop("rope_theta", None)
    default = config.default_of("rope_theta", key)
    if found is None and not stated and (older := config.older_default("rope_theta")) is not None:
        config.problem(
            f"rope_theta: missing, and transformers 4 and 5 disagree on what stands for it: {older:g} "
            f"and {default:g}; state it"
        )
    value = found if found is not None else stated[0] if stated else default
    return config.checked_number(key, value)


def _share(config: ConfigReader, scaling: dict[str, Any], *, key: str) -> float:
    keys = dict.fromkeys(("partial_rotary_factor", key))
    stated = [config.value(one) for one in keys if config.has(one)]
    found = scaling.pop("partial_rotary_factor", None)
    default = config.default_of("partial_rotary_factor", key)
    value = found if found is not None else stated[0] if stated else default or 1.0
    share = config.checked_number(key, value)
    if share > 1:
        config.problem(f"{key}: found {share}, expected 1 or less")
    return share


def _check_original(config: ConfigReader, scaling: dict[str, Any], *, kind: str) -> None:
    """Note an original length beside the scaling that is not the one in it.

    Transformers 5 takes what stands beside it, whatever the class of the model, and 4 what stands in it.
    """
    key = "original_max_position_embeddings"
    # Compared and not read: what is built follows from the scaling.
    beside, within = config.values.get(key), scaling.get(key)
    if kind in _WITH_ORIGINAL and beside is not None and beside != within:
        config.problem(
            f"{key}: found {beside!r}, and {within!r} in the scaling of the rope; transformers 5 reads the "
            "first, transformers 4 the second: state the right one in both places"
        )


def _check(config: ConfigReader, scaling: dict[str, Any], *, kind: str, also: tuple[str, ...]) -> None:
    """Note numbers that are missing or wrong, and keys that this kind of scaling does not have."""
    numbers = _NUMBERS.get(kind, ())
    known = {*numbers, *_OPTIONAL.get(kind, ()), *also}
    for key in numbers:
        config.checked_number(f"rope_scaling: {key}", scaling.get(key))
    for key in sorted(known - {*numbers, "long_factor", "short_factor", "truncate"}):
        if scaling.get(key) is not None and not (key in _MAY_BE_ZERO and scaling[key] == 0):
            config.checked_number(f"rope_scaling: {key}", scaling[key])
    if not isinstance(scaling.get("truncate", True), bool):
        config.problem(f"rope_scaling: truncate: found {scaling['truncate']!r}, expected true or false")
    for key in sorted(set(scaling) - known - {*_NAMES, *_REMARKS}):
        if scaling[key] is not None:
            config.problem(f"rope_scaling: {key}: found {scaling[key]!r}, which {kind} is not known to use")
