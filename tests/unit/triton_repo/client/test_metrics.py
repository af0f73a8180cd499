"""A metrics endpoint's text is read by Prometheus' own rules, and names stay as the server wrote them.

The notation is judged by prometheus_client's writer, which is no part of its parser.
"""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from tpforge.errors import EnvironmentUnusable
from tpforge.measure.failures.metric_samples import MetricSample
from triton_repo.client.metrics import parse_metrics, read_series

VALUES = st.text(alphabet=st.characters(blacklist_categories=("Cs",)), max_size=20)


@given(VALUES, VALUES)
def test_any_label_value_comes_back_from_what_prometheus_writes(model: str, version: str) -> None:
    registry = CollectorRegistry()
    Gauge("nv_x", "help", ["model", "version"], registry=registry).labels(model, version).set(2.5)
    (found,) = parse_metrics(generate_latest(registry).decode(), source="s")
    assert found == MetricSample("nv_x", 2.5, {"model": model, "version": version}, "gauge")
    assert read_series([(found.key, 7.0)]) == (MetricSample("nv_x", 7.0, found.labels),)


def test_counters_keep_the_name_that_the_server_writes() -> None:
    registry = CollectorRegistry()
    Counter("vllm:prompt_tokens", "help", registry=registry).inc(3)
    text = generate_latest(registry).decode()
    text += '# TYPE nv_count counter\nnv_count{model="m"} 4 1700000000000\n'
    found = {(one.name, one.value, one.kind) for one in parse_metrics(text, source="s")}
    assert {one for one in found if not one[0].endswith("_created")} == {
        ("vllm:prompt_tokens_total", 3.0, "counter"),
        ("nv_count", 4.0, "counter"),
    }


def test_a_histogram_gives_its_sum_count_and_buckets_and_the_later_of_two_counts() -> None:
    text = '# TYPE h histogram\nh_bucket{le="+Inf"} 5\nh_sum 100\nh_count 5\nplain NaN\nplain 1\nplain 2\n'
    found = {one.key: one.value for one in parse_metrics(text, source="s")}
    assert found == {'h_bucket{le="+Inf"}': 5, "h_sum": 100, "h_count": 5, "plain": 2}
    (nan,) = parse_metrics("x NaN\n", source="s")
    assert math.isnan(nan.value)


@pytest.mark.parametrize("text", ["<html>no</html>\n", "name\n", 'a{b="c} 1\n', "a b\n", "# TYPE x\n"])
def test_what_is_no_prometheus_text_is_refused_with_its_source(text: str) -> None:
    with pytest.raises(EnvironmentUnusable, match="localhost:9: its answer is not Prometheus"):
        parse_metrics(text, source="localhost:9")
