"""How often the interval of a p95 holds the true one, beside a bootstrap over repeats, by simulation.

Run it as ``python -m benchmarks.intervals [--draws 400]``. Requests are log-normal, and repeats differ by a
factor of their own; the true p95 is that of many draws of all of it. Draws are seeded. It measures no server.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.tables import head, line
from tpforge.measure.intervals import positive_interval
from tpforge.measure.statistics import percentile, percentiles

SIGMA = 0.3
"""Of the logarithms of a request's latency."""
BETWEEN = (0.0, 0.05, 0.1)
"""By how much repeats differ."""
RESAMPLES = 400


@dataclass(frozen=True)
class Drawn:
    """One run: latencies by repeat."""

    repeats: tuple[tuple[float, ...], ...]

    @property
    def pooled(self) -> float:
        """The p95 of all requests."""
        return p95([value for repeat in self.repeats for value in repeat])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=400)
    num_draws: int = parser.parse_args().draws
    print(head("repeats x requests", "this interval", "bootstrap over repeats"))
    for num_repeats in (3, 5, 8):
        own, resampled = zip(
            *(_shares(num_repeats, 40, one, draws=num_draws) for one in BETWEEN), strict=True
        )
        print(line(f"{num_repeats} x 40", _range(own), _range(resampled)), flush=True)


def _shares(num_repeats: int, num_requests: int, between: float, *, draws: int) -> tuple[float, float]:
    """Of so many runs, the shares whose two intervals hold the truth."""
    generator = random.Random(f"{num_repeats} {between}")
    truth = _truth(between)
    own = resampled = 0
    for _ in range(draws):
        run = _draw(num_repeats, num_requests, between, generator)
        found = positive_interval(run.pooled, [p95(repeat) for repeat in run.repeats])
        own += found is not None and found.low <= truth <= found.high
        low, high = _bootstrap(run, generator)
        resampled += low <= truth <= high
    return own / draws, resampled / draws


def _draw(num_repeats: int, num_requests: int, between: float, generator: random.Random) -> Drawn:
    repeats = []
    for _ in range(num_repeats):
        level = generator.gauss(0, between)
        repeats.append(tuple(math.exp(level + generator.gauss(0, SIGMA)) for _ in range(num_requests)))
    return Drawn(tuple(repeats))


def _truth(between: float) -> float:
    """The p95 of requests of all repeats: normal logarithms of both variances."""
    return math.exp(1.6448536269514722 * math.hypot(SIGMA, between))


def _bootstrap(run: Drawn, generator: random.Random) -> tuple[float, float]:
    """The middle 95 % of pooled p95s of repeats drawn with replacement."""
    found = [
        Drawn(tuple(generator.choices(run.repeats, k=len(run.repeats)))).pooled for _ in range(RESAMPLES)
    ]
    low, high = percentiles(found, (2.5, 97.5))
    return low, high


def p95(values: Sequence[float]) -> float:
    """By the program's own definition."""
    return percentile(values, 95)


def _range(shares: Sequence[float]) -> str:
    low, high = (f"{100 * one:.0f}" for one in (min(shares), max(shares)))
    return f"{low} %" if low == high else f"{low} to {high} %"


if __name__ == "__main__":
    main()
