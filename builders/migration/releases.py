"""From the LLM API's arguments of one release to those of another: renamed, dropped, defaults made explicit.

What was renamed or is gone is tpforge/trtllm/llm_changes.toml; which defaults changed is found by comparing
the tables. Compiled engines are `builders.migration.settings`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from builders.llm_api.given import check_given, flatten
from builders.migration.settings import Move
from tpforge.errors import InputRefused, UsageError
from tpforge.trtllm.argument_tables import llm_table
from tpforge.trtllm.arguments import Argument, ArgumentTable, read_value
from tpforge.trtllm.dotted import nest
from tpforge.trtllm.llm_changes import Change, changes_between, place_of
from tpforge.trtllm.versions import Release
from tpforge.yaml_text import parse_table, to_yaml

_OPTIONS = {
    "tensor_parallel_size": "tp",
    "pipeline_parallel_size": "pp",
    "moe_expert_parallel_size": "moe_ep",
}
_LIMITS = ("max_batch_size", "max_input_len", "max_seq_len")
_FOLLOWS = {
    "model": "the recipe's model",
    "backend": "the backend is the same",
    "moe_tensor_parallel_size": "follows from tp and moe_ep",
}
_KEPT = (*_OPTIONS, *_LIMITS)
_ALWAYS_ON = (
    "",
    "kv_cache_config",
    "scheduler_config",
    "moe_config",
    "nvfp4_gemm_config",
    "cuda_graph_config",
)
"""Tables that hold without being named; defaults of others matter where one of their arguments is given."""


@dataclass(frozen=True)
class LlmMigration:
    """What becomes of every argument, and what they add up to: a grid of ranks, limits, arguments."""

    old: Release
    new: Release
    moves: tuple[Move, ...]

    @property
    def _merged(self) -> dict[str, Any]:
        return {name: value for move in self.moves for name, value in move.new.items()}

    @property
    def mapping(self) -> dict[str, int]:
        """The sizes of the grid of ranks, by the recipe's names."""
        found = self._merged
        return {option: int(found.get(name) or 1) for name, option in _OPTIONS.items()}

    @property
    def limits(self) -> dict[str, int]:
        """The limits of the recipe."""
        return {name: self._merged[name] for name in _LIMITS if self._merged.get(name)}

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments by dotted names, without ranks and limits."""
        return {name: one for name, one in self._merged.items() if name not in _KEPT}

    @property
    def yaml(self) -> str:
        """llm.yaml of the new release."""
        comment = f"The LLM API of TensorRT-LLM {self.new.trtllm}, from {self.old.trtllm} by tpforge migrate."
        return to_yaml(nest({"backend": "pytorch", **self._merged}), comment=comment)


def read_llm_yaml(path: Path) -> dict[str, Any]:
    """The values of an llm.yaml, or of the YAML of trtllm-serve.

    Raises:
        InputRefused: it cannot be read, or is no table.
    """
    try:
        return parse_table(path.read_text(encoding="utf-8"), where=path)
    except (OSError, UnicodeDecodeError) as error:
        raise InputRefused(f"{path}: cannot be read: {error}") from error


def plan_llm_migration(values: Mapping[str, Any], *, old: Release, new: Release) -> LlmMigration:
    """What becomes of every argument, and of every default that another release has otherwise."""
    given, unknown = _read(values, llm_table(old), old)
    moves = [_moved(name, value, old=old, new=new) for name, value in given.items()]
    return LlmMigration(old, new, (*moves, *unknown, *_defaults(given, old=old, new=new)))


def carry(moves: Sequence[Move], *, old: Release, new: Release) -> tuple[Move, ...]:
    """Moves to arguments of `old`, led on to those of `new`; what is lost on the way says so."""
    return tuple(_carried(move, old=old, new=new) for move in moves)


def _carried(move: Move, *, old: Release, new: Release) -> Move:
    steps = [_moved(name, value, old=old, new=new) for name, value in move.new.items() if name not in _KEPT]
    own = {name: value for name, value in move.new.items() if name in _KEPT}
    if all(step.new == {step.setting: step.value} for step in steps):
        return move
    found = own | {name: value for step in steps for name, value in step.new.items()}
    why = "; ".join([move.why, *(step.why for step in steps if step.new != {step.setting: step.value})])
    return replace(move, new=found, verdict="changed" if found else "dropped", why=why)


def _read(
    values: Mapping[str, Any], table: ArgumentTable, release: Release
) -> tuple[dict[str, Any], list[Move]]:
    """The arguments as the old release has them; those that it does not have are told, not lost."""
    rows = tuple(one.model_copy(update={"owned": False}) for one in table.arguments)
    free = table.model_copy(update={"arguments": rows})
    given: dict[str, Any] = {}
    unknown = []
    for name, value in flatten(values, known=[one.name for one in rows]).items():
        try:
            given |= check_given({name: value}, free, release=release)
        except UsageError as error:
            said = str(error).splitlines()[1].strip().removeprefix(f"{name}: ")
            why = f"{release.trtllm} does not take it ({said}): look at it by hand"
            unknown.append(Move(name, value, "unknown", {}, why))
    return given, unknown


def _moved(name: str, value: Any, *, old: Release, new: Release) -> Move:
    if name in _FOLLOWS:
        return Move(name, value, "dropped", {}, _FOLLOWS[name])
    if name in _OPTIONS:
        return Move(name, value, "mapped", {name: value}, f"{_OPTIONS[name]} = {value} of the recipe")
    rows = {one.name: one for one in llm_table(new).arguments}
    found, now, reasons = name, value, []
    for rule in _rules(old, new):
        if not rule.holds_for(found, now):
            continue
        if rule.verdict == "dropped":
            return Move(name, value, "dropped", {}, rule.why)
        if rule.verdict == "renamed" and rule.to is not None:
            found, now = rule.to, now if rule.becomes is None else rule.becomes
            reasons.append(rule.why)
    row = rows.get(found)
    if row is None:
        return Move(name, value, "dropped", {}, f"TensorRT-LLM {new.trtllm} does not have it")
    try:
        read_value(now, row.model_copy(update={"owned": False}))
    except ValueError as error:
        return Move(
            name, value, "unknown", {}, f"{new.trtllm} does not take it ({error}): look at it by hand"
        )
    changed = (found, now) != (name, value)
    return Move(
        name, value, "changed" if changed else "mapped", {found: now}, "; ".join(reasons) or row.meaning
    )


def _rules(old: Release, new: Release) -> list[Change]:
    """The changes from one table to the other; backwards, renamed ones are named as they were."""
    order = place_of(old), place_of(new)
    if order[0] <= order[1]:
        return list(changes_between(*order))
    kept = {row.name for row in llm_table(new).arguments}
    turned = []
    for one in reversed(changes_between(order[1], order[0])):
        is_whole = one.was is None and one.becomes is None and one.to not in kept
        is_value = one.was is not None and one.becomes is not None
        if one.verdict == "renamed" and one.to is not None and (is_whole or is_value):
            back = {"name": one.to, "to": one.name, "was": one.becomes, "becomes": one.was}
            back["why"] = f"{new.trtllm} spells it so; since {one.table}: {one.why}"
            turned.append(one.model_copy(update=back))
    return turned


def _defaults(given: Mapping[str, Any], *, old: Release, new: Release) -> Iterator[Move]:
    """Defaults that differ are written down, so that nothing changes by itself."""
    before = {one.name: one for one in llm_table(old).arguments}
    tables = {_table_of(name) for name in given}
    stated = {one.name: one for one in _rules(old, new) if one.verdict == "default"}
    for row in llm_table(new).arguments:
        was = before.get(row.name)
        is_on = _table_of(row.name) in tables or _table_of(row.name) in _ALWAYS_ON
        if was is None or row.owned or row.name in given or not is_on:
            continue
        tag = _tag(given, row, llm_table(old))
        if row.status == "deprecated" or (row.only and tag not in row.only):
            continue
        first, then = was.defaults.get(tag, was.default), row.defaults.get(tag, row.default)
        change = stated.get(row.name)
        if change is not None and change.before is not None:
            first = change.before
        if first != then:
            yield _default_move(row, first, then, why=change.why if change else None, new=new)


def _default_move(row: Argument, first: Any, then: Any, *, why: str | None, new: Release) -> Move:
    said = f"the default is {then} in {new.trtllm}" + (f": {why}" if why else "")
    name = f"(default) {row.name}"
    try:
        kept = read_value(first, row)
    except ValueError:
        return Move(name, first, "dropped", {}, f"{said}; the old one cannot be written down")
    return Move(name, first, "changed", {row.name: kept}, f"{said}; the old one is written down")


def _tag(given: Mapping[str, Any], row: Argument, table: ArgumentTable) -> str:
    prefix = _table_of(row.name)
    return str(given.get(f"{prefix}.{table.tags.get(prefix, '')}", ""))


def _table_of(name: str) -> str:
    return name.partition(".")[0] if "." in name else ""
