"""Which layers of a model have a sliding window, out of config.json.

It knows no family: what stands for an absent layer_types is given.
Source: transformers 5, configuration_utils.py (layer_types), masking_utils.py.
"""

from __future__ import annotations

from builders.families.common.reading import ConfigReader
from tpforge.model import ModelSpec

_KINDS = ("sliding_attention", "full_attention")


def read_window(config: ConfigReader) -> int | None:
    """The window of all layers, or None without one."""
    return config.integer("sliding_window") if config.has("sliding_window") else None


def with_windows(config: ConfigReader, model: ModelSpec, *, otherwise: tuple[bool, ...]) -> ModelSpec:
    """`model` with a window on the layers that layer_types names, else on those of `otherwise`."""
    sliding = _sliding_layers(config, otherwise=otherwise)
    if not any(sliding):
        return model
    change = {"sliding_window": config.integer("sliding_window"), "sliding_layers": sliding}
    return model.model_copy(update={"attention": model.attention.model_copy(update=change)})


def _sliding_layers(config: ConfigReader, *, otherwise: tuple[bool, ...]) -> tuple[bool, ...]:
    kinds, num_layers = config.value("layer_types"), len(otherwise)
    if kinds is None:
        return otherwise
    if not isinstance(kinds, list) or len(kinds) != num_layers or any(kind not in _KINDS for kind in kinds):
        config.problem(f"layer_types: expected {num_layers} of {' or '.join(_KINDS)}")
        return (False,) * num_layers
    return tuple(kind == "sliding_attention" for kind in kinds)
