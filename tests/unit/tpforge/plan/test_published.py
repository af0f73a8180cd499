"""The planner against published throughput: data apart, figures as docs/planning.md states them."""

from __future__ import annotations

import statistics
from dataclasses import replace
from functools import cache

from benchmarks.planner import PAGE, Error, band_kind, errors, is_dense, orders, report
from benchmarks.published import first_token_ms, first_tokens, rows
from tpforge.plan.calibration import calibration


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


def test_the_order_of_tp_sizes_is_right_in_nine_of_ten_groups() -> None:
    right, total, wrong = orders(dense())
    assert total > 50
    assert right / total >= 0.9
    assert len(wrong) == total - right


def test_orders_per_gpu_are_judged_by_tokens_of_one_gpu() -> None:
    right, total, wrong = orders(dense(), per_gpu=True)
    assert (right + len(wrong), total) == (total, orders(dense())[1])
    one = next(row for row, _ in dense() if row.tp == 1 and row.pp == 1)
    wide = replace(one, tp=4, measured=2 * one.measured)
    # Four GPUs give twice as much: more in total, and less per GPU; the estimates agree with the total.
    assert orders([(one, 0.0), (wide, 0.0)], per_gpu=True)[0] == 1
    assert orders([(one, 0.0), (wide, 1.5)], per_gpu=True)[0] == 0
    assert orders([(one, 0.0), (wide, 1.5)])[0] == 1


def test_orders_in_which_eight_gpus_are_slower_than_four_are_among_them() -> None:
    groups: dict[tuple[str, ...], dict[int, tuple[float, float]]] = {}
    for row, error in (*dense(), *errors(rows("calibration"), calibration().fit)):
        groups.setdefault(row.group, {})[row.tp] = (row.measured, row.measured * (1 + error))
    slower = [group for group in groups.values() if 8 in group and 4 in group and group[8][0] < group[4][0]]
    assert len(slower) > 5
    assert any(group[8][1] < group[4][1] for group in slower)


def test_the_first_token_of_one_request_is_estimated_within_25_percent_in_the_median() -> None:
    found = [first_token_ms(row, calibration().fit) / ms - 1 for row, ms in first_tokens()]
    assert len(found) == 26
    assert statistics.median(abs(error) for error in found) < 0.25


def test_eight_of_ten_rows_lie_in_the_band_of_their_kind() -> None:
    bands = {band.kind: band for band in calibration().bands}
    for kind in ("one GPU", "nvlink", "pcie", "experts"):
        shares = [1 / (1 + error) for row, error in checked() if band_kind(row) == kind]
        inside = [share for share in shares if bands[kind].low <= share <= bands[kind].high]
        assert len(shares) == bands[kind].rows
        assert 0.75 < len(inside) / len(shares) < 0.9


def test_the_page_states_the_figures_that_are_measured_now() -> None:
    text = PAGE.read_text(encoding="utf-8")
    stated = text.partition("<!-- measured: begin -->")[2].partition("<!-- measured: end -->")[0]
    lines = {"| " + " | ".join(cells) + " |" for _, _, table in report(calibration().fit) for cells in table}
    assert lines <= set(stated.splitlines())
