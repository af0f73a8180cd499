"""Our tables of the LLM API's arguments against upstream's own schema of 1.4, and every value they take.

The schema's facts are in upstream/llm_args_1.4.csv, read by code of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from builders.llm_api.given import check_given, flatten
from tests.support.upstream.schema import Fact, read_facts, schema_of_facts
from tpforge.errors import UsageError
from tpforge.trtllm.argument_tables import llm_table, table_names
from tpforge.trtllm.arguments import Argument, check_values
from tpforge.trtllm.dotted import nest
from tpforge.trtllm.schema_arguments import arguments_of
from tpforge.trtllm.versions import find_release
from tpforge.yaml_text import to_yaml

RELEASES = {"1.2": "1.2.1", "1.3": "1.3.0rc28", "1.4": "1.4.0rc1"}
ALIASES = {
    "hf_revision": "revision",
    "speculative_config.speculative_model_dir": "speculative_config.speculative_model",
}
OTHER_FILE = {"video_pruning_rate"}
"""A key of the YAML of `trtllm-serve disaggregated`."""
REPLACED = {"decoding_config"}
"""Deprecated as a whole: speculative_config."""
SAMPLES = {
    "int": 7,
    "float": 0.5,
    "bool": True,
    "str": "x",
    "ints": [3, 5],
    "floats": [0.5, 0.5],
    "list": ["a"],
    "items": [[1]],
}
WRONG = {"int": "x", "float": "x", "bool": "maybe", "str": 5, "choice": "no such", "object": "{", "list": 5}


def inner(facts: list[Fact]) -> list[Fact]:
    """Those that are no mere level of others, and no member of a list or of a table with free keys."""
    paths = {row["path"] for row in facts}
    whole = {
        "cuda_graph_config",
        "torch_compile_config",
        "cache_transceiver_config",
        "moe_config.load_balancer",
    }
    whole |= {"scheduler_config.dynamic_batch_config", "multimodal_config.encoder_cuda_graph"}
    return [
        row
        for row in facts
        if "[]" not in row["path"]
        and ".*" not in row["path"]
        and (row["path"] in whole or not any(path.startswith(f"{row['path']}.") for path in paths))
        and row["path"] not in {*ALIASES, *OTHER_FILE, *REPLACED}
        and row["type"] != "python object"
    ]


def table(name: str) -> dict[str, Argument]:
    return {one.name: one for one in llm_table(find_release(RELEASES[name])).arguments}


def legal(argument: Argument) -> Any:
    """A value of the argument's type, choices and range."""
    if argument.choices and argument.type in ("choice", "list"):
        return argument.choices[0] if argument.type == "choice" else [argument.choices[0]]
    if argument.type == "object":
        return {"a": 1}
    if argument.type in ("int", "float"):
        low = argument.minimum if argument.minimum is not None else argument.above
        value = SAMPLES[argument.type] if low is None else low + (0.5 if argument.type == "float" else 1)
        value = min(value, argument.maximum) if argument.maximum is not None else value
        return int(value) if argument.type == "int" else value
    return SAMPLES[argument.type]


def settable(name: str) -> Iterator[Argument]:
    return (one for one in table(name).values() if not one.owned and one.status != "removed")


def test_there_is_a_release_for_each_table() -> None:
    assert set(table_names("llm_args.toml")) == set(RELEASES)


def test_the_table_of_1_4_has_the_arguments_of_upstreams_schema_and_no_others() -> None:
    assert table("1.4").keys() == {row["path"] for row in inner(read_facts())}


def test_each_default_is_that_of_the_schema() -> None:
    wrong = {}
    for row in inner(read_facts()):
        argument = table("1.4")[row["path"]]
        found = next(
            (argument.defaults[tag] for tag in row["only"].split(",") if tag in argument.defaults), None
        )
        found = argument.default if found is None else found
        stated = row["default"].removesuffix(" (0)")
        if stated in ("null", "?", "{}", "[]", "required", "required tag") or stated.startswith("{"):
            expected: Any = None
        elif stated.startswith("["):
            expected = yaml.safe_load(stated)
        else:
            expected = yaml.safe_load(stated)
        if found != expected:
            wrong[row["path"]] = (found, expected)
    assert wrong == {}


def test_each_choice_is_that_of_the_schema() -> None:
    """Values with remarks in brackets count without them; free text with known values takes only those."""
    wrong = {}
    for row in inner(read_facts()):
        if not row["type"].startswith("choice") or table("1.4")[row["path"]].owned:
            continue
        stated = {re.sub(r" ?\(.*", "", word) for word in row["values"].split("|")} - {""}
        found = set(table("1.4")[row["path"]].choices)
        if row["path"] == "speculative_config.decoding_type":
            stated -= {"User_Provided"}
        if not stated <= found:
            wrong[row["path"]] = stated ^ found
    assert wrong == {}


