"""Options that stand in two places: the flags of a command and the keys of a recipe."""

from __future__ import annotations

from scripts.cmd_render import command
from tpforge.recipe import RepositoryOptions


def test_every_flag_of_render_is_a_key_of_the_recipe_and_the_other_way_round() -> None:
    flags = {parameter.name for parameter in command.params}
    assert flags - {"engine", "out", "force", "as_json", "debug"} == set(RepositoryOptions.model_fields)


def test_the_flags_of_render_default_to_what_the_recipe_defaults_to() -> None:
    given = command.make_context("render", ["engine"], help_option_names=["-h", "--help"]).params
    defaults = RepositoryOptions().model_dump()
    # Pairs on the command line, a table in the recipe: both empty.
    assert (given.pop("parameters"), defaults.pop("parameters")) == ((), {})
    assert {name: given[name] for name in defaults} == defaults
