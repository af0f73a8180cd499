"""The commands that README and docs show in blocks, each as a person would paste it. It runs nothing."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
GENERATED = ("cli.md", "families.md", "decision.md")
PAGES = tuple(
    path
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
    if path.name not in GENERATED
)
PROGRAMS = frozenset(
    (
        *("tpforge", "make", "python", "curl", "git", "uv", "sh", "cd", "tail"),
        *("openssl", "aws", "debootstrap"),
        *("docker", "kubectl", "helm", "sbatch", "squeue", "scancel", "trtllm-serve"),
    )
)
"""What a block of commands begins with; any other block is an output, a file or a picture."""
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Example:
    """One command of a page, its continued lines joined, without its prompt and comment."""

    page: str
    line: int
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {' '.join(self.words)[:60]}"

    @property
    def program(self) -> str:
        return self.words[0]


def examples() -> tuple[Example, ...]:
    """All of them, page by page."""
    return tuple(one for page in PAGES for one in _of_page(page))


def in_the_text() -> Iterator[Example]:
    """Commands of ours between backticks, whole or begun: at least a name."""
    for page in PAGES:
        text = _BLOCK.sub(lambda found: "\n" * found[0].count("\n"), page.read_text(encoding="utf-8"))
        for found in re.finditer(r"`tpforge ([a-z][^`\n]*)`", text):
            number = text[: found.start()].count("\n") + 1
            yield Example(str(page.relative_to(ROOT)), number, ("tpforge", *found[1].split()))


def code_blocks(page: str, language: str) -> tuple[str, ...]:
    """The blocks of a page in a language, as they stand."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return tuple(body for tag, body in _BLOCK.findall(text) if tag == language)


def _of_page(page: Path) -> Iterator[Example]:
    text = page.read_text(encoding="utf-8")
    for found in _BLOCK.finditer(text):
        tag, body = found[1], found[2]
        first = body.removeprefix("$ ").split(maxsplit=1)
        if tag not in ("", "console", "bash", "sh") or not first or first[0] not in PROGRAMS:
            continue
        begun = text[: found.start()].count("\n") + 2
        is_console = body.startswith("$ ")
        for number, command in _commands(body):
            if is_console and not command.startswith("$ "):
                continue
            for words in _split(command.removeprefix("$ ")):
                yield Example(str(page.relative_to(ROOT)), begun + number, words)


def _commands(body: str) -> Iterator[tuple[int, str]]:
    """Lines with those that a backslash or an open quote continues, each with its number."""
    held: list[str] = []
    start = 0
    for number, line in enumerate(body.splitlines()):
        if not held:
            start = number
        held.append(line)
        whole = "\n".join(held)
        if not line.endswith("\\") and _is_closed(whole):
            yield start, whole.replace("\\\n", " ")
            held = []
    assert not held, f"a command that does not end: {held}"


def _is_closed(text: str) -> bool:
    try:
        shlex.split(text, comments=True)
    except ValueError:
        return False
    return True


def _split(command: str) -> Iterator[tuple[str, ...]]:
    """The commands that && joins, without what sends one to the background."""
    words: list[str] = []
    for word in (*shlex.split(command, comments=True), "&&"):
        if word == "&&":
            if words:
                yield tuple(words)
            words = []
        elif word != "&":
            words.append(word)
