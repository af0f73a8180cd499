"""All levels of a run, one after another, each with its repeats: samples and what was read beside them.

It makes no run.json; `scripts.flows.bench` adds the facts of engine and machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from tpforge.measure.runs.metrics import count_errors, count_prompts, summarize
from tpforge.measure.runs.prompts import Prompt
from tpforge.measure.runs.run import Level, Repeat, Slo, Telemetry
from tpforge.measure.runs.samples import Sample
from tpforge.measure.runs.steadiness import LONG_SHARE, level_notes
from triton_repo.load.counting import Counting, counting_notes
from triton_repo.load.exchange import Target, TokenSource
from triton_repo.load.order import InTurn, Order, Passes
from triton_repo.load.reading import ReadRepeat, read_repetition
from triton_repo.load.runner import Extent, Repetition, run_repetition
from triton_repo.load.schedule import Closed, Load, Open, Trace
from triton_repo.load.telemetry import Recorder
from triton_repo.load.warming import warm

_PROGRESS_S = 0.5


Fresh = Callable[[int, int], Sequence[Prompt]]
"""New prompts for a level and a repeat of it, which differ in nothing that costs time."""


@dataclass(frozen=True)
class Plan:
    """What is to be measured: every load `num_repeats` times.

    The `prompts` are the same in every repeat, asked in whole passes; with `fresh` every repeat has its own
    instead. With `warm` each prompt is asked for one token before anything is measured, so that a server
    that keeps prompts knows all of them in every repeat.
    """

    loads: tuple[Load, ...]
    prompts: tuple[Prompt, ...]
    extent: Extent
    num_repeats: int = 1
    slo: Slo | None = None
    counting: Counting = field(default_factory=Counting)
    fresh: Fresh | None = None
    warm: bool = False

    def order(self, level: int, repeat: int) -> Order:
        """What a repeat asks."""
        if self.fresh is not None:
            return InTurn(self.fresh(level, repeat))
        is_recorded = isinstance(self.loads[level], Trace)
        return InTurn(self.prompts) if is_recorded else Passes(self.prompts)


@dataclass(frozen=True)
class Measured:
    """What came of a plan; `interrupted` when it was broken off, which keeps what was measured until then."""

    levels: tuple[Level, ...]
    samples: tuple[Sample, ...]
    token_source: TokenSource
    interrupted: bool
    notes: tuple[str, ...]


@dataclass(frozen=True)
class RunPosition:
    """Where a run is: level and repeat count from 0; `repetition` is the one under way."""

    level: str
    num_levels: int
    level_index: int
    repeat: int
    num_repeats: int
    repetition: Repetition


OnProgress = Callable[[RunPosition], None]


def measure(
    target: Target, plan: Plan, *, recorder: Recorder | None = None, on_progress: OnProgress | None = None
) -> Measured:
    """Run the plan from start to end, or until Ctrl-C or SIGTERM.

    Raises:
        TpforgeError: a prompt cannot be asked over the target's protocol.
    """
    return asyncio.run(carry_out(target, plan, recorder=recorder, on_progress=on_progress))


async def carry_out(
    target: Target, plan: Plan, *, recorder: Recorder | None = None, on_progress: OnProgress | None = None
) -> Measured:
    """`measure` in the running event loop, whose clock is that of all stamps.

    Raises:
        TpforgeError: a prompt cannot be asked over the target's protocol.
    """
    target.prepare(plan.prompts)
    return await _Measuring(target, plan, recorder, on_progress).run()


class _Measuring:
    """A plan being carried out, and what it has brought so far."""

    def __init__(
        self, target: Target, plan: Plan, recorder: Recorder | None, on_progress: OnProgress | None
    ) -> None:
        self._target, self._plan, self._recorder, self._on_progress = target, plan, recorder, on_progress
        self._levels: list[Level] = []
        self._samples: list[Sample] = []
        self._sources: list[TokenSource] = []
        self._notes: list[str] = []

    async def run(self) -> Measured:
        """All levels; those that were over before an interrupt, and the broken-off one."""
        await self._target.open()
        try:
            async with _interrupts() as interrupt:
                if self._plan.warm and (failure := await warm(self._target, self._plan.prompts, interrupt)):
                    self._notes.append(f"asking each prompt once was broken off: {failure}")
                for index in range(len(self._plan.loads)):
                    await self._measure_level(index, interrupt)
                    if interrupt.is_set():
                        break
        finally:
            await self._target.close()
        if len(sources := sorted(set(self._sources))) > 1:
            self._notes.append(f"tokens were counted in different ways: by {' and by '.join(sources)}")
        source = self._sources[-1] if self._sources else "responses"
        self._notes += counting_notes(source, self._samples)
        return Measured(
            tuple(self._levels), tuple(self._samples), source, interrupt.is_set(), tuple(self._notes)
        )

    async def _measure_level(self, level: int, interrupt: asyncio.Event) -> None:
        load = self._plan.loads[level]
        if self._recorder is not None:
            self._recorder.start()
        repeats: list[ReadRepeat] = []
        for repeat in range(self._plan.num_repeats):
            found, gave_up = await self._measure_repeat(level, repeat, interrupt)
            repeats.append(found)
            if gave_up:
                self._notes.append(f"{load.name}, repeat {repeat}: {gave_up}; its whole window counts")
            if interrupt.is_set() or gave_up:
                break
        telemetry = self._recorder.stop() if self._recorder is not None else Telemetry()
        if not interrupt.is_set():
            self._notes += _left_out(load, repeats, extent=self._plan.extent)
        kept = [(found.record, found.samples) for found in repeats if found.record is not None]
        records = [record for record, _ in kept]
        samples = _renumbered([part for _, part in kept], level=len(self._levels))
        self._samples += samples
        self._sources += [found.token_source for found in repeats]
        if records:
            self._levels.append(_level(load, records, samples, telemetry, plan=self._plan))
            asked_s = self._plan.extent.duration_s
            said = [*level_notes(samples, records, asked_s=asked_s), *self._whole_notes(load, repeats)]
            self._notes += [f"{load.name}: {note}" for note in said]

    async def _measure_repeat(
        self, level: int, repeat: int, interrupt: asyncio.Event
    ) -> tuple[ReadRepeat, str | None]:
        """One repeat, and why it gave up on the server, if it did."""
        plan = self._plan
        load = plan.loads[level]
        extent = replace(plan.extent, seed=plan.extent.seed + repeat)
        order = plan.order(level, repeat)
        if plan.fresh is not None:
            self._target.prepare(order.prompts)
        watch: list[Repetition] = []

        def tell() -> None:
            if self._on_progress is not None and watch:
                place = (load.name, len(plan.loads), level, repeat, plan.num_repeats)
                self._on_progress(RunPosition(*place, watch[0]))

        async with _ticking(tell):
            repetition = await run_repetition(
                self._target, load, order, extent=extent, interrupt=interrupt, watch=watch
            )
        found = read_repetition(
            self._target, repetition, extent=extent, level=level, repeat=repeat, counting=plan.counting
        )
        return found, repetition.gave_up

    def _whole_notes(self, load: Load, repeats: Sequence[ReadRepeat]) -> list[str]:
        num_users = load.concurrency if isinstance(load, Closed) else 0
        wanted, num_prompts = self._plan.extent.num_requests, len(self._plan.prompts)
        notes = []
        if wanted is not None and wanted < num_users:
            notes.append(f"{wanted} requests are fewer than {num_users} users: the load was never whole")
        if not all(found.is_whole for found in repeats):
            notes.append(
                f"the last pass over the {num_prompts} prompts was not over in twice the time asked for: how "
                "fast the server is decided what it was asked; give --num-requests, or a longer --duration"
            )
        return notes


def _renumbered(repeats: Sequence[Sequence[Sample]], *, level: int) -> list[Sample]:
    """The samples of the repeats that measured something, numbered as in the record."""
    return [
        sample.model_copy(update={"level": level, "repeat": number})
        for number, part in enumerate(repeats)
        for sample in part
    ]


def _left_out(load: Load, repeats: Sequence[ReadRepeat], *, extent: Extent) -> list[str]:
    """Repeats in which nothing was measured: why, and what of the command line would change it."""
    empty = [number for number, found in enumerate(repeats) if found.record is None]
    if not empty:
        return []
    ends = [(one.ended_s or 0.0) - one.scheduled_s for number in empty for one in repeats[number].samples]
    longest_s = max(ends, default=0.0)
    if isinstance(load, Closed) and ends:
        why = f"a request took up to {longest_s:.3g} s"
        ten_s = math.ceil(longest_s / LONG_SHARE)
        instead = f"--duration {ten_s} has ten of a user's, --max-tokens bounds them"
    else:
        why = "no request was due then"
        instead = "give a longer --duration, or a higher --rate"
    window = "the warmup" if extent.duration_s is None else f"{extent.warmup_s:g} s of warmup"
    where = f"after {window} in repeat {', '.join(str(number + 1) for number in empty)}"
    return [f"{load.name}: no request began {where}, which is left out: {why}; {instead}"]


def _level(
    load: Load, records: Sequence[Repeat], samples: Sequence[Sample], telemetry: Telemetry, *, plan: Plan
) -> Level:
    """The record of a level."""
    return Level(
        name=load.name,
        concurrency=load.concurrency if isinstance(load, Closed) else None,
        rate_per_s=load.rate_per_s if isinstance(load, Open) else None,
        repeats=tuple(records),
        metrics=summarize(samples, records, slo=plan.slo),
        errors=count_errors(samples),
        mix={} if plan.fresh is not None else count_prompts(samples),
        telemetry=telemetry,
    )


@asynccontextmanager
async def _ticking(tell: Callable[[], None]) -> AsyncIterator[None]:
    """Call `tell` now and then while the block runs."""

    async def tick() -> None:
        while True:
            await asyncio.sleep(_PROGRESS_S)
            tell()

    task = asyncio.ensure_future(tick())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def _interrupts() -> AsyncIterator[asyncio.Event]:
    """An event that Ctrl-C and SIGTERM set while the block runs; a second one acts as it did before."""
    loop, event = asyncio.get_running_loop(), asyncio.Event()
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in previous.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)

    def interrupt() -> None:
        event.set()
        restore()

    try:
        for number in previous:
            loop.add_signal_handler(number, interrupt)
    except (ValueError, RuntimeError):
        # Not the main thread, which alone may handle signals: the caller's way of stopping stays.
        yield event
        return
    try:
        yield event
    finally:
        restore()
