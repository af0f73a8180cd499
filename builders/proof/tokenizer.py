"""Whether a tokenizer that was made for an engine gives the ids of sentencepiece by the source's own pieces.

A tokenizer.json of the source is copied as it is, and vocab.json with merges.txt is what tokenizers loads:
neither is compared. It opens the source by itself, and shares no code with what made the tokenizer.
Source: sentencepiece_model.proto; llama.cpp, gguf-py/constants.py (tokenizer.ggml.*): the kinds of pieces are
those of sentencepiece.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

TEXTS = (
    "The capital of France is",
    "hello  world",
    "Ünïcode, 你好 and 🙂",
    "def f(x):\n\treturn x + 1",
    "3.14159 = π",
)
_OF_LLAMA_CPP = (" the", "  two spaces", "\nline")
"""Transformers' own tokenizers put no space before a text that begins with one; llama.cpp does."""
_BPE = 2


def tokenizer_problems(source: Path, tokenizer_dir: Path) -> list[str]:
    """A line for each text whose ids are others; empty where there is nothing to compare with."""
    texts: tuple[str, ...] = TEXTS
    if source.suffix == ".gguf":
        processor, texts = _of_gguf(source), (*TEXTS, *_OF_LLAMA_CPP)
    elif (source / "tokenizer.model").is_file() and not (source / "tokenizer.json").is_file():
        processor = _of_model((source / "tokenizer.model").read_bytes())
    else:
        return []
    if processor is None:
        return []
    from tokenizers import Tokenizer

    made = Tokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))
    problems = []
    for text in texts:
        expected, found = processor.encode(text), made.encode(text, add_special_tokens=False).ids
        if found != expected:
            problems.append(
                f"tokenizer.json: {text!r} has the ids {found}; sentencepiece gives {expected} by the "
                "source's own pieces"
            )
    return problems


def _of_model(content: bytes) -> SentencePieceProcessor:
    from sentencepiece import SentencePieceProcessor

    return SentencePieceProcessor(model_proto=content)


def _of_gguf(path: Path) -> SentencePieceProcessor | None:
    """The pieces of a .gguf whose tokenizer is sentencepiece's; None for another kind."""
    from gguf import GGUFReader
    from sentencepiece import sentencepiece_model_pb2

    fields: dict[str, Any] = {
        name.removeprefix("tokenizer.ggml."): field
        for name, field in GGUFReader(path).fields.items()
        if name.startswith("tokenizer.ggml.")
    }
    if "model" not in fields or fields["model"].contents() != "llama" or "scores" not in fields:
        return None
    model = sentencepiece_model_pb2.ModelProto()
    kinds = fields["token_type"].contents() if "token_type" in fields else None
    for number, (piece, score) in enumerate(
        zip(fields["tokens"].contents(), fields["scores"].contents(), strict=True)
    ):
        model.pieces.add(piece=piece, score=score, type=1 if kinds is None else kinds[number])
    model.trainer_spec.model_type = _BPE
    model.trainer_spec.byte_fallback = kinds is not None and 6 in kinds
    adds_space = fields["add_space_prefix"].contents() if "add_space_prefix" in fields else True
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = bool(adds_space)
    model.normalizer_spec.remove_extra_whitespaces = False
    return _of_model(model.SerializeToString())
