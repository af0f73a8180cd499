"""A server's Prometheus metrics: fetched as text, and parsed by prometheus_client.

It decides nothing from them: smoke/, load/ and the commands do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import cast

from prometheus_client.parser import text_string_to_metric_families

from tpforge.errors import EnvironmentUnusable
from tpforge.measure.failures.metric_samples import MetricKind, MetricSample
from tpforge.system.opener import read_url

_KINDS = ("counter", "gauge", "histogram", "summary")


def fetch_metrics(url: str, *, timeout_s: float = 3.0) -> str:
    """The text of a metrics endpoint.

    Raises:
        UsageError: `url` is not of http or https.
        OSError: nothing answers at `url`, or with an error.
    """
    return read_url(url, timeout_s=timeout_s).decode("utf-8", errors="replace")


def parse_metrics(text: str, *, source: str) -> tuple[MetricSample, ...]:
    """Every sample of a Prometheus text; of two of one name and labels the later counts.

    Raises:
        EnvironmentUnusable: what `source` answered is no Prometheus text.
    """
    try:
        return tuple({sample.key: sample for sample in _samples(text)}.values())
    except (ValueError, IndexError) as error:
        raise EnvironmentUnusable(
            f"{source}: its answer is not Prometheus' text format ({error or 'a line that is no sample'}); "
            "expected the metrics port of Triton, trtllm-serve or vLLM"
        ) from error


def parse_series_key(key: str) -> MetricSample:
    """The name and labels that `MetricSample.key` wrote, as telemetry of a run keeps them; the value is 0."""
    (sample,) = parse_metrics(f"{key} 0\n", source=f"series {key}")
    return sample


def read_series(series: Iterable[tuple[str, float]]) -> tuple[MetricSample, ...]:
    """Samples from the keys of a run's telemetry, each with the value that is meant."""
    found = ((parse_series_key(key), value) for key, value in series)
    return tuple(MetricSample(sample.name, value, sample.labels) for sample, value in found)


def _samples(text: str) -> Iterator[MetricSample]:
    declared = _declared(text)
    for family in text_string_to_metric_families(text):
        kind = cast(MetricKind, family.type) if family.type in _KINDS else "untyped"
        for sample in family.samples:
            # prometheus_client gives every counter OpenMetrics' ending; Triton writes its own without.
            added = kind == "counter" and sample.name not in declared
            name = sample.name.removesuffix("_total") if added else sample.name
            yield MetricSample(name, float(sample.value), sample.labels, kind)


def _declared(text: str) -> set[str]:
    """The names that TYPE lines have."""
    lines = (line.split(maxsplit=3) for line in text.split("\n"))
    return {words[2] for words in lines if words[:2] == ["#", "TYPE"] and len(words) == 4}
