"""`tpforge diagnose`: failure modes from logs, metrics, topology and runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scripts.cli.options.common import DEBUG, JSON
from scripts.cli.output import Output
from scripts.reports.columns import table

if TYPE_CHECKING:
    from tpforge.measure.failures.diagnosis import Diagnosis, Finding

_FILE = click.Path(path_type=Path)


@click.command("diagnose")
@click.option(
    "--log", "logs", multiple=True, type=_FILE, metavar="FILE", help="A log, - is stdin; may be repeated."
)
@click.option(
    "--url",
    "urls",
    multiple=True,
    metavar="HOST:PORT",
    help="A server's metrics port, such as localhost:8002.",
)
@click.option(
    "--run", "runs", multiple=True, metavar="RUN", help="A run, by its folder or id; may be repeated."
)
@click.option(
    "--topology",
    "topologies",
    multiple=True,
    type=_FILE,
    metavar="FILE",
    help="Output of nvidia-smi topo -m.",
)
@JSON
@DEBUG
def command(
    logs: tuple[Path, ...],
    urls: tuple[str, ...],
    runs: tuple[str, ...],
    topologies: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Look for the known failure modes, with evidence, cause and what to do.

    Out of memory despite sharding, slow or broken communication, uneven GPUs, an unsupported quantized
    format, latency spikes under load; engines that do not fit the machine, processes that end, GPUs at fault,
    failed requests; and errors in logs that it does not know. Without options it looks at the server that
    runs here. That no sign was found proves nothing. Exit status 0 whatever it finds.
    """
    from scripts.flows import diagnose

    output = Output(as_json=as_json)
    found = diagnose.diagnose(logs=logs, urls=urls, runs=runs, topologies=topologies)
    output.result(_text(found))
    fields = json.loads(found.model_dump_json())
    fields.pop("schema_version")
    output.record("diagnosis", fields)


def _text(found: Diagnosis) -> str:
    from tpforge.measure.failures.diagnosis import TITLES

    lines = [f"looked at: {', '.join(found.looked_at) or 'nothing'}", ""]
    lines.append(
        table(
            [(TITLES[mode], state) for mode, state in found.modes.items()], header=("failure mode", "state")
        )
    )
    for item in found.findings:
        lines += ["", *_lines(item, TITLES[item.mode])]
    if found.facts:
        lines += ["", "facts:"]
        for item in found.facts:
            lines += [f"  {item.cause} ({item.count}x): {item.evidence[0]}"]
    return "\n".join(lines)


def _lines(item: Finding, title: str) -> list[str]:
    more = f"  and {item.count - len(item.evidence)} more" if item.count > len(item.evidence) else None
    lines = [
        f"{title.upper()} ({item.strength})",
        f"  cause: {item.cause}",
        f"  to do: {item.action}",
        *(f"  seen:  {line}" for line in item.evidence),
    ]
    if more:
        lines.append(more)
    if item.source:
        lines.append(f"  known from: {item.source}")
    return lines
