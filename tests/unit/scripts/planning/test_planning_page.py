"""docs/planning.md's answers are the program's: its console blocks are run again.

It judges no estimate; tests/unit/tpforge/plan does.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scripts.main import main

ROOT = Path(__file__).parents[4]
PAGE = ROOT / "docs/planning.md"
TITLE = "## Ten questions of a platform engineer"


def answers() -> list[tuple[str, list[str]]]:
    """Every command of the section, without ``tpforge``, and the lines that the page prints under it."""
    section = PAGE.read_text(encoding="utf-8").partition(TITLE)[2].partition("\n## ")[0]
    blocks = re.findall(r"^```console\n\$ tpforge (.*?)\n```$", section, flags=re.MULTILINE | re.DOTALL)
    return [(command.replace("\\\n", ""), shown) for command, shown in map(_halves, blocks)]


def _halves(block: str) -> tuple[str, list[str]]:
    lines = block.splitlines()
    end = next(index for index, line in enumerate(lines) if not line.endswith("\\"))
    return "\n".join(lines[: end + 1]), lines[end + 1 :]


def omits(shown: str, line: str) -> bool:
    """Whether `shown` is `line`, or its beginning or end where `shown` has an ellipsis there."""
    pattern = ".*".join(map(re.escape, shown.split(" ...")))
    return re.fullmatch(pattern, line) is not None


def test_the_page_answers_ten_questions() -> None:
    section = PAGE.read_text(encoding="utf-8").partition(TITLE)[2].partition("\n## ")[0]
    assert len(re.findall(r"^### \d+\. ", section, flags=re.MULTILINE)) == 10
    assert len(answers()) >= 10
    assert all(shown for _, shown in answers())


def test_a_question_is_answered_with_figures_that_its_commands_print() -> None:
    """Sentences beside a console block state none of their own, so that they cannot outlive it."""
    section = PAGE.read_text(encoding="utf-8").partition(TITLE)[2].partition("\n## ")[0]
    for question in re.split(r"^### \d+\. ", section, flags=re.MULTILINE)[1:]:
        title, _, text = question.partition("\n")
        blocks = " ".join(re.findall(r"^```console$(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL))
        prose = re.sub(r"^```console$.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
        # Of the price file, whose date is that of its own head.
        prose = re.sub(r"on \d{4}-\d\d-\d\d", "", prose)
        for figure in re.findall(r"(?<![\w.-])\d[\d.]*\d|(?<![\w.-])\d", prose):
            assert re.search(rf"(?<![\d.]){re.escape(figure)}(?![\d])", blocks + title), f"{title}: {figure}"


@pytest.mark.parametrize(("command", "shown"), answers(), ids=lambda value: str(value)[:60])
def test_what_the_page_prints_is_what_the_program_prints(
    command: str, shown: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    main(command.split())
    output = capsys.readouterr()
    printed = iter([line.rstrip() for line in (output.out + output.err).splitlines()])
    for line in shown:
        # In the order of the page: what was looked at once is not looked at again.
        assert any(omits(line, one) for one in printed), f"tpforge {command}\ndoes not print (now): {line}"


def test_a_changed_figure_or_order_is_seen() -> None:
    assert omits("throughput  12 output tokens/s ...", "throughput  12 output tokens/s (1 to 2)")
    assert not omits("throughput  13 output tokens/s ...", "throughput  12 output tokens/s (1 to 2)")
    assert not omits("throughput", "throughput  12")
