"""The list of what `make measure` runs: each measurement with its command and the page that shows it.

It runs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Shown = Literal["tables", "output", "text", "by itself"]
"""What a page shows of an output: its tables, all of it as it was printed, all of it as Markdown; or nothing,
since the command writes the page itself."""


@dataclass(frozen=True)
class Measurement:
    """A command, and the page with its block.

    `smallest` are the arguments of the shortest run that shows that it works; a page never shows that one.
    What depends on the time of this machine `is_timed`. What `needs` something that is not made here on the
    way runs only when it is named.
    """

    name: str
    page: str
    arguments: tuple[str, ...]
    smallest: tuple[str, ...] = ()
    shown: Shown = "tables"
    is_timed: bool = True
    needs: str = ""

    @property
    def command(self) -> str:
        """As a person types it."""
        return " ".join(self.arguments)


def _python(
    name: str,
    page: str,
    arguments: str,
    *,
    smallest: str,
    core: str | None = None,
    shown: Shown = "tables",
    is_timed: bool = True,
    needs: str = "",
) -> Measurement:
    """A module of this repository; pinned to a core where one is given."""
    start = ("python", "-m") if core is None else ("taskset", "-c", core, "python", "-m")
    words, least = (*start, *arguments.split()), (*start, *smallest.split())
    return Measurement(name, page, words, smallest=least, shown=shown, is_timed=is_timed, needs=needs)


_README, _SPEED = "README.md", "docs/speed.md"
_CONVERTING, _BENCHMARKING = "docs/converting.md", "docs/benchmarking.md"
_QUANTIZATION = "docs/quantization.md"
MEASUREMENTS = (
    Measurement("demo", _README, ("tpforge", "demo"), ("tpforge", "demo", "--tp", "1"), shown="output"),
    _python("demo-again", _SPEED, "benchmarks.demo_again", smallest="benchmarks.demo_again --tp 1",
            shown="output"),
    _python("decode", _SPEED, "benchmarks.decode demo --rounds 5",
            smallest="benchmarks.decode demo --rounds 1 --tokens 8 --tp 1 --concurrency 2"),
    _python("start-up", _SPEED, "benchmarks.start_up --runs 9", smallest="benchmarks.start_up --runs 1"),
    _python("install", _SPEED, "benchmarks.install", smallest="benchmarks.install --only light"),
    _python("convert-sizes", _CONVERTING, "benchmarks.convert --sizes 0.5,1,2,4,8 --tp 4 --rounds 3",
            smallest="benchmarks.convert --sizes 0.1 --tp 4 --rounds 1"),
    _python("convert-tp", _CONVERTING, "benchmarks.convert --sizes 2 --tp 1,2,4,8 --rounds 3",
            smallest="benchmarks.convert --sizes 0.1 --tp 1,2 --rounds 1"),
    _python("convert-cold", _CONVERTING, "benchmarks.convert --sizes 2 --tp 1,4 --rounds 3 --cold",
            smallest="benchmarks.convert --sizes 0.1 --tp 1 --rounds 1 --cold"),
    _python("convert-usual", _CONVERTING, "benchmarks.convert --sizes 1,4 --tp 4 --rounds 2 --usual",
            smallest="benchmarks.convert --sizes 0.1 --tp 4 --rounds 1 --usual"),
    _python("convert-profile", _CONVERTING, "benchmarks.convert_profile --size 2 --tp 1,4",
            smallest="benchmarks.convert_profile --size 0.1 --tp 1"),
    _python("convert-one-core", _CONVERTING, "benchmarks.convert --sizes 2 --tp 1,4 --rounds 3", core="0",
            smallest="benchmarks.convert --sizes 0.1 --tp 1 --rounds 1"),
    _python("write-ways", _CONVERTING, "benchmarks.write_ways --rounds 6",
            smallest="benchmarks.write_ways --rounds 1"),
    _python("inspect", "docs/inspecting.md", "benchmarks.inspect_headers --runs 9",
            smallest="benchmarks.inspect_headers --runs 1 --deep 0.1"),
    _python("load-generator", _BENCHMARKING, "benchmarks.load_generator --rounds 6",
            smallest="benchmarks.load_generator --rounds 1 --streams 1 --total 400"),
    _python("beside-aiperf", _BENCHMARKING, "benchmarks.beside_aiperf --rounds 1",
            smallest="benchmarks.beside_aiperf --rounds 1 --cases 1"),
    _python("intervals", _BENCHMARKING, "benchmarks.intervals --draws 400", is_timed=False,
            smallest="benchmarks.intervals --draws 4"),
    _python("verdicts", "docs/deciding.md", "benchmarks.verdicts --draws 12000", shown="text", is_timed=False,
            smallest="benchmarks.verdicts --draws 20"),
    _python("openai-front", "docs/clients.md", "benchmarks.openai_front --rounds 5 --streams 1 8",
            smallest="benchmarks.openai_front --rounds 1 --streams 1"),
    _python("quantize", _QUANTIZATION, "benchmarks.quantize out/quantize",
            smallest="benchmarks.quantize out/quantize int8_wo"),
    _python("quantize-tools", _QUANTIZATION, "benchmarks.quantize out/quantize --folders out/quantized-tools",
            smallest="benchmarks.quantize out/quantize --folders out/quantized-tools", is_timed=False,
            needs="out/quantized-tools: a folder of each tool's own, by benchmarks/quantized_tools.py"),
    _python("drills", "docs/reliability.md", "tests.drills --table",
            smallest="tests.drills --table --only hostile_files"),
    _python("planner", "docs/planning.md", "benchmarks.planner --docs", smallest="benchmarks.planner --help",
            shown="by itself", is_timed=False),
    _python("decide-demo", "docs/demo/decision.md", "scripts.dev.decide_demo",
            smallest="scripts.dev.decide_demo --help", shown="by itself"),
)  # fmt: skip
