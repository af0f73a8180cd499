"""Writes the generated pages of docs/: cli.md of the commands' own help, families.md, models.md, schemas.

Run by `make docs`; a test fails when a page is not current.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click

from scripts.dev.family_page import families_page
from scripts.dev.models_page import models_page
from scripts.main import cli
from tpforge.manifest import json_schema
from tpforge.outputs.atomic import write_atomic
from tpforge.plan.record import PlanRecord

DOCS = Path(__file__).resolve().parents[2] / "docs"
_WIDTH = 100


def pages() -> dict[str, str]:
    """The text of every generated page by its name in docs/."""
    record = json.loads((DOCS / "families.json").read_text(encoding="utf-8"))
    return {
        "cli.md": cli_page(),
        "engine.schema.json": schema_page(),
        "families.md": families_page(record),
        "models.md": models_page(),
        "plan.schema.json": plan_schema_page(),
    }


def cli_page() -> str:
    """Every command with the text of its --help."""
    parts = [
        "# The command line",
        "Generated from `--help` by `make docs`. Results go to stdout, progress and notes to stderr; "
        "`--json` prints one object with `schema_version` and `kind` and nothing else.",
    ]
    for path, text in _helps(cli, None, "tpforge"):
        parts.append(f"{'#' * (2 + path.count(' '))} {path}\n\n```\n{text}\n```")
    return "\n\n".join(parts) + "\n"


def schema_page() -> str:
    """The JSON schema of engine.json."""
    return json.dumps(json_schema(), indent=2, sort_keys=True) + "\n"


def plan_schema_page() -> str:
    """The JSON schema of what `tpforge plan --json` prints beside schema_version and kind."""
    return json.dumps(PlanRecord.model_json_schema(), indent=2, sort_keys=True) + "\n"


def _helps(command: click.Command, parent: click.Context | None, name: str) -> Iterator[tuple[str, str]]:
    settings = {**command.context_settings, "terminal_width": _WIDTH, "max_content_width": _WIDTH}
    context = click.Context(command, info_name=name, parent=parent, **settings)
    yield context.command_path, command.get_help(context).rstrip()
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            assert found is not None
            yield from _helps(found, context, child)


def main() -> None:
    """Write the pages and name them."""
    for name, text in pages().items():
        write_atomic(DOCS / name, text)
        print(DOCS / name)


if __name__ == "__main__":
    main()
