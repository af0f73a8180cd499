"""How often verdicts are wrong, intervals right and changes seen, by simulation: `-m benchmarks.verdicts`.

It measures no server: runs are drawn whose truth is known, and judged by `tpforge compare`'s own functions.
Draws are seeded.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.tables import head, line
from tpforge.measure.comparison.judging import Judgement, judge_repeats
from tpforge.measure.comparison.power import smallest_change
from tpforge.measure.comparison.rows import Measured, Row
from tpforge.measure.comparison.turns import Turns, turns_of
from tpforge.measure.comparison.verdicts import ALPHA, DEFAULT_PRIMARY, PRIMARY_SHARE, with_verdicts
from tpforge.measure.quality import share_drop
from tpforge.measure.statistics import difference_interval

LEVELS = ("concurrency 1", "concurrency 4", "concurrency 16")
METRICS = (DEFAULT_PRIMARY.metric, *(f"metric {number}" for number in range(1, 10)))
PRIMARY_ALPHA = ALPHA * PRIMARY_SHARE / len(LEVELS)
"""What the primary metric of one level is judged at."""

Drift = Callable[[float], float]


@dataclass(frozen=True)
class Design:
    """The order in which A and B are measured, a minute each; how a repeat scatters, and what drifts."""

    order: str
    noise: float
    drift: Drift = lambda _minute: 0.0
    effect: float = 0.0

    @property
    def turns(self) -> tuple[Turns, list[int], list[int]]:
        """The rounds, and the minutes of A and of B."""
        first, second = (
            [minute for minute, name in enumerate(self.order) if name == option] for option in "AB"
        )
        return turns_of(_times(first), _times(second)), first, second


def main() -> int:
    """Print every table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--draws", type=int, default=2000, help="comparisons a line (default 2000)")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    for title, header, rows in (
        (
            "Comparisons of equal runs that call something better or worse",
            ("how A and B were measured", "one row", "some of 30 rows, each alone", "the comparison"),
            false_verdicts,
        ),
        ("Intervals (95 %) that hold the truth", ("of what", "hold it"), coverage),
        (
            "What the primary metric sees in 8 of 10 cases at three levels, and how often it was seen",
            ("rounds", "noise of a repeat", "printed", "seen"),
            power,
        ),
        (
            "A true +8 % that is seen, each round of its own speed (10 %), repeats with 1.5 % noise",
            ("rounds", "by rounds", "comparing means (Welch)"),
            drifting,
        ),
    ):
        print(f"\n{title}:\n\n{head(*header)}")
        for row in rows(given.draws, random.Random(given.seed)):
            print(line(*row), flush=True)
    return 0


def false_verdicts(draws: int, generator: random.Random) -> Iterator[tuple[str, ...]]:
    """Comparisons of equal runs: each row alone at 5 %, and the verdicts of the comparison."""
    for name, design in (
        ("in turns, 3 rounds", Design("ABBAAB", 0.03)),
        ("in turns, 4 rounds, 8 % steady drift", Design("ABBAABBA", 0.03, _steady(8))),
        ("the same order always, 4 rounds, 8 % drift", Design("ABABABAB", 0.03, _steady(8))),
        ("one after the other, 3 repeats, 8 % drift", Design("AAABBB", 0.03, _steady(6))),
    ):
        alone = any_alone = together = 0
        for _ in range(draws):
            found = [(row, draw(design, generator)) for row in _rows()]
            calls = [_is_called_alone(judgement) for _, judgement in found]
            alone += calls[0]
            any_alone += any(calls)
            rows = with_verdicts(found, primary=DEFAULT_PRIMARY)
            together += any(row.verdict != "undecided" for row in rows)
        yield name, _share(alone, draws), _share(any_alone, draws), _share(together, draws)


def coverage(draws: int, generator: random.Random) -> Iterator[tuple[str, ...]]:
    """How often the interval of a change holds the true one, and that of a drop of quality."""
    for num_rounds in (2, 3, 5, 8):
        design = Design(_in_turns(num_rounds), 0.05, effect=math.log(1.1))
        found = [draw(design, generator) for _ in range(draws)]
        hits = sum(
            one.low is not None and one.high is not None and one.low <= 10 <= one.high for one in found
        )
        yield f"change of +10 %, {num_rounds} rounds", _share(hits, draws)
    drops = sum(_drop_holds_truth(generator) for _ in range(draws))
    yield "drop of 6 points, 200 answers", _share(drops, draws)


