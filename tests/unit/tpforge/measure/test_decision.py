"""What follows from runs for a decision: findings, scaling, limits, contradictions, the checklist."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from scripts.reports.decision import decision_markdown
from tests.support.runs import level_of, run_of, score
from tpforge.errors import InputRefused, UsageError
from tpforge.measure.comparison.compare import compare_runs
from tpforge.measure.decisions.checklist import Evidence, fill_checklist
from tpforge.measure.decisions.decided import decide
from tpforge.measure.decisions.decision import (
    Production,
    Request,
    check_choice,
    findings_of,
    num_ranks,
    scaling_of,
    speaks_against,
)
from tpforge.measure.runs.found_runs import FoundRun
from tpforge.measure.runs.run import Run, write_run

FAST = ((0.10, 0.11), (0.12, 0.10), (0.11, 0.13))
SLOW = ((0.30, 0.31), (0.32, 0.30), (0.31, 0.33))
REQUEST = Request(question="?", recommend="a", fallback="b", because="so")


def run(name: str, tp: int, *, seconds: float, ttfts: Any = FAST, **options: Any) -> Run:
    """Two requests of four tokens in about `seconds`, at concurrency 1 and 2."""
    durations = [seconds, seconds * 1.01, seconds * 0.99]
    levels = [level_of(ttfts, concurrency=count, durations=durations)[0] for count in (1, 2)]
    return run_of(name, levels, engine={"tp": tp, "pp": 1}, **options)


def test_the_finding_says_that_ranks_do_not_pay_only_where_numbers_say_so() -> None:
    one, slower, faster = run("one", 1, seconds=2), run("two", 2, seconds=3), run("two", 2, seconds=1)
    names = {"one": "one", "two": "two"}
    said = findings_of(compare_runs(one, slower), names=names)
    assert "throughput is worse at 2 of 2 levels (-33 to -33 %)" in said
    assert "do not pay" in said
    said = findings_of(compare_runs(one, faster), names=names)
    assert "throughput is better at 2 of 2 levels (+100 to +100 %)" in said
    assert "More ranks gain throughput" in said
    same = run("two", 2, seconds=2)
    assert "No gain from more ranks was shown" in findings_of(compare_runs(one, same), names=names)


def test_nothing_is_concluded_of_ranks_when_something_else_changed_too() -> None:
    one = run("one", 1, seconds=2)
    other = run("two", 2, seconds=3, workload={"osl": 9})
    assert "pay" not in findings_of(compare_runs(one, other), names={"one": "one", "two": "two"})


def test_efficiency_is_speedup_by_added_ranks() -> None:
    found = scaling_of(run("one", 1, seconds=3), [run("one", 1, seconds=3), run("four", 4, seconds=1)])
    assert [(item.run, item.num_ranks) for item in found[::2]] == [("one", 1), ("four", 4)]
    assert (found[0].speedup, found[0].efficiency) == pytest.approx((1, 1))
    assert (found[2].speedup, found[2].efficiency) == pytest.approx((3, 0.75))


def test_ranks_are_tp_times_pp_and_unknown_without_tp() -> None:
    assert num_ranks(run_of("a", [], engine={"tp": 4, "pp": 2})) == 8
    assert num_ranks(run_of("a", [], engine={"tp": 4})) == 4
    unknown = run_of("a", [])
    unknown = unknown.model_copy(update={"engine": {**unknown.engine, "tp": unknown.engine["pp"]}})
    assert num_ranks(unknown) is None
    assert scaling_of(unknown, [unknown]) == ()


def test_runs_of_one_label_are_told_apart_in_every_sentence_and_answer(tmp_path: Path) -> None:
    found = []
    for name, ttfts in (("a", FAST), ("b", SLOW)):
        level, samples = level_of(ttfts, copies=2)
        texts = [one.model_copy(update={"output_text": f"answer of {name}"}) for one in samples]
        one = run_of(name, [level], engine={"tp": 1}).model_copy(update={"label": "engine"})
        write_run(tmp_path / name, one, texts)
        found.append(FoundRun(tmp_path / name, one))
    request = REQUEST.model_copy(update={"recommend": str(tmp_path / "a"), "fallback": "b"})
    decided = decide(found, request)
    assert (decided.recommended.run.label, decided.fallback.run.label) == ("engine (a)", "engine (b)")
    assert decided.decision.findings[0].startswith("engine (b) against engine (a): ")
    page = decision_markdown(decided)
    assert "answer of a" in page and "answer of b" in page
    assert "--out 'out/repeated/engine (a)'" in page and "--out 'out/repeated/engine (b)'" in page


def test_a_dominating_option_speaks_against_the_recommendation() -> None:
    slow, fast = run("slow", 4, seconds=3, ttfts=SLOW), run("fast", 1, seconds=2)
    assert "fast is better" in speaks_against(slow, [fast], REQUEST)[0]
    assert speaks_against(fast, [slow], REQUEST) == ()
    worse = fast.model_copy(update={"quality": {"structured_validity": score(50, 40, 60)}})
    good = slow.model_copy(update={"quality": {"structured_validity": score(90, 85, 95)}})
    assert speaks_against(good, [worse], REQUEST) == ()


def test_a_lead_that_may_be_chance_is_said_and_a_small_one_is_not() -> None:
    def once(name: str, seconds: float) -> Run:
        return run_of(name, [level_of(FAST, durations=[seconds] * 3, minutes=MINUTES[name])[0]])

    chosen = once("chosen", 2.2)
    (said,) = speaks_against(chosen, [once("other", 2.0)], REQUEST)
    assert said == (
        "other has the better output_token_throughput at every level, by 10 %, which may be chance"
    )
    assert speaks_against(chosen, [once("other", 2.15)], REQUEST) == ()


MINUTES = {"chosen": (0, 1, 2), "other": (10, 11, 12)}
"""One after the other, so that there is no verdict."""


def test_a_recommendation_that_was_shown_to_be_better_in_nothing_is_named() -> None:
    baseline, same, faster = run("base", 1, seconds=2), run("same", 2, seconds=2), run("fast", 2, seconds=1)
    said = speaks_against(same, [baseline], REQUEST, baseline=baseline)
    assert said == ("nothing of same was shown to be better than of base",)
    assert speaks_against(faster, [baseline], REQUEST, baseline=baseline) == ()


def test_what_was_never_answered_cannot_be_recommended() -> None:
    failed = run_of("dead", [level_of(FAST, num_failed=2)[0]])
    alive = run("alive", 1, seconds=1)
    with pytest.raises(InputRefused, match="none of its 6 requests was answered"):
        check_choice(REQUEST, failed, alive)
    with pytest.raises(InputRefused, match="--fallback dead"):
        check_choice(REQUEST, alive, failed)
    with pytest.raises(UsageError, match="something else"):
        check_choice(REQUEST, alive, alive)
    with pytest.raises(UsageError, match="--because"):
        check_choice(REQUEST.model_copy(update={"because": " "}), alive, run("b", 2, seconds=1))


def checked(runs: Sequence[Run], request: Request = REQUEST, **fields: Any) -> dict[str, tuple[str, str]]:
    evidence = Evidence(
        request=request,
        baseline=runs[0],
        recommended=runs[-1],
        runs=runs,
        comparisons=[compare_runs(runs[0], other) for other in runs[1:]],
        outputs=fields.get("outputs", {}),
        prices=fields.get("prices", {}),
    )
    return {item.question: (item.status, item.evidence) for item in fill_checklist(evidence)}


def test_a_bare_demonstration_has_little_of_the_checklist() -> None:
    found = checked([run("one", 1, seconds=2), run("two", 2, seconds=3)])
    done = {question for question, (status, _) in found.items() if status == "done"}
    assert done == {
        "Was one variable changed at a time?",
        "Was everything measured at least 3 times, to the end?",
        "Were the options measured in turns?",
        "Were failures counted?",
    }


def test_each_answer_follows_from_the_runs() -> None:
    facts = {"model": "m", "revision": "r", "precision": "bfloat16", "license": "MIT", "quantization": "none"}
    one, two = run("one", 1, seconds=2), run("two", 2, seconds=3)
    kept = frozenset(f"{case}-1" for case in ("easy", "average", "long-context", "malformed", "high-value"))
    request = REQUEST.model_copy(
        update={
            "bottleneck": "TTFT p95 of 900 ms at 20 users",
            "complexity": "two processes",
            "trigger": "p95 TTFT above 500 ms for an hour",
            "production": Production(input_tokens=8, concurrency=2),
        }
    )
    quality = {"structured_validity": score(95, 90, 98)}
    runs = [
        item.model_copy(
            update={
                "engine": {**item.engine, **run_of("x", [], engine=facts).engine, "tp": item.engine["tp"]},
                "quality": quality,
            }
        )
        for item in (one, two)
    ]
    found = checked(runs, request, outputs={"one": kept, "two": kept}, prices={"one": 1.0, "two": 2.0})
    missing = {question for question, (status, _) in found.items() if status == "missing"}
    assert missing == {
        "Are the versions of runtime and server recorded?",
        "Are hardware and interconnect recorded?",
        "Was memory measured under load, with KV cache and overhead?",
        "Were quantization or a smaller model tried before more GPUs?",
    }
    assert found["Were the lengths realistic?"] == ("done", "prompts of up to 8 tokens, 8 are expected")
    longer = request.model_copy(update={"production": Production(input_tokens=9, concurrency=3)})
    again = checked(runs, longer, outputs={"one": kept, "two": kept - {"malformed-1"}})
    assert again["Were the lengths realistic?"][0] == "missing"
    assert again["Was the concurrency realistic?"] == ("missing", "up to 2 at once, 3 are expected")
    assert "malformed" in again["Were easy, average, long, malformed and high-value cases asked?"][1]


def test_options_measured_one_after_the_other_are_missing_in_the_checklist() -> None:
    first = run_of("one", [level_of(FAST, minutes=(0, 1, 2))[0]])
    later = run_of("two", [level_of(FAST, minutes=(3, 4, 5))[0]])
    status, said = checked([first, later])["Were the options measured in turns?"]
    assert (status, said) == ("missing", "not in turns with one: two; measure again with bench --join")


def test_two_changed_variables_leave_the_rule_of_one_unmet() -> None:
    found = checked([run("one", 1, seconds=2), run("two", 2, seconds=3, workload={"osl": 7})])
    assert found["Was one variable changed at a time?"] == ("missing", "two: tp, osl")
