"""The exception tree; every expected failure is one of these and carries its exit code.

It does not print: `scripts` turns an error into text and an exit status.

TpforgeError            1  (only its subclasses are raised on purpose)
 ├─ UsageError          2  the command line or the recipe is wrong
 ├─ EnvironmentUnusable 3  this machine lacks something: a binary, a port, disk, permission
 ├─ InputRefused        4  a checkpoint, engine or repository is wrong or unsupported
 │   └─ PlanError       4  the model cannot be sharded as asked
 ├─ NothingFits         5  no plan satisfies the limits
 ├─ VerificationFailed  6  a proof or a smoke test failed
 └─ RegressionFound     7  a comparison found a loss beyond the limit
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import ClassVar, Self


class TpforgeError(Exception):
    """An expected failure: one message that says what was found, what was expected, what to do."""

    exit_code: ClassVar[int] = 1


class UsageError(TpforgeError):
    """The command line or the recipe is wrong."""

    exit_code = 2


class EnvironmentUnusable(TpforgeError):
    """This machine cannot do it: a missing binary, a port in use, a full disk, no permission."""

    exit_code = 3


class InputRefused(TpforgeError):
    """A checkpoint, engine or repository is wrong, incomplete or unsupported."""

    exit_code = 4

    @classmethod
    def listing(cls, headline: str, problems: Iterable[str]) -> Self:
        """One error for all `problems`, sorted, under a headline; line 2 is before line 10."""
        return cls("\n".join([headline, *(f"  {problem}" for problem in sorted(problems, key=_by_number))]))


def _by_number(text: str) -> list[tuple[bool, int, str]]:
    """Numbers by what they are worth, other letters as they are."""
    parts = re.findall(r"[0-9]{1,18}|[^0-9]+|[0-9]+", text)
    return [(part.isascii() and part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]


class PlanError(InputRefused):
    """The model cannot be sharded as asked."""


class NothingFits(TpforgeError):
    """No plan satisfies the limits."""

    exit_code = 5


class VerificationFailed(TpforgeError):
    """A proof or a smoke test failed."""

    exit_code = 6


class RegressionFound(TpforgeError):
    """A comparison found a loss beyond the limit."""

    exit_code = 7
