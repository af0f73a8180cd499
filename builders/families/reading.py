"""Reads typed values out of a Hugging Face config.json and collects everything that is wrong with it.

It knows keys only by what families ask for; it opens no file.
"""

from __future__ import annotations

import sys
from typing import Any

from tpforge.dtypes import DType, parse_dtype
from tpforge.errors import InputRefused
from tpforge.model import ModelSpec, RopeSpec, SpecialTokens

# "type" is the older spelling of "rope_type".
_PLAIN_ROPE = (None, "default")
_MOST_HEADS, _MOST_EXPERTS = 1 << 14, 1 << 17
# JSON has integers beyond it, which no float can hold.
_LARGEST = sys.float_info.max


class ConfigReader:
    """One config.json, with the generation config and the types of the weights beside it.

    A getter that finds a problem notes it and gives a stand-in, so that `finish` can report all at once.
    """

    def __init__(
        self,
        values: dict[str, Any],
        *,
        where: str,
        weight_dtype: DType,
        generation: dict[str, Any] | None = None,
    ) -> None:
        self.values = values
        self.where = where
        self._weight_dtype = weight_dtype
        self._generation = generation or {}
        self._problems: list[str] = []

    def problem(self, text: str) -> None:
        """Note something that is wrong."""
        self._problems.append(text)

    def finish(self) -> None:
        """Raise InputRefused with all the problems, sorted, when there are any."""
        if self._problems:
            raise InputRefused.listing(f"{self.where}: this model cannot be built:", self._problems)

    def checked(self, model: ModelSpec) -> ModelSpec:
        """`model`, when no problem was found; see `finish`."""
        self._bound(model)
        self.finish()
        return model

    def _bound(self, model: ModelSpec) -> None:
        """Note numbers of heads and experts that no model has and that no plan of it could hold."""
        num_experts = model.moe.num_experts if model.moe else 0
        for what, found, most in (
            ("attention heads", model.attention.num_heads, _MOST_HEADS),
            ("KV heads", model.attention.num_kv_heads, _MOST_HEADS),
            ("experts of all layers", num_experts * model.num_layers, _MOST_EXPERTS),
        ):
            if found > most:
                self.problem(f"{what}: found {found}, expected {most} or less")

    def has(self, key: str) -> bool:
        """Whether the key is there and not null."""
        return self.values.get(key) is not None

    def first(self, keys: tuple[str, ...]) -> str:
        """The first of the keys that is there, else the first of all."""
        return next((key for key in keys if self.has(key)), keys[0])

    @property
    def architecture(self) -> str:
        """The one architecture that config.json names."""
        found = self.values["architectures"]
        return str(found[0] if isinstance(found, list) else found)

    def integer(
        self, key: str, *, default: int | None = None, minimum: int = 1, maximum: int = 1 << 31
    ) -> int:
        """An integer of at least `minimum` and at most `maximum`."""
        value = self.values.get(key)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            self.problem(f"{key}: found {value!r}, expected an integer")
            return minimum
        if value < minimum:
            self.problem(f"{key}: found {value}, expected {minimum} or more")
            return minimum
        if value > maximum:
            self.problem(f"{key}: found {value}, expected {maximum} or less")
            return minimum
        return value

    def number(self, key: str, *, default: float | None = None) -> float:
        """A number above zero."""
        return self._number(key, self.values.get(key), default=default)

    def flag(self, key: str, *, default: bool) -> bool:
        """true or false."""
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.problem(f"{key}: found {value!r}, expected true or false")
            return default
        return value

    def choice(self, key: str, *, known: tuple[str, ...], default: str | None = None) -> str:
        """One of the `known` texts."""
        value = self.values.get(key, default)
        if value not in known:
            self.problem(f"{key}: found {value!r}, expected {' or '.join(known)}")
            return known[0]
        return str(value)

    def require(self, key: str, *, expected: tuple[object, ...], why: str) -> None:
        """Note a problem unless the key is absent, null, or one of the expected values."""
        value = self.values.get(key)
        if value is not None and value not in expected:
            self.problem(f"{key}: found {_short(value)}; {why}")

    def refuse_quantized(self) -> None:
        """Note a problem when the weights are quantized."""
        self.require(
            "quantization_config",
            expected=(),
            why="the weights are quantized; give the unquantized checkpoint",
        )

    def dtype(self) -> DType:
        """The declared type (``dtype``, or ``torch_dtype`` before transformers 5), else the weights'."""
        declared = self.values.get("dtype") or self.values.get("torch_dtype")
        if declared is None or declared == "auto":
            return self._weight_dtype
        try:
            return parse_dtype(str(declared))
        except InputRefused as error:
            self.problem(str(error))
            return self._weight_dtype

    def replaced(self, **values: Any) -> ConfigReader:
        """A reader of the same config with some values replaced, whose problems are noted here."""
        reader = ConfigReader(
            self.values | values,
            where=self.where,
            weight_dtype=self._weight_dtype,
            generation=self._generation,
        )
        reader._problems = self._problems
        return reader

    def within(self, key: str) -> ConfigReader:
        """The object under `key` as a reader of its own, whose problems are noted here; empty when absent."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, dict):
            self.problem(f"{key}: found {_short(value)}, expected an object")
        held = value if isinstance(value, dict) else {}
        reader = ConfigReader(held, where=self.where, weight_dtype=self._weight_dtype)
        reader._problems = self._problems
        return reader

    def rope(
        self,
        *,
        default_base: float,
        types: tuple[str, ...],
        base_key: str = "rope_theta",
        share_key: str = "partial_rotary_factor",
        default_share: float = 1.0,
    ) -> RopeSpec:
        """``rope_parameters`` of transformers 5, or the older ``rope_theta`` and ``rope_scaling``.

        `base_key` and `share_key` are what older configs of a family call the base and the rotary share.
        """
        parameters = self.values.get("rope_parameters")
        scaling = parameters if parameters is not None else self.values.get("rope_scaling")
        if scaling is not None and not isinstance(scaling, dict):
            self.problem(f"rope_scaling: found {scaling!r}, expected an object or null")
            scaling = None
        scaling = dict(scaling or {})
        found = scaling.pop("rope_theta", self.values.get("rope_theta", self.values.get(base_key)))
        base = self._number(base_key, found, default=default_base)
        outer = self.values.get("partial_rotary_factor", self.values.get(share_key))
        partial = scaling.pop("partial_rotary_factor", outer)
        factor = self._number(share_key, partial, default=default_share)
        if factor > 1:
            self.problem(f"{share_key}: found {factor}, expected 1 or less")
        kind = scaling.get("rope_type", scaling.get("type"))
        if kind in _PLAIN_ROPE:
            unknown = sorted(set(scaling) - {"rope_type", "type"})
            if unknown:
                self.problem(f"rope_scaling: holds {', '.join(unknown)}, but no rope_type to use them")
            return RopeSpec(base=base, scaling=None, partial_factor=factor)
        if kind not in types:
            self.problem(f"rope_scaling: found rope_type {kind!r}, expected one of {', '.join(types)}")
        return RopeSpec(base=base, scaling=scaling, partial_factor=factor)

    def special_tokens(self, *, vocab_size: int) -> SpecialTokens:
        """Begin, end and pad ids; end ids of the generation config come first, then config.json's."""
        end_ids: list[int] = []
        for values in (self._generation, self.values):
            end_ids += [one for one in self._ids(values, "eos_token_id") if one not in end_ids]
        begin_ids = self._ids(self._generation, "bos_token_id") or self._ids(self.values, "bos_token_id")
        pad_ids = self._ids(self._generation, "pad_token_id") or self._ids(self.values, "pad_token_id")
        outside = sorted({one for one in end_ids if not 0 <= one < vocab_size})
        if outside:
            self.problem(f"eos_token_id: found {outside}, outside the vocabulary of {vocab_size}")
        return SpecialTokens(
            begin_id=begin_ids[0] if begin_ids else None,
            end_ids=tuple(end_ids),
            # -1 is how some configs say that there is none.
            pad_id=pad_ids[0] if pad_ids and pad_ids[0] >= 0 else None,
        )

    def _ids(self, values: dict[str, Any], key: str) -> list[int]:
        value = values.get(key)
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if any(isinstance(one, bool) or not isinstance(one, int) for one in ids):
            self.problem(f"{key}: found {_short(value)}, expected an integer or a list of integers")
            return []
        return ids

    def _number(self, key: str, value: object, *, default: float | None) -> float:
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _LARGEST:
            self.problem(f"{key}: found {_short(value)}, expected a number above 0")
            return 1.0
        return float(value)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
