"""Tokenizers that people have: sentencepiece alone, vocab.json with merges.txt, a .gguf's; and the end id.

The judge is sentencepiece itself, and transformers.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece
from tokenizers import Tokenizer

from builders.audit.survey import survey
from builders.sources import locate, open_source
from builders.sources.end_ids import NO_END, tokenizer_end_id
from builders.sources.tokenizer_files import as_llama_cpp_spaces, copy_tokenizer, require_tokenizer
from scripts.main import main
from tests.support.tiny import write_tiny_llama
from tests.unit.builders.sources.test_gguf import write_gguf
from tpforge.errors import InputRefused

TEXTS = ("The capital of France is", "hello  world", "Ünïcode", "def f(x):\n    return x")


def write_sentencepiece(folder: Path) -> sentencepiece.SentencePieceProcessor:
    folder.mkdir()
    held = io.BytesIO()
    sentences = ["the capital of France is Paris", "hello world and all of it", "Ünïcode and   spaces"] * 40
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=held,
        vocab_size=288,
        model_type="bpe",
        byte_fallback=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(held.getvalue())
    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "legacy": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"unk_token": "<unk>"}))
    return sentencepiece.SentencePieceProcessor(model_proto=held.getvalue())


def test_tokenizer_model_alone_gives_the_ids_of_sentencepiece(tmp_path: Path) -> None:
    processor = write_sentencepiece(tmp_path / "source")
    (tmp_path / "out").mkdir()
    copy_tokenizer(tmp_path / "source", tmp_path / "out")
    tokenizer = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    for text in TEXTS:
        assert tokenizer.encode(text, add_special_tokens=False).ids == processor.encode(text)


def test_a_space_at_the_beginning_is_a_piece_of_its_own_as_llama_cpp_has_it(tmp_path: Path) -> None:
    processor = write_sentencepiece(tmp_path / "source")
    (tmp_path / "out").mkdir()
    copy_tokenizer(tmp_path / "source", tmp_path / "out")
    as_llama_cpp_spaces(tmp_path / "out" / "tokenizer.json", adds_space=True)
    tokenizer = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    for text in (*TEXTS, " the", "  two"):
        assert tokenizer.encode(text, add_special_tokens=False).ids == processor.encode(text)


def write_vocabulary(folder: Path) -> None:
    write_tiny_llama(folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)
    vocabulary = tokenizer["model"]["vocab"] | {
        one["content"]: one["id"] for one in tokenizer["added_tokens"]
    }
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    merges = [" ".join(one) if isinstance(one, list) else one for one in tokenizer["model"]["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    settings = {"tokenizer_class": "GPT2Tokenizer", "eos_token": "</s>", "bos_token": "<s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"unk_token": "</s>"}))


def test_vocab_json_with_merges_is_a_tokenizer(tmp_path: Path) -> None:
    write_vocabulary(tmp_path / "source")
    found = survey(locate(str(tmp_path / "source")))
    assert found.tokenizer is not None and found.tokenizer.is_there
    assert found.warnings == []
    (tmp_path / "out").mkdir()
    copy_tokenizer(tmp_path / "source", tmp_path / "out")
    tokenizer = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert tokenizer.decode(tokenizer.encode("the capital of France").ids) == "the capital of France"


@pytest.mark.parametrize("name", ["tekken.json", "qwen.tiktoken"])
def test_tokenizers_that_are_not_read_are_named_at_inspect_and_before_a_build(
    tmp_path: Path, name: str
) -> None:
    write_tiny_llama(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / name).write_text("{}")
    with pytest.raises(InputRefused, match=f"found {name} .* no tokenizer.json"):
        require_tokenizer(tmp_path)
    assert any(f"found {name}" in one for one in survey(locate(str(tmp_path))).warnings)


def without_end_ids(folder: Path) -> None:
    write_tiny_llama(folder)
    for name in ("config.json", "generation_config.json"):
        values = json.loads((folder / name).read_text())
        values.pop("eos_token_id", None)
        (folder / name).write_text(json.dumps(values))


def test_the_end_id_is_the_tokenizers_where_no_config_has_one(tmp_path: Path) -> None:
    without_end_ids(tmp_path)
    expected = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).token_to_id("</s>")
    assert tokenizer_end_id(tmp_path) == expected
    with open_source(str(tmp_path)) as source:
        assert source.spec.special_tokens.end_ids == (expected,)
        assert source.notes == (
            f"answers end at the tokenizer's eos_token {expected}: no config says another",
        )


def test_no_end_id_at_all_is_said(tmp_path: Path) -> None:
    without_end_ids(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    (tmp_path / "special_tokens_map.json").unlink(missing_ok=True)
    assert NO_END in survey(locate(str(tmp_path))).notes
    with open_source(str(tmp_path)) as source:
        assert source.notes == (NO_END,) and source.spec.special_tokens.end_ids == ()


def test_configs_come_before_the_tokenizer(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path)
    with open_source(str(tmp_path)) as source:
        assert source.notes == () and source.spec.special_tokens.end_ids


def break_merges(folder: Path) -> None:
    values = json.loads((folder / "tokenizer.json").read_text())
    values["model"]["merges"].append(["not there", "nor this"])
    (folder / "tokenizer.json").write_text(json.dumps(values))


def break_normalizer(folder: Path) -> None:
    """Its library does not raise but panics."""
    values = json.loads((folder / "tokenizer.json").read_text())
    values["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    (folder / "tokenizer.json").write_text(json.dumps(values))


def break_kind(folder: Path) -> None:
    values = json.loads((folder / "tokenizer.json").read_text())
    values["model"]["type"] = "Newer"
    (folder / "tokenizer.json").write_text(json.dumps(values))


def break_pattern(folder: Path) -> None:
    """It loads, and gives up on a long word."""
    values = json.loads((folder / "tokenizer.json").read_text())
    pattern = {"Regex": r"(e+)+$"}
    split = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
    values["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, values["pre_tokenizer"]]}
    (folder / "tokenizer.json").write_text(json.dumps(values))


def break_sentencepiece(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"\n\x0bnot a model")


def break_pairs(folder: Path) -> None:
    write_vocabulary(folder)
    (folder / "merges.txt").write_text("#version: 0.2\nnot there\n")


def give_two_tokens_one_id(folder: Path) -> None:
    write_vocabulary(folder)
    vocabulary = json.loads((folder / "vocab.json").read_text())
    vocabulary["\u0120t"] = 0
    (folder / "vocab.json").write_text(json.dumps(vocabulary))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (break_merges, "Token `not there` out of vocabulary"),
        (break_normalizer, "PanicException: Precompiled"),
        (break_pattern, "retry-limit-in-match over"),
        (break_kind, "did not match any variant"),
        (break_sentencepiece, "tokenizer.model is no tokenizer that can be loaded"),
        (break_pairs, "vocab.json with merges.txt is no tokenizer that can be loaded"),
        (give_two_tokens_one_id, "several tokens have the id 0"),
    ],
)
def test_a_tokenizer_that_its_library_cannot_load_is_said_before_anything_is_converted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None], words: str
) -> None:
    model, out = write_tiny_llama(tmp_path / "model"), tmp_path / "engine"
    damage(model)
    assert any(words in problem for problem in survey(locate(str(model))).problems)
    for runtime in ("reference", "pytorch"):
        assert main(["build", str(model), "--runtime", runtime, "--out", str(out)]) == 4
        error = capsys.readouterr().err
        assert words in error and "save it again with transformers" in error
        assert not out.exists()


def test_weights_are_converted_beside_a_tokenizer_that_cannot_be_loaded(tmp_path: Path) -> None:
    """Convert writes no tokenizer."""
    break_merges(write_tiny_llama(tmp_path / "model"))
    assert main(["convert", str(tmp_path / "model"), "--out", str(tmp_path / "out")]) == 0


def test_a_gguf_whose_merges_are_broken_has_a_broken_tokenizer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Merges of tokens that its list does not hold, as converters of 2024 wrote them."""
    model, out = write_tiny_llama(tmp_path / "model"), tmp_path / "engine"
    break_merges(model)
    path = write_gguf(model, tmp_path / "tiny.gguf")
    assert any("not there" in problem for problem in survey(locate(str(path))).problems)
    assert main(["build", str(path), "--runtime", "reference", "--out", str(out)]) == 4
    assert "tokenizer" in capsys.readouterr().err
    assert not out.exists()
