"""Evidence gathered for a diagnosis: log files, metrics, topology, runs, and the server that runs here.

It prints nothing; what the evidence shows is `tpforge.measure.failures.diagnosis` and `symptoms`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tpforge.errors import EnvironmentUnusable, InputRefused, UsageError
from tpforge.measure.failures.diagnosis import (
    Diagnosis,
    Evidence,
    Finding,
    diagnose_log,
    diagnose_topology,
    summarize,
)
from tpforge.measure.failures.metric_samples import MetricSample
from tpforge.measure.failures.symptoms import diagnose_metrics, diagnose_run
from tpforge.measure.runs.found_runs import find_run
from tpforge.measure.runs.run import SAMPLES_NAME, read_samples
from tpforge.outputs.atomic import os_errors
from tpforge.topology import parse_topology


@dataclass(frozen=True)
class _Look:
    """One piece of evidence, and what it shows."""

    kind: Evidence
    name: str
    findings: Sequence[Finding]


def diagnose(
    *, logs: Sequence[Path], urls: Sequence[str], runs: Sequence[str], topologies: Sequence[Path]
) -> Diagnosis:
    """Look at all that is given; without anything, at the server that runs here and this machine's GPUs.

    Raises:
        UsageError: nothing was given and nothing runs here.
        InputRefused: a file is missing or is not what it should be.
        EnvironmentUnusable: nothing answers at a URL.
    """
    looks: list[_Look] = []
    if not (logs or urls or runs or topologies):
        logs, urls = _server_here()
        looks += _topology_here()
    looks += [
        *map(_look_at_log, logs),
        *map(_look_at_metrics, urls),
        *map(_look_at_run, runs),
        *map(_look_at_topology, topologies),
    ]
    return summarize(
        [finding for look in looks for finding in look.findings],
        looked_at=[look.name for look in looks],
        kinds={look.kind for look in looks},
    )


def _look_at_log(log: Path) -> _Look:
    return _Look("log", f"log {log}", diagnose_log(_lines(log), name=str(log)))


def _look_at_metrics(url: str) -> _Look:
    return _Look("metrics", f"metrics {url}", diagnose_metrics(_fetch(url), name=url))


def _look_at_run(name: str) -> _Look:
    from triton_repo.client.metrics import read_series

    found = find_run(name)
    samples = read_samples(found.folder) if (found.folder / SAMPLES_NAME).is_file() else ()
    return _Look("run", f"run {found.folder}", diagnose_run(found.run, samples, read_series=read_series))


def _look_at_topology(path: Path) -> _Look:
    matrix = parse_topology("\n".join(_lines(path)))
    if not matrix:
        raise InputRefused(f"{path}: holds no matrix of GPUs; expected the output of nvidia-smi topo -m")
    return _Look("topology", f"topology {path}", diagnose_topology(matrix, name=str(path)))


def _topology_here() -> list[_Look]:
    from engines.host import read_topology

    matrix = read_topology()
    if not matrix:
        return []
    findings = diagnose_topology(matrix, name="this machine")
    return [_Look("topology", "topology of this machine", findings)]


def _server_here() -> tuple[list[Path], list[str]]:
    """The logs and the metrics of the only server that runs under out/.

    Raises:
        UsageError: none runs, or several.
    """
    from scripts.flows.serve import find_server

    try:
        _, metrics_url, places = find_server(None)
    except UsageError as error:
        raise UsageError(f"{error}; or give evidence: --log, --url, --run, --topology") from error
    logs = sorted(places.server.glob("*.log")) if places is not None else []
    return logs, [metrics_url] if metrics_url is not None else []


def _lines(path: Path) -> list[str]:
    """The lines of a file, of a pipe such as ``<(zcat log.gz)``, or of stdin for -."""
    if str(path) == "-":
        return sys.stdin.buffer.read().decode("utf-8", errors="replace").splitlines()
    if path.is_dir() or not path.exists():
        raise InputRefused(f"{path}: {'is a folder, not a file' if path.is_dir() else 'no such file'}")
    with os_errors(path):
        return path.read_text("utf-8", errors="replace").splitlines()


def _fetch(url: str) -> tuple[MetricSample, ...]:
    from triton_repo.client.metrics import fetch_metrics, parse_metrics

    whole = url if "//" in url else f"http://{url}"
    bare = whole.rstrip("/")
    target = bare if bare.count("/") > 2 else f"{bare}/metrics"
    try:
        return parse_metrics(fetch_metrics(target), source=target)
    except (OSError, ValueError) as error:
        raise EnvironmentUnusable(
            f"{target}: no metrics there ({error}); give Triton's metrics port, as in localhost:8002"
        ) from error
