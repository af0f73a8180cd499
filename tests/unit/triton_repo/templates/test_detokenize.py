"""Text that is streamed in chunks is the text of the whole, and no chunk breaks a character."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers

from tests.support.tiny import write_tiny_tokenizer
from triton_repo.templates.reference.serving.detokenize import (
    MAX_HELD,
    Aligner,
    TextStream,
    decode_text,
)
from triton_repo.templates.reference.serving.tokenizer import Tokenizer, TokenizerError

TEXTS = (
    "the capital",
    " leading and  double spaces ",
    "日本語 🎉 café naïve — “q” 🇫🇷",
    "\n\ttabs\r\n",
    "👩‍👩‍👧‍👦",
)


def byte_level(folder: Path) -> Tokenizer:
    folder.mkdir()
    write_tiny_tokenizer(folder, vocab_size=320)
    return Tokenizer(folder)


def sentencepiece(folder: Path) -> Tokenizer:
    """A tokenizer like Llama 2's: words begin with a space mark, unknown characters fall back to bytes."""
    folder.mkdir()
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁the", "▁of"]
    pieces += [chr(code) for code in range(ord("!"), ord("~"))]
    library = Library(
        models.BPE(
            vocab={piece: index for index, piece in enumerate(pieces)},
            merges=[],
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    library.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    library.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    library.add_special_tokens(["<s>", "</s>"])
    library.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        '{"bos_token": "<s>", "eos_token": "</s>"}', encoding="utf-8"
    )
    return Tokenizer(folder)


@pytest.fixture(params=[byte_level, sentencepiece])
def tokenizer(request: pytest.FixtureRequest, tmp_path: Path) -> Tokenizer:
    made = request.param(tmp_path / "tokenizer")
    assert isinstance(made, Tokenizer)
    return made


@pytest.mark.parametrize("text", TEXTS)
def test_streamed_text_is_the_text_and_no_chunk_breaks_a_character(tokenizer: Tokenizer, text: str) -> None:
    stream = TextStream(tokenizer.decode)
    tokens = tokenizer.encode(text, add_special_tokens=False)
    chunks = [stream.push([token]) for token in tokens]
    chunks.append(stream.flush())

    # SentencePiece's own encoding puts a space before the first word, which is part of a continuation.
    assert "".join(chunks).lstrip() == text.lstrip()
    assert all("\ufffd" not in chunk for chunk in chunks)
    assert "".join(chunks) == decode_text(tokens, tokenizer.decode)


@pytest.mark.parametrize("seed", range(20))
def test_even_bytes_that_are_no_text_stream_to_the_text_of_the_whole(tokenizer: Tokenizer, seed: int) -> None:
    randomness = random.Random(seed)
    tokens = [randomness.randrange(3, 259) for _ in range(200)]
    stream = TextStream(tokenizer.decode)
    streamed = "".join(stream.push([token]) for token in tokens) + stream.flush()

    assert streamed == decode_text(tokens, tokenizer.decode)
    assert len(streamed) > 50


@pytest.mark.parametrize("seed", range(5))
def test_the_chunks_of_one_aligner_are_text_to_another_that_gets_them_whole(
    tokenizer: Tokenizer, seed: int
) -> None:
    """tensorrt_llm cuts, tensorrt_llm_bls and postprocessing decode what they get."""
    randomness = random.Random(seed)
    tokens = [randomness.randrange(3, 259) for _ in range(200)]
    aligner = Aligner(tokenizer.decode)
    chunks = [*(aligner.push(token) for token in tokens), aligner.flush()]
    stream = TextStream(tokenizer.decode)

    behind = "".join(stream.push(chunk) for chunk in chunks) + stream.flush()
    apart = "".join(decode_text(chunk, tokenizer.decode) for chunk in chunks)

    assert behind == apart == decode_text(tokens, tokenizer.decode)


def test_a_character_of_four_bytes_comes_with_its_last_byte(tmp_path: Path) -> None:
    tokenizer = byte_level(tmp_path / "tokenizer")
    tokens = tokenizer.encode("🎉!", add_special_tokens=False)
    stream = TextStream(tokenizer.decode)

    assert [stream.push([token]) for token in tokens] == ["", "", "", "🎉", "!"]


def test_a_space_before_a_word_is_kept_in_every_chunk(tmp_path: Path) -> None:
    tokenizer = sentencepiece(tmp_path / "tokenizer")
    the, of = (tokenizer._tokenizer.token_to_id(piece) for piece in ("▁the", "▁of"))

    assert tokenizer._decode([the]) == "the", "the decoder strips it"
    assert tokenizer.decode([the]) == " the"
    assert "".join(tokenizer.decode([token]) for token in (the, of)) == " the of"


def test_a_run_that_starts_a_text_has_no_space_before_it(tmp_path: Path) -> None:
    tokenizer = sentencepiece(tmp_path / "tokenizer")
    the = tokenizer._tokenizer.token_to_id("▁the")

    assert tokenizer.begin_id is not None
    assert tokenizer.decode([tokenizer.begin_id, the]) == "the"


def test_bytes_that_never_become_text_are_not_held_for_ever(tmp_path: Path) -> None:
    tokenizer = byte_level(tmp_path / "tokenizer")
    # 0x80 alone is never text; the byte-level alphabet writes it as one character.
    [*_, last] = tokenizer.encode("\u0080", add_special_tokens=False)
    aligner = Aligner(tokenizer.decode)

    released = [len(aligner.push(last)) for _ in range(3 * MAX_HELD)]

    assert sum(released) == 3 * MAX_HELD
    assert max(released) == MAX_HELD


def test_special_tokens_are_skipped_unless_asked_for(tmp_path: Path) -> None:
    skipping = byte_level(tmp_path / "tokenizer")
    keeping = Tokenizer(tmp_path / "tokenizer", skip_special_tokens=False)
    tokens = skipping.encode("a</s>b", add_special_tokens=False)

    assert skipping.decode(tokens) == "ab"
    assert keeping.decode(tokens) == "a</s>b"


def test_special_ids_come_from_the_tokenizers_config(tmp_path: Path) -> None:
    tokenizer = byte_level(tmp_path / "tokenizer")

    assert (tokenizer.end_id, tokenizer.begin_id, tokenizer.pad_id) == (256, 257, 258)
    assert tokenizer.longest_token_bytes == len("Ġcapital".encode())
    assert tokenizer.model_vocab_size <= 320


@pytest.mark.parametrize(
    ("content", "message"), [(None, "tokenizer.json: missing"), ("{", "tokenizer.json: is not a tokenizer")]
)
def test_a_broken_tokenizer_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")

    with pytest.raises(TokenizerError, match=message):
        Tokenizer(tmp_path)
