"""Defaults that a person sets once: in a file, or by TPFORGE_* for a shell; and where each came from.

An option on the command line is stronger than the environment, that than the file. It writes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from tpforge.errors import UsageError
from tpforge.suggestions import did_you_mean
from tpforge.toml_text import parse_toml


@dataclass(frozen=True)
class Setting:
    """A default that can be set; `default` is what holds without, None that the command asks or decides."""

    name: str
    default: str | None
    meaning: str

    @property
    def variable(self) -> str:
        """The variable of the environment that sets it."""
        return f"TPFORGE_{self.name.upper()}"


SETTINGS = (
    Setting("out", "out", "folder that outputs lie under"),
    Setting("gpu", None, "kind of GPU that `plan` plans for, as --gpu"),
    Setting("container", None, "what `build --runtime tensorrt` runs in, as --container"),
    Setting("hub_token_variable", None, "variable of the environment that holds the hub's token"),
)


_OTHER_VARIABLES = ("TPFORGE_SERVER",)
"""That by which the processes of a server are known."""


@dataclass(frozen=True)
class Chosen:
    """The value of a setting, and where it came from: a variable, the file, or nowhere."""

    setting: Setting
    value: str | None
    origin: str


def config_file() -> Path:
    """The user's file, by the XDG base directories."""
    given = os.environ.get("XDG_CONFIG_HOME", "")
    root = Path(given) if Path(given).is_absolute() else Path.home() / ".config"
    return root / "tpforge" / "config.toml"


def chosen(name: str) -> Chosen:
    """One setting.

    Raises:
        UsageError: the file cannot be read, or has a key or a value that means nothing.
    """
    return next(one for one in all_chosen() if one.setting.name == name)


def all_chosen() -> tuple[Chosen, ...]:
    """Every setting, in the order of the table.

    Raises:
        UsageError: the file cannot be read, or has a key or a value that means nothing.
    """
    file = config_file()
    kept = _read(file)
    found = []
    for setting in SETTINGS:
        if given := os.environ.get(setting.variable):
            found.append(Chosen(setting, given, setting.variable))
        elif setting.name in kept:
            found.append(Chosen(setting, kept[setting.name], str(file)))
        else:
            found.append(Chosen(setting, setting.default, "built in"))
    return tuple(found)


def unknown_variables() -> tuple[str, ...]:
    """The variables of the environment that look like settings and are none, with what is near."""
    known = [setting.variable for setting in SETTINGS]
    others = sorted(
        name for name in os.environ if name.startswith("TPFORGE_") and name not in (*known, *_OTHER_VARIABLES)
    )
    return tuple(f"{name}: is no setting{did_you_mean(name, known, most=1)}" for name in others)


def _read(file: Path) -> Mapping[str, str]:
    if not file.is_file():
        return {}
    try:
        table = parse_toml(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{file}: cannot be read as TOML: {error}") from error
    known = [setting.name for setting in SETTINGS]
    problems = []
    for key, value in table.items():
        if key not in known:
            near = get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            problems.append(f"{key}: is no setting; {hint}")
        elif not isinstance(value, str) or not value:
            problems.append(f'{key}: expected a text, as {key} = "..."')
    if problems:
        raise UsageError("\n  ".join([f"{file}:", *sorted(problems)]))
    return table
