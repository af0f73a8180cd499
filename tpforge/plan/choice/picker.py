"""Which GPU to take for a model and a load: the fewest of each kind that are enough, side by side.

It looks up no prices: they are the user's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tpforge.plan.choice.choose import Goal, check_ask, weigh
from tpforge.plan.hardware.gpus import Gpu, Prices, make_cluster
from tpforge.plan.options.option import Ask, Cause, Option, runs_all
from tpforge.plan.speed.calibration import Calibration
from tpforge.shards.weights import Blueprint

COUNTS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Pick:
    """A kind of GPU: the option on the fewest that do it, or why none of COUNTS does."""

    gpu: Gpu
    option: Option | None
    reason: str | None = None

    @property
    def price_per_hour(self) -> float | None:
        """Of all the GPUs of the option."""
        if self.option is None or self.option.price is None:
            return None
        return self.option.price * self.option.num_gpus


def pick_gpus(
    blueprint: Blueprint,
    kinds: Sequence[Gpu],
    ask: Ask,
    *,
    goal: Goal,
    calibration: Calibration,
    prices: Prices,
    budget: float | None = None,
) -> tuple[Pick, ...]:
    """Every kind: those that do it first, the cheapest for a million tokens, or the fewest GPUs, before.

    Raises:
        InputRefused: a request is longer than the model's positions.
    """
    check_ask(blueprint, ask)
    found = [
        _pick(blueprint, gpu, ask, goal=goal, calibration=calibration, prices=prices, budget=budget)
        for gpu in kinds
    ]
    return tuple(sorted(found, key=_order))


def _pick(
    blueprint: Blueprint,
    gpu: Gpu,
    ask: Ask,
    *,
    goal: Goal,
    calibration: Calibration,
    prices: Prices,
    budget: float | None,
) -> Pick:
    if gpu.refusal is not None:
        return Pick(gpu, None, gpu.refusal)
    price = prices.per_gpu_hour.get(gpu.name)
    if budget is not None and price is None:
        return Pick(gpu, None, "no price in --gpu-file, so that the budget cannot be held to")
    reason = ""
    tried = _Tried(ask)
    for count in COUNTS:
        if budget is not None and price is not None and price * count > budget:
            reason = f"{count} cost {price * count:.2f} an hour, more than {budget:.2f}"
            break
        cluster = make_cluster(gpu, num_gpus=count)
        wish = replace(ask, price=price)
        options = weigh(blueprint, cluster, wish, goal=goal, calibration=calibration, wanted=tried.may_work)
        tried.add(options)
        best = next((one for one in options if runs_all(one, ask)), None)
        if best is not None:
            return Pick(gpu, best)
        reason = f"{_why_not(tried.options)} with {count} of them"
    return Pick(gpu, None, reason)


class _Tried:
    """Options on fewer GPUs of a kind: what more of them do not change is not judged again."""

    def __init__(self, ask: Ask) -> None:
        self._load = ask.load
        self._found: dict[tuple[object, ...], Option] = {}

    @property
    def options(self) -> tuple[Option, ...]:
        """Each as it was judged last."""
        return tuple(self._found.values())

    def add(self, options: Sequence[Option]) -> None:
        """Remember how they were judged."""
        self._found |= {_division(one): one for one in options}

    def may_work(self, option: Option) -> bool:
        """Whether more replicas may do what fewer did not: no room stays none, nor does a limit that one
        request alone breaks; a rate is shared.
        """
        earlier = self._found.get(_division(option))
        if earlier is None or earlier.rejection is None or self._load.concurrency is not None:
            return True
        rate, most = self._load.requests_per_second, earlier.most_per_replica
        match earlier.rejection.cause:
            case "format" | "memory" | "length":
                return False
            case "latency":
                return rate is not None
            case "load":
                return rate is None or most is None or most * option.replicas >= rate
        return True


def _division(option: Option) -> tuple[object, ...]:
    return option.mapping, option.attention_dp, option.weight_format, option.kv_dtype


def _why_not(options: Sequence[Option]) -> str:
    """What the option that came nearest lacks, in words that kinds of GPUs share."""
    causes = {one.rejection.cause for one in options if one.rejection is not None}
    if any(one.rejection is None for one in options):
        return "not all requests run at once"
    return next(text for cause, text in _LACKS.items() if cause in causes)


_LACKS: dict[Cause, str] = {
    "latency": "too slow for the limits",
    "load": "too slow for the load",
    "length": "no room for the longest request",
    "memory": "no room for the weights and a cache",
    "format": "no format of these weights loads there, even",
    "gpus": "too few",
    "sharding": "the heads or layers cannot be divided",
}


def _order(pick: Pick) -> tuple[bool, bool, float, int, float]:
    option = pick.option
    if option is None:
        return (True, True, 0.0, 0, pick.gpu.memory_bytes)
    cost = option.cost_per_million
    return (False, cost is None, cost or 0.0, option.num_gpus, -option.tokens_per_second)
