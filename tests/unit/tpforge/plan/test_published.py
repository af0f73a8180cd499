"""The planner against published throughput: data apart, figures as docs/planning.md states them."""

from __future__ import annotations

import statistics
from dataclasses import replace
from functools import cache

import pytest

from benchmarks.bands import (
    DIMENSIONS,
    Residual,
    coverage,
    throughput_bands,
    throughput_residuals,
    time_bands,
    time_residuals,
    widening,
)
from benchmarks.measured import Measured, errors, is_dense
from benchmarks.orders import Error, orders
from benchmarks.planner import PAGE
from benchmarks.planner_tables import misses
from benchmarks.published import first_token_ms, first_tokens, rows
from benchmarks.sentences import blocks, with_blocks
from tpforge.errors import InputRefused
from tpforge.plan.speed.calibration import calibration


@cache
def checked() -> tuple[Error, ...]:
    return tuple(errors(rows("check"), calibration().fit))


def dense() -> list[Error]:
    return [one for one in checked() if is_dense(one[0])]


def test_no_row_is_both_fitted_to_and_judged_by() -> None:
    def keys(name: str) -> set[tuple[object, ...]]:
        return {(*row.group, row.tp) for row in rows(name)}

    fitted, judged = keys("calibration"), keys("check")
    assert len(fitted) == len(rows("calibration"))
    assert len(judged) == len(rows("check"))
    assert not fitted & judged


def test_the_median_error_on_dense_models_of_each_kind_of_gpu_is_under_25_percent() -> None:
    kinds = {row.gpu for row, _ in dense()}
    assert {"a100-sxm-80gb", "h100-sxm", "h200-sxm", "b200", "l40s"} <= kinds
    for kind in kinds:
        assert statistics.median(abs(error) for row, error in dense() if row.gpu == kind) < 0.25, kind


def test_the_order_of_tp_sizes_is_right_in_eight_of_ten_groups_and_wrong_in_none() -> None:
    found = orders(dense(), per_gpu=False, bands=calibration().bands)
    assert found.groups > 50
    assert found.right / found.groups >= 0.8
    assert not found.wrong


def test_the_order_per_gpu_is_right_or_called_undecided_in_85_of_100_groups() -> None:
    """Nothing is ranked by chance: of wrong pairs those within the band are said to be undecided."""
    found = orders(dense(), per_gpu=True, bands=calibration().bands)
    assert found.groups == orders(dense(), per_gpu=False, bands=calibration().bands).groups
    assert (found.right + found.undecided) / found.groups >= 0.85
    assert found.right >= 50


def test_orders_per_gpu_are_judged_by_tokens_of_one_gpu_and_near_ones_are_undecided() -> None:
    bands = calibration().bands
    one = next(row for row, _ in dense() if row.tp == 1 and row.pp == 1)
    wide = replace(one, tp=4, measured=2 * one.measured)
    # Four GPUs give twice as much: more in total, and less per GPU; the estimates agree with the total.
    assert orders([(one, 0.0), (wide, 0.0)], per_gpu=True, bands=bands).right == 1
    assert len(orders([(one, 0.0), (wide, 3.0)], per_gpu=True, bands=bands).wrong) == 1
    # By estimate 1.2 times as many per GPU: the band over NVLink reaches below 0.83 of that.
    assert orders([(one, 0.0), (wide, 1.4)], per_gpu=True, bands=bands).undecided == 1
    assert orders([(one, 0.0), (wide, 3.0)], per_gpu=False, bands=bands).right == 1


def test_where_eight_gpus_are_slower_than_four_none_is_thought_to_be_worth_eight() -> None:
    groups: dict[tuple[str, ...], dict[int, tuple[float, float]]] = {}
    for row, error in (*dense(), *errors(rows("calibration"), calibration().fit)):
        groups.setdefault(row.group, {})[row.tp] = (row.measured, row.measured * (1 + error))
    slower = [group for group in groups.values() if 8 in group and 4 in group and group[8][0] < group[4][0]]
    assert len(slower) > 5
    assert all(group[8][1] < 1.5 * group[4][1] for group in slower)


def test_the_first_token_of_one_request_is_estimated_within_25_percent_in_the_median() -> None:
    found = [first_token_ms(row, calibration().fit) / ms - 1 for row, ms in first_tokens()]
    assert len(found) == 26
    assert statistics.median(abs(error) for error in found) < 0.25


def test_the_bands_are_those_that_the_rows_give() -> None:
    found = calibration()
    given = {band.kind: band for band in throughput_bands(found.fit)}
    assert given == {band.kind: band for band in found.bands if band.rows}
    assert time_bands(found.fit) == found.time_bands
    assert all(band.low < 1 <= band.high for band in found.bands)


@pytest.mark.parametrize("what", ["tokens/s", "ttft_ms", "tpot_ms"])
def test_of_groups_left_out_about_eight_of_ten_rows_lie_in_the_bands_of_the_others(what: str) -> None:
    fit = calibration().fit
    residuals = throughput_residuals(fit) if what == "tokens/s" else time_residuals(fit, what)
    groups = coverage(what, residuals, width=widening(residuals))
    assert {one.dimension for one in groups} == set(DIMENSIONS)
    shares = [one.share for one in groups]
    assert 0.75 <= sum(shares) / len(shares) <= 0.88
    assert 0.75 <= sum(one.inside for one in groups) / sum(one.rows for one in groups) <= 0.88
    assert shares == sorted(shares)
    assert shares[0] >= 0.55


def test_rows_of_an_older_release_lie_in_the_bands_of_their_kind_and_of_older_releases_together() -> None:
    def of(release: str, value: float) -> Residual:
        return Residual("nvlink", (release, "h100-sxm", "m"), value)

    newer = [of("1.0", 0.01 * step) for step in range(-10, 11)]
    older = [of("0.14", -0.3 + 0.01 * step) for step in range(-10, 11)]
    assert older[0].kinds == ("nvlink", "older release")
    by_gpu = [Residual(one.kind, (one.group[0], "a100", "m"), one.value) for one in (*newer, *older)]
    found = coverage("", [*newer, *older, *by_gpu], width=1)
    left_out = next(one for one in found if one.name == "a100")
    assert left_out.share > 0.8


def test_a_miss_is_a_row_that_is_off_by_more_the_worst_first() -> None:
    (row, _), *_ = dense()
    found = misses([(row, 0.3), (row, -0.5), (row, 0.2)], beyond=0.25)
    assert [one[-1] for one in found] == ["-50 %", "+30 %"]


def test_architectures_that_nothing_was_fitted_to_are_within_a_fifth_in_the_median() -> None:
    found = errors(rows("architectures"), calibration().fit)
    assert {row.model for row, _ in found} == {"deepseek-v3", "gpt-oss-20b", "gpt-oss-120b"}
    assert statistics.median(abs(error) for _, error in found) < 0.2
    for kind in ("h100-sxm", "h200-sxm", "b200", "gb200"):
        assert abs(statistics.median(error for row, error in found if row.gpu == kind)) < 0.2, kind


def test_the_page_states_the_figures_that_are_measured_now_in_tables_and_sentences() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert with_blocks(page, blocks(Measured(calibration().fit))) == page


def test_a_page_without_a_block_is_refused_and_a_changed_figure_is_put_right() -> None:
    page = "before 7\n<!-- planner: one -->\nold 5 %\n<!-- end of one -->\nafter\n"
    assert with_blocks(page, {"one": "new 6 %"}) == page.replace("old 5 %", "new 6 %")
    with pytest.raises(InputRefused, match="found 0 blocks of two"):
        with_blocks(page, {"two": ""})
