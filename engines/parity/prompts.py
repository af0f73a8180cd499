"""The prompts of the proof, as text and as the token ids that preprocessing makes of them.

They are those of prompts.toml that fit an engine. Nothing is computed here.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from engines.chat import chat_prompts, find_template
from tpforge.errors import InputRefused
from tpforge.manifest import Manifest


@dataclass(frozen=True)
class Prompt:
    """A prompt as text, after the chat template, and as the token ids that preprocessing makes of it."""

    name: str
    text: str
    ids: tuple[int, ...]


def load_prompts(tokenizer_dir: Path, *, manifest: Manifest) -> list[Prompt]:
    """The prompts of prompts.toml that fit the engine, templated and tokenized as a server would."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))
    table = tomllib.loads(Path(__file__).with_name("prompts.toml").read_text(encoding="utf-8"))
    texts = [row["text"].strip() for row in table["prompt"]]
    if find_template(tokenizer_dir) is not None:
        texts = chat_prompts(tokenizer_dir, texts)
    begin = manifest.model.special_tokens.begin_id
    prompts = []
    for row, text in zip(table["prompt"], texts, strict=True):
        ids = tokenizer.encode(text).ids
        begin_text = tokenizer.id_to_token(begin) if begin is not None else None
        if begin_text and ids[:2] == [begin, begin]:
            # The template wrote the begin token and the tokenizer adds it too: keep one.
            text = text.removeprefix(begin_text)
            ids = tokenizer.encode(text).ids
        if len(ids) <= min(manifest.limits.max_input_len, manifest.limits.max_seq_len - 1):
            prompts.append(Prompt(row["name"], text, tuple(ids)))
    if not prompts:
        raise InputRefused(
            f"no verification prompt fits max_input_len {manifest.limits.max_input_len}; "
            "build the engine with a larger --max-input-len"
        )
    return prompts
