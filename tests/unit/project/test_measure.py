"""scripts.dev.measure and quiet: blocks of pages; whether a machine was quiet, on a scripted /proc/stat.

No figure is judged here: what stands in a block is what its command printed.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.dev.measure.__main__ import ROOT
from scripts.dev.measure.blocks import block, closing, names_in, opening, with_block, without_blocks
from scripts.dev.measure.measurements import MEASUREMENTS, Measurement
from scripts.dev.quiet import Noise, Times, parse_times, watch

PAGES = ("README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")))
STAT = "cpu  100 5 50 800 40 1 4 20 7 0\ncpu0 50 2 25 400 20 0 2 10 3 0\n"
WITH_BLOCKS = [one for one in MEASUREMENTS if one.shown != "by itself"]

ELSEWHERE = {
    "docs/gpu.md": "measured on machines that were lent",
    "docs/planning.md": "benchmarks.planner writes it",
    "docs/demo/decision.md": "make decide-demo writes it",
    "docs/families.md": "make families writes it",
    "docs/reliability.md": "tells of attacks before and after a change; the drills have their block",
}
"""Pages whose figures stand in no block, and why."""
FIGURE = re.compile(
    r"\d \[[-+]?[\d.]+, [-+]?[\d.]+\]"  # a median with its range
    r"|\bmedian\b(?:[^.|]|\.\d)*?\d+(?:\.\d+)? (?:s|ms|tokens/s|GB/s|MB/s)\b"
    r"|\d+(?:\.\d+)? (?:s|ms|tokens/s|GB/s|MB/s)\b(?:[^.|]|\.\d)*?\bmedian\b"
    r"|\bn=\d"
    r"|\b\d+\.\d+ (?:s|ms|min|GB/s|MB/s|tokens/s|requests/s)\b"
    r"|perplexity of \d"
)
SEEN_ONCE = {
    "docs/clients.md": ("the slowest after 0.7 s",),
    "docs/deploy/compose.md": ("ready after 12.5 s",),
    "docs/quantization.md": ("has a perplexity of 33.379", "has a perplexity of 26.608"),
    "docs/compatibility.md": ("freed their slot after 0.5 s",),
}
"""What was seen when something was run by hand: other tools, a host, faults. No command repeats it."""


@pytest.mark.parametrize("page", PAGES)
def test_every_measurement_has_its_block_in_its_page_and_no_other_is_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert sorted(names_in(text)) == sorted(one.name for one in WITH_BLOCKS if one.page == page)
    for name in names_in(text):
        assert with_block(text, name, "x\n").count(closing(name)) == 1


@pytest.mark.parametrize("page", [page for page in PAGES if page not in ELSEWHERE])
def test_no_measured_figure_stands_outside_of_a_block(page: str) -> None:
    text = without_blocks((ROOT / page).read_text(encoding="utf-8"))
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    for phrase in SEEN_ONCE.get(page, ()):
        assert phrase in text
        text = text.replace(phrase, "")
    assert [found[0] for found in FIGURE.finditer(text)] == []


def test_a_figure_outside_of_a_block_is_found() -> None:
    for text in (
        "| tp=1 | 15.5 [14.8, 27.8] |",
        "the median was\n12 ms",
        "1.9 s for 1.98 GB (median of 3)",
        "17 s (n=1)",
        "after 7.4 s",
    ):
        assert FIGURE.search(text), text
    assert not FIGURE.search("waits 30 s, then 5 s; `[1, 2]`")


def test_what_a_block_shows_is_not_outside() -> None:
    page = f"a\n{opening('x')}\n1 [2, 3]\n{closing('x')}\nb\n{opening('y')}\n4\n{closing('y')}\n"
    assert without_blocks(page) == "a\nb\n"


def test_every_measurement_has_a_name_of_its_own_and_a_page_that_is_there() -> None:
    assert len({one.name for one in MEASUREMENTS}) == len(MEASUREMENTS)
    assert {one.page for one in MEASUREMENTS} <= {*PAGES}


@pytest.mark.parametrize("one", MEASUREMENTS, ids=lambda one: one.name)
def test_what_is_run_is_there_and_has_the_options_that_are_given(one: Measurement) -> None:
    for words in (one.arguments, one.smallest):
        if "-m" not in words:
            assert words[:2] == ("tpforge", "demo")
            continue
        module = words[words.index("-m") + 1]
        file = ROOT.joinpath(*module.split("."))
        file = file / "__main__.py" if file.is_dir() else file.with_suffix(".py")
        named = {word for word in words[words.index(module) :] if word.startswith("--")} - {"--help"}
        assert [name for name in named if f'"{name}"' not in file.read_text(encoding="utf-8")] == []


def test_a_block_is_the_tables_of_an_output_or_all_of_it() -> None:
    output = "note\n| a |\n|---|\n| 1 |\nMachine: x\n"
    tables = Measurement("x", "page", ("python",))
    assert block(tables, output, footer="F") == "| a |\n|---|\n| 1 |\n\nF\n"
    whole = Measurement("x", "page", ("tpforge",), shown="output")
    assert block(whole, output, footer="F") == f"```\n{output.strip()}\n```\n\nF\n"
    text = Measurement("x", "page", ("python",), shown="text")
    assert block(text, "\nTitle:\n\n| a |\n", footer="F") == "Title:\n\n| a |\n\nF\n"
    with pytest.raises(ValueError, match="x: printed no table: 'nothing'"):
        block(tables, "nothing", footer="F")


def test_only_what_stands_in_a_block_is_replaced() -> None:
    page = (
        f"before\n{opening('a')}\nold\n{closing('a')}\nbetween\n{opening('b')}\nkept\n{closing('b')}\nafter\n"
    )
    assert with_block(page, "a", "new\n") == page.replace("old", "new")
    with pytest.raises(ValueError, match="found 0 blocks of c"):
        with_block(page, "c", "new\n")
    with pytest.raises(ValueError, match="found 2 blocks of a"):
        with_block(page * 2, "a", "new\n")


def test_the_first_line_of_proc_stat_is_all_processors() -> None:
    assert parse_times(STAT) == Times(all=1020, idle=840, stolen=20)
    assert parse_times(Path("/proc/stat").read_text()).all > 0


def scripted(*times: Times) -> Iterator[Times]:
    yield from times


@pytest.mark.parametrize(
    ("others_before", "others_after", "stolen", "quiet"),
    [(0, 0, 0, True), (5, 5, 20, True), (6, 0, 0, False), (0, 6, 0, False), (0, 0, 21, False)],
)
def test_a_machine_is_quiet_when_neither_others_nor_the_host_take_much(
    others_before: int, others_after: int, stolen: int, quiet: bool
) -> None:
    """Samples of 100 ticks around a measurement of 1,000, which itself takes all of the processors."""
    at = Times(0, 0, 0)

    def later(*, ticks: int, busy: int, stolen: int = 0) -> Times:
        nonlocal at
        at = Times(at.all + ticks, at.idle + ticks - busy - stolen, at.stolen + stolen)
        return at

    times = scripted(
        at,
        later(ticks=100, busy=others_before),
        at,
        later(ticks=1000, busy=1000 - stolen, stolen=stolen),
        at,
        later(ticks=100, busy=others_after),
    )
    measured: list[int] = []
    noise = watch(lambda: measured.append(1), read=lambda: next(times), sleep=lambda _seconds: None)
    assert measured == [1]
    assert noise == Noise(others_before / 100, others_after / 100, stolen / 1000)
    assert noise.is_quiet is quiet
    assert ("**not quiet**" in str(noise)) is not quiet
