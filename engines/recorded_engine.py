"""The engine that a decision record names to go back to: found here, proven to be the one that was measured.

It starts no server and shifts no requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tpforge.errors import InputRefused, UsageError
from tpforge.outputs.places import OUT, Places, find_engine

if TYPE_CHECKING:
    from tpforge.manifest import Manifest
    from tpforge.measure.decisions.decision import Choice
    from tpforge.measure.runs.run import Fact

IDENTITY = (
    "weights_sha256", "precision", "quantization", "tp", "pp", "moe_ep", "runtime",
    "max_batch_size", "max_input_len", "max_seq_len",
)  # fmt: skip
"""The facts in which an engine is the one of the record; its name and its folder may be others."""


def find_recorded(record: Path, *, given: str | None, root: Path = OUT) -> Places:
    """The engine that the record's fallback was measured on; `given` says where it lies if not under `root`.

    Its files are hashed against engine.json, and engine.json is compared with the record: the hash of the
    source's weights and all that changes answers, memory or speed.

    Raises:
        InputRefused: the record names no engine, or the engine is not here, is another one, or is damaged.
        UsageError: several engines under `root` have that name.
    """
    from engines.store import check_files, read_manifest
    from tpforge.measure.decisions.decision import read_decision

    choice = read_decision(record).fallback
    if choice is None:
        raise InputRefused(
            f"{record}: does not keep the engine of its fallback; write it again with this tpforge decide"
        )
    name = choice.engine["name"].value
    if not isinstance(name, str):
        raise InputRefused(
            f"{record}: the fallback {choice.run} was measured on an unknown engine: "
            f"{choice.engine['name'].unavailable_because}"
        )
    places = find_engine(given, root=root) if given is not None else _find_named(name, choice, root)
    manifest = read_manifest(places.engine)
    problems = [*differences(choice.engine, manifest), *check_files(places.engine, manifest)]
    if problems:
        raise InputRefused.listing(
            f"{places.engine}: is not the fallback engine {name} (run {choice.run}) of {record}; "
            "build that one again, or name its folder with --fallback:",
            problems,
        )
    return places


def differences(recorded: Mapping[str, Fact], manifest: Manifest) -> list[str]:
    """In what an engine is not the recorded one, a line each; a fact that was not known is one too."""
    from tpforge.measure.runs.engine_facts import engine_facts

    facts = engine_facts(manifest)
    found = []
    for field in IDENTITY:
        wanted = recorded[field]
        if wanted.unavailable_because is not None:
            found.append(f"{field}: the record does not know it: {wanted.unavailable_because}")
        elif facts[field].value != wanted.value:
            found.append(f"{field}: {facts[field].value}, the record says {wanted.value}")
    return found


def _find_named(name: str, choice: Choice, root: Path) -> Places:
    from engines.store import list_engines

    engines = list_engines(root)
    fitting = [folder for folder, manifest in engines if manifest.name == name]
    if len(fitting) > 1:
        listed = ", ".join(map(str, fitting))
        raise UsageError(f"{name}: several engines have this name; name one with --fallback: {listed}")
    if not fitting:
        known = ", ".join(manifest.name for _, manifest in engines) or "none"
        raise InputRefused(
            f"the fallback engine {name} (run {choice.run}) is not under {root}/, which has: {known}; "
            "build it again, or name its folder with --fallback"
        )
    return Places(fitting[0])
