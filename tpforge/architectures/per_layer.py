"""What transformers 5 says of single layers under per_layer_config, as keys that a row of the table reads.

It decides no sizes. What a row has no keys for is refused: the layers would be counted alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from tpforge.errors import InputRefused
from tpforge.records import Record

KEY = "per_layer_config"


class PerLayer(Record):
    """The kind of layers that may differ from the rest, and by which key of config.json a row reads what."""

    kind: str
    keys: dict[str, str] = Field(min_length=1)


def without_per_layer(config: Mapping[str, Any], rule: PerLayer | None, *, where: str) -> dict[str, Any]:
    """The config with the keys of `rule` in place of per_layer_config; itself where there is none.

    Raises:
        InputRefused: single layers differ in a way that is not read.
    """
    stated = config.get(KEY)
    if stated is None or (not stated and rule is None):
        return dict(config)
    kinds = config.get("layer_types")
    if rule is None or not isinstance(stated, Mapping) or not isinstance(kinds, list):
        raise _refused(stated, where=where, expected="layers that are all alike")
    of_kind = {str(layer) for layer, kind in enumerate(kinds) if kind == rule.kind}
    layers = {str(layer).lstrip("0") or "0" for layer in stated}  # transformers fills numbers up: "05".
    found = list(stated.values())
    are_alike = all(one == found[0] for one in found) and (not found or layers == of_kind)
    own = found[0] if found else {}
    if not are_alike or not isinstance(own, Mapping) or not own.keys() <= rule.keys.keys():
        expected = f"{' and '.join(rule.keys)} of all {rule.kind} layers, and the same for each"
        raise _refused(stated, where=where, expected=expected)
    # What is not overridden is as in the other layers.
    given = {key: own.get(name, config.get(name)) for name, key in rule.keys.items()}
    return {**config, **{key: value for key, value in given.items() if value is not None}}


def _refused(stated: object, *, where: str, expected: str) -> InputRefused:
    shown = repr(stated)
    shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
    return InputRefused(f"{where}: {KEY}: found {shown}, expected {expected}: other layers are not read")
