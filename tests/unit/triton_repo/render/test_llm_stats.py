"""The LLM API's requests, tokens and KV blocks come out under upstream's names, of upstream's iteration."""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.fake_triton import MetricFamily, Server
from triton_repo.monitoring.queries import QUERIES, metric_names
from triton_repo.monitoring.rules import RECORDS
from triton_repo.render.repository import TEMPLATES

UPSTREAM = json.loads(
    (Path(__file__).parents[3] / "contract" / "upstream" / "iteration_stats.json").read_text()
)
ITERATION: dict[str, Any] = UPSTREAM["iteration"]
REQUESTS, BLOCKS = "nv_trt_llm_request_metrics", "nv_trt_llm_kv_cache_block_metrics"


@pytest.fixture
def llm_stats(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", Server().module)
    monkeypatch.syspath_prepend(str(TEMPLATES / "pytorch" / "front" / "1" / "llm"))
    monkeypatch.setattr(MetricFamily, "families", [])
    module = importlib.import_module("llm_stats")
    monkeypatch.setattr(module, "_PERIOD_S", 0.0)
    yield module
    sys.modules.pop("llm_stats", None)


def shown() -> dict[str, dict[str, float]]:
    """By family and the value of its own label."""
    own = ("model", "version")
    return {
        family.name: {
            "".join(value for key, value in labels if key not in own): metric.value
            for labels, metric in family.gauges.items()
        }
        for family in MetricFamily.families
    }


def said(**changes: Any) -> dict[str, Any]:
    return {**ITERATION, **changes}


def test_an_iteration_of_upstream_is_shown_under_names_of_upstream(llm_stats: Any) -> None:
    stats = llm_stats.LlmModelStats(model="tensorrt_llm", version="1")
    stats.opened(3)
    stats.iteration(ITERATION)
    now = shown()
    assert now[BLOCKS] == {"max": 5358, "free": 5350, "used": 8, "fraction": 8 / 5358, "tokens_per": 32}
    assert now[REQUESTS] == {"active": 1, "scheduled": 1, "waiting": 2}
    stats.closed(3, num_input_tokens=13, num_output_tokens=40)
    for name, values in shown().items():
        if name != "tpforge_model_progress":
            [known] = UPSTREAM["names"][name].values() or [[""]]
            assert set(values) <= set(known), name


def test_nothing_is_held_once_the_last_request_has_ended(llm_stats: Any) -> None:
    stats = llm_stats.LlmModelStats(model="tensorrt_llm", version="1")
    stats.opened(2)
    stats.iteration(said(numActiveRequests=2))
    stats.closed(1, num_input_tokens=5, num_output_tokens=7)
    assert shown()[REQUESTS] == {"active": 1, "scheduled": 1, "waiting": 0}
    assert shown()[BLOCKS]["used"] == 8
    stats.closed(1, num_input_tokens=6, num_output_tokens=9)
    assert shown()[REQUESTS] == {"active": 0, "scheduled": 0, "waiting": 0}
    assert (shown()[BLOCKS]["used"], shown()[BLOCKS]["free"], shown()[BLOCKS]["fraction"]) == (0, 5358, 0)
    tokens = {name: value[""] for name, value in shown().items() if name.startswith("nv_llm")}
    assert tokens == {
        "nv_llm_input_token_len_sum": 11,
        "nv_llm_input_token_len_count": 2,
        "nv_llm_output_token_len_sum": 16,
        "nv_llm_output_token_len_count": 2,
    }


def test_a_request_that_no_iteration_takes_up_is_seen_to_wait(llm_stats: Any) -> None:
    stats = llm_stats.LlmModelStats(model="tensorrt_llm", version="1")
    stats.opened(1)
    stats.iteration(ITERATION)
    stats.closed(1, num_input_tokens=1, num_output_tokens=1)
    stats.opened(4)
    assert shown()[REQUESTS] == {"active": 0, "scheduled": 0, "waiting": 4}


def test_without_iterations_the_requests_are_counted_all_the_same(llm_stats: Any) -> None:
    stats = llm_stats.LlmModelStats(model="tensorrt_llm", version="1")
    stats.opened(2)
    assert shown() == {REQUESTS: {"active": 2, "scheduled": 2, "waiting": 0}}


def test_no_metric_is_set_while_no_request_is_in_flight(llm_stats: Any) -> None:
    """Triton 2.51 leaves a stub waiting for ever that sets one while its model is unloaded."""
    stats = llm_stats.LlmModelStats(model="tensorrt_llm", version="1")
    stats.iteration(ITERATION)
    assert shown() == {}


def test_an_iteration_without_a_cache_or_a_batch_is_taken(llm_stats: Any) -> None:
    stats = llm_stats.LlmModelStats(model="tensorrt_llm", version="1")
    stats.opened(1)
    stats.iteration(said(kvCacheStats=None, inflightBatchingStats=None))
    assert set(shown()) == {REQUESTS, "tpforge_model_progress"}


def test_the_follower_asks_again_when_upstream_has_said_all_and_ends(llm_stats: Any) -> None:
    taken: list[dict[str, Any]] = []

    class Llm:
        async def get_stats_async(self, timeout: float) -> AsyncIterator[dict[str, Any]]:
            yield {"iter": len(taken)}

    async def run() -> None:
        follower = llm_stats.Follower(taken.append, log_error=pytest.fail)
        llm_stats._PAUSE_S = 0
        follower.begin(Llm())
        follower.begin(Llm())
        while len(taken) < 3:
            await asyncio.sleep(0)
        await follower.end()

    asyncio.run(run())
    assert taken[:3] == [{"iter": 0}, {"iter": 1}, {"iter": 2}]


def test_statistics_that_cannot_be_read_are_told_once(llm_stats: Any) -> None:
    told: list[str] = []

    class Llm:
        async def get_stats_async(self, timeout: float) -> AsyncIterator[dict[str, Any]]:
            yield {}

    async def run() -> None:
        follower = llm_stats.Follower(lambda one: one["numActiveRequests"], log_error=told.append)
        follower.begin(Llm())
        while not told:
            await asyncio.sleep(0)
        await follower.end()

    asyncio.run(run())
    assert told == ["no more statistics of the LLM API: KeyError: 'numActiveRequests'"]


def test_rules_and_panels_of_tensorrt_find_their_metrics_here_too(llm_stats: Any) -> None:
    stats = llm_stats.LlmModelStats(model="tensorrt_llm", version="1")
    stats.opened(1)
    stats.iteration(ITERATION)
    stats.closed(1, num_input_tokens=1, num_output_tokens=1)
    asked = {
        name for query in QUERIES if query.source == "tensorrt" for name in metric_names(query.expression)
    }
    asked |= {name for text in RECORDS.values() for name in metric_names(text)}
    of_tritons = {name for name in asked if name.startswith(("nv_inference", "nv_gpu"))}
    assert asked - of_tritons <= set(shown())
