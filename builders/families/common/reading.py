"""Reads typed values out of a Hugging Face config.json and collects everything that is wrong with it.

It knows keys only by what families ask for; it opens no file.
"""

from __future__ import annotations

import math
from typing import Any

from builders.families.common.keys import ConfigKeys
from tpforge.dtypes import DType, parse_dtype
from tpforge.errors import InputRefused
from tpforge.model import ModelSpec, SpecialTokens

_MOST_HEADS, _MOST_EXPERTS = 1 << 14, 1 << 17
# JSON has integers beyond it, which no float can hold.
_LARGEST = (2 - 2**-23) * 2.0**127
"""Of float32, in which the runtimes compute with it."""


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
        keys: ConfigKeys | None = None,
        path: str = "",
    ) -> None:
        self.values = values
        self.where = where
        self.asked: set[str] = set()
        self._weight_dtype = weight_dtype
        self._generation = generation or {}
        self._keys = keys
        self._path = path
        self._problems: list[str] = []

    def declaring(self, keys: ConfigKeys) -> ConfigReader:
        """A reader of the same config, of which `keys` say what is read and what an absent key means."""
        reader = self.replaced()
        reader.values, reader._keys = keys.filled(self.values), keys
        reader._problems += keys.problems(self.values)
        return reader

    def value(self, key: str) -> Any:
        """What the config holds under `key`, or what stands for it; None when there is nothing."""
        self.asked.add(self._path + key)
        return self.values.get(key)

    def default_of(self, *keys: str) -> Any:
        """What the model's class takes for the first of the keys that it has."""
        return None if self._keys is None else self._keys.default(*keys)

    def older_default(self, key: str) -> Any:
        """What transformers 4 takes for an absent key, where that differs."""
        return None if self._keys is None else self._keys.of.older.get(key)

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
        return self.value(key) is not None

    @property
    def architecture(self) -> str:
        """The one architecture that config.json names."""
        found = self.values["architectures"]
        return str(found[0] if isinstance(found, list) else found)

    def integer(
        self, key: str, *, default: int | None = None, minimum: int = 1, maximum: int = 1 << 31
    ) -> int:
        """An integer of at least `minimum` and at most `maximum`."""
        value = self.value(key)
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
        value = self.value(key)
        return default if value is None and default is not None else self.checked_number(key, value)

    def flag(self, key: str, *, default: bool = False) -> bool:
        """true or false; null is as good as false, as it is in Python."""
        value = self.value(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.problem(f"{key}: found {value!r}, expected true or false")
            return default
        return value

    def choice(self, key: str, *, known: tuple[str, ...], default: str | None = None) -> str:
        """One of the `known` texts."""
        found = self.value(key)
        value = default if found is None else found
        if value not in known:
            self.problem(f"{key}: found {value!r}, expected {' or '.join(known)}")
            return known[0]
        return str(value)

    def require(self, key: str, *, expected: tuple[object, ...], why: str) -> None:
        """Note a problem unless the key is absent, null, or one of the expected values."""
        value = self.value(key)
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
        newer, older = self.value("dtype"), self.value("torch_dtype")
        if newer and older and newer != older:
            self.problem(
                f"dtype: found {_short(newer)}, and torch_dtype {_short(older)}: two spellings of one key; "
                "remove the wrong one"
            )
        declared = newer or older
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
            keys=self._keys,
            path=self._path,
        )
        reader._problems, reader.asked = self._problems, self.asked
        return reader

    def within(self, key: str) -> ConfigReader:
        """The object under `key` as a reader of its own, whose problems are noted here; empty when absent."""
        value = self.value(key)
        if value is not None and not isinstance(value, dict):
            self.problem(f"{key}: found {_short(value)}, expected an object")
        held = value if isinstance(value, dict) else {}
        reader = ConfigReader(
            held, where=self.where, weight_dtype=self._weight_dtype, path=f"{self._path}{key}."
        )
        reader._problems, reader.asked = self._problems, self.asked
        return reader

    def special_tokens(self, *, vocab_size: int) -> SpecialTokens:
        """Begin, end and pad ids; end ids of the generation config come first, then config.json's."""
        self.asked.update(("bos_token_id", "eos_token_id", "pad_token_id"))
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

    def checked_number(self, key: str, value: object) -> float:
        """`value`, which is what was found under `key`, as a number above zero."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _LARGEST:
            self.problem(f"{key}: found {_short(value)}, expected a number above 0{_within(value)}")
            return 1.0
        return float(value)


def _within(value: object) -> str:
    is_large = isinstance(value, int | float) and _LARGEST < value < math.inf
    return f" that float32 holds, {_LARGEST:.4g} or less" if is_large else ""


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
