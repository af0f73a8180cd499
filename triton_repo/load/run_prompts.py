"""The prompts of a run as they are sent: chosen or made, of the length asked for, in the chat template.

It sends nothing, and knows no chat template: who asks brings the function that renders one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tpforge.errors import InputRefused, UsageError
from tpforge.measure.runs.prompts import DEFAULT_MAX_TOKENS, Prompt

if TYPE_CHECKING:
    from triton_repo.load.counting import Counting
    from triton_repo.load.schedule import Trace

NUM_SYNTHETIC = 128
"""How many different synthetic prompts a repeat has, when the number of its requests is not known."""

NUM_IN_WARMUP = 32
"""How many more it has when that is known, for the requests of its warmup."""

DEFAULT_SET = "average"


@dataclass(frozen=True)
class PromptChoice:
    """What prompts are asked for; `in_chat` puts the chat template of the engine around one."""

    given: str | None = None
    isl: int | None = None
    osl: int | None = None
    max_tokens: int | None = None
    count: int | None = None
    in_chat: Callable[[str], str] | None = None
    seed: int = 0

    @property
    def name(self) -> str:
        """What the record calls them."""
        return "synthetic" if self.isl else self.given or DEFAULT_SET


class BenchTokenizer:
    """The model's tokenizer, for counting and for prompts of an exact length.

    Raises:
        InputRefused: the folder has no tokenizer.json, or it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer

        file = path / "tokenizer.json" if path.is_dir() else path
        if not file.is_file():
            raise InputRefused(f"{file}: no such tokenizer; --tokenizer wants a tokenizer.json or its folder")
        try:
            self._tokenizer: Any = Tokenizer.from_file(str(file))
        except Exception as error:
            # The library raises a bare Exception for whatever is wrong with the file.
            raise InputRefused(f"{file}: not a tokenizer: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def encode(self, text: str) -> list[int]:
        """A prompt's tokens, with the special ones that the server adds."""
        return list(self._tokenizer.encode(text).ids)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, without special ones."""
        return str(self._tokenizer.decode(list(tokens)))

    def counting(self) -> Counting:
        """How it counts prompts and answers."""
        from triton_repo.load.counting import Counting

        return Counting(inputs=self._count_prompts, outputs=self._count_answers)

    def _count_prompts(self, texts: Sequence[str]) -> list[int]:
        return [len(found.ids) for found in self._tokenizer.encode_batch(list(texts))]

    def _count_answers(self, texts: Sequence[str]) -> list[int]:
        batch = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [len(found.ids) for found in batch]


def choose_prompts(choice: PromptChoice, tokenizer: BenchTokenizer | None) -> tuple[Prompt, ...]:
    """The prompts of a run, each with the length that its answer may, or must, have.

    Raises:
        UsageError: a set and a length are both given, or a length without a tokenizer.
        InputRefused: a file is no set of prompts.
    """
    from triton_repo.load.prompt_sets import load_prompts

    if choice.isl and choice.given:
        raise UsageError("--isl makes prompts and --prompts names them; give one of them")
    if choice.isl:
        return fresh_prompts(choice, tokenizer, part=f"{choice.seed}-0")
    prompts = load_prompts(choice.given or DEFAULT_SET)
    return tuple(_as_sent(prompt, choice) for prompt in prompts)


def fresh_prompts(choice: PromptChoice, tokenizer: BenchTokenizer | None, *, part: str) -> tuple[Prompt, ...]:
    """New prompts of `choice.isl` tokens; the same `part` and seed make the same ones.

    Raises:
        UsageError: there is no tokenizer.
    """
    from triton_repo.load.prompt_sets import synthetic_prompts

    assert choice.isl
    prompts = synthetic_prompts(
        count=choice.count + NUM_IN_WARMUP if choice.count else NUM_SYNTHETIC,
        num_tokens=choice.isl,
        encode=_needed(tokenizer).encode,
        decode=_needed(tokenizer).decode,
        seed=part,
    )
    return tuple(
        _as_sent(prompt, choice).model_copy(update={"id": f"{prompt.id}-{part}"}) for prompt in prompts
    )


def trace_prompts(trace: Trace, choice: PromptChoice, tokenizer: BenchTokenizer | None) -> tuple[Prompt, ...]:
    """A prompt for every request of a trace: its own text, else one of its length, else one of the set.

    Raises:
        UsageError: a request has a length but no text, and there is no tokenizer.
    """
    from triton_repo.load.prompt_sets import load_prompts, synthetic_prompts

    others = load_prompts(choice.given or DEFAULT_SET)
    prompts = []
    for number, row in enumerate(trace.rows):
        prompt = others[number % len(others)]
        if row.text is not None:
            prompt = Prompt(id="", text=row.text)
        elif row.input_tokens is not None:
            (prompt,) = synthetic_prompts(
                count=1,
                num_tokens=row.input_tokens,
                encode=_needed(tokenizer).encode,
                decode=_needed(tokenizer).decode,
                seed=choice.seed + number,
            )
        length = row.output_tokens
        forced = {"max_tokens": length, "min_tokens": length} if length else {}
        prompts.append(_as_sent(prompt, choice).model_copy(update={"id": f"{trace.file}-{number}", **forced}))
    return tuple(prompts)


def _as_sent(prompt: Prompt, choice: PromptChoice) -> Prompt:
    update: dict[str, object] = {
        "max_tokens": choice.osl or choice.max_tokens or prompt.max_tokens or DEFAULT_MAX_TOKENS
    }
    if choice.osl:
        update["min_tokens"] = choice.osl
    if choice.in_chat is not None:
        update["text"] = choice.in_chat(prompt.text)
    return prompt.model_copy(update=update)


def _needed(tokenizer: BenchTokenizer | None) -> BenchTokenizer:
    if tokenizer is None:
        raise UsageError(
            "prompts of a given length need the model's tokenizer; give --engine, or --tokenizer DIR"
        )
    return tokenizer
