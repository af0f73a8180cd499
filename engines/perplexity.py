"""How well an engine predicts text: the loss of each token of a few passages, by the reference runtime.

It makes no verdict; `tpforge.measure.quality` turns losses into a perplexity and compares two of them.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from engines.reference import load_config, open_executor
from engines.reference.batches import Logits, Prefill
from tpforge.errors import InputRefused, VerificationFailed
from tpforge.measure.quality import Passage
from tpforge.outputs.atomic import os_errors
from tpforge.progress import Progress

MIN_TOKENS = 2
_HIGHEST = 700.0
"""Nats a token: above it, a perplexity is more than a float holds."""


@dataclass(frozen=True)
class Text:
    """A text by its name."""

    name: str
    text: str


def load_texts(path: Path | None = None) -> tuple[Text, ...]:
    """The passages that ship, or those of the user's file: paragraphs divided by empty lines.

    Raises:
        InputRefused: the file is not UTF-8 text, or is empty.
    """
    if path is None:
        table = tomllib.loads(Path(__file__).with_name("passages.toml").read_text(encoding="utf-8"))
        return tuple(Text(row["name"], row["text"].strip()) for row in table["passage"])
    with os_errors(path):
        data = path.read_bytes()
    try:
        lines = data.decode("utf-8-sig").replace("\r\n", "\n")
        parts = [part.strip() for part in re.split(r"\n[ \t]*\n", lines)]
    except UnicodeDecodeError as error:
        raise InputRefused(f"{path}: is not UTF-8 text: {error}") from error
    texts = tuple(
        Text(f"paragraph {number}", part) for number, part in enumerate(filter(None, parts), start=1)
    )
    if not texts:
        raise InputRefused(f"{path}: holds no text; give paragraphs divided by empty lines")
    return texts


def measure_passages(engine_dir: Path, texts: Sequence[Text], *, progress: Progress) -> tuple[Passage, ...]:
    """The loss of every token of each text but its first, with the tokenizer and the limits of the engine.

    A text longer than the engine's max_seq_len is cut there. Special tokens are those the tokenizer adds.

    Raises:
        InputRefused: no text has two tokens.
        VerificationFailed: the engine computes no numbers.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(engine_dir / "tokenizer" / "tokenizer.json"))
    config = load_config(engine_dir)
    longest = config.limits.max_seq_len
    executor = open_executor(config, kind="auto", device="auto", compute_dtype="auto", num_slots=1)
    passages = []
    try:
        for text in texts:
            ids = tokenizer.encode(text.text).ids[:longest]
            if len(ids) < MIN_TOKENS:
                continue
            logits = executor.forward(Prefill(slot=0, start=0, tokens=tuple(ids), logits=Logits.ALL))
            assert logits is not None
            loss = _loss(logits, ids)
            if not loss <= _HIGHEST * len(ids):
                raise VerificationFailed(
                    f"perplexity: {text.name}: the engine's loss is {loss:g}, of logits that are no numbers "
                    "or mean nothing; `tpforge verify` says where they come from"
                )
            passages.append(Passage(name=text.name, num_tokens=len(ids) - 1, loss=loss))
            progress(f"perplexity: {text.name}: {loss / (len(ids) - 1):.3f} nats a token")
    finally:
        executor.close()
    if not passages:
        raise InputRefused("no text has two tokens: a perplexity needs longer texts")
    return tuple(passages)


def _loss(logits: Tensor, ids: Sequence[int]) -> float:
    """Minus the sum of the log-probabilities of ids[1:], in float64; logits are [tokens, vocab]."""
    import torch

    log_probs = logits[:-1].double().log_softmax(-1)
    chosen = log_probs.gather(1, torch.tensor(ids[1:])[:, None])
    return float(-chosen.sum())
