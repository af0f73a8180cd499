"""The pages in a real browser: a silent console, nothing from elsewhere, readable wide, narrow, printed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.main import main
from tests.support.browser import Page, find_browser, open_browser
from tests.unit.scripts.test_cli_decide import written

pytestmark = pytest.mark.skipif(
    find_browser() is None, reason="no Chromium: apt-get install chromium-headless-shell"
)

_TOO_WIDE = """[...document.querySelectorAll('body *')].filter(e => {
    if (e.closest('.scroll') && !e.matches('.scroll')) return false;
    const box = e.getBoundingClientRect();
    return box.width > 0 && box.right > document.documentElement.clientWidth + 1;
}).map(e => e.outerHTML.slice(0, 80))"""

_SMALLEST_TEXT = """Math.min(...[...document.querySelectorAll('svg.plot')].map(svg =>
    12 * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width))"""

_TEXTS_THAT_OVERLAP = """[...document.querySelectorAll('svg.plot')].flatMap(svg => {
    const boxes = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
    const pairs = [];
    boxes.forEach(([a, p], i) => boxes.slice(i + 1).forEach(([b, q]) => {
        const across = Math.min(p.right, q.right) - Math.max(p.left, q.left);
        const down = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
        if (across > 1 && down > 4) pairs.push(a + ' / ' + b);
    }));
    return pairs;
})"""

_TEXTS_CUT_OFF = """[...document.querySelectorAll('svg.plot')].flatMap(svg => {
    const frame = svg.getBoundingClientRect();
    return [...svg.querySelectorAll('text')].filter(t => {
        const box = t.getBoundingClientRect();
        return box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1;
    }).map(t => t.textContent);
})"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with open_browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module", params=["decision", "comparison"])
def document(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decision and a comparison of two runs with long names and hostile answers."""
    folder = tmp_path_factory.mktemp("page")
    first, second = "smollm2-135m-instruct-tp1-bfloat16", "smollm2-135m-instruct-tp2-int8-weight-only"
    written(folder, first, tp=1, seconds=2, answer="Paris. " * 40)
    written(folder, second, tp=2, seconds=4, answer="</script><script>alert(1)</script>" + "x" * 400)
    names, out = [str(folder / first), str(folder / second)], folder / "out"
    if request.param == "comparison":
        assert main(["compare", *names, "--hourly-cost", "2", "--out", str(out)]) == 0
    else:
        chosen = [
            "--recommend",
            first,
            "--fallback",
            second,
            "--because",
            "it is faster",
            "--ttft-p95-ms",
            "200",
        ]
        assert main(["decide", *names, *chosen, "--out", str(out)]) == 0
    return out / f"{request.param}.html"


@pytest.mark.parametrize("width", [1280, 400])
def test_a_page_is_readable_at_this_width(page: Page, document: Path, width: int) -> None:
    page.logged.clear()
    page.asked.clear()
    page.resize(width)
    page.open(document)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(_TOO_WIDE) == []
    assert page.evaluate("parseFloat(getComputedStyle(document.body).fontSize)") >= 15
    if document.name == "decision.html":
        assert page.evaluate(_SMALLEST_TEXT) >= 10
    assert page.evaluate(_TEXTS_THAT_OVERLAP) == []
    assert page.evaluate(_TEXTS_CUT_OFF) == []
    assert page.logged == []
    assert page.asked == [document.as_uri()]


def test_a_page_prints_without_losing_anything_at_the_edge(page: Page, document: Path) -> None:
    page.resize(1280)
    page.open(document)
    page.call("Emulation.setEmulatedMedia", media="print")
    try:
        page.call(
            "Emulation.setDeviceMetricsOverride", width=718, height=1000, deviceScaleFactor=1, mobile=False
        )
        assert page.evaluate("document.documentElement.scrollWidth") <= 718
        assert page.evaluate(_TOO_WIDE.replace("e.closest('.scroll')", "false")) == []
        printed = page.print_pdf()
    finally:
        page.call("Emulation.setEmulatedMedia", media="")
    assert printed.startswith(b"%PDF")
    assert printed.count(b"/Type /Page\n") + printed.count(b"/Type /Page ") >= 1


def test_a_page_needs_no_script(page: Page, document: Path) -> None:
    page.resize(1280)
    page.open(document)
    assert page.evaluate("document.scripts.length") == 0
    assert page.evaluate("document.links.length") == 0
