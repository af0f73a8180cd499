"""Requests that failed, as a server's metrics count them and as a run has them.

Why they failed is in logs and in their errors, which `diagnosis` reads.
"""

from __future__ import annotations

from collections.abc import Sequence

from tpforge.measure.failures.diagnosis import Finding, Strength
from tpforge.measure.failures.metric_samples import MetricSample
from tpforge.measure.runs.run import Run

NOTABLE = 0.01
"""A share of failed requests from which on it is a finding."""
_FAILURE, _SUCCESS = "nv_inference_request_failure", "nv_inference_request_success"
_CLIENTS_OWN = frozenset({"CANCELED", "CANCELLED"})
"""Reasons of failures that are the client's own doing."""


def failures_counted(metrics: Sequence[MetricSample], name: str) -> list[Finding]:
    """What Triton's counters say of each model."""
    findings = []
    for model in dict.fromkeys(sample.labels.get("model") for sample in metrics if sample.name == _FAILURE):
        own = [sample for sample in metrics if sample.labels.get("model") == model]
        failed = [
            sample
            for sample in own
            if sample.name == _FAILURE and sample.value and sample.labels.get("reason") not in _CLIENTS_OWN
        ]
        answered = sum(sample.value for sample in own if sample.name == _SUCCESS)
        number = sum(sample.value for sample in failed)
        evidence = [f"{name}: {sample.key} {sample.value:g}" for sample in failed]
        findings += _finding(number, number + answered, evidence)
    return findings


def failed_runs(run: Run) -> list[Finding]:
    """What each level of a run says."""
    findings = []
    for level in run.levels:
        kinds = ", ".join(f"{count} {kind}" for kind, count in level.errors.items() if kind != "cancelled")
        failed = level.num_failed - level.errors.get("cancelled", 0)
        findings += _finding(failed, level.num_requests, [f"{run.id}, {level.name}: {kinds}"])
    return findings


def _finding(failed: float, of: float, evidence: Sequence[str]) -> list[Finding]:
    if not of or failed / of < NOTABLE:
        return []
    strength: Strength = "proof" if failed / of > 0.5 or failed >= 100 else "hint"
    return [
        Finding(
            mode="failed_requests",
            strength=strength,
            cause=f"{failed:g} of {of:g} requests failed: what is measured is of the others alone",
            action="see the errors in samples.jsonl or the server's log; measure again without them",
            evidence=tuple(evidence),
            count=round(failed),
        )
    ]
