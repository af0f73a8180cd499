"""When requests are due: Poisson gaps are exponential, constant ones equal, a trace is as recorded."""

from __future__ import annotations

import json
from itertools import islice, pairwise
from statistics import fmean

import numpy
import pytest
from scipy import stats

from tpforge.errors import InputRefused, UsageError
from triton_repo.load.schedule import Closed, Open, Trace, TraceRow, arrivals, loads, parse_trace


def test_poisson_gaps_are_exponential_and_independent() -> None:
    times = list(arrivals(Open(20.0), until_s=500, seed=3))
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert fmean(gaps) == pytest.approx(0.05, rel=0.03)
    assert stats.kstest(gaps, stats.expon(scale=0.05).cdf).pvalue > 0.01
    assert abs(numpy.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < 0.03


def test_counts_of_a_poisson_process_have_variance_equal_to_their_mean() -> None:
    times = numpy.array(list(arrivals(Open(5.0), until_s=2000, seed=11)))
    counts = numpy.bincount(times.astype(int), minlength=2000)
    assert counts.var() == pytest.approx(counts.mean(), rel=0.1)
    assert counts.mean() == pytest.approx(5.0, rel=0.05)


def test_the_same_seed_gives_the_same_times_and_another_one_does_not() -> None:
    first, again, other = (list(arrivals(Open(3.0), until_s=50, seed=seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_constant_gaps_start_with_a_whole_one() -> None:
    assert list(arrivals(Open(4.0, "constant"), until_s=1.1, seed=0)) == [0.25, 0.5, 0.75, 1.0]


def test_a_load_without_end_goes_on() -> None:
    assert list(islice(arrivals(Open(2.0, "constant"), until_s=float("inf"), seed=0), 3)) == [0.5, 1.0, 1.5]


def test_a_trace_starts_at_its_first_request_and_ends_at_the_limit() -> None:
    lines = [{"timestamp": ms, "input_length": 5, "output_length": 7} for ms in (1000, 1500, 4000)]
    lines[1]["text_input"] = "hello"  # type: ignore[assignment]
    trace = parse_trace("\n".join(map(json.dumps, lines)), file="t.jsonl")
    assert trace.rows == (
        TraceRow(0.0, 5, 7),
        TraceRow(0.5, 5, 7, "hello"),
        TraceRow(3.0, 5, 7),
    )
    assert list(arrivals(trace, until_s=2.0, seed=0)) == [0.0, 0.5]


def test_every_wrong_line_of_a_trace_is_named() -> None:
    text = '{"timestamp": 5}\n{"timestamp": 1}\n{"time": 5}\nx\n{"timestamp": 9, "input_length": 0}\n'
    with pytest.raises(InputRefused) as caught:
        parse_trace(text, file="t.jsonl")
    said = str(caught.value)
    assert [f"line {number}:" in said for number in (1, 2, 3, 4, 5)] == [False, True, True, True, True]
    odd = ["NaN", "Infinity", "true", '5, "text_input": "\\ud800"', "[" * 100_000]
    with pytest.raises(InputRefused) as caught:
        parse_trace("\n".join(f'{{"timestamp": {one}}}' for one in odd), file="t.jsonl")
    assert all(f"line {number}:" in str(caught.value) for number in range(1, 6))


def test_levels_are_one_kind_of_load() -> None:
    assert loads(concurrency=(1, 4)) == (Closed(1), Closed(4))
    assert loads(rates=(0.5,), constant=True) == (Open(0.5, "constant"),)
    assert loads() == (Closed(1),)
    trace = Trace("t", (TraceRow(0.0),))
    assert loads(trace=trace) == (trace,)
    for wrong in ({"concurrency": (1,), "rates": (1.0,)}, {"concurrency": (2, 2)}, {"rates": (0.0,)}):
        with pytest.raises(UsageError):
            loads(**wrong)  # type: ignore[arg-type]
