"""Evidence gathered for a diagnosis: log files, metrics, topology, runs, and the server that runs here.

It prints nothing; what the evidence shows is `tpforge.measure.diagnosis` and `symptoms`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tpforge.atomic import os_errors
from tpforge.errors import EnvironmentUnusable, InputRefused, UsageError
from tpforge.measure.diagnosis import (
    Diagnosis,
    Evidence,
    Finding,
    diagnose_log,
    diagnose_topology,
    summarize,
)
from tpforge.measure.found_runs import find_run
from tpforge.measure.metric_samples import MetricSample
from tpforge.measure.run import SAMPLES_NAME, read_samples
from tpforge.measure.symptoms import diagnose_metrics, diagnose_run
from tpforge.topology import parse_topology


def diagnose(
    *, logs: Sequence[Path], urls: Sequence[str], runs: Sequence[str], topologies: Sequence[Path]
) -> Diagnosis:
    """Look at all that is given; without anything, at the server that runs here and this machine's GPUs.

    Raises:
        UsageError: nothing was given and nothing runs here.
        InputRefused: a file is missing or is not what it should be.
        EnvironmentUnusable: nothing answers at a URL.
    """
    findings: list[Finding] = []
    looked_at: list[str] = []
    kinds: set[Evidence] = set()
    if not (logs or urls or runs or topologies):
        logs, urls = _server_here()
        from engines.host import read_topology

        if matrix := read_topology():
            findings += diagnose_topology(matrix, name="this machine")
            looked_at.append("topology of this machine")
            kinds.add("topology")
    for log in logs:
        findings += diagnose_log(_lines(log), name=str(log))
        looked_at.append(f"log {log}")
        kinds.add("log")
    for url in urls:
        findings += diagnose_metrics(_fetch(url), name=url)
        looked_at.append(f"metrics {url}")
        kinds.add("metrics")
    if runs:
        from triton_repo.client.metrics import read_series
    for name in runs:
        found = find_run(name)
        samples = read_samples(found.folder) if (found.folder / SAMPLES_NAME).is_file() else ()
        findings += diagnose_run(found.run, samples, read_series=read_series)
        looked_at.append(f"run {found.folder}")
        kinds.add("run")
    for path in topologies:
        matrix = parse_topology("\n".join(_lines(path)))
        if not matrix:
            raise InputRefused(f"{path}: holds no matrix of GPUs; expected the output of nvidia-smi topo -m")
        findings += diagnose_topology(matrix, name=str(path))
        looked_at.append(f"topology {path}")
        kinds.add("topology")
    return summarize(findings, looked_at=looked_at, kinds=kinds)


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
    if not path.is_file():
        raise InputRefused(f"{path}: no such file")
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
