"""Every claim of this project about a host, tried there in order: what was claimed, what was seen, the log.

Each step is a command of tpforge in a process of its own, in a folder of its own. What is claimed is
`accepting.claims`'s; `scripts.reports.acceptance` writes the page.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.flows.accepting.claims import Asked, claims, sizes_of
from scripts.flows.accepting.private import Private, private_of
from scripts.flows.accepting.records import BESIDE, Acceptance, Answer, Claim, Tried, Verdict
from scripts.flows.accepting.running import run_tpforge
from tpforge import __version__
from tpforge.errors import EnvironmentUnusable, InputRefused
from tpforge.outputs.atomic import write_atomic
from tpforge.progress import Progress
from triton_repo.serve.ports import find_free_base

RECORD, PAGE, LOGS, WORK = "accept.json", "accept.md", "logs", "work"
BUDGET_MIN = 60.0
_ASKING_S = 600.0
"""For how long what the budget does not bound may take: what this host has, and the end of a server."""
Run = Callable[[Sequence[str], Path, float], Answer]


def accept(
    model: str,
    out: Path,
    *,
    sizes: Sequence[int] | None = None,
    budget_min: float = BUDGET_MIN,
    run: Run | None = None,
    now: Callable[[], float] = time.monotonic,
    progress: Progress,
) -> Acceptance:
    """Try every claim in `out`, and keep what was seen after each; claims that held are not tried again.

    Without `sizes` all that the GPUs allow. When the budget is over, what is left is not tried.

    Raises:
        InputRefused: `out` holds the record of another model or version.
        EnvironmentUnusable: `tpforge doctor` does not run here.
    """
    trying = _Trying(model, out, run=run or run_tpforge, now=now, budget_s=60 * budget_min)
    asked = trying.asked(sizes)
    try:
        for claim in claims(asked):
            progress(f"[{trying.minutes:.0f} of {budget_min:g} min] {claim.name}: {claim.claimed}")
            trying.tries(claim)
    finally:
        trying.end()
    found = trying.kept()
    if not found.failed and found.is_over:
        shutil.rmtree(trying.work)
    return found


def preview(model: str, *, sizes: Sequence[int] | None = None, out: Path, run: Run | None = None) -> Asked:
    """What would be tried, with `doctor` alone asked.

    Raises:
        EnvironmentUnusable: `tpforge doctor` does not run here.
    """
    folder = out if out.is_dir() else Path.cwd()
    return _asked(model, sizes, run=run or run_tpforge, folder=folder)


def _asked(model: str, sizes: Sequence[int] | None, *, run: Run, folder: Path) -> Asked:
    answer = run(("doctor", "--json"), folder, _ASKING_S)
    if answer.status or "host" not in answer.value:
        raise EnvironmentUnusable(f"tpforge doctor: exit status {answer.status}: {_last_line(answer.said)}")
    place = Path(model)
    # Commands run elsewhere.
    located = str(place.resolve()) if place.exists() else model
    return Asked(located, sizes or sizes_of(answer.value), answer.value, find_free_base())


@dataclass(frozen=True)
class _Seen:
    """How a command ended, judged."""

    verdict: Verdict
    text: str


class _Trying:
    """An acceptance while it runs."""

    def __init__(self, model: str, out: Path, *, run: Run, now: Callable[[], float], budget_s: float) -> None:
        self._out, self._run, self._now, self._budget_s = out, run, now, budget_s
        self._begun = now()
        self._model, place = model, Path(model)
        self._shown = place.name if place.exists() else model
        self.work, self._logs = out / WORK, out / LOGS
        self._before = _read(out, self._shown)
        self.work.mkdir(parents=True, exist_ok=True)
        self._logs.mkdir(exist_ok=True)
        self._private: Private = private_of(self.work, model=place if place.exists() else None)
        self._answers: dict[str, dict[str, Any]] = {}
        self._tried: dict[str, Tried] = {}
        self._host: dict[str, Any] = {}
        self._is_over = True

    @property
    def minutes(self) -> float:
        """How long it has run."""
        return (self._now() - self._begun) / 60

    def asked(self, sizes: Sequence[int] | None) -> Asked:
        """What is asked of this host."""
        asked = _asked(self._model, sizes, run=self._run, folder=self.work)
        self._host = asked.host
        return asked

    def tries(self, claim: Claim) -> None:
        """Try a claim, unless it was kept, cannot be tried, or the time is over."""
        before = self._before.get(claim.name)
        if before is not None and before.verdict == "held" and not claim.again:
            self._tried[claim.name] = before
        elif why := self._obstacle(claim):
            self._keep(claim, _Seen("skipped", f"not tried: {why}"))
        else:
            self._ask(claim)
        self.kept()

    def _obstacle(self, claim: Claim) -> str | None:
        if claim.lacks:
            return claim.lacks
        lacking = [name for name in claim.after if self._tried[name].verdict != "held"]
        if lacking:
            return f"{', '.join(lacking)} did not hold"
        if self._left_s() <= 0 and not _ends(claim):
            self._is_over = False
            return f"the {self._budget_s / 60:g} min were over; the same command goes on"
        return None

    def _left_s(self) -> float:
        return self._budget_s - (self._now() - self._begun)

    def _ask(self, claim: Claim) -> None:
        for name in claim.replaces:
            shutil.rmtree(self.work / name, ignore_errors=True)
        begun = self._now()
        limit_s = _ASKING_S if _ends(claim) else self._left_s()
        answer = self._run(claim.words, self.work, limit_s)
        seconds = round(self._now() - begun, 1)
        log = self._logs / f"{re.sub(r'[^a-z0-9]+', '-', claim.name.lower())}.log"
        log.write_text(self._private.without(answer.said), encoding="utf-8")
        self._answers[claim.name] = answer.value
        self._keep(claim, self._judged(claim, answer), seconds=seconds, log=f"{LOGS}/{log.name}")

    def _judged(self, claim: Claim, answer: Answer) -> _Seen:
        if not answer.in_time:
            self._is_over = False
            return _Seen(
                "skipped", f"ended: the {self._budget_s / 60:g} min were over; the same command goes on"
            )
        if answer.status == EnvironmentUnusable.exit_code and claim.may_lack:
            return _Seen("skipped", f"this machine cannot: {_last_line(answer.said)}")
        value = answer.value
        if claim.beside is not None:
            value = {**value, BESIDE: self._answers[claim.beside]}
        try:
            assert answer.status == 0, f"exit status {answer.status}: {_last_line(answer.said)}"
            return _Seen("held", claim.shows(value))
        except AssertionError as error:
            return _Seen("failed", str(error))
        except (KeyError, TypeError, IndexError, ValueError) as error:
            return _Seen("failed", f"no {error} in its answer")

    def _keep(self, claim: Claim, seen: _Seen, *, seconds: float = 0.0, log: str | None = None) -> None:
        without = self._private.without
        self._tried[claim.name] = Tried(
            name=claim.name,
            claimed=claim.claimed,
            seen=without(seen.text),
            verdict=seen.verdict,
            seconds=seconds,
            command=tuple(without(word) for word in ("tpforge", *claim.words)),
            log=log,
        )

    def kept(self) -> Acceptance:
        """What was seen so far, written."""
        from scripts.reports.acceptance import acceptance_page

        seen, without = self._host["host"], self._private.without
        auto = self._host["auto"]
        host = {
            "gpus": [f"{gpu['name']}, SM {gpu['sm']}" for gpu in seen["gpus"]],
            "driver": seen["driver"],
            "cuda": seen["cuda"],
            "packages": dict(seen["packages"]),
            "auto": {name: without(one) if isinstance(one, str) else one for name, one in auto.items()},
        }
        found = Acceptance(
            tpforge=__version__,
            model=self._shown,
            host=host,
            budget_min=self._budget_s / 60,
            is_over=self._is_over,
            claims=tuple(self._tried.values()),
        )
        write_atomic(self._out / RECORD, found.model_dump_json(indent=2) + "\n")
        write_atomic(self._out / PAGE, acceptance_page(found.model_dump(mode="json")))
        return found

    def end(self) -> None:
        """Stop what may run still."""
        self._run(("stop", "--all", "--json"), self.work, _ASKING_S)


def _ends(claim: Claim) -> bool:
    """Whether it takes a server down, which no budget keeps from happening."""
    return claim.words[0] in ("stop", "status")


def _read(out: Path, model: str) -> dict[str, Tried]:
    """What an earlier run kept; nothing where its engines are gone, as after a run in which all held."""
    file = out / RECORD
    if not file.is_file():
        return {}
    try:
        found = Acceptance.model_validate_json(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputRefused(
            f"{file}: is not a record of this version; give another --out, or remove it"
        ) from error
    if (found.model, found.tpforge) != (model, __version__):
        raise InputRefused(
            f"{file}: is of {found.model} with tpforge {found.tpforge}; give another --out, or remove it"
        )
    return {tried.name: tried for tried in found.claims} if (out / WORK).is_dir() else {}


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
