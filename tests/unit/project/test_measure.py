"""scripts.dev.measure and quiet: blocks of pages; whether a machine was quiet, on a scripted /proc/stat."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.dev.measure import MEASUREMENTS, ROOT, Measurement, block, closing, names_in, opening, with_block
from scripts.dev.quiet import Noise, Times, parse_times, watch

PAGES = sorted({one.page for one in MEASUREMENTS})
STAT = "cpu  100 5 50 800 40 1 4 20 7 0\ncpu0 50 2 25 400 20 0 2 10 3 0\n"


@pytest.mark.parametrize("page", PAGES)
def test_every_measurement_has_its_block_in_its_page_and_no_other_is_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert sorted(names_in(text)) == sorted(one.name for one in MEASUREMENTS if one.page == page)
    for name in names_in(text):
        assert with_block(text, name, "x\n").count(closing(name)) == 1


def test_no_other_page_has_a_block() -> None:
    others = [
        path for path in (ROOT / "docs").rglob("*.md") if path.relative_to(ROOT).as_posix() not in PAGES
    ]
    assert [path for path in others if names_in(path.read_text(encoding="utf-8"))] == []


def test_what_is_run_is_there() -> None:
    for one in MEASUREMENTS:
        if "-m" in one.arguments:
            module = one.arguments[one.arguments.index("-m") + 1]
            assert ROOT.joinpath(*module.split(".")).with_suffix(".py").is_file(), one.name


def test_a_block_is_the_tables_of_an_output_or_all_of_it() -> None:
    output = "note\n| a |\n|---|\n| 1 |\nMachine: x\n"
    tables = Measurement("x", "page", ("python",))
    assert block(tables, output, footer="F") == "| a |\n|---|\n| 1 |\n\nF\n"
    whole = Measurement("x", "page", ("tpforge",), is_verbatim=True)
    assert block(whole, output, footer="F") == f"```\n{output.strip()}\n```\n\nF\n"
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
