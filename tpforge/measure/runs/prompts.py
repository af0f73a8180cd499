"""A prompt as a line of a JSONL file, with what is known of a right answer; and the hash of a set.

It opens no file and asks nobody; `triton_repo.load.prompt_sets` has the sets that ship.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Annotated

from pydantic import Field, JsonValue, ValidationError

from tpforge.errors import InputRefused
from tpforge.records import Record

DEFAULT_MAX_TOKENS = 128
"""The bound of an answer to a prompt that names none."""


class Prompt(Record):
    """One request to make.

    `max_tokens` bounds the answer, None is DEFAULT_MAX_TOKENS. `min_tokens` forces a length. `json_schema` is
    what a structured answer must satisfy, `must_contain` are texts that a right answer holds. `language` is
    a BCP 47 tag. `input_tokens` is the length that a synthetic prompt was made to have.
    """

    id: str
    text: str
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    input_tokens: int | None = None
    json_schema: dict[str, JsonValue] | None = None
    must_contain: tuple[str, ...] = ()
    language: str | None = None


def parse_prompts(text: str, *, name: str) -> tuple[Prompt, ...]:
    """The prompts of a JSONL text; a line without an id gets ``NAME-LINE``, empty lines are skipped.

    Raises:
        InputRefused: a line is no prompt, an id is there twice, or there is none at all; all are listed.
    """
    prompts, problems = [], []
    seen: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            prompt = _parse(line, default_id=f"{name}-{number}")
        except ValueError as error:
            problems.append(f"line {number}: {error}")
            continue
        if prompt.id in seen:
            problems.append(f"line {number}: the id {prompt.id!r} is that of line {seen[prompt.id]} too")
        seen[prompt.id] = number
        prompts.append(prompt)
    if problems:
        raise InputRefused.listing(f"{name}: not a set of prompts, one JSON object per line:", problems)
    if not prompts:
        raise InputRefused(f"{name}: holds no prompt; give one JSON object with `text` per line")
    return tuple(prompts)


def is_same_mix(first: Mapping[str, int], second: Mapping[str, int]) -> bool:
    """Whether both asked every prompt equally often, in proportion: one pass is the same mix as three."""
    if first.keys() != second.keys():
        return False
    total, other = sum(first.values()), sum(second.values())
    return all(count * other == second[name] * total for name, count in first.items())


def hash_prompts(prompts: Iterable[Prompt]) -> str:
    """SHA-256 of the prompts' texts and of the lengths asked for, in their order."""
    digest = hashlib.sha256()
    for prompt in prompts:
        asked = [prompt.text, prompt.min_tokens, prompt.max_tokens]
        digest.update(json.dumps(asked, ensure_ascii=True).encode() + b"\n")
    return digest.hexdigest()


def _parse(line: str, *, default_id: str) -> Prompt:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, found {type(value).__name__}")
    try:
        return Prompt.model_validate({"id": default_id, **value})
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise ValueError("; ".join(problems)) from None
