"""Scores of attention by hand: windows of some layers, and latent attention of prompts and of answers."""

from __future__ import annotations

import pytest

from builders.blueprint import find_blueprint
from tpforge.plan.speed.attention import AttentionWork
from tpforge.shards.mapping import Mapping
from tpforge.shards.weights import rank_shapes


def work(name: str, *, tp: int = 1, attention_dp: bool = False) -> AttentionWork:
    mapping = Mapping(tp_size=tp, moe_ep_size=tp if attention_dp else 1)
    return AttentionWork(rank_shapes(find_blueprint(name), mapping=mapping, attention_dp=attention_dp))


def test_a_score_takes_a_product_with_the_key_and_one_with_the_value_of_every_head() -> None:
    one = 2 * 64 * 2 * 128 * 80
    assert work("llama-3.3-70b").of_prompt(1000) == one * 1000
    assert work("llama-3.3-70b").of_answer(1000) == one * 1000
    assert work("llama-3.3-70b", tp=8).of_prompt(1000) == one * 1000 / 8


def test_layers_with_a_window_see_no_more_than_it() -> None:
    """gpt-oss: every second of 36 layers sees 128 tokens; Gemma 2 every second, 4096."""
    one = 2 * 64 * 2 * 64
    assert work("gpt-oss-120b").of_prompt(4096) == one * (18 * 4096 + 18 * 128)
    assert work("gpt-oss-120b").of_answer(100) == one * 36 * 100
    # Gemma 2: every second layer, 4096 tokens.
    assert work("gemma-2-9b").of_prompt(8192) == 2 * 16 * 2 * 256 * 21 * (8192 + 4096)


def test_latent_attention_reads_prompts_by_heads_and_answers_from_the_latent() -> None:
    """DeepSeek-V2, 2.1.3: absorbed, a head is as wide as latent and rope, and its value as the latent."""
    whole = work("deepseek-v3", tp=8, attention_dp=True)
    assert whole.of_prompt(1000) == 2 * 128 * (128 + 64 + 128) * 61 * 1000
    assert whole.of_answer(1000) == 2 * 128 * (512 + 64 + 512) * 61 * 1000


def test_attention_that_chooses_entries_computes_those_of_an_answer_alone() -> None:
    found = work("deepseek-v3.2")
    assert found.of_answer(10_000) == pytest.approx(found.of_answer(2048))
    assert found.of_prompt(10_000) > found.of_prompt(2048)
