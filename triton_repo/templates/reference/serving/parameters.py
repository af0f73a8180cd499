"""The `parameters` of a model's config.pbtxt, read strictly: a leftover or a typo never becomes a default."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

_TRUE = ("true", "1")
_FALSE = ("false", "0")


class ParameterError(ValueError):
    """A parameter of config.pbtxt is missing or wrong; the message names the model and the parameter."""


class Parameters:
    """The parameters of one model; relative paths are relative to `folder`, the model's version folder."""

    def __init__(self, model_config: str, *, folder: Path) -> None:
        config = json.loads(model_config)
        self._model = config["name"]
        self._folder = folder
        self._values: dict[str, str] = {
            key: value.get("string_value", "") for key, value in config.get("parameters", {}).items()
        }

    def text(self, key: str) -> str:
        """The value as it stands.

        Raises:
            ParameterError: it is missing, or a template variable was left in it.
        """
        value = self._given(key).strip()
        if "${" in value:
            raise self._leftover(key, value)
        return value

    def boolean(self, key: str) -> bool:
        """True, true, TRUE or 1; False, false, FALSE or 0."""
        value = self.text(key).lower()
        if value not in _TRUE + _FALSE:
            raise self._error(key, f"found {value!r}, expected true or false")
        return value in _TRUE

    def integer(self, key: str) -> int:
        """A whole number."""
        value = self.text(key)
        try:
            return int(value)
        except ValueError:
            raise self._error(key, f"found {value!r}, expected a whole number") from None

    def optional_integer(self, key: str) -> int | None:
        """A whole number, or None when the value is empty."""
        return self.integer(key) if self.text(key) else None

    def integers(self, key: str) -> tuple[int, ...]:
        """Whole numbers with commas between them; none when the value is empty."""
        parts = [part.strip() for part in self.text(key).split(",") if part.strip()]
        if not all(part.isdigit() for part in parts):
            raise self._error(key, f"found {self.text(key)!r}, expected whole numbers, such as 1,2")
        return tuple(int(part) for part in parts)

    def path(self, key: str) -> Path:
        """A path, resolved against the model's version folder; a folder may have any name."""
        value = self._given(key)
        if not value.strip():
            raise self._error(key, "is empty, expected a path")
        path = os.path.realpath(os.path.join(os.fsencode(self._folder), value.encode()))  # noqa: PTH118
        if "${" in value and not os.path.lexists(path):
            raise self._leftover(key, value)
        return _usable(path)

    def _given(self, key: str) -> str:
        if key not in self._values:
            raise self._error(key, "is missing from config.pbtxt")
        return self._values[key]

    def _leftover(self, key: str, value: str) -> ParameterError:
        return self._error(key, f"{value!r} is left over from a template; fill it in")

    def _error(self, key: str, message: str) -> ParameterError:
        return ParameterError(f"model {self._model}, parameter {key}: {message}")


def _usable(path: bytes) -> Path:
    """A path as text that libraries can open.

    Triton's stub runs Python without a locale: there, text stands for a path only when it is ASCII. Another
    folder is opened and named by its descriptor, which this process and its children can read.
    """
    if path.isascii() or sys.getfilesystemencoding() != "ascii":
        return Path(os.fsdecode(path))
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return Path(os.fsdecode(path))  # Whoever opens it says what is wrong.
    return Path(f"/proc/{os.getpid()}/fd/{descriptor}")
