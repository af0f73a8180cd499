"""`make measure`: runs the measurements of README and docs in turn, and writes what they print into pages.

It measures nothing itself. A page has a block for each of its measurements, between two comments with its
name; below the figures stands the command, when it ran, and whether the machine was quiet.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from scripts.dev.quiet import Noise, watch

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Measurement:
    """A command whose output a page shows: its tables, or all of it as it is (`is_verbatim`)."""

    name: str
    page: str
    arguments: tuple[str, ...]
    is_verbatim: bool = False

    @property
    def command(self) -> str:
        """As a person types it."""
        return " ".join(self.arguments)


def _python(name: str, page: str, arguments: str, *, core: str | None = None) -> Measurement:
    pinned = () if core is None else ("taskset", "-c", core)
    return Measurement(name, page, (*pinned, "python", "-m", *arguments.split()))


_CONVERTING = "docs/converting.md"
MEASUREMENTS = (
    Measurement("demo", "README.md", ("tpforge", "demo"), is_verbatim=True),
    _python("convert-sizes", _CONVERTING, "benchmarks.convert --sizes 0.5,1,2,4,8 --tp 4 --rounds 3"),
    _python("convert-tp", _CONVERTING, "benchmarks.convert --sizes 2 --tp 1,2,4,8 --rounds 3"),
    _python("convert-cold", _CONVERTING, "benchmarks.convert --sizes 2 --tp 1,4 --rounds 3 --cold"),
    _python("convert-usual", _CONVERTING, "benchmarks.convert --sizes 1,4 --tp 4 --rounds 2 --usual"),
    _python("convert-profile", _CONVERTING, "benchmarks.convert_profile --size 2 --tp 1,4"),
    _python("convert-one-core", _CONVERTING, "benchmarks.convert --sizes 2 --tp 1,4 --rounds 3", core="0"),
    _python("write-ways", _CONVERTING, "benchmarks.write_ways --rounds 6"),
)


def main() -> None:
    """Run what is asked for; a measurement that fails is said, and the others go on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="some of the measurements; by default all")
    parser.add_argument("--list", action="store_true", help="list the measurements and end")
    arguments = parser.parse_args()
    known = {one.name: one for one in MEASUREMENTS}
    if unknown := sorted({*arguments.names} - {*known}):
        parser.error(f"no measurement {', '.join(unknown)}; known are {', '.join(known)}")
    chosen = [known[name] for name in arguments.names] or list(MEASUREMENTS)
    if arguments.list:
        print("\n".join(f"{one.name:18} {one.page:22} {one.command}" for one in chosen))
        return
    failed = [one.name for one in chosen if not _measure(one)]
    if failed:
        raise SystemExit(f"failed, and their blocks are as they were: {', '.join(failed)}")


def _measure(measurement: Measurement) -> bool:
    """Run it and write its block; whether it ended well."""
    print(f"{measurement.name}: {measurement.command}", file=sys.stderr, flush=True)
    done: list[subprocess.CompletedProcess[str]] = []
    noise = watch(lambda: done.append(_run(measurement)))
    if done[0].returncode:
        print(f"{measurement.name}: exit status {done[0].returncode}", file=sys.stderr)
        return False
    page = ROOT / measurement.page
    body = block(measurement, done[0].stdout, footer=_footer(measurement, noise))
    page.write_text(with_block(page.read_text(encoding="utf-8"), measurement.name, body), encoding="utf-8")
    print(f"{measurement.name}: {noise}", file=sys.stderr, flush=True)
    return True


def _run(measurement: Measurement) -> subprocess.CompletedProcess[str]:
    """Programs are those of this environment; what is no module of ours works in an empty folder."""
    places = {"python": sys.executable, "tpforge": str(Path(sys.executable).with_name("tpforge"))}
    command = [places.get(one, one) for one in measurement.arguments]
    with tempfile.TemporaryDirectory(prefix="tpforge-measure-") as folder:
        where = folder if measurement.is_verbatim else ROOT
        return subprocess.run(command, cwd=where, check=False, stdout=subprocess.PIPE, text=True)


def block(measurement: Measurement, output: str, *, footer: str) -> str:
    """What a page shows of a measurement.

    Raises:
        ValueError: it printed no table.
    """
    if measurement.is_verbatim:
        return f"```\n{output.strip()}\n```\n\n{footer}\n"
    tables = [line for line in output.splitlines() if line.startswith("|")]
    if not tables:
        raise ValueError(f"{measurement.name}: printed no table: {output[:200]!r}")
    return "\n".join(tables) + f"\n\n{footer}\n"


def with_block(page: str, name: str, body: str) -> str:
    """The page with another content of a block.

    Raises:
        ValueError: it has no such block, or several.
    """
    parts = page.split(opening(name))
    if len(parts) != 2 or closing(name) not in parts[1]:
        raise ValueError(
            f"found {len(parts) - 1} blocks of {name}, expected one that ends with {closing(name)}"
        )
    rest = parts[1].split(closing(name), 1)[1]
    return f"{parts[0]}{opening(name)}\n{body}{closing(name)}{rest}"


def opening(name: str) -> str:
    """The comment before a block."""
    return f"<!-- make measure: {name} -->"


def closing(name: str) -> str:
    """The comment behind a block."""
    return f"<!-- end of {name} -->"


def names_in(page: str) -> list[str]:
    """The blocks of a page, in their order."""
    return re.findall(r"<!-- make measure: ([a-z-]+) -->", page)


def _footer(measurement: Measurement, noise: Noise) -> str:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, check=False, stdout=subprocess.PIPE, text=True
    ).stdout.strip()
    today = datetime.date.today()
    return (
        f"`{measurement.command}`, {today.day} {today:%B %Y}, commit {commit or 'unknown'}, "
        f"Python {platform.python_version()}, Linux {platform.release()}; the machine was {noise}."
    )


if __name__ == "__main__":
    main()
