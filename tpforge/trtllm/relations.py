"""What of the LLM API's arguments, ranks and GPUs does not go together, from relations.toml.

Relations of sizes are `builders.llm_api.arguments`'s, and what one argument may be its row's.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from pydantic import model_validator

from tpforge.records import Record
from tpforge.shards.mapping import Mapping as RankMapping

Verdict = Literal["refused", "ignored", "untested"]
_MODEL = "model latent"
_UNTESTED = "upstream does not say that it works"


@dataclass(frozen=True)
class Asked:
    """What is asked for: arguments with their defaults behind them, ranks; GPUs and model where known.

    `given` are the arguments without defaults. `has_latent`: the model has multi-head latent attention.
    """

    value: Callable[[str], Any]
    given: Mapping[str, Any]
    mapping: RankMapping
    sm: int | None = None
    has_latent: bool | None = None

    def has(self, table: str) -> bool:
        """Whether a table, or something of it, is given and not null."""
        names = (name for name, value in self.given.items() if value is not None)
        return any(name == table or name.startswith(f"{table}.") for name in names)


class Relation(Record):
    """Two sides, or one side and GPUs, and what upstream does about them; see relations.toml."""

    one: str
    other: str | None = None
    needs: str | None = None
    when: str | None = None
    sm: tuple[int, ...] = ()
    sm_from: int | None = None
    instead: str = "leave it out"
    verdict: Verdict

    @model_validator(mode="after")
    def _one_kind(self) -> Relation:
        sides = [self.other, self.needs, self.sm or None, self.sm_from]
        assert sum(side is not None for side in sides) == 1, (
            f"{self.one}: give one of other, needs, sm, sm_from"
        )
        return self


class _Block(Record):
    tables: tuple[str, ...]
    source: str
    untested: str = _UNTESTED
    relations: tuple[Relation, ...]


def relations_of(table: str) -> tuple[Relation, ...]:
    """Every relation that holds for a table of arguments."""
    return tuple(one for block in _blocks() if table in block.tables for one in block.relations)


def broken(asked: Asked, *, table: str, verdict: Verdict) -> Iterator[str]:
    """What is asked for together, and upstream refuses, ignores or has not tried, in words."""
    for block in _blocks():
        if table not in block.tables:
            continue
        for relation in block.relations:
            if relation.verdict == verdict and is_broken(relation, asked):
                yield _words(relation, asked, untested=block.untested)


def is_broken(relation: Relation, asked: Asked) -> bool:
    """Whether both sides hold, or one without what it needs; what is not known breaks nothing."""
    if not is_on(relation.one, asked) or (relation.when is not None and not is_on(relation.when, asked)):
        return False
    if relation.other is not None:
        return bool(is_on(relation.other, asked))
    if relation.needs is not None:
        return is_on(relation.needs, asked) is False
    if asked.sm is None:
        return False
    return asked.sm not in relation.sm if relation.sm else asked.sm < (relation.sm_from or 0)


def is_on(side: str, asked: Asked) -> bool | None:
    """Whether a side of a relation holds; None where that is not known."""
    ranks = {
        "--pp": asked.mapping.pp_size,
        "--moe-ep": asked.mapping.moe_ep_size,
        "--cp": int(asked.value("context_parallel_size") or 1),
    }
    if side == _MODEL:
        return asked.has_latent
    if side in ranks:
        return ranks[side] > 1
    name, _, said = side.partition(" ")
    value = asked.value(name)
    if not said:
        return asked.has(name) if value is None or isinstance(value, Mapping) else bool(value)
    if said.startswith("above "):
        return isinstance(value, int | float) and value > float(said.removeprefix("above "))
    words = {word.lower() for word in said.removeprefix("not ").split("|")}
    if value is None:
        return False
    return (str(value).lower() in words) is not said.startswith("not ")


def _words(relation: Relation, asked: Asked, *, untested: str) -> str:
    one, other, needs = relation.one, relation.other, relation.needs
    if relation.verdict == "untested":
        return f"{one} {f'with {other}' if other else f'without {needs}'}: {untested}"
    if relation.verdict == "ignored":
        where = f"with {other}" if other else f"without {needs}" if needs else f"on SM {asked.sm}"
        return f"{one}: upstream ignores it {where}"
    if other is not None:
        return f"{one}: does not go with {other}; leave one of them out"
    if needs is not None:
        return f"{one}: needs {'latent attention in the model' if needs == _MODEL else needs}"
    works = ", ".join(map(str, relation.sm)) if relation.sm else f"{relation.sm_from} and later"
    return f"{one}: works on SM {works}; the target is SM {asked.sm}; {relation.instead}"


@cache
def _blocks() -> tuple[_Block, ...]:
    text = files("tpforge.trtllm").joinpath("relations.toml").read_text(encoding="utf-8")
    blocks = tuple(_Block.model_validate(block) for block in tomllib.loads(text)["block"])
    for table in {name for block in blocks for name in block.tables}:
        held = [one for block in blocks if table in block.tables for one in block.relations]
        sides = [(one.one, one.other, one.needs, one.when, one.sm, one.sm_from) for one in held]
        assert len(set(sides)) == len(sides), f"table {table}: a relation stands twice"
    return blocks
