"""A tokenizer that is made otherwise than the source's pieces say: the build is silent and `verify` fails.

The judge is sentencepiece, on tokenizer.model or on the pieces of a .gguf.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFWriter
from sentencepiece import SentencePieceProcessor

from builders.sources import gguf, tokenizer_files
from tests.support.tiny import write_tiny_llama
from tests.unit.builders.sources import test_gguf as of_gguf
from tests.unit.builders.sources.test_tokenizers import write_sentencepiece
from tests.unit.builders.test_broken_readings import Patch, judge, nothing


def without_json(folder: Path) -> Path:
    """A tiny llama with tokenizer.model alone."""
    write_sentencepiece(folder)
    kept = {name: (folder / name).read_bytes() for name in ("tokenizer.model", "tokenizer_config.json")}
    write_tiny_llama(folder)
    for name in ("tokenizer.json", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)
    for name, content in kept.items():
        (folder / name).write_bytes(content)
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}
    for name in ("config.json", "generation_config.json"):
        values = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(values | ids))
    return folder


def pieces_of(processor: SentencePieceProcessor, size: int) -> list[tuple[str, float, int]]:
    """Each piece with its score and kind, as llama.cpp writes them; the rest of the vocabulary is unused."""
    count = processor.get_piece_size()
    kinds = [
        2
        if processor.is_unknown(one)
        else 3
        if processor.is_control(one)
        else 6
        if processor.is_byte(one)
        else 1
        for one in range(count)
    ]
    found = [(processor.id_to_piece(one), processor.get_score(one), kinds[one]) for one in range(count)]
    return found + [(f"[PAD{one}]", -1000.0, 5) for one in range(count, size)]


def as_gguf(folder: Path) -> Path:
    """A .gguf whose tokenizer is sentencepiece's."""
    source = without_json(folder)
    processor = SentencePieceProcessor(model_file=str(source / "tokenizer.model"))
    pieces = pieces_of(processor, 320)

    def add(writer: GGUFWriter, _model: Path) -> None:
        writer.add_tokenizer_model("llama")
        writer.add_token_list([piece for piece, _, _ in pieces])
        writer.add_token_scores([score for _, score, _ in pieces])
        writer.add_token_types([kind for _, _, kind in pieces])

    ids = {"bos_token_id": 1, "eos_token_id": 2, "eot_token_id": 2, "padding_token_id": 0}
    extra = {f"tokenizer.ggml.{key}": value for key, value in ids.items()} | {"llama.vocab_size": 320}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(of_gguf, "add_tokenizer", add)
        return of_gguf.write_gguf(source, folder.parent / "tiny.gguf", extra=extra)


def spaces_of_transformers(patch: Patch) -> None:
    """A space at the beginning is one piece short, as it was."""
    patch.setattr(gguf, "as_llama_cpp_spaces", lambda *_, **__: None)


def no_space_before(patch: Patch) -> None:
    right = tokenizer_files.convert_tokenizer

    def wrong(folder: Path, out: Path, **rest: Any) -> None:
        right(folder, out, **rest)
        tokenizer_files.as_llama_cpp_spaces(out / "tokenizer.json", adds_space=False)

    patch.setattr(tokenizer_files, "convert_tokenizer", wrong)


@pytest.mark.parametrize(
    ("make", "mistake"),
    [
        (without_json, nothing),
        (without_json, no_space_before),
        (as_gguf, nothing),
        (as_gguf, spaces_of_transformers),
    ],
)
def test_verify_fails_where_a_tokenizer_is_made_wrongly(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path], Path],
    mistake: Callable[[Patch], None],
) -> None:
    judge(tmp_path, monkeypatch, make, mistake)
