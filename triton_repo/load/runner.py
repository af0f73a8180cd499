"""One repeat of a load: makes the requests when they are due, and gives back every one of them.

An open loop never waits for the server: one task starts a task for each arrival at its time, and awaits
nothing else. It neither decodes nor counts; `reading` does that when the repeat is over.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from tpforge.measure.prompts import Prompt
from tpforge.measure.samples import Phase
from triton_repo.load.exchange import Exchange, Failure, Target
from triton_repo.load.schedule import Closed, Load, arrivals

_RETRY_S = 0.25
"""How long a user waits who met no server, so that a dead one is not asked a thousand times a second."""

_GIVE_UP_S = 10.0
"""How long a closed loop goes on asking a server that nobody can reach."""


@dataclass(frozen=True)
class Extent:
    """How long a repeat is: `warmup_s`, then `duration_s` or `num_requests`, whichever ends first.

    No new request is made after that; those in flight are waited for, at most until their deadline.
    """

    warmup_s: float = 0.0
    duration_s: float | None = None
    num_requests: int | None = None
    seed: int = 0

    @property
    def until_s(self) -> float:
        """When the last request may start, in seconds from the start."""
        return float("inf") if self.duration_s is None else self.warmup_s + self.duration_s


@dataclass
class Repetition:
    """A repeat while it runs and when it is over; `exchanges` holds every request that was due.

    `begun` is the monotonic stamp that all times count from; `started` the same moment in UTC.
    """

    begun: float
    started: str
    exchanges: list[Exchange] = field(default_factory=list)
    num_ended: int = 0
    num_failed: int = 0
    interrupted: bool = False
    gave_up: str | None = None


async def run_repetition(
    target: Target,
    load: Load,
    prompts: Sequence[Prompt],
    *,
    extent: Extent,
    interrupt: asyncio.Event,
    watch: list[Repetition] | None = None,
) -> Repetition:
    """Put `load` on an open target; returns when every request is over, or `interrupt` is set.

    `prompts` are asked in turn. An interrupted repeat keeps its requests, those in flight as cancelled.
    `watch` is given the repetition before its first request, so that others can follow it.
    """
    with _without_garbage_collection():
        # Time counts from here: collecting the garbage of before may take half a second.
        repetition = Repetition(time.monotonic(), datetime.now(UTC).isoformat(timespec="milliseconds"))
        if watch is not None:
            watch.append(repetition)
        repeat = _Repeat(target, prompts, extent, repetition)
        work = asyncio.ensure_future(repeat.closed(load) if isinstance(load, Closed) else repeat.open(load))
        ended = asyncio.ensure_future(interrupt.wait())
        await asyncio.wait((work, ended), return_when=asyncio.FIRST_COMPLETED)
        repetition.interrupted = not work.done()
        ended.cancel()
        work.cancel()
        await asyncio.gather(work, ended, return_exceptions=True)
    if work.done() and not work.cancelled() and (error := work.exception()):
        raise error
    for exchange in repetition.exchanges:
        if exchange.ended is None:
            exchange.ended = time.monotonic()
            exchange.failure = Failure("cancelled", "the run was interrupted")
    return repetition


class _Repeat:
    """The two loops over one list of prompts."""

    def __init__(
        self, target: Target, prompts: Sequence[Prompt], extent: Extent, repetition: Repetition
    ) -> None:
        self._target, self._prompts, self._extent = target, prompts, extent
        self._repetition = repetition
        self._measured_from = repetition.begun + extent.warmup_s
        self._until = repetition.begun + extent.until_s
        self._num_measured = 0
        self._reached = repetition.begun

    async def closed(self, load: Closed) -> None:
        """`concurrency` users, each with one request at a time."""
        async with asyncio.TaskGroup() as users:
            for _ in range(load.concurrency):
                users.create_task(self._user())

    async def open(self, load: Load) -> None:
        """A request at each of its times, whether or not others are still in flight."""
        assert not isinstance(load, Closed)
        times = arrivals(load, until_s=self._extent.until_s, seed=self._extent.seed)
        async with asyncio.TaskGroup() as requests:
            for at_s in times:
                due = self._repetition.begun + at_s
                delay = due - time.monotonic()
                if delay > 0:
                    await asyncio.sleep(delay)
                exchange = self._due(due)
                if exchange is None:
                    return
                requests.create_task(self._make(exchange))

    async def _user(self) -> None:
        while (exchange := self._due(time.monotonic())) is not None:
            await self._make(exchange)
            failure, now = exchange.failure, time.monotonic()
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
        extent, repetition = self._extent, self._repetition
        if scheduled >= self._until or repetition.gave_up:
            return None
        phase: Phase = "measured" if scheduled >= self._measured_from else "warmup"
        if phase == "measured":
            if self._num_measured == extent.num_requests:
                return None
            self._num_measured += 1
        index = len(repetition.exchanges)
        exchange = Exchange(
            index=index, phase=phase, prompt=self._prompts[index % len(self._prompts)], scheduled=scheduled
        )
        repetition.exchanges.append(exchange)
        return exchange


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Keep Python from looking at all objects while tokens wait to be stamped; young ones are collected."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
