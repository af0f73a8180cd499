"""Options that stand in two places: the flags of a command and the keys of a recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.cli.options.connection import read_connection
from scripts.commands.serving.render import command
from tpforge.errors import UsageError
from tpforge.repository_options import option_defaults


def test_a_header_may_come_from_a_file_so_that_no_key_is_typed(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret\n")
    given = (f"x-key=@{tmp_path}/key", "other=1")
    files: dict[str, Path | None] = dict.fromkeys(("tls_root", "tls_key", "tls_cert"))
    found = read_connection(deadline=1, headers=given, tls=False, **files)
    assert found.headers == {"x-key": "secret", "other": "1"}
    with pytest.raises(UsageError, match="No such file"):
        read_connection(deadline=1, headers=(f"x=@{tmp_path}/none",), tls=False, **files)


def test_every_flag_of_render_is_a_key_of_the_recipe_and_the_other_way_round() -> None:
    flags = {parameter.name for parameter in command.params}
    assert flags - {"engine", "out", "force", "as_json", "debug"} == set(option_defaults())


def test_the_flags_of_render_default_to_what_the_recipe_defaults_to() -> None:
    given = command.make_context("render", ["engine"], help_option_names=["-h", "--help"]).params
    defaults = option_defaults()
    # Pairs on the command line, a table in the recipe: both empty.
    assert (given.pop("parameters"), defaults.pop("parameters")) == ((), {})
    assert {name: given[name] for name in defaults} == defaults
