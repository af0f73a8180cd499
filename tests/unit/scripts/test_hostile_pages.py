"""Pages of what strangers wrote: labels, answers and names are text there, for a browser and for a reader.

Judges: a CommonMark parser that is not ours, and Unicode's own classes of characters.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from jinja2 import UndefinedError
from markdown_it import MarkdownIt
from markdown_it.token import Token

from scripts.main import main
from scripts.reports.acceptance import acceptance_page
from scripts.reports.page import render_html
from scripts.reports.svg import Bar, Point, Series, bar_plot, line_plot
from scripts.reports.texts import cell, fenced
from tests.unit.scripts.test_cli_decide import written
from tpforge.measure.runs.run import Fact, read_run, read_samples, write_run

OBEYED = {"Cc", "Cf", "Cs", "Zl", "Zp"}
CONTROLS = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\u2066\x7f\x00"
LINKS = [
    "[click](http://evil.example)",
    "![seen](http://evil.example/pixel.png)",
    "\\[click\\](javascript:alert)",
    "\\\\[click](http://evil.example)",
    "[a [b](http://evil.example) ](http://evil.example)",
    "[click][evil]",
    "[evil]: http://evil.example",
    "<http://evil.example>",
    "<img src=http://evil.example>",
    "&lt;b&gt; &#91;x&#93;(http://evil.example)",
    "a \\| b | c",
    "`[x](http://evil.example)`",
]
ALL = " ".join([*LINKS, CONTROLS])


def tokens(text: str) -> list[Token]:
    """Everything in a Markdown text, as a browser would be told of it."""
    found = MarkdownIt("commonmark").enable("table").parse(text)
    return [inner for token in found for inner in (token, *(token.children or ()))]


def kinds(text: str) -> set[str]:
    """Links, pictures and HTML in a Markdown text."""
    return {token.type for token in tokens(text)} & {"link_open", "image", "html_inline", "html_block"}


def obeyed(text: str) -> set[str]:
    """Characters that a terminal or a browser obeys instead of showing, but line ends and tabs."""
    return {one for one in text if unicodedata.category(one) in OBEYED} - set("\n\t")


@pytest.mark.parametrize("text", LINKS)
@pytest.mark.parametrize(
    "place", ["{}", "- {}", "**{}**", "a {}.", "# {}", "| h | i |\n|---|---|\n| {} | x |"]
)
def test_a_link_or_a_picture_of_a_label_is_text_wherever_it_stands(text: str, place: str) -> None:
    page = f"{place.format(cell(text))}\n\n{cell('[evil]: http://other.example')}\n"
    assert kinds(page) == set()
    words = [token.content for token in tokens(page) if token.type in ("text", "code_inline")]
    assert "evil.example" in "".join(words) or "evil.example" not in text


def test_a_label_is_one_cell_and_reads_as_it_was_written() -> None:
    for text in (*LINKS, "C:\\dir\\", "a|b", "x & y", "[8.0, 12.0]"):
        found = tokens(f"| h | i |\n|---|---|\n| {cell(text)} | end |\n")
        inline = [token for token in found if token.type == "inline"]
        assert [token.content for token in inline][3:] == ["end"]
        if "`" not in text:
            assert "".join(part.content for part in inline[2].children or ()) == text


def test_a_plain_label_is_not_changed() -> None:
    for text in ("tp1: 5.0 [4.0, 6.0] ms, n=3 (AMD)", "max_batch_size 8", "a*b_c", "größer"):
        assert cell(text) == text


def test_plots_hold_nothing_that_is_obeyed() -> None:
    series = [Series(ALL, (Point(1, 2, 1, 3, label=ALL), Point(2, 3)))]
    lines = line_plot(series, title=ALL, x_label=ALL, y_label=ALL, limits=[(ALL, 2)])
    bars = bar_plot([Bar(ALL, ((ALL, 1), ("b", 2)), ALL)], title=ALL, x_label=ALL, limits=[(ALL, 2)])
    for plot in (lines, bars, line_plot([], title=ALL, x_label="", y_label="")):
        assert obeyed(plot) == set()
        texts = [text for element in ElementTree.fromstring(plot).iter() for text in (element.text or "",)]
        assert "<img" in "".join(texts) and not ElementTree.fromstring(plot).findall(".//img")


def spoiled(folder: Path) -> None:
    """A saved run as a stranger would give it: hostile text wherever text may stand."""
    run = read_run(folder)
    kept = {"runtime", "tp", "pp"}
    engine = {name: fact if name in kept else Fact(value=ALL) for name, fact in run.engine.items()}
    environment = {name: Fact(unavailable_because=ALL) for name in run.environment} | {"cpu": Fact(value=ALL)}
    changes: dict[str, Any] = {"label": f"{ALL} {folder.name}", "engine": engine, "environment": environment}
    asked = [one.model_copy(update={"output_text": ALL}) for one in read_samples(folder)]
    write_run(folder, run.model_copy(update=changes | {"notes": (ALL,)}), asked, force=True)


def test_a_decision_and_a_comparison_of_hostile_runs_have_no_link_and_nothing_that_is_obeyed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [str(tmp_path / name) for name in ("one", "two")]
    for tp, name in enumerate(names, start=1):
        written(tmp_path, Path(name).name, tp=tp, seconds=2 * tp, answer="Paris.")
        spoiled(Path(name))
    given = ["--recommend", "one", "--fallback", "two", "--because", ALL.replace("\0", "")]
    assert main(["decide", *names, *given, "--out", str(tmp_path / "decision")]) == 0
    assert main(["compare", *names, "--out", str(tmp_path / "comparison")]) == 0
    said = capsys.readouterr()
    pages = [path.read_text() for path in sorted(tmp_path.glob("*/*.html"))]
    texts = [path.read_text() for path in sorted(tmp_path.glob("*/*.md"))]
    assert (len(pages), len(texts)) == (2, 2)
    for text in (*pages, *texts, said.out, said.err):
        assert obeyed(text) == set()
    assert [kinds(text) for text in texts] == [set(), set()]
    assert all("evil.example" in text for text in texts)


def test_what_a_host_says_of_itself_is_text_on_the_page_of_its_acceptance() -> None:
    host = {"gpus": [ALL], "driver": ALL, "cuda": ALL, "packages": {"torch": ALL}}
    claim = {"name": "x", "claimed": ALL, "verdict": "held", "seen": ALL, "seconds": 1, "log": None}
    record = {
        "host": host | {"auto": {"runtime": "reference", "because": ALL}},
        "claims": [claim],
        "tpforge": "1",
        "is_over": True,
        "budget_min": 1,
        "model": ALL,
    }
    page = acceptance_page(record)
    assert kinds(page) == set() and obeyed(page) == set()


def test_an_undefined_name_in_a_template_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="title"):
        render_html("page.html.j2", {})


def test_text_of_a_title_is_escaped() -> None:
    assert "<title>&lt;b&gt;</title>" in render_html("page.html.j2", {"title": "<b>"})


def test_characters_that_no_page_may_hold_are_shown_as_escapes() -> None:
    page = render_html("page.html.j2", {"title": "a\x00\x1b[1m\ud800b\tc"})
    assert "<title>a\\x00\\x1b[1m\\ud800b\tc</title>" in page


def test_a_home_directory_is_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert "<title>~/m.gguf</title>" in render_html("page.html.j2", {"title": "/home/somebody/m.gguf"})
    assert "~/m.gguf" in bar_plot([], title="/home/somebody/m.gguf", x_label="")


def test_markdown_cells_and_fences_hold_any_text() -> None:
    assert cell("a | b\n<script>") == "a \\| b &lt;script>"
    assert fenced("a ``` b") == "````\na ``` b\n````"
