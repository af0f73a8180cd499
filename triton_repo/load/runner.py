"""One repeat of a load: makes the requests when they are due, and gives back every one of them.

An open loop never waits for the server: one task starts a task for each arrival at its time, and awaits
nothing else. It neither decodes nor counts; `reading` does that when the repeat is over. Its clock is the
event loop's.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from tpforge.measure.runs.prompts import Prompt
from tpforge.measure.runs.run import CountedBy
from tpforge.measure.runs.samples import Phase
from triton_repo.load.exchange import Exchange, Failure, Target
from triton_repo.load.order import InTurn, Order
from triton_repo.load.schedule import Closed, Load, Trace, arrivals

_RETRY_S = 0.25
"""How long a user waits who met no server, so that a dead one is not asked a thousand times a second."""

_GIVE_UP_S = 10.0
"""How long a closed loop goes on asking a server that nobody can reach."""


@dataclass(frozen=True)
class Extent:
    """How long a repeat is: `warmup_s`, then `duration_s` or `num_requests`, whichever ends first.

    When `duration_s` is over, a pass over the prompts that has begun is asked to its end, in at most
    `duration_s` more. No new request is made after that; those in flight are waited for, at most until their
    deadline.
    """

    warmup_s: float = 0.0
    duration_s: float | None = None
    num_requests: int | None = None
    seed: int = 0

    @property
    def until_s(self) -> float:
        """When the time asked for is over, in seconds from the start."""
        return float("inf") if self.duration_s is None else self.warmup_s + self.duration_s

    @property
    def latest_s(self) -> float:
        """When the last request may start, in seconds from the start."""
        return self.until_s + (self.duration_s or 0.0)


@dataclass
class Repetition:
    """A repeat while it runs and when it is over; `exchanges` holds every request that was due.

    `begun` is the stamp of the loop's clock that all times count from; `started` the same moment in UTC.
    `counted_by` is the rule of its window. `load_ended` is the stamp of when the load was over: with its
    time, or when a request that was due was one too many; None where it ended with its last answer.
    `is_whole` is false where its time ended it in the middle of a pass over the prompts.
    """

    begun: float
    started: str
    exchanges: list[Exchange] = field(default_factory=list)
    num_ended: int = 0
    num_failed: int = 0
    counted_by: CountedBy = "arrival"
    load_ended: float | None = None
    is_whole: bool = True
    interrupted: bool = False
    gave_up: str | None = None


async def run_repetition(
    target: Target,
    load: Load,
    prompts: Sequence[Prompt] | Order,
    *,
    extent: Extent,
    interrupt: asyncio.Event,
    watch: list[Repetition] | None = None,
) -> Repetition:
    """Put `load` on an open target; returns when every request is over, or `interrupt` is set.

    Bare `prompts` are asked in turn. An interrupted repeat keeps its requests, those in flight as cancelled.
    `watch` is given the repetition before its first request, so that others can follow it.
    """
    with _without_garbage_collection():
        # Time counts from here: collecting the garbage of before may take half a second.
        clock = asyncio.get_running_loop().time
        repetition = Repetition(
            clock(),
            datetime.now(UTC).isoformat(timespec="milliseconds"),
            counted_by="share" if isinstance(load, Closed) else "arrival",
        )
        if watch is not None:
            watch.append(repetition)
        order = prompts if isinstance(prompts, Order) else InTurn(prompts)
        repeat = _Repeat(target, order, extent, repetition)
        work = asyncio.ensure_future(repeat.closed(load) if isinstance(load, Closed) else repeat.open(load))
        ended = asyncio.ensure_future(interrupt.wait())
        await asyncio.wait((work, ended), return_when=asyncio.FIRST_COMPLETED)
        repetition.interrupted = not work.done()
        ended.cancel()
        work.cancel()
        await asyncio.gather(work, ended, return_exceptions=True)
    if work.done() and not work.cancelled() and (error := work.exception()):
        raise error
    repeat.close()
    return repetition


class _Repeat:
    """The two loops over one order of prompts."""

    def __init__(self, target: Target, order: Order, extent: Extent, repetition: Repetition) -> None:
        self._target, self._extent, self._repetition = target, extent, repetition
        self._clock = asyncio.get_running_loop().time
        self._pass_size = order.pass_size
        self._streams = order.streams(seed=extent.seed, num_requests=extent.num_requests)
        self._measured_from = repetition.begun + extent.warmup_s
        self._until = repetition.begun + extent.until_s
        self._latest = repetition.begun + extent.latest_s
        self._num_measured = 0
        self._last_due = self._reached = repetition.begun
        self._ends_with_answers = False

    async def closed(self, load: Closed) -> None:
        """`concurrency` users, each with one request at a time."""
        # With fewer requests than users the load is never whole, and has no end of its own.
        self._ends_with_answers = (self._extent.num_requests or load.concurrency) < load.concurrency
        async with asyncio.TaskGroup() as users:
            for _ in range(load.concurrency):
                users.create_task(self._user())

    async def open(self, load: Load) -> None:
        """A request at each of its times, whether or not others are still in flight."""
        assert not isinstance(load, Closed)
        times = arrivals(load, until_s=self._extent.latest_s, seed=self._extent.seed)
        async with asyncio.TaskGroup() as requests:
            for at_s in times:
                due = self._repetition.begun + at_s
                # Behind its times too it lets others run: they send what is due.
                await asyncio.sleep(max(0.0, due - self._clock()))
                exchange = self._due(due)
                if exchange is None:
                    return
                requests.create_task(self._make(exchange))
            self._ends_with_answers = isinstance(load, Trace)

    def close(self) -> None:
        """Say when the load was over, and what became of requests in flight."""
        repetition = self._repetition
        if repetition.interrupted:
            repetition.load_ended = self._clock()
        elif self._ends_with_answers and not repetition.gave_up:
            repetition.load_ended = None
        elif repetition.load_ended is None and self._extent.duration_s is not None:
            # Nobody asked once more: the server was lost, or the last arrival came before the end.
            repetition.load_ended = self._until if self._last_due < self._until else self._latest
        wanted = self._extent.num_requests
        is_cut = repetition.interrupted or repetition.gave_up is not None
        over = self._num_measured in (wanted, 0) or self._num_measured % self._pass_size == 0
        repetition.is_whole = is_cut or over
        for exchange in repetition.exchanges:
            if exchange.ended is None:
                exchange.ended = self._clock()
                exchange.failure = Failure("cancelled", "the run was interrupted")

    async def _user(self) -> None:
        while (exchange := self._due(self._clock())) is not None:
            await self._make(exchange)
            failure, now = exchange.failure, self._clock()
            if failure is None or failure.kind != "unreachable":
                self._reached = now
            elif now - self._reached > _GIVE_UP_S:
                self._repetition.gave_up = (
                    f"nobody could reach the server for {_GIVE_UP_S:g} s: {failure.message}"
                )
                return
            else:
                await asyncio.sleep(_RETRY_S)

    async def _make(self, exchange: Exchange) -> None:
        await self._target.run(exchange)
        self._repetition.num_ended += 1
        self._repetition.num_failed += exchange.failure is not None

    def _due(self, scheduled: float) -> Exchange | None:
        """The next request, or None when there are to be no more."""
        repetition = self._repetition
        if repetition.gave_up:
            return None
        phase: Phase = "measured" if scheduled >= self._measured_from else "warmup"
        if self._is_over(scheduled):
            if repetition.load_ended is None:
                in_time = self._last_due < self._until <= scheduled
                repetition.load_ended = self._until if in_time else scheduled
            return None
        self._last_due = scheduled
        self._num_measured += phase == "measured"
        exchange = Exchange(
            index=len(repetition.exchanges),
            phase=phase,
            prompt=next(self._streams[phase]),
            scheduled=scheduled,
        )
        repetition.exchanges.append(exchange)
        return exchange

    def _is_over(self, scheduled: float) -> bool:
        """Whether a request that is due then is one too many."""
        if scheduled < self._measured_from:
            return False
        if self._num_measured == self._extent.num_requests:
            return True
        if scheduled < self._until:
            return False
        return scheduled >= self._latest or self._num_measured % self._pass_size == 0


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Keep Python from looking at all objects while tokens wait to be stamped; young ones are collected.

    What somebody else has frozen stays so, since what is frozen can be freed only all at once.
    """
    was_frozen = gc.get_freeze_count() > 0
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        if not was_frozen:
            gc.unfreeze()
