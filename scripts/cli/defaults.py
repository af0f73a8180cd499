"""What a person set once, as defaults of the options of a command. It parses nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from tpforge.settings import all_chosen


@dataclass(frozen=True)
class Default:
    """An option that takes its value from a setting."""

    option: str
    value: str
    origin: str


def defaults_of(arguments: Sequence[str]) -> tuple[Default, ...]:
    """The options of this command line that are not given and are set.

    Raises:
        UsageError: the file of the settings is wrong.
    """
    words = {argument.partition("=")[0] for argument in arguments}
    values = {one.setting.name: one for one in all_chosen() if one.origin != "built in"}
    wanted = []
    if arguments[:1] == ["plan"]:
        wanted.append("gpu")
    if arguments[:1] == ["build"] and "tensorrt" in [word.rpartition("=")[2] for word in arguments]:
        wanted.append("container")
    found = [(name, values[name]) for name in wanted if name in values and f"--{name}" not in words]
    return tuple(Default(name, one.value or "", one.origin) for name, one in found)


def use_hub_token() -> None:
    """Let huggingface_hub find the token in the variable that was named for it, unseen here."""
    found = {one.setting.name: one.value for one in all_chosen()}
    name = found["hub_token_variable"]
    if name and name in os.environ:
        os.environ.setdefault("HF_TOKEN", os.environ[name])