@pytest.mark.parametrize("name", RELEASES)
def test_every_argument_takes_a_legal_value_and_its_default(name: str) -> None:
    rows = list(settable(name))
    given = {one.name: legal(one) for one in rows}
    assert check_values(given, rows, what="x") == given
    defaults = [(one.name, value) for one in rows for value in (one.default, *one.defaults.values())]
    for argument, value in defaults:
        if value is not None:
            assert check_values({argument: value}, rows, what="x") == {argument: value}


@pytest.mark.parametrize("name", RELEASES)
def test_every_argument_refuses_an_illegal_value_by_its_name(name: str) -> None:
    for one in settable(name):
        wrong = WRONG.get(one.type, "x,y")
        if one.type == "object" and "str" in one.also:
            wrong = 5
        with pytest.raises(UsageError, match=re.escape(one.name)):
            check_values({one.name: wrong}, [one], what="x")


@pytest.mark.parametrize("name", RELEASES)
def test_every_bound_holds_on_both_sides(name: str) -> None:
    for one in settable(name):
        if one.type not in ("int", "float"):
            continue
        step = 1 if one.type == "int" else 0.25
        outside = [bound - step for bound in (one.minimum,) if bound is not None]
        outside += [bound + step for bound in (one.maximum,) if bound is not None]
        outside += [bound for bound in (one.above, one.below) if bound is not None]
        for value in outside:
            with pytest.raises(UsageError, match="expected"):
                check_values({one.name: value}, [one], what="x")


@pytest.mark.parametrize("name", RELEASES)
def test_null_is_taken_where_upstream_takes_it_and_nowhere_else(name: str) -> None:
    for one in settable(name):
        if one.nullable:
            assert check_values({one.name: None}, [one], what="x") == {one.name: None}
        else:
            with pytest.raises(UsageError, match="expected a value"):
                check_values({one.name: None}, [one], what="x")


def test_what_the_schema_lets_be_null_is_null_in_the_table_too() -> None:
    stated = {row["path"] for row in inner(read_facts()) if "?" in row["type"]}
    own = {name for name, one in table("1.4").items() if one.nullable or one.owned}
    assert stated - own == set()


def fits(value: Any, row: Fact) -> bool:
    """Whether a value of a YAML file is of the type that the schema states."""
    if value is None:
        return "?" in row["type"]
    stated = row["type"].replace("?", "")
    if stated.startswith("choice"):
        return isinstance(value, str)
    kinds: dict[str, type | tuple[type, ...]] = {
        "bool": (bool, str) if '"auto"' in stated else bool,
        "int": (int, float) if "float" in stated else int,
        "float": (int, float, dict),
        "str": str,
        "list": list,
        "set": list,
        "dict": dict,
        "object": (dict, list, str),
    }
    kind = next(kinds[word] for word in kinds if stated.startswith(word))
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool) or "bool" in stated)


def test_what_would_be_learned_of_1_4_is_what_its_table_has() -> None:
    """By names and tags; and whatever the table takes, the schema takes."""
    learned, tags = arguments_of(schema_of_facts())
    rows = {one.name: one for one in learned}
    own = table("1.4")
    levels = {one for one in rows if any(name.startswith(f"{one}.") for name in rows)}
    assert rows.keys() - own.keys() - levels == {*ALIASES, *OTHER_FILE, *REPLACED}
    assert own.keys() - rows.keys() == set()
    assert tags == {
        name: tag for name, tag in llm_table(find_release("1.4.0rc1")).tags.items() if name in tags
    }
    in_unions = [one for one in own.values() if one.name.partition(".")[0] in tags]
    assert {one.name: set(one.only) for one in in_unions} == {
        one.name: set(rows[one.name].only) for one in in_unions
    }
    given = {one.name: legal(one) for one in settable("1.4") if one.name not in levels}
    assert check_values(given, [one for one in learned if not one.owned], what="x").keys() == given.keys()


def test_a_yaml_of_every_argument_at_once_has_the_keys_and_types_of_the_schema() -> None:
    release = find_release("1.4.0rc1")
    given = {one.name: legal(one) for one in settable("1.4")}
    for level in (
        "cuda_graph_config",
        "torch_compile_config",
        "cache_transceiver_config",
        "moe_config.load_balancer",
    ):
        del given[level]
    del given["scheduler_config.dynamic_batch_config"]
    arguments = check_given(given, llm_table(release), release=release)
    read = yaml.safe_load(to_yaml(nest(arguments), comment="x"))
    by_path = {row["path"]: row for row in inner(read_facts())}
    found = flatten(read, known=by_path.keys())
    assert found.keys() == given.keys()
    assert {path: value for path, value in found.items() if not fits(value, by_path[path])} == {}
