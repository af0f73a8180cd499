"""`tpforge config`: the defaults that a person set, and where each came from."""

from __future__ import annotations

import click

from scripts.cli.options.common import DEBUG, JSON
from scripts.cli.output import Output
from scripts.reports.columns import table


@click.command("config")
@JSON
@DEBUG
def command(as_json: bool) -> None:
    """Show the defaults that can be set once, and where each value came from.

    They are set in the file that is named, as `gpu = "h100-sxm"`, or by the variables of the environment. An
    option is stronger than a variable, that than the file; a command that takes one of them says so.
    """
    from tpforge.settings import all_chosen, config_file, unknown_variables

    output = Output(as_json=as_json)
    found = all_chosen()
    rows = [
        (one.setting.name, one.value or "-", one.origin, one.setting.variable, one.setting.meaning)
        for one in found
    ]
    output.result(table(rows, header=("setting", "value", "from", "variable", "what it is")))
    file = config_file()
    output.note(f"file: {file}{'' if file.is_file() else ' (not there)'}")
    unknown = unknown_variables()
    for line in unknown:
        output.note(f"warning: {line}")
    output.record(
        "config",
        {
            "file": str(file),
            "unknown_variables": list(unknown),
            "settings": {
                one.setting.name: {"value": one.value, "origin": one.origin, "variable": one.setting.variable}
                for one in found
            },
        },
    )
