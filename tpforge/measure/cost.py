"""What a million tokens cost on a machine whose hour has a price.

The currency is the user's; it knows no prices.
"""

from __future__ import annotations


def cost_per_million_tokens(tokens_per_second: float, *, price_per_hour: float) -> float:
    """The price of the time that a million tokens take, at full load: price / 3600 x 1e6 / speed.

    Raises:
        ValueError: the speed is not above zero.
    """
    if tokens_per_second <= 0:
        raise ValueError(f"{tokens_per_second} tokens a second never make a million")
    return price_per_hour / 3600 * 1e6 / tokens_per_second
