"""Options that stand in two places: the flags of a command and the keys of a recipe."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from scripts.cli.options.common import Amount
from scripts.cli.options.connection import read_connection
from scripts.commands.serving.render import command
from scripts.main import cli, main
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


def options_of(group: click.Command) -> Iterator[click.Parameter]:
    """Those of a command and of all below it."""
    yield from group.params
    if isinstance(group, click.Group):
        context = click.Context(group)
        for name in group.list_commands(context):
            found = group.get_command(context, name)
            assert found is not None
            yield from options_of(found)


# What these mean is the model's to say, which knows an infinite temperature.
SAMPLING = {"temperature", "top_p", "repetition_penalty"}


def test_every_option_that_is_a_number_takes_no_nan_and_no_inf() -> None:
    numbers = [one for one in options_of(cli) if isinstance(one.type, click.FloatRange | type(click.FLOAT))]
    assert len(numbers) > 20
    assert {one.name for one in numbers if not isinstance(one.type, Amount)} == SAMPLING
    for text in ("nan", "inf", "-inf", "NaN", "1e999"):
        with pytest.raises(click.BadParameter):
            Amount(min=0).convert(text, None, None)
    assert Amount(min=0).convert("1e3", None, None) == 1000


@pytest.mark.parametrize("limit", ["nan", "inf"])
def test_no_limit_is_beyond_every_loss(limit: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["compare", "a", "b", "--max-throughput-drop"], ["promote", "x", "--max-p95-ms"]):
        assert main([*words, limit]) == 2
        assert f"{limit} is not a finite number" in capsys.readouterr().err
