"""What a million tokens cost on a machine whose hour has a price, and the prices as a person gives them.

The currency is the user's; it knows no prices.
"""

from __future__ import annotations

from collections.abc import Sequence

from tpforge.errors import UsageError
from tpforge.measure.runs.found_runs import FoundRun, pick_run


def cost_per_million_tokens(tokens_per_second: float, *, price_per_hour: float) -> float:
    """The price of the time that a million tokens take, at full load: price / 3600 x 1e6 / speed.

    Raises:
        ValueError: the speed is not above zero.
    """
    if tokens_per_second <= 0:
        raise ValueError(f"{tokens_per_second} tokens a second never make a million")
    return price_per_hour / 3600 * 1e6 / tokens_per_second


def read_prices(given: Sequence[str], runs: Sequence[FoundRun]) -> dict[str, float]:
    """The price of an hour by the id of a run: ``AMOUNT`` for all of them, or ``RUN=AMOUNT``.

    Raises:
        UsageError: an amount is no number above zero, or the run is not one of these.
    """
    prices: dict[str, float] = {}
    for text in given:
        name, equals, amount = text.rpartition("=")
        try:
            price = float(amount)
        except ValueError:
            raise UsageError(f"--hourly-cost {text}: expected AMOUNT or RUN=AMOUNT, such as 2.50") from None
        if not 0 < price < float("inf"):
            raise UsageError(f"--hourly-cost {text}: a price is above zero")
        chosen = [pick_run(runs, name, option="--hourly-cost")] if equals else list(runs)
        prices |= {one.run.id: price for one in chosen}
    return prices
