"""What tokenizer a directory holds, and whether the model has a row for each of its tokens.

It does not tokenize, and runs nothing of the checkpoint.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builders.sources.base import each_problem
from builders.sources.input_file import read_bytes
from builders.sources.json_files import read_json_object
from builders.sources.tokenizer_files import find_tokenizer_files
from tpforge.errors import InputRefused

_MERGES = re.compile(rb'"merges"\s*:\s*\[')
_LAST_ARRAY_END = re.compile(rb"\]\s*\}\s*\}\s*\Z")


@dataclass(frozen=True)
class FoundTokenizer:
    """The tokenizer files; one more than the largest id, where a file says so; whether chats have a template.

    `largest` names the token of the largest id and the file that gives it.
    """

    files: tuple[str, ...]
    num_ids: int | None
    largest: str
    has_chat_template: bool
    problems: tuple[str, ...]

    @property
    def is_there(self) -> bool:
        """Whether there is a file from which a tokenizer can be made."""
        names = set(self.files)
        return any(name.startswith("tokenizer.") for name in names) or names >= {"vocab.json", "merges.txt"}


def find_tokenizer(folder: Path) -> FoundTokenizer:
    """Look at the tokenizer files of a directory."""
    files = tuple(path.name for path in find_tokenizer_files(folder))
    problems: list[str] = []
    templates: list[object] = []
    ids: list[tuple[int, str]] = []
    for name in files:
        if not name.endswith(".json"):
            continue
        try:
            # tokenizer.json is large, and is read by its own library when it is used.
            values = (
                _plain_json(folder / name) if name == "tokenizer.json" else read_json_object(folder / name)
            )
        except InputRefused as error:
            problems += each_problem(error)
            continue
        if name in ("tokenizer_config.json", "chat_template.json"):
            templates.append(values.get("chat_template"))
        if (largest := _largest(name, values)) is not None:
            ids.append(largest)
    number, named = max(ids, default=(-1, ""))
    return FoundTokenizer(
        files=files,
        num_ids=number + 1 if ids else None,
        largest=named,
        has_chat_template="chat_template.jinja" in files or any(map(_has_template, templates)),
        problems=tuple(problems),
    )


def _has_template(value: object) -> bool:
    """A text, or several by name with a default, which is what a chat takes."""
    if isinstance(value, list):
        return any(isinstance(one, dict) and one.get("name") == "default" for one in value)
    return isinstance(value, str) and bool(value)


def vocabulary_problem(tokenizer: FoundTokenizer, *, vocab_size: int) -> str | None:
    """What is wrong when the tokenizer has an id for which the embedding has no row."""
    if tokenizer.num_ids is None or tokenizer.num_ids <= vocab_size:
        return None
    return (
        f"{tokenizer.largest}, but the embedding has {vocab_size} rows; "
        "a prompt with it cannot be computed: give the tokenizer that belongs to the weights"
    )


def _plain_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(_without_merges(read_bytes(path)))
    except (ValueError, RecursionError) as error:
        raise InputRefused(f"{path}: not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise InputRefused(f"{path}: found a JSON {type(values).__name__}, expected an object")
    return values


def _without_merges(text: bytes) -> bytes:
    """tokenizer.json without its merges, where they stand last, as its library writes it: most of the file.

    They give no ids, and parsing them would take longer than all else that inspect does.
    """
    begins = list(_MERGES.finditer(text))
    end = _LAST_ARRAY_END.search(text, max(0, len(text) - 100))
    if not begins or end is None:
        return text
    start = begins[-1].end()
    if any(key in text[start:] for key in (b'"vocab"', b'"added_tokens"', b'"id"')):
        return text
    return text[:start] + text[end.start() :]


def _largest(name: str, values: dict[str, Any]) -> tuple[int, str] | None:
    """The largest id that a file gives to a token, in words."""
    tokens: list[tuple[int, object]] = []
    if name == "tokenizer.json":
        model = values.get("model")
        vocabulary = model.get("vocab") if isinstance(model, dict) else None
        if isinstance(vocabulary, dict):
            numbers = [one for one in vocabulary.values() if type(one) is int]
            top = max(numbers, default=None)
            tokens += [(one, token) for token, one in vocabulary.items() if one == top and type(one) is int]
        elif isinstance(vocabulary, list) and vocabulary:
            last = vocabulary[-1]
            tokens.append((len(vocabulary) - 1, last[0] if isinstance(last, list) and last else last))
        added = values.get("added_tokens")
        for one in added if isinstance(added, list) else ():
            if isinstance(one, dict) and type(one.get("id")) is int:
                tokens.append((one["id"], one.get("content")))
    elif name in ("added_tokens.json", "vocab.json"):
        tokens += [(one, token) for token, one in values.items() if type(one) is int]
    if not tokens:
        return None
    number, token = max(tokens, key=lambda one: one[0])
    return number, f"{name}: token {str(token)[:40]!r} has id {number}"
