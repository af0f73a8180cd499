"""What a command prints: results to stdout; progress, notes and warnings to stderr.

All of it is made printable here, since names and answers of strangers are in it. It decides nothing about
exit codes; `main` does.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TextIO

import click

from scripts.cli.colours import coloured
from tpforge.printable import printable, printable_json, shortened_lines

SCHEMA_VERSION = 1
MAX_RESULT_LINE, MAX_NOTE_LINE = 20_000, 2_000
"""Characters of a line for people; more are of a name that someone made to fill the screen."""
_COUNT = re.compile(r"(.*?)(\d+) of (\d+)")
_COUNT_PERIOD_S = 5.0


def for_people(text: str, *, at_most: int = MAX_NOTE_LINE) -> str:
    """Text that obeys no terminal, none of its lines longer than a reader can want."""
    return shortened_lines(printable(text), at_most=at_most)


@dataclass
class Told:
    """Whether a command has printed its JSON object, so that an error prints no second one."""

    is_recorded: bool = False


class Output:
    """The two streams of one command.

    With `as_json`, `result` prints nothing: stdout belongs to the one object that `record` prints.
    """

    def __init__(self, *, as_json: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self.as_json = as_json
        self._out: TextIO = sys.stdout
        self._err: TextIO = sys.stderr
        self._on_line = False
        self._clock = clock
        self._counted: dict[str, float] = {}

    def result(self, text: str) -> None:
        """A line, or several, of the result for people."""
        if not self.as_json:
            self.end_progress()
            shown = coloured(for_people(text, at_most=MAX_RESULT_LINE), stream=self._out)
            print(shown, file=self._out, flush=True)

    def piece(self, text: str) -> None:
        """A piece of a streamed result, as it comes."""
        if not self.as_json:
            self.end_progress()
            self._out.write(printable(text))
            self._out.flush()

    def record(self, kind: str, fields: Mapping[str, object]) -> None:
        """The one JSON object of `--json`; nothing without it. A `kind` is words with underscores."""
        assert kind.replace("_", "").isalpha() and kind.islower(), kind
        if self.as_json:
            self.end_progress()
            value: dict[str, object] = {"schema_version": SCHEMA_VERSION, "kind": kind}
            assert not value.keys() & fields.keys(), "a field would hide the version or the kind"
            value |= fields
            text = printable_json(json.dumps(value, indent=2, ensure_ascii=False))
            print(text, file=self._out, flush=True)
            if (context := click.get_current_context(silent=True)) and isinstance(context.obj, Told):
                context.obj.is_recorded = True

    def note(self, text: str) -> None:
        """A line that is not the result."""
        self.end_progress()
        print(coloured(for_people(text), stream=self._err), file=self._err, flush=True)

    def progress(self, text: str) -> None:
        """What is being done: one line that is written over on a terminal, a plain line elsewhere.

        Elsewhere a count, as ``answers: 7 of 39``, is a line every few seconds, and its last one.
        """
        text = for_people(text)
        if self._err.isatty():
            self._err.write(f"\r\x1b[K{text}")
            self._on_line = True
        elif self._is_due(text):
            self._err.write(f"{text}\n")
        self._err.flush()

    def _is_due(self, text: str) -> bool:
        count = _COUNT.fullmatch(text)
        if count is None:
            return True
        what, number, total = count.groups()
        now, before = self._clock(), self._counted.get(what)
        if number != total and before is not None and now - before < _COUNT_PERIOD_S:
            return False
        self._counted[what] = now
        return True

    def end_progress(self) -> None:
        """Wipe the progress line, so that the next output starts on a clean one."""
        if self._on_line:
            self._err.write("\r\x1b[K")
            self._err.flush()
            self._on_line = False
