"""Text of strangers made harmless to show: names of files and tensors, labels, answers, lines of logs.

It does not judge what the text says. Characters that move a cursor, change a title, hide or reorder what is
beside them are shown as the escape by which Python writes them.
"""

from __future__ import annotations

import re

# str.isprintable calls these not printable too; a terminal shows a blank.
_BLANKS = "\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000"
# Joiners that scripts and emoji are written with; they move nothing.
_JOINERS = "\u200c\u200d"
_SUSPECT = re.compile(r"[^\x20-\x7e\u00a1-\u00ac\u00ae-\u024f]")
_KEPT = re.compile(f"[{_BLANKS}{_JOINERS}\n\t]")


def is_text(text: str) -> bool:
    """Whether it can be written and sent: Python keeps bytes that are none as halves of characters."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def printable(text: str) -> str:
    """The text with line ends and tabs as they are, and every other control character escaped."""
    return _SUSPECT.sub(_escaped, text.replace("\r\n", "\n"))


def printable_name(text: str, *, at_most: int = 200) -> str:
    """A name on one line: line ends and tabs are escaped too, and a long one is cut in the middle."""
    return shortened(printable(text).replace("\n", "\\n").replace("\t", "\\t"), at_most=at_most)


def printable_json(text: str) -> str:
    """JSON, as `json.dumps` writes it, with what a terminal would obey escaped; the same value."""
    return _SUSPECT.sub(_json_escaped, text)


def shortened(line: str, *, at_most: int) -> str:
    """The line, or both ends of a longer one and how much is left out."""
    if len(line) <= at_most:
        return line
    half = at_most // 2
    return f"{line[:half]}... ({len(line) - 2 * half} characters more) ...{line[-half:]}"


def shortened_lines(text: str, *, at_most: int) -> str:
    """The text with each of its lines shortened."""
    if len(text) <= at_most:
        return text
    return "\n".join(shortened(line, at_most=at_most) for line in text.split("\n"))


def _escaped(match: re.Match[str]) -> str:
    character = match.group()
    if character.isprintable() or _KEPT.match(character):
        return character
    return character.encode("unicode_escape").decode("ascii")


def _json_escaped(match: re.Match[str]) -> str:
    character = match.group()
    if character.isprintable() or _KEPT.match(character):
        return character
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[start : start + 4]}" for start in range(0, len(units), 4))
