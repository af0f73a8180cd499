"""What a terminal would obey is shown and not obeyed, in text for people and in JSON."""

from __future__ import annotations

import json
import unicodedata
from functools import cache

import pytest

from tpforge.printable import printable, printable_json, printable_name, shortened_lines

# By Unicode: controls, formats (which reorder or hide), lone surrogates, ends of line and of paragraph.
_OBEYED = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_MEANT = "\n\t\u200c\u200d"


@cache
def every() -> tuple[str, ...]:
    """All of Unicode that a terminal may obey."""
    return tuple(chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) in _OBEYED)


def test_no_character_that_a_terminal_obeys_is_left_but_line_ends_tabs_and_joiners() -> None:
    left = {character for character in every() if character in printable(character)}
    assert left == set(_MEANT)


def test_what_people_write_is_as_it_was() -> None:
    text = "Größe 12 µs, 模型 – “ok” 👩\u200d💻 नमस्ते\tcolumn\nline\u00a0end"
    assert printable(text) == text
    assert printable("a\r\nb") == "a\nb"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;owned\x07", "\\x1b]0;owned\\x07"),
        ("\x1b[2J\x1b[H", "\\x1b[2J\\x1b[H"),
        ("ok\rerror", "ok\\rerror"),
        ("\x9b31m", "\\x9b31m"),
        ("abc\u202egpj.exe", "abc\\u202egpj.exe"),
        ("a\x00b\x08\x7f", "a\\x00b\\x08\\x7f"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_escapes_are_shown(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_json_is_the_same_value_and_holds_nothing_that_is_obeyed() -> None:
    # Apart: a high and a low surrogate side by side are one character to JSON.
    value = {" ".join(every()): [" ".join(every()), "é 模型"]}
    text = printable_json(json.dumps(value, indent=2, ensure_ascii=False))
    assert json.loads(text) == value
    assert {character for character in every() if character in text} <= set(_MEANT)
    assert "é 模型" in text


def test_a_name_stays_on_its_line_and_within_its_width() -> None:
    assert printable_name("a\nerror: b\tc") == "a\\nerror: b\\tc"
    assert (
        printable_name("x" * 1_000_000, at_most=20) == "xxxxxxxxxx... (999980 characters more) ...xxxxxxxxxx"
    )


def test_each_line_is_shortened_by_itself() -> None:
    assert (
        shortened_lines("short\n" + "y" * 30, at_most=10) == "short\nyyyyy... (20 characters more) ...yyyyy"
    )
