"""What differs between two runs besides what was measured: which variables, and what follows from them.

One variable at a time is the rule: with more than one changed, a difference has no single cause. A fact that
follows from another, such as the hash of the weights from the quantization, is not counted twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import JsonValue

from tpforge.measure.runs.prompts import is_same_mix
from tpforge.measure.runs.run import Fact, Run
from tpforge.records import Record

Section = Literal["engine", "environment", "workload"]
Facts = Mapping[str, Fact]

NOT_VARIABLES = frozenset({"name", "host_load", "license"})
"""The engine's name is a label, the host's load is noise, a license makes nothing faster."""

WORKLOAD_VARIABLES = (
    "target", "model", "url", "loop", "arrival", "trace", "prompts_sha256", "isl", "osl", "streaming",
    "sampling", "token_source", "prompt_use", "duration_s", "num_requests", "warmup_s", "deadline_s", "slo",
)  # fmt: skip
"""What of the workload changes what is measured; how often it was measured and with which seed does not."""

MIX = "prompts measured"
"""The variable of runs that asked the same prompts, but some of them more often than others."""

_FEW_NAMED = 3

FOLLOWS: tuple[tuple[str, frozenset[str]], ...] = (
    ("model", frozenset({"revision", "weights_sha256"})),
    ("revision", frozenset({"weights_sha256"})),
    ("quantization", frozenset({"precision", "weights_sha256"})),
    ("precision", frozenset({"weights_sha256"})),
    ("max_batch_size", frozenset({"batch_settings"})),
    ("runtime", frozenset({"runtime_version", "server", "server_version", "container", "batch_settings"})),
    ("container", frozenset({"runtime_version", "server_version", "cuda", "nccl", "python"})),
    ("gpu", frozenset({"topology"})),
    ("num_gpus", frozenset({"topology"})),
)
"""A changed fact, and those whose change it explains."""


class Change(Record):
    """A fact with its two values; `follows_from` names the change that explains it."""

    section: Section
    name: str
    before: JsonValue
    after: JsonValue
    follows_from: str | None = None


class Unknown(Record):
    """A fact that could not be read in one of the runs, or in both, so that it may have changed unseen."""

    section: Section
    name: str
    because: str


class Variables(Record):
    """Everything that differs between two runs, as far as the runs know."""

    changed: tuple[Change, ...]
    followed: tuple[Change, ...]
    unknown: tuple[Unknown, ...]

    @property
    def verdict(self) -> str:
        """What the changes allow to conclude, in a sentence."""
        names = [change.name for change in self.changed]
        match len(names):
            case 0:
                return (
                    "no recorded variable changed: a difference is chance, or a cause that was not recorded"
                )
            case 1:
                return f"one variable changed: {names[0]}"
            case count:
                return (
                    f"{count} variables changed ({', '.join(names)}): this comparison can't tell which of "
                    "them made a difference; change one at a time"
                )


def compare_variables(first: Run, second: Run) -> Variables:
    """The facts and the workload of two runs, side by side."""
    changes: list[Change] = []
    unknown: list[Unknown] = []
    facts: tuple[tuple[Section, Facts, Facts], ...] = (
        ("engine", first.engine, second.engine),
        ("environment", first.environment, second.environment),
    )
    for section, facts_before, facts_after in facts:
        for name in facts_before:
            before, after = facts_before[name], facts_after[name]
            if reason := _unreadable(before, after):
                unknown.append(Unknown(section=section, name=name, because=reason))
            elif before.value != after.value:
                changes.append(_change(section, name, before.value, after.value))
    asked, asked_then = first.workload.model_dump(mode="json"), second.workload.model_dump(mode="json")
    for name in WORKLOAD_VARIABLES:
        if asked[name] != asked_then[name]:
            changes.append(_change("workload", name, asked[name], asked_then[name]))
    changes += _other_mixes(first, second)
    return _explained([change for change in changes if change.name not in NOT_VARIABLES], unknown)


def _other_mixes(first: Run, second: Run) -> list[Change]:
    """The levels at which some prompts were asked more often by one of the runs."""
    levels = {level.name: level for level in second.levels}
    pairs = [(level, levels[level.name]) for level in first.levels if level.name in levels]
    differing = [(a, b) for a, b in pairs if a.mix and b.mix and not is_same_mix(a.mix, b.mix)]
    if not differing:
        return []
    names = ", ".join(level.name for level, _ in differing[:_FEW_NAMED])
    before, after = (
        f"{sum(pair[side].num_requests for pair in differing)} requests at {names}" for side in (0, 1)
    )
    return [_change("workload", MIX, before, f"{after}, in another mix")]


def _change(section: Section, name: str, before: JsonValue, after: JsonValue) -> Change:
    return Change(section=section, name=name, before=before, after=after)


def _unreadable(before: Fact, after: Fact) -> str | None:
    reasons = dict.fromkeys(fact.unavailable_because for fact in (before, after) if fact.value is None)
    return "; ".join(reason for reason in reasons if reason) or None


def _explained(changes: list[Change], unknown: list[Unknown]) -> Variables:
    found = {change.name for change in changes if change.section != "workload"}
    cause = {
        ("facts", name): driver for driver, names in reversed(FOLLOWS) if driver in found for name in names
    }
    drivers = [c.name for c in changes if c.section != "workload" and ("facts", c.name) not in cause]
    if drivers:
        # Another engine is another server, and has an address of its own.
        cause["workload", "url"] = drivers[0]
    followed = [
        change.model_copy(update={"follows_from": cause[_place(change)]})
        for change in changes
        if _place(change) in cause
    ]
    changed = [change for change in changes if _place(change) not in cause]
    return Variables(changed=tuple(changed), followed=tuple(followed), unknown=tuple(unknown))


def _place(change: Change) -> tuple[str, str]:
    return ("workload" if change.section == "workload" else "facts", change.name)
