"""`python -m scripts.dev.measure`: runs the measurements that are asked for in turn, and writes their blocks.

It measures nothing itself. Below the figures of a block stands the command, when it ran, and whether the
machine was quiet.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from scripts.dev.measure.blocks import block, with_block
from scripts.dev.measure.measurements import MEASUREMENTS, Measurement
from scripts.dev.quiet import Noise, watch

ROOT = Path(__file__).resolve().parents[3]


def main() -> None:
    """Run what is asked for; a measurement that fails is said, and the others go on."""
    parser = argparse.ArgumentParser(prog="python -m scripts.dev.measure", description=__doc__)
    parser.add_argument("names", nargs="*", help="some of the measurements; by default all that need nothing")
    parser.add_argument("--list", action="store_true", help="list the measurements and end")
    parser.add_argument("--try", action="store_true", dest="smallest", help="the smallest run; write no page")
    arguments = parser.parse_args()
    known = {one.name: one for one in MEASUREMENTS}
    if unknown := sorted({*arguments.names} - {*known}):
        parser.error(f"no measurement {', '.join(unknown)}; known are {', '.join(known)}")
    chosen = [known[name] for name in arguments.names]
    if arguments.list:
        print("\n".join(map(_line, chosen or MEASUREMENTS)))
        return
    act = _try if arguments.smallest else _measure
    failed = [one.name for one in chosen or _possible() if not act(one)]
    if failed:
        raise SystemExit(f"failed, and their blocks are as they were: {', '.join(failed)}")


def _line(one: Measurement) -> str:
    needs = f"  (when named; needs {one.needs})" if one.needs else ""
    return f"{one.name:18} {one.page:22} {one.command}{needs}"


def _possible() -> list[Measurement]:
    """All that need nothing; what is left out is said."""
    for one in MEASUREMENTS:
        if one.needs:
            print(f"{one.name}: left out, since it needs {one.needs}", file=sys.stderr)
    return [one for one in MEASUREMENTS if not one.needs]


def _try(measurement: Measurement) -> bool:
    """Whether the smallest run ends well and prints what a page could show."""
    print(f"{measurement.name}: {' '.join(measurement.smallest)}", file=sys.stderr, flush=True)
    done = _run(measurement, measurement.smallest)
    print(done.stdout, flush=True)
    if done.returncode == 0 and measurement.shown != "by itself":
        block(measurement, done.stdout, footer="")
    return done.returncode == 0


def _measure(measurement: Measurement) -> bool:
    """Run it and write its block; whether it ended well."""
    print(f"{measurement.name}: {measurement.command}", file=sys.stderr, flush=True)
    done: list[subprocess.CompletedProcess[str]] = []
    noise = watch(lambda: done.append(_run(measurement, measurement.arguments)))
    if done[0].returncode:
        print(f"{measurement.name}: exit status {done[0].returncode}", file=sys.stderr)
        return False
    if measurement.shown != "by itself":
        page = ROOT / measurement.page
        body = block(measurement, done[0].stdout, footer=_footer(measurement, noise))
        page.write_text(
            with_block(page.read_text(encoding="utf-8"), measurement.name, body), encoding="utf-8"
        )
    print(f"{measurement.name}: {noise}", file=sys.stderr, flush=True)
    return True


def _run(measurement: Measurement, words: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """Programs are those of this environment; what is shown as it is printed works in an empty folder."""
    places = {"python": sys.executable, "tpforge": str(Path(sys.executable).with_name("tpforge"))}
    command = [places.get(word, word) for word in words]
    with tempfile.TemporaryDirectory(prefix="tpforge-measure-") as folder:
        where = folder if measurement.shown == "output" else ROOT
        return subprocess.run(
            command,
            cwd=where,
            check=False,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TQDM_DISABLE": "1"},
        )


def _footer(measurement: Measurement, noise: Noise) -> str:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, check=False, stdout=subprocess.PIPE, text=True
    ).stdout.strip()
    today = datetime.date.today()
    when = f"`{measurement.command}`, {today.day} {today:%B %Y}, commit {commit or 'unknown'}"
    if not measurement.is_timed:
        return f"{when}."
    return f"{when}, Python {platform.python_version()}, Linux {platform.release()}; the machine was {noise}."


if __name__ == "__main__":
    main()
