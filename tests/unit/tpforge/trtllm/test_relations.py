"""Relations of the LLM API's arguments: names and values are upstream's; each is broken by both sides.

That upstream has the arguments is judged by the facts of its own schema of 1.4.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.support.upstream.schema import read_facts
from tpforge.shards.mapping import Mapping
from tpforge.trtllm.argument_tables import shipped_table
from tpforge.trtllm.relations import Asked, Relation, broken, is_broken, is_on, relations_of

TABLES = ("1.2", "1.3", "1.4")
CASES = [
    pytest.param(table, one, id=f"{table}-{number}")
    for table in TABLES
    for number, one in enumerate(relations_of(table))
]
RANKS = {"--pp": "pp_size", "--moe-ep": "moe_ep_size"}


@dataclass
class Given:
    """What makes a side hold."""

    values: dict[str, Any] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    has_latent: bool | None = None


def sides(relation: Relation) -> list[str]:
    return [one for one in (relation.one, relation.other, relation.needs, relation.when) if one is not None]


def add(side: str, given: Given, *, table: str) -> None:
    """Let a side hold, by the words of relations.toml."""
    name, _, said = side.partition(" ")
    if side == "model latent":
        given.has_latent = True
    elif side == "--cp":
        given.values["context_parallel_size"] = 2
    elif side in RANKS:
        given.sizes[RANKS[side]] = 2
    elif said.startswith("above "):
        given.values[name] = int(said.split()[1]) + 1
    elif said.startswith("not "):
        given.values.setdefault(name, "MAX_UTILIZATION" if "policy" in name else "NGram")
    elif said:
        word = said.split("|")[0]
        given.values[name] = {"false": False}.get(word, word)
    else:
        given.values.setdefault(name, "x")
        if table_has_parts(name, table):
            given.values[f"{name}.x"] = given.values.pop(name)


def table_has_parts(name: str, table: str) -> bool:
    rows = shipped_table("llm_args.toml", table).arguments
    return any(row.name.startswith(f"{name}.") for row in rows)


def asked(given: Given, *, table: str, sm: int | None = None) -> Asked:
    defaults = {row.name: row.default for row in shipped_table("llm_args.toml", table).arguments}
    sizes = {"tp_size": given.sizes.get("moe_ep_size", 1), **given.sizes}
    values = {**defaults, **given.values}
    return Asked(values.get, given.values, Mapping(**sizes), sm, given.has_latent)


def wrong_sm(relation: Relation) -> int:
    return 86 if relation.sm else (relation.sm_from or 0) - 1


@pytest.mark.parametrize(("table", "relation"), CASES)
def test_a_relation_is_broken_when_both_sides_hold_and_by_neither_alone(
    table: str, relation: Relation
) -> None:
    given = Given()
    for side in (relation.when, relation.one, relation.other):
        if side is not None:
            add(side, given, table=table)
    if relation.needs == "model latent":
        given.has_latent = False
    elif relation.needs is not None and " " in relation.needs:
        given.values[relation.needs.split()[0]] = "another"
    sm = wrong_sm(relation) if relation.sm or relation.sm_from else None
    assert is_broken(relation, asked(given, table=table, sm=sm))
    words = list(broken(asked(given, table=table, sm=sm), table=table, verdict=relation.verdict))
    assert any(one.startswith(relation.one) for one in words)

    if relation.needs is not None:
        add(relation.needs, given, table=table)
        assert not is_broken(relation, asked(given, table=table))
    elif sm is not None:
        right = relation.sm[0] if relation.sm else relation.sm_from
        assert not is_broken(relation, asked(given, table=table, sm=right))
        assert not is_broken(relation, asked(given, table=table, sm=None))
    else:
        assert relation.other is not None
        alone = Given()
        add(relation.other, alone, table=table)
        if not is_on(relation.one, asked(Given(), table=table)):  # It is on by default.
            assert not is_broken(relation, asked(alone, table=table))
        alone = Given()
        add(relation.one, alone, table=table)
        if relation.when is not None:
            add(relation.when, alone, table=table)
        assert not is_broken(relation, asked(alone, table=table))


@pytest.mark.parametrize("table", TABLES)
def test_every_side_names_an_argument_of_its_table_and_values_that_it_takes(table: str) -> None:
    rows = {row.name: row for row in shipped_table("llm_args.toml", table).arguments}
    for side in (side for relation in relations_of(table) for side in sides(relation)):
        name, _, said = side.partition(" ")
        if side == "model latent" or name.startswith("--"):
            continue
        assert name in rows or any(row.startswith(f"{name}.") for row in rows), side
        words = [] if said.startswith("above") else said.removeprefix("not ").split("|")
        choices = rows[name].choices if name in rows else ()
        if choices and words != [""]:
            wrong = {word for word in words if word not in (*choices, "true", "false", "User_Provided")}
            assert not wrong, f"{side}: {', '.join(choices)}"


def test_upstreams_schema_of_1_4_has_every_argument_of_its_relations() -> None:
    paths = {row["path"] for row in read_facts()}
    for side in (side for relation in relations_of("1.4") for side in sides(relation)):
        name = side.partition(" ")[0]
        if side != "model latent" and not name.startswith("--"):
            assert any(path == name or path.startswith(f"{name}.") for path in paths), side


def test_what_is_not_known_breaks_nothing() -> None:
    given = Given(
        {"cp_config.cp_type": "HELIX", "context_parallel_size": 2, "disable_overlap_scheduler": True}
    )
    given.values["cache_transceiver_config.backend"] = "NIXL"
    unknown = asked(given, table="1.4")
    assert list(broken(unknown, table="1.4", verdict="refused")) == []
    given.has_latent = False
    assert list(broken(asked(given, table="1.4", sm=90), table="1.4", verdict="refused")) == [
        "cp_config.cp_type HELIX: needs latent attention in the model",
        "cp_config.cp_type HELIX: works on SM 100 and later; the target is SM 90; leave it out",
    ]
