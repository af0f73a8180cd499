"""Times under load against measured ones that nothing was fitted to, and the wait by hand."""

from __future__ import annotations

import statistics
from functools import cache

import pytest

from benchmarks.latency import Found, estimates, latency_rows
from tests.unit.tpforge.plan.test_speed import estimate, make_engine
from tpforge.plan.speed.calibration import calibration
from tpforge.plan.speed.load import Load
from tpforge.plan.speed.throughput import StepModel


@cache
def unseen() -> tuple[Found, ...]:
    rows = [row for row in latency_rows() if not row.is_fitted]
    return tuple(estimates(calibration().fit, rows))


def sizes(kind: str) -> list[float]:
    """Errors of the unseen rows by size."""
    return sorted(abs(getattr(one, kind) / getattr(row, kind) - 1) for row, one in unseen())


def test_the_first_token_under_load_is_within_35_percent_in_the_median_of_unseen_rows() -> None:
    found = sizes("ttft_ms")
    assert len(found) > 450
    assert {row.model for row, _ in unseen()} == {"llama-3.1-8b", "qwen3-32b", "qwen3-235b-a22b"}
    assert statistics.median(found) < 0.35
    assert found[int(0.9 * len(found))] < 0.80


def test_a_token_under_load_is_within_13_percent_in_the_median_of_unseen_rows() -> None:
    assert statistics.median(sizes("tpot_ms")) < 0.13


def test_one_request_alone_waits_for_the_server_and_its_own_prompt() -> None:
    engine = make_engine("llama-3.1-8b", "h100", tp=1)
    fit = calibration().fit
    alone = estimate(engine, Load(2048, 128, concurrency=1))
    prefill = 1e3 * StepModel(engine, fit).prefill(Load(2048, 128)).total
    assert alone.ttft_ms == pytest.approx(fit.first_token.start_ms + prefill)


def test_the_first_token_comes_later_the_more_requests_run_and_the_longer_prompts_are() -> None:
    engine = make_engine("llama-3.1-8b", "h100", tp=1)
    by_load = [estimate(engine, Load(1024, 256, concurrency=count)).ttft_ms for count in (1, 4, 16, 64)]
    by_prompt = [estimate(engine, Load(length, 256, concurrency=16)).ttft_ms for length in (128, 1024, 8192)]
    assert by_load == sorted(by_load)
    assert by_prompt == sorted(by_prompt)
    assert by_load[-1] > 3 * by_load[0]


def test_no_time_of_a_gpu_without_a_row_claims_rows() -> None:
    found = calibration()
    assumed = next(band for band in found.bands if band.kind == "unmeasured GPU")
    measured = next(band for band in found.bands if band.kind == "one GPU")
    wide, narrow = found.ttft_band(assumed), found.ttft_band(measured)
    assert (wide.rows, narrow.rows) == (0, len(unseen()))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_the_band_of_a_later_token_is_that_of_the_throughput_turned_round() -> None:
    band = next(band for band in calibration().bands if band.kind == "pcie")
    times = calibration().tpot_band(band)
    assert (times.low, times.high, times.rows) == (1 / band.high, 1 / band.low, band.rows)
