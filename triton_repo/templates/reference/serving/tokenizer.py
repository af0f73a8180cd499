"""Text to tokens and back with the tokenizer that lies in the engine folder.

It decodes one run of tokens at a time; `detokenize` says where a stream may be cut.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from .bad_text import Pieces
from .detokenize import REPLACEMENT

# Some decoders strip the space before the first word of what they are given (SentencePiece's do). A
# token of plain text before the run keeps it; its own text is cut off again.
_PREFIX_CANDIDATES = "aetonis0123"


def _gpt2_bytes() -> dict[str, int]:
    """The byte that each letter of a byte-level vocabulary stands for: itself when it can be printed."""
    printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {chr(256 + n): byte for n, byte in enumerate(others)}


_GPT2_BYTES = _gpt2_bytes()


class TokenizerError(ValueError):
    """The tokenizer's folder cannot be used: what was found, what was expected."""


class Tokenizer:
    """A tokenizer.json with the special tokens of its tokenizer_config.json.

    Raises:
        TokenizerError: a file is missing or broken.
    """

    def __init__(self, folder: Path, *, skip_special_tokens: bool = True) -> None:
        self._tokenizer = _load(folder / "tokenizer.json")
        self._skip_special_tokens = skip_special_tokens
        config = _read_json(folder / "tokenizer_config.json")
        self.begin_id = self._special(config, "bos_token")
        self.end_id = self._special(config, "eos_token")
        pad_id = self._special(config, "pad_token")
        self.pad_id = self.end_id if pad_id is None else pad_id
        self.longest_token_bytes = max(
            (len(token.encode()) for token in self._tokenizer.get_vocab(with_added_tokens=True)), default=0
        )
        self.model_vocab_size = 1 + max(
            self._tokenizer.get_vocab(with_added_tokens=False).values(), default=-1
        )
        self._prefix_id, self._prefix_text = self._find_prefix()

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """The tokens of a text."""
        return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of a run of tokens that continues other text: a space before its first word is kept.

        A run that begins with the begin token continues nothing, so nothing is kept.
        """
        if not token_ids:
            return ""
        if self._prefix_id is None or token_ids[0] == self.begin_id:
            return self._decode(list(token_ids))
        text = self._decode([self._prefix_id, *token_ids])
        return text.removeprefix(self._prefix_text)

    def word_text(self, token_ids: Sequence[int]) -> str:
        """The text that a stop or bad word was made of; empty when its tokens are no text."""
        text = self._decode(list(token_ids))
        return "" if REPLACEMENT in text else text

    def respelled(self, text: str) -> list[int] | None:
        """Tokens that decode to this run of text; None when there are none such."""
        for spelling in (text, text.removeprefix(" ")):
            tokens = self.encode(spelling, add_special_tokens=False)
            if self.decode(tokens) == text:
                return tokens
        return None

    @cached_property
    def pieces(self) -> Pieces:
        """The bytes of every token; none of special tokens."""
        before = [] if self._prefix_id is None else [self._prefix_id]
        runs = [[*before, token_id] for token_id in range(self.model_vocab_size)]
        texts = self._tokenizer.decode_batch(runs, skip_special_tokens=self._skip_special_tokens)
        return Pieces(
            [self._piece(number, text.removeprefix(self._prefix_text)) for number, text in enumerate(texts)]
        )

    def _piece(self, token_id: int, text: str) -> bytes:
        if REPLACEMENT not in text:
            return text.encode()
        # Part of a character: byte fallback's <0xE2>, or GPT-2's letters that stand for bytes.
        spelled = self._tokenizer.id_to_token(token_id) or ""
        if spelled.startswith("<0x") and spelled.endswith(">"):
            return bytes([int(spelled[3:-1], 16)])
        return bytes(_GPT2_BYTES[letter] for letter in spelled if letter in _GPT2_BYTES)

    def _decode(self, token_ids: list[int]) -> str:
        return str(self._tokenizer.decode(token_ids, skip_special_tokens=self._skip_special_tokens))

    def _find_prefix(self) -> tuple[int | None, str]:
        for character in _PREFIX_CANDIDATES:
            token_id = self._tokenizer.token_to_id(character)
            if token_id is not None and self._decode([token_id]) == character:
                return token_id, character
        return None, ""

    def _special(self, config: dict[str, Any], key: str) -> int | None:
        token = config.get(key)
        text = token.get("content") if isinstance(token, dict) else token
        return None if text is None else self._tokenizer.token_to_id(text)


def _load(path: Path) -> tokenizers.Tokenizer:
    if not path.is_file():
        raise TokenizerError(f"{path}: missing; tokenizer_dir must be the tokenizer folder of an engine")
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing narrower
        raise TokenizerError(f"{path}: is not a tokenizer: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TokenizerError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise TokenizerError(f"{path}: found a {type(content).__name__}, expected a JSON object")
    return content
