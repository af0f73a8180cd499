"""Sampling of the reference runtime: values chosen by hand, one option at a time."""

from __future__ import annotations

import pytest
import torch

from engines.reference import RequestError, Sampling
from engines.reference.sampling import Sampler

LOGITS = torch.tensor([1.0, 3.0, 2.0, -1.0, 2.9])


def sampler(prompt: tuple[int, ...] = (0,), end_ids: tuple[int, ...] = (), **options: object) -> Sampler:
    return Sampler(Sampling(max_tokens=8, **options), list(prompt), end_ids=end_ids)  # type: ignore[arg-type]


def test_defaults_take_the_most_probable_token() -> None:
    assert sampler().pick(LOGITS) == (1, 0.0)


@pytest.mark.parametrize(
    "options", [{"top_k": 1}, {"temperature": 0.0, "top_k": 50}, {"top_k": 1, "top_p": 0.9}]
)
def test_top_k_one_and_temperature_zero_are_greedy(options: dict[str, float]) -> None:
    assert [sampler(seed=seed, **options).pick(LOGITS)[0] for seed in range(20)] == [1] * 20


def test_top_k_two_draws_only_the_two_most_probable_tokens() -> None:
    drawn = {sampler(top_k=2, seed=seed).pick(LOGITS)[0] for seed in range(60)}
    assert drawn == {1, 4}


def test_top_p_keeps_the_fewest_tokens_that_reach_it() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    drawn = {sampler(top_p=0.6, seed=seed).pick(probabilities.log())[0] for seed in range(80)}
    assert drawn == {0, 1}


def test_sampled_frequencies_follow_the_probabilities() -> None:
    logits = torch.tensor([0.7, 0.2, 0.1]).log()
    one = sampler(top_p=1.0, seed=5)
    counts = torch.bincount(torch.tensor([one.pick(logits)[0] for _ in range(3000)]), minlength=3) / 3000
    assert torch.allclose(counts, torch.tensor([0.7, 0.2, 0.1]), atol=0.03)


def test_temperature_flattens_the_distribution() -> None:
    logits = torch.tensor([0.9, 0.1]).log()
    cold, hot = (sampler(top_p=1.0, temperature=t, seed=1) for t in (0.25, 4.0))
    cold_share = sum(cold.pick(logits)[0] == 0 for _ in range(500)) / 500
    hot_share = sum(hot.pick(logits)[0] == 0 for _ in range(500)) / 500
    assert cold_share > 0.99
    assert hot_share == pytest.approx(9**0.25 / (9**0.25 + 1), abs=0.06)


def test_a_seed_repeats_its_tokens_and_no_seed_is_seed_zero() -> None:
    def draw(seed: int | None) -> list[int]:
        one = sampler(top_k=5, seed=seed)
        return [one.pick(LOGITS)[0] for _ in range(20)]

    assert draw(7) == draw(7)
    assert draw(7) != draw(8)
    assert draw(None) == draw(0)


def test_repetition_penalty_divides_positive_and_multiplies_negative_logits_of_seen_tokens() -> None:
    one = sampler(prompt=(1, 3), repetition_penalty=2.0)
    assert one._process(LOGITS).tolist() == pytest.approx([1.0, 1.5, 2.0, -2.0, 2.9])


def test_presence_counts_once_and_frequency_counts_every_occurrence() -> None:
    one = sampler(prompt=(1,), presence_penalty=0.5, frequency_penalty=0.25)
    one._process(LOGITS)
    one.accept(1)
    one.accept(2)
    assert one._process(LOGITS).tolist() == pytest.approx([1.0, 3.0 - 0.5 - 0.5, 2.0 - 0.75, -1.0, 2.9])


def test_min_tokens_forbids_every_end_until_enough_was_said() -> None:
    one = sampler(end_ids=(1, 3), min_tokens=2)
    assert one._process(LOGITS).tolist() == [1.0, -torch.inf, 2.0, -torch.inf, pytest.approx(2.9)]
    picked = []
    for _ in range(3):
        token, _ = one.pick(LOGITS)
        picked.append(token)
        one.accept(token)
    assert picked == [4, 4, 1]


def test_bad_words_forbid_a_token_and_a_token_after_its_prefix() -> None:
    one = sampler(prompt=(0,), bad_words=((1,), (4, 2)))
    assert one.pick(LOGITS)[0] == 4
    one.accept(4)
    assert one.pick(torch.tensor([0.0, 9.0, 8.0, 1.0, 0.5]))[0] == 3


def test_stop_words_match_the_end_of_the_output_only() -> None:
    one = sampler(prompt=(2, 3), stop_words=((3, 4),))
    one.accept(4)
    assert not one.ends_with_stop_word()
    one.accept(3)
    one.accept(4)
    assert one.ends_with_stop_word()


def test_log_probability_is_of_the_whole_processed_distribution() -> None:
    token, log_prob = sampler(return_log_probs=True, temperature=2.0, top_k=1).pick(LOGITS)
    assert (token, log_prob) == (1, pytest.approx(float((LOGITS / 2).log_softmax(-1)[1])))


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("request_output_len", {"max_tokens": 0}),
        ("request_output_len", {"max_tokens": -3}),
        ("runtime_top_k", {"top_k": -1}),
        ("runtime_top_p", {"top_p": 1.5}),
        ("temperature", {"temperature": -0.1}),
        ("temperature", {"temperature": float("nan")}),
        ("repetition_penalty", {"repetition_penalty": 0.0}),
        ("presence_penalty", {"presence_penalty": float("inf")}),
        ("frequency_penalty", {"frequency_penalty": float("nan")}),
        ("min_tokens", {"min_tokens": -1}),
        ("stop_words_list", {"stop_words": ((5,),)}),
        ("bad_words_list", {"bad_words": ((-2,),)}),
    ],
)
def test_values_out_of_range_are_refused_by_the_name_of_their_field(
    field: str, options: dict[str, object]
) -> None:
    with pytest.raises(RequestError) as caught:
        Sampling(**{"max_tokens": 4, **options}).check(vocab_size=5)  # type: ignore[arg-type]
    assert caught.value.field == field