def power(draws: int, generator: random.Random) -> Iterator[tuple[str, ...]]:
    """The change that is printed as seen in 8 of 10 cases, and how often it is."""
    for num_rounds, noise in ((2, 0.01), (3, 0.02), (3, 0.05), (5, 0.02), (5, 0.05), (8, 0.05)):
        printed = smallest_change(num_rounds, noise=noise, alpha=PRIMARY_ALPHA)
        if printed > 3:
            yield str(num_rounds), f"{noise:.0%}", "more than 4 times", "not drawn"
            continue
        design = Design(_in_turns(num_rounds), noise, effect=math.log1p(printed))
        seen = sum((draw(design, generator).p_value or 0.0) <= PRIMARY_ALPHA for _ in range(draws))
        yield str(num_rounds), f"{noise:.0%}", f"{100 * printed:.0f} %", _share(seen, draws)


def drifting(draws: int, generator: random.Random) -> Iterator[tuple[str, ...]]:
    """What pairing is for: every round has a speed of its own, which both of its repeats share."""
    for num_rounds in (3, 5):
        paired = welch = 0
        for _ in range(draws):
            design = Design(
                _in_turns(num_rounds), 0.015, _jumping(num_rounds, generator), effect=math.log(1.08)
            )
            first, second, turns = _repeats(design, generator)
            paired += _is_called_alone(judge_repeats(first, second, turns=turns))
            interval = difference_interval(first, second)
            welch += interval is not None and not interval.low <= 0 <= interval.high
        yield str(num_rounds), _share(paired, draws), _share(welch, draws)


def draw(design: Design, generator: random.Random) -> Judgement:
    """One metric of two runs of this design."""
    first, second, turns = _repeats(design, generator)
    return judge_repeats(first, second, turns=turns)


def _repeats(design: Design, generator: random.Random) -> tuple[list[float], list[float], Turns]:
    turns, ours, theirs = design.turns
    first, second = (
        [math.exp(design.drift(minute) + effect + generator.gauss(0, design.noise)) for minute in minutes]
        for minutes, effect in ((ours, 0.0), (theirs, design.effect))
    )
    return first, second, turns


def _is_called_alone(found: Judgement) -> bool:
    """What the interval of a row alone would say, also of runs that get no verdict."""
    return found.low is not None and found.high is not None and not found.low <= 0 <= found.high


def _drop_holds_truth(generator: random.Random) -> bool:
    """200 answers of which 9 % become wrong and 3 % right: a drop of 6 points."""
    kinds = generator.choices(("lost", "gained", "right", "wrong"), (9, 3, 70, 18), k=200)
    before = {str(number): kind in ("lost", "right") for number, kind in enumerate(kinds)}
    after = {str(number): kind in ("gained", "right") for number, kind in enumerate(kinds)}
    found = share_drop(before, after, baseline_id="base", answers_are_equal=False)
    return (
        found is not None
        and found.low is not None
        and found.high is not None
        and found.low <= 6 <= found.high
    )


def _rows() -> list[Row]:
    side = Measured(value=1.0, n=3)
    return [
        Row(
            section="speed", level=level, metric=metric, statistic="avg", unit="ms", baseline=side,
            candidate=side, change=0.0, lower_is_better=True, verdict="undecided",
        )
        for level in LEVELS
        for metric in METRICS
    ]  # fmt: skip


def _steady(minutes: int) -> Drift:
    """8 % over so many minutes."""
    return lambda minute: math.log(1.08) * minute / (minutes - 1)


def _jumping(num_rounds: int, generator: random.Random) -> Drift:
    """A speed of its own in every round of two minutes, by 10 %."""
    speeds = [generator.gauss(0, 0.1) for _ in range(num_rounds)]
    return lambda minute: speeds[int(minute) // 2]


def _in_turns(num_rounds: int) -> str:
    return ("ABBA" * num_rounds)[: 2 * num_rounds]


def _times(minutes: list[int]) -> list[str]:
    return [f"2026-01-01T00:{minute:02}:00+00:00" for minute in minutes]


def _share(number: int, of: int) -> str:
    return f"{100 * number / of:.1f} %"


if __name__ == "__main__":
    raise SystemExit(main())
