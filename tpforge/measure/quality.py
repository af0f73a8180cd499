"""How good the answers are: perplexity, valid structured output, expected texts, agreement with a baseline.

It asks nobody: `engines` and `triton_repo` bring losses and answers. Scores that are differences are taken
prompt by prompt and passage by passage, so that what all answers have in common cancels out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Literal

from pydantic import Field

from tpforge.measure.json_schema import check_text
from tpforge.measure.runs.prompts import Prompt
from tpforge.measure.runs.run import QualityScore
from tpforge.measure.statistics import mean_interval, proportion_interval, sign_test, student_t_quantile
from tpforge.records import Record

QUALITY_NAME = "quality.json"


class Passage(Record):
    """A text and its loss: minus the sum of the natural log-probabilities of `num_tokens` tokens."""

    name: str
    num_tokens: int
    loss: float


class Evaluation(Record):
    """The content of quality.json: what was asked, what was answered, and the scores of it.

    `source` is an engine's folder or a server's address, `engine` the engine's name where it is known.
    `prompts_sha256` is the hash of the prompts as they were sent, so that only answers to the same ones are
    compared. `outcomes` has, by score and prompt, whether the answer was right; a prompt without an answer is
    not. `unavailable` says by score why it is missing; `problems` are the answers that failed.
    """

    schema_version: Literal[1] = 1
    tpforge_version: str
    created: str
    source: str
    engine: str | None = None
    prompts: str
    prompts_sha256: str
    passages: tuple[Passage, ...] = ()
    answers: dict[str, str] = Field(default_factory=dict)
    scores: dict[str, QualityScore] = Field(default_factory=dict)
    outcomes: dict[str, dict[str, bool]] = Field(default_factory=dict)
    unavailable: dict[str, str] = Field(default_factory=dict)
    problems: dict[str, str] = Field(default_factory=dict)


def perplexity(passages: Sequence[Passage]) -> QualityScore:
    """exp of the mean loss of a token; the interval is that of other passages like these."""
    mean, half = _ratio([item.loss for item in passages], [item.num_tokens for item in passages])
    return QualityScore(
        value=math.exp(mean),
        unit="perplexity",
        higher_is_better=False,
        n=sum(item.num_tokens for item in passages),
        low=None if half is None else math.exp(mean - half),
        high=None if half is None else math.exp(mean + half),
        detail=f"{len(passages)} passages",
    )


def perplexity_increase(
    baseline: Sequence[Passage], passages: Sequence[Passage], *, baseline_id: str
) -> QualityScore | str:
    """By how many percent perplexity is above the baseline's, passage by passage; or why it can't be said."""
    before = {item.name: item for item in baseline}
    shared = [(before[item.name], item) for item in passages if item.name in before]
    if not shared:
        return "the baseline has no perplexity of the same passages"
    if any(old.num_tokens != new.num_tokens for old, new in shared):
        return "the tokenizers differ, so that perplexities can't be compared"
    mean, half = _ratio([new.loss - old.loss for old, new in shared], [new.num_tokens for _, new in shared])
    return QualityScore(
        value=100 * math.expm1(mean),
        unit="%",
        higher_is_better=False,
        n=sum(new.num_tokens for _, new in shared),
        low=None if half is None else 100 * math.expm1(mean - half),
        high=None if half is None else 100 * math.expm1(mean + half),
        baseline=baseline_id,
        detail=f"{len(shared)} passages, each against the same one of the baseline",
    )


def structured_validity(
    prompts: Sequence[Prompt], answers: Mapping[str, str]
) -> tuple[QualityScore | None, dict[str, str]]:
    """The share of answers that are JSON of the schema asked for, and what is wrong with the others."""
    asked = [prompt for prompt in prompts if prompt.json_schema is not None and prompt.id in answers]
    problems = {
        prompt.id: problem
        for prompt in asked
        if prompt.json_schema is not None and (problem := check_text(answers[prompt.id], prompt.json_schema))
    }
    return _share(len(asked) - len(problems), len(asked), "answers that fit their JSON schema"), problems


def expected_text(
    prompts: Sequence[Prompt], answers: Mapping[str, str]
) -> tuple[QualityScore | None, dict[str, str]]:
    """The share of answers that hold every text a right one holds, and what the others lack."""
    asked = [prompt for prompt in prompts if prompt.must_contain and prompt.id in answers]
    problems = {}
    for prompt in asked:
        absent = [text for text in prompt.must_contain if text.lower() not in answers[prompt.id].lower()]
        if absent:
            problems[prompt.id] = f"lacks {', '.join(map(repr, absent))}"
    return _share(
        len(asked) - len(problems), len(asked), "answers that hold what a right one holds"
    ), problems


def outcomes_of(
    prompts: Sequence[Prompt], answers: Mapping[str, str], problems: Mapping[str, Mapping[str, str]]
) -> dict[str, dict[str, bool]]:
    """Whether each answer was right, by score and prompt; `problems` has those that were not, by score."""
    asked = {
        "structured_validity": [prompt.id for prompt in prompts if prompt.json_schema is not None],
        "expected_text": [prompt.id for prompt in prompts if prompt.must_contain],
    }
    return {
        score: {name: name in answers and name not in problems.get(score, {}) for name in names}
        for score, names in asked.items()
        if names
    }


def greedy_agreement(
    baseline: Mapping[str, str], answers: Mapping[str, str], *, baseline_id: str
) -> QualityScore | None:
    """How far greedy answers run with the baseline's before they part: the mean share of the characters.

    It says how much changed, not whether it got worse: after one other word an answer goes its own way.
    """
    shares = [
        100 * _common_share(baseline[name], answers[name])
        for name in sorted(baseline.keys() & answers.keys())
    ]
    if not shares:
        return None
    interval, num_equal = mean_interval(shares), sum(share == 100 for share in shares)
    return QualityScore(
        value=math.fsum(shares) / len(shares),
        unit="%",
        higher_is_better=True,
        n=len(shares),
        low=None if interval is None else max(0.0, interval.low),
        high=None if interval is None else min(100.0, interval.high),
        baseline=baseline_id,
        detail=f"{num_equal} of {len(shares)} answers are identical",
    )


def share_drop(
    baseline: Mapping[str, bool], outcomes: Mapping[str, bool], *, baseline_id: str, answers_are_equal: bool
) -> QualityScore | None:
    """By how many points fewer of the same answers are right, answer by answer.

    The interval is that of a difference of paired shares; where all answers are those of the baseline it is
    0. An answer that only the baseline gave counts as wrong.

    Source: Bonett and Price, "Adjusted Wald confidence interval for a difference of binomial proportions
    based on paired data", 2012; the p value is McNemar's, exact
    """
    n = len(baseline)
    if not n:
        return None
    lost = sum(right and not outcomes.get(name, False) for name, right in baseline.items())
    gained = sum(outcomes.get(name, False) and not right for name, right in baseline.items())
    p_lost, p_gained = (lost + 1) / (n + 2), (gained + 1) / (n + 2)
    middle, spread = p_lost - p_gained, p_lost + p_gained - (p_lost - p_gained) ** 2
    half = NormalDist().inv_cdf(0.975) * math.sqrt(spread / (n + 2))
    ends = (0.0, 0.0) if answers_are_equal else (max(-1.0, middle - half), min(1.0, middle + half))
    return QualityScore(
        value=100 * (lost - gained) / n,
        unit="points",
        higher_is_better=False,
        n=n,
        low=100 * ends[0],
        high=100 * ends[1],
        baseline=baseline_id,
        detail=f"{lost} right answers became wrong, {gained} wrong ones right, "
        f"p {sign_test(lost, gained):.2g}",
    )


def _share(successes: int, trials: int, detail: str) -> QualityScore | None:
    interval = proportion_interval(successes, trials)
    if interval is None:
        return None
    return QualityScore(
        value=100 * interval.mean,
        unit="%",
        higher_is_better=True,
        n=trials,
        low=100 * interval.low,
        high=100 * interval.high,
        detail=detail,
    )


def _ratio(totals: Sequence[float], counts: Sequence[int]) -> tuple[float, float | None]:
    """sum(totals) / sum(counts), and half the 95 % interval of it over other groups like these.

    The linearized variance of a ratio of sums, k / (k - 1) x sum((total - ratio x count)^2) / sum(counts)^2,
    with Student's t of k - 1. Source: Cochran, "Sampling Techniques", 1977, section 6.3
    """
    ratio, k, whole = math.fsum(totals) / sum(counts), len(totals), sum(counts)
    if k < 2:
        return ratio, None
    squares = math.fsum((total - ratio * count) ** 2 for total, count in zip(totals, counts, strict=True))
    deviation = math.sqrt(k / (k - 1) * squares) / whole
    return ratio, student_t_quantile(0.975, k - 1) * deviation


def _common_share(first: str, second: str) -> float:
    longest = max(len(first), len(second))
    if longest == 0:
        return 1.0
    common = next(
        (index for index, (a, b) in enumerate(zip(first, second, strict=False)) if a != b),
        min(len(first), len(second)),
    )
    return common / longest
