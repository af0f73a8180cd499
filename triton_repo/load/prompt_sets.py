"""The prompts of a run: a set that ships, the user's own JSONL, or synthetic ones of an exact length.

The sets lie in prompts/NAME.jsonl; what a prompt is, is `tpforge.measure.runs.prompts`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path

from tpforge.errors import InputRefused, UsageError
from tpforge.measure.runs.prompts import Prompt, parse_prompts
from tpforge.outputs.atomic import os_errors

SETS = (
    "easy", "average", "long-context", "malformed", "high-value", "multilingual", "structured-output",
)  # fmt: skip
"""The sets that ship."""

MIXED = "mixed"
"""All of them."""

Encode = Callable[[str], Sequence[int]]
Decode = Callable[[Sequence[int]], str]
_ATTEMPTS = 20
_NUMBERS = 10**9


def load_prompts(given: str) -> tuple[Prompt, ...]:
    """The prompts of a set, of several sets (``easy,average``), of ``mixed``, or of a JSONL file.

    Raises:
        UsageError: it is none of them.
        InputRefused: the file is not UTF-8, or not a set of prompts.
    """
    path = Path(given)
    if path.is_file():
        with os_errors(path):
            data = path.read_bytes()
        try:
            return parse_prompts(data.decode("utf-8"), name=path.name)
        except UnicodeDecodeError as error:
            raise InputRefused(f"{path}: is not UTF-8 text: {error}") from error
    names = list(SETS) if given == MIXED else given.split(",")
    if unknown := sorted(set(names) - set(SETS)):
        known = ", ".join((*SETS, MIXED))
        raise UsageError(f"{', '.join(unknown)}: neither a file nor a set of prompts; the sets are {known}")
    return tuple(prompt for name in names for prompt in _shipped(name))


def synthetic_prompts(
    *, count: int, num_tokens: int, encode: Encode, decode: Decode, seed: int | str
) -> tuple[Prompt, ...]:
    """`count` different prompts of `num_tokens` tokens each, made of shuffled sentences of the sets.

    Each begins with a number of its own: a server that keeps the KV cache of prompts reuses what their
    beginnings have in common, which shuffled sentences would have.

    `encode` gives a text's tokens with those the server adds, `decode` a text for tokens. A text cut at a
    token seldom encodes to the same tokens, so it is cut again until it does; where it does not in 20
    attempts, the nearest is taken. `input_tokens` is what it really has.
    """
    rng = random.Random(f"{seed} {num_tokens}")
    sentences = _sentences()
    prompts = []
    for number in range(count):
        text, length = _text_of(num_tokens, sentences, encode=encode, decode=decode, rng=rng)
        prompts.append(Prompt(id=f"isl{num_tokens}-{number}", text=text, input_tokens=length))
    return tuple(prompts)


def _shipped(name: str) -> tuple[Prompt, ...]:
    file = resources.files("triton_repo.load").joinpath("prompts", f"{name}.jsonl")
    return parse_prompts(file.read_text("utf-8"), name=name)


def _sentences() -> list[str]:
    texts = (prompt.text for name in ("easy", "average", "high-value") for prompt in _shipped(name))
    return [sentence for text in texts for sentence in re.split(r"(?<=[.?!:])\s+", text) if sentence]


def _text_of(
    num_tokens: int, sentences: Sequence[str], *, encode: Encode, decode: Decode, rng: random.Random
) -> tuple[str, int]:
    best = ("", 0)
    for _ in range(_ATTEMPTS):
        text = _long_text(num_tokens, sentences, encode=encode, rng=rng)
        keep = num_tokens
        for _ in range(4):
            tokens = encode(text)
            cut = decode(tokens[:keep]) if len(tokens) > keep else text
            length = len(encode(cut))
            if length == num_tokens:
                return cut, length
            if best[1] == 0 or abs(length - num_tokens) < abs(best[1] - num_tokens):
                best = (cut, length)
            keep = max(1, keep + num_tokens - length)
    return best


def _long_text(num_tokens: int, sentences: Sequence[str], *, encode: Encode, rng: random.Random) -> str:
    """A number and a shuffle of the sentences with more than `num_tokens` tokens."""
    parts = [f"{rng.randrange(_NUMBERS)}:"]
    length = 0
    while length <= num_tokens + 1:
        for sentence in rng.sample(sentences, len(sentences)):
            parts.append(sentence)
            length += len(sentence) // 3
            if length > 2 * num_tokens + 60:
                break
        length = len(encode(" ".join(parts)))
    return " ".join(parts)
