"""`tpforge migrate`: a compiled engine's settings as a recipe for the LLM API."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scripts.cli.options.common import DEBUG, FORCE, JSON
from scripts.cli.output import Output
from scripts.reports.columns import table

if TYPE_CHECKING:
    from builders.migration.settings import Migration

_PATH = click.Path(path_type=Path)


@click.command("migrate")
@click.argument("source", metavar="ENGINE_OR_BUILD_CONFIG", type=_PATH)
@click.option("--to", type=click.Choice(["pytorch"]), default="pytorch", show_default=True, help="Runtime.")
@click.option("--model", help="Model for the recipe.  [default: the engine's, when tpforge built it]")
@click.option("--name", help="Name of the engine.  [default: MODEL-tpN]")
@click.option(
    "--repository", type=_PATH, metavar="DIR", help="Map the parameters of this model repository too."
)
@click.option(
    "--trtllm",
    metavar="VERSION",
    help="Release of TensorRT-LLM to go to; `tpforge versions` lists them.  [default: 1.2.1]",
)
@click.option("--sm", type=click.IntRange(50, 200), help="Compute capability of the serving GPUs.")
@click.option("--out", type=_PATH, metavar="FILE", help="Write the recipe here.  [default: stdout]")
@FORCE
@JSON
@DEBUG
def command(
    source: Path, out: Path | None, force: bool, as_json: bool, trtllm: str | None, to: str, **values: Any
) -> None:
    """Map a compiled engine's settings to TensorRT-LLM's LLM API, as a table.

    ENGINE_OR_BUILD_CONFIG is an engine folder, ours or upstream's, its config.json, or a build config of
    trtllm-build. Every setting is mapped, changed or dropped, with the reason; the result is a recipe, and a
    plan to measure before and after. Upstream dropped compiled engines in 1.3.0rc21.
    """
    from builders.migration.recipe import UNKNOWN_MODEL
    from scripts.flows.migrate import migrate, moves_of, write_recipe
    from tpforge.trtllm.versions import DEFAULT_RELEASE

    output = Output(as_json=as_json)
    migrated = migrate(source, trtllm=trtllm or DEFAULT_RELEASE, **values)
    output.result(table(_rows(migrated.migration), header=("", "setting", "value", "becomes", "why")))
    if out is not None:
        write_recipe(migrated, out, force=force)
        output.result(f"\nwrote {out}")
    else:
        output.result(f"\nrecipe:\n{migrated.recipe}")
    output.result("measure before and after:")
    for number, line in enumerate(migrated.plan, 1):
        output.result(f"  {number}. {line}")
    if f'model = "{UNKNOWN_MODEL}"' in migrated.recipe:
        output.note("the engine does not say which model it was: put it in the recipe, or give --model")
    output.record(
        "migration",
        {
            "from": migrated.migration.engine.version,
            "moves": moves_of(migrated),
            "recipe": migrated.recipe,
            "plan": list(migrated.plan),
            "out": str(out) if out else None,
        },
    )


def _rows(migration: Migration) -> list[tuple[str, ...]]:
    return [
        (
            move.verdict,
            move.setting,
            str(move.value)[:40],
            ", ".join(f"{name}={value}" for name, value in move.new.items()),
            move.why,
        )
        for move in migration.moves
    ]
