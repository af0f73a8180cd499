"""What is claimed of a host and what was seen: the records that `tpforge accept` keeps.

They try nothing; `claims` has what is claimed, `scripts.flows.accept` tries it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from tpforge.records import Record

Verdict = Literal["held", "failed", "skipped"]
BESIDE = "beside"
"""The key under which a claim finds what an earlier one was answered."""


@dataclass(frozen=True)
class Answer:
    """How a command ended, the JSON that it printed, and all that it said; `in_time` false: it was ended."""

    status: int
    value: dict[str, Any]
    said: str
    in_time: bool = True


@dataclass(frozen=True)
class Claim:
    """What is said of this host, the command that tries it, and what of its answer shows that it holds.

    `shows` gives what was seen; it raises KeyError, TypeError or AssertionError when that is not what was
    claimed. A claim is skipped when one of `after` did not hold, or for what it `lacks` here; with `may_lack`
    also when its command says that this machine cannot. `again`: a later run tries it though it held.
    `beside` is the claim whose answer `shows` gets too, `replaces` the folders that the command makes anew.
    """

    name: str
    claimed: str
    words: tuple[str, ...]
    shows: Callable[[dict[str, Any]], str]
    after: tuple[str, ...] = ()
    lacks: str | None = None
    may_lack: bool = False
    again: bool = False
    beside: str | None = None
    replaces: tuple[str, ...] = ()


class Tried(Record):
    """One claim as it was tried."""

    name: str
    claimed: str
    seen: str
    verdict: Verdict
    seconds: float
    command: tuple[str, ...]
    log: str | None = None


class Acceptance(Record):
    """All of it; `host` says what the host has, and nothing of who owns it.

    `is_over` is false where the budget was over before all was tried.
    """

    schema_version: Literal[1] = 1
    tpforge: str
    model: str
    host: dict[str, Any]
    budget_min: float = 60.0
    is_over: bool = True
    claims: tuple[Tried, ...]

    @property
    def failed(self) -> tuple[Tried, ...]:
        """The claims that did not hold."""
        return tuple(tried for tried in self.claims if tried.verdict == "failed")

    @property
    def seconds(self) -> float:
        """For how long all that is kept was tried."""
        return sum(tried.seconds for tried in self.claims)
