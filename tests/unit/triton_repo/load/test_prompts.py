"""The prompt sets that ship hold what they say, and made prompts have the length asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.tiny import write_tiny_tokenizer
from tpforge.errors import InputRefused, UsageError
from tpforge.measure.runs.prompts import Prompt, hash_prompts, parse_prompts
from triton_repo.load.prompt_sets import SETS, load_prompts, synthetic_prompts
from triton_repo.load.run_prompts import NUM_IN_WARMUP, BenchTokenizer, PromptChoice, fresh_prompts


def words(text: str) -> list[str]:
    """A tokenizer that begins every text with a special token and cuts before each space."""
    return ["<s>", *re.findall(r"\s*\S{1,4}", text)]


def encode(text: str) -> list[int]:
    return [_VOCABULARY.setdefault(piece, len(_VOCABULARY)) for piece in words(text)]


def decode(tokens: Sequence[int]) -> str:
    pieces = list(_VOCABULARY)
    return "".join(pieces[token] for token in tokens if pieces[token] != "<s>")


_VOCABULARY: dict[str, int] = {}


@pytest.mark.parametrize("name", SETS)
def test_set_that_ships_is_sound(name: str) -> None:
    prompts = load_prompts(name)
    assert len(prompts) >= 6
    assert [prompt.id for prompt in prompts] == [f"{name}-{n}" for n in range(1, len(prompts) + 1)]
    assert len({prompt.text for prompt in prompts}) == len(prompts)
    assert all(prompt.max_tokens for prompt in prompts)


def test_sets_are_of_their_kind() -> None:
    assert all(prompt.json_schema for prompt in load_prompts("structured-output"))
    languages = [prompt.language for prompt in load_prompts("multilingual")]
    assert None not in languages and len(set(languages)) == len(languages)
    assert min(len(prompt.text) for prompt in load_prompts("long-context")) > 1000
    assert max(len(prompt.text) for prompt in load_prompts("easy")) < 80
    assert any(prompt.must_contain for prompt in load_prompts("high-value"))
    mixed = load_prompts("mixed")
    assert len(mixed) == sum(len(load_prompts(name)) for name in SETS)
    assert [p.id for p in load_prompts("easy,average")][8] == "average-1"


def test_long_texts_hold_the_facts_that_are_asked_for() -> None:
    for prompt in load_prompts("long-context"):
        assert [fact for fact in prompt.must_contain if fact.lower() not in prompt.text.lower()] == []


def test_synthetic_prompts_differ_and_have_exactly_the_length() -> None:
    for length in (5, 64, 900):
        prompts = synthetic_prompts(count=8, num_tokens=length, encode=encode, decode=decode, seed=1)
        assert [len(encode(prompt.text)) for prompt in prompts] == [length] * 8
        assert [prompt.input_tokens for prompt in prompts] == [length] * 8
        assert len({prompt.text for prompt in prompts}) == 8
    again = synthetic_prompts(count=8, num_tokens=900, encode=encode, decode=decode, seed=1)
    assert again == prompts
    assert synthetic_prompts(count=8, num_tokens=900, encode=encode, decode=decode, seed=2) != prompts


def test_every_repeat_and_level_has_new_prompts_and_a_seed_the_same_ones(tmp_path: Path) -> None:
    write_tiny_tokenizer(tmp_path, vocab_size=320)
    tokenizer, choice = BenchTokenizer(tmp_path), PromptChoice(isl=20, osl=4, count=5)
    parts = [fresh_prompts(choice, tokenizer, part=part) for part in ("0-0", "0-1", "1-0")]
    texts = [prompt.text for prompts in parts for prompt in prompts]
    assert len(set(texts)) == len(texts) == 3 * (5 + NUM_IN_WARMUP)
    beginnings = {tuple(tokenizer.encode(text)[:8]) for text in texts}
    assert len(beginnings) == len(texts), "a cache of prompts would know how some begin"
    assert len({prompt.id for prompts in parts for prompt in prompts}) == len(texts)
    assert {(prompt.min_tokens, prompt.max_tokens) for prompt in parts[0]} == {(4, 4)}
    assert fresh_prompts(choice, tokenizer, part="0-1") == parts[1]


def test_synthetic_prompt_says_its_real_length_where_none_is_exact() -> None:
    def in_pairs(text: str) -> list[int]:
        return [0] * (2 * len(text.split()))

    (prompt,) = synthetic_prompts(
        count=1, num_tokens=7, encode=in_pairs, decode=lambda tokens: "x " * (len(tokens) // 2), seed=0
    )
    assert prompt.input_tokens in (6, 8)


def test_file_of_prompts_is_read_and_every_wrong_line_named(tmp_path: Path) -> None:
    good = tmp_path / "mine.jsonl"
    good.write_text('{"text": "a"}\n\n{"id": "b", "text": "ü", "max_tokens": 3}\n', encoding="utf-8")
    assert [(p.id, p.text, p.max_tokens) for p in load_prompts(str(good))] == [
        ("mine.jsonl-1", "a", None),
        ("b", "ü", 3),
    ]
    bad = '{"text": 1}\n{"prompt": "x"}\n[]\n{"text": "a", "id": "i"}\n{"text": "b", "id": "i"}\nnope\n'
    with pytest.raises(InputRefused) as caught:
        parse_prompts(bad, name="bad")
    assert [f"  line {n}: " in str(caught.value) for n in range(1, 7)] == [
        True, True, True, False, True, True,
    ]  # fmt: skip
    with pytest.raises(InputRefused, match="holds no prompt"):
        parse_prompts("\n", name="empty")
    (tmp_path / "latin").write_bytes(b'{"text": "\xe9"}')
    with pytest.raises(InputRefused, match="UTF-8"):
        load_prompts(str(tmp_path / "latin"))
    with pytest.raises(UsageError, match="hard"):
        load_prompts("easy,hard")


def test_hash_is_of_what_is_sent_and_not_of_what_is_known() -> None:
    one = Prompt(id="a", text="x", max_tokens=3)
    same = Prompt(id="b", text="x", max_tokens=3, must_contain=("y",))
    assert hash_prompts([one]) == hash_prompts([same])
    others = [[one, one], [one.model_copy(update={"max_tokens": 4})], [one.model_copy(update={"text": "y"})]]
    assert len({hash_prompts(prompts) for prompts in [[one], *others]}) == 4


def test_malformed_prompts_are_written_in_ascii_so_that_editors_show_them() -> None:
    path = Path(__file__).parents[4] / "triton_repo" / "load" / "prompts" / "malformed.jsonl"
    raw = path.read_bytes()
    assert raw.isascii()
    assert any("\u202e" in json.loads(line)["text"] for line in raw.splitlines())
