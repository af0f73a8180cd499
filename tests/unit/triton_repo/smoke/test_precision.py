"""Golden answers are judged by what the dtype that the server computes in does to logits."""

from __future__ import annotations

from typing import cast

import pytest

from engines.reference.opening import AUTO_DTYPE
from tests.support.records import manifest_of, parity_of
from tests.support.servers.fake_server import MAX_INPUT_LEN, MAX_SEQ_LEN, FakeServer, decode, encode, greedy
from tpforge.dtypes import DType
from tpforge.golden import first_run
from tpforge.manifest import GoldenAnswer, Limits, Manifest, Parity, Rounding
from triton_repo.client.openai import OpenAiClient
from triton_repo.smoke.check import AUTO_COMPUTE_DTYPE, CheckResult, Skipped, Target
from triton_repo.smoke.openai.target import OpenAiTarget
from triton_repo.smoke.runner import run_checks
from triton_repo.smoke.triton import all_checks

CHECKS = {check.name: check for check in all_checks()}
ROUNDING = (
    Rounding(compute_dtype=DType.FLOAT32, max_abs_logit_error=1e-4, max_margin_error=1e-4),
    Rounding(compute_dtype=DType.BFLOAT16, max_abs_logit_error=1.3, max_margin_error=0.3),
)
FLOAT32_ONLY = ROUNDING[:1]


def answer(margins: tuple[float, ...], *, first: int | None = None, prompt: str = "w3 w4") -> GoldenAnswer:
    """What the fake server's model says; with `first`, after a token that it would not say itself."""
    ids = encode(prompt)
    count = len(margins)
    tokens = greedy(ids, count) if first is None else [first, *greedy((*ids, first), count - 1)]
    return GoldenAnswer(
        name="easy",
        prompt=prompt,
        prompt_ids=ids,
        token_ids=tuple(tokens),
        text=decode(tokens),
        num_decisive=0,
        margins=margins,
    )


def known(*answers: GoldenAnswer, rounding: tuple[Rounding, ...] = ROUNDING) -> Manifest:
    limits = Limits(max_batch_size=8, max_input_len=MAX_INPUT_LEN, max_seq_len=MAX_SEQ_LEN)
    return manifest_of(limits=limits, golden=answers, parity=parity_of(rounding=rounding))


def run(name: str, server: FakeServer, manifest: Manifest) -> CheckResult:
    target = Target(client=server, manifest=manifest, num_clients=4)
    (result,) = run_checks((CHECKS[name],), target, on_result=lambda _result: None)
    return result


def test_auto_is_the_dtype_that_the_reference_runtime_takes_for_it() -> None:
    assert AUTO_COMPUTE_DTYPE == AUTO_DTYPE


@pytest.mark.parametrize(
    ("compute_dtype", "expected"),
    [
        ("auto", DType.FLOAT32),
        ("float32", DType.FLOAT32),
        ("bfloat16", DType.BFLOAT16),
        ("float16", DType.FLOAT16),
        ("", DType.BFLOAT16),  # TensorRT-LLM computes in the engine's own.
    ],
)
def test_the_dtype_is_what_the_server_says_or_the_engines(compute_dtype: str, expected: DType) -> None:
    target = Target(client=FakeServer(compute_dtype=compute_dtype), manifest=known())
    assert target.compute_dtype is expected


@pytest.mark.parametrize(
    ("compute_dtype", "expected"),
    [("float32", 4), ("bfloat16", 2), ("float16", 2)],
)
def test_as_many_tokens_decide_as_the_dtype_leaves(compute_dtype: str, expected: int) -> None:
    """0.7 is more than twice 0.3; 0.5 is less; float16 is finer than bfloat16, which was measured."""
    item = answer((0.7, 0.7, 0.5, 0.7))
    target = Target(client=FakeServer(compute_dtype=compute_dtype), manifest=known(item))
    assert first_run(target.decisive(item)).count == expected
    assert target.num_decisive(item.prompt) == expected


def test_a_tie_in_bfloat16_fails_no_right_server() -> None:
    """The server says another first token than transformers, which won by 0.1 and is no error then."""
    manifest = known(answer((0.1, 2.0, 2.0), first=77))
    for name in ("ensemble.golden", "tensorrt_llm_bls.golden"):
        result = run(name, FakeServer(compute_dtype="bfloat16"), manifest)
        assert result.status == "skip"
        assert "computed in bfloat16, in which margins are off by up to 3.0e-01" in result.reason
    assert run("ensemble.golden", FakeServer(), manifest).status == "fail"


def test_tokens_behind_a_tie_are_judged_after_it() -> None:
    manifest = known(answer((0.1, 2.0, 2.0, 2.0), first=77))
    assert run("tensorrt_llm.golden", FakeServer(compute_dtype="bfloat16"), manifest).status == "pass"
    result = run("tensorrt_llm.golden", FakeServer("wrong tokens", compute_dtype="bfloat16"), manifest)
    assert result.status == "fail"
    assert "tokens of golden prompt 'easy' after its first 1: " in result.reason


def test_answers_that_may_differ_when_computed_together_are_not_compared() -> None:
    manifest = known(answer((0.1, 2.0), first=77))
    for name in ("ensemble.batch", "ensemble.concurrency"):
        assert run(name, FakeServer(compute_dtype="bfloat16"), manifest).status == "skip"
    with pytest.raises(Skipped, match="may begin otherwise"):
        _ = Target(client=FakeServer(compute_dtype="bfloat16"), manifest=manifest).prompts


def test_a_dtype_that_verify_did_not_measure_is_said() -> None:
    manifest = known(answer((2.0, 2.0)), rounding=FLOAT32_ONLY)
    result = run("tensorrt_llm.golden", FakeServer(compute_dtype="bfloat16"), manifest)
    assert (result.status, result.reason) == (
        "skip",
        "verify did not measure what bfloat16 does to logits: run `tpforge verify` again",
    )


def test_engines_that_were_proven_before_margins_were_kept_are_read() -> None:
    parity = known().parity
    assert parity is not None
    values = parity.model_dump(mode="json") | {
        "served_dtype": "float32",
        "served_max_abs_logit_error": 1e-4,
    }
    del values["rounding"]
    old = Parity.model_validate(values)
    assert old.rounding == ()
    item = answer((2.0, 2.0)).model_copy(update={"margins": (), "num_decisive": 1})
    manifest = known(item).model_copy(update={"parity": old})
    for compute_dtype, count in (("float32", 1), ("bfloat16", 0)):
        target = Target(client=FakeServer(compute_dtype=compute_dtype), manifest=manifest)
        assert first_run(target.decisive(item)).count == count


def test_servers_behind_openais_api_are_judged_in_the_engines_dtype() -> None:
    decided, tied = answer((0.7, 0.7, 0.5, 0.7)), answer((0.1, 2.0), prompt="w5 w6")
    manifest = known(decided, tied)
    assert manifest.dtype is DType.BFLOAT16
    target = OpenAiTarget(client=cast(OpenAiClient, None), model="tiny", manifest=manifest)
    assert target.golden == (decided,)
    assert target.num_decisive(decided.prompt, 16) == 2
