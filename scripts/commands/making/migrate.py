"""`tpforge migrate`: a compiled engine's or an llm.yaml's settings for a release of the LLM API."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scripts.cli.options.common import DEBUG, FORCE, JSON, VERSION
from scripts.cli.output import Output
from scripts.reports.columns import table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builders.migration.settings import Move

_PATH = click.Path(path_type=Path)


@click.command("migrate")
@click.argument("source", metavar="SOURCE", type=_PATH)
@click.option(
    "--to",
    "new",
    type=VERSION,
    metavar="VERSION",
    help="Release of TensorRT-LLM to go to; `tpforge versions` lists them.  [default: 1.2.1]",
)
@click.option(
    "--from",
    "old",
    type=VERSION,
    metavar="VERSION",
    help="Release that an llm.yaml is of.  [default: the engine folder's]",
)
@click.option("--model", help="Model for the recipe.  [default: the engine's, when tpforge built it]")
@click.option("--name", help="Name of the engine.  [default: MODEL-tpN]")
@click.option(
    "--repository", type=_PATH, metavar="DIR", help="Map the parameters of this model repository too."
)
@click.option("--sm", type=click.IntRange(50, 200), help="Compute capability of the serving GPUs.")
@click.option(
    "--out",
    type=_PATH,
    metavar="FILE",
    help="Write the recipe here, or llm.yaml for a name that ends in .yaml.  [default: stdout]",
)
@FORCE
@JSON
@DEBUG
def command(
    source: Path, out: Path | None, force: bool, as_json: bool, new: str | None, **values: Any
) -> None:
    """Map an engine's or llm.yaml's settings to a release of the LLM API, as a table.

    SOURCE is a compiled engine's folder, ours or upstream's, its config.json, a build config of trtllm-build,
    an engine folder of runtime pytorch, or an llm.yaml, which is the YAML of trtllm-serve too. Every setting
    is mapped, changed or dropped, with the reason; a default that the other release has otherwise is written
    down. The result is a recipe, or an llm.yaml, and a plan to measure before and after. Upstream dropped
    compiled engines in 1.3.0rc21.
    """
    from builders.migration.recipe import UNKNOWN_MODEL
    from scripts.flows.migrate import migrate, moves_of, write_result
    from tpforge.trtllm.versions import DEFAULT_RELEASE

    output = Output(as_json=as_json)
    to = new or DEFAULT_RELEASE
    migrated = migrate(source, new=to, **values)
    output.result(table(_rows(migrated.moves), header=("", "setting", "value", "becomes", "why")))
    if out is not None:
        write_result(migrated, out, force=force)
        output.result(f"\nwrote {out}")
    else:
        output.result(f"\nrecipe:\n{migrated.recipe}")
        if migrated.llm_yaml is not None:
            output.result(f"llm.yaml:\n{migrated.llm_yaml}")
    output.result("measure before and after:")
    for number, line in enumerate(migrated.plan, 1):
        output.result(f"  {number}. {line}")
    if f'model = "{UNKNOWN_MODEL}"' in migrated.recipe:
        output.note("it does not say which model it was: put it in the recipe, or give --model")
    if unknown := [move.setting for move in migrated.moves if move.verdict == "unknown"]:
        output.note(f"look at by hand: {', '.join(unknown)}")
    output.record(
        "migration",
        {
            "from": migrated.old,
            "to": to,
            "moves": moves_of(migrated),
            "recipe": migrated.recipe,
            "llm_yaml": migrated.llm_yaml,
            "plan": list(migrated.plan),
            "out": str(out) if out else None,
        },
    )


def _rows(moves: Sequence[Move]) -> list[tuple[str, ...]]:
    return [
        (
            move.verdict,
            move.setting,
            str(move.value)[:40],
            ", ".join(f"{name}={value}" for name, value in move.new.items()),
            move.why,
        )
        for move in moves
    ]
