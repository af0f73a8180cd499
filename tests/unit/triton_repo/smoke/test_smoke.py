"""Every check of the smoke test passes on a sound server and fails on one that is wrong in just that way."""

from __future__ import annotations

import json
from collections import Counter
from typing import cast
from xml.etree import ElementTree

import pytest

from tests.support.records import manifest_of
from tests.support.servers.fake_server import (
    MAX_INPUT_LEN,
    MAX_SEQ_LEN,
    Clock,
    FakeMetrics,
    FakeServer,
    decode,
    encode,
    greedy,
)
from tpforge.manifest import GoldenAnswer, Limits, Manifest
from triton_repo.client.client import ServerUnreachable
from triton_repo.client.metrics import parse_metrics
from triton_repo.smoke import CheckResult, SmokeReport, cancelling, malformed, run_smoke, traffic
from triton_repo.smoke.check import CANARY_TOKENS, TOGETHER_TOKENS, Check, Skipped, Target
from triton_repo.smoke.metrics import ActiveRequests, count_active
from triton_repo.smoke.runner import run_checks
from triton_repo.smoke.triton import all_checks

CHECKS = {check.name: check for check in all_checks()}


def golden(name: str, prompt: str, *, num_decisive: int) -> GoldenAnswer:
    tokens = tuple(greedy(encode(prompt), 20))
    return GoldenAnswer(
        name=name,
        prompt=prompt,
        prompt_ids=encode(prompt),
        token_ids=tokens,
        text=decode(tokens),
        num_decisive=num_decisive,
    )


GOLDEN = (golden("easy", "w3 w4", num_decisive=20), golden("average", "w5 w6 w7", num_decisive=6))


def manifest(answers: tuple[GoldenAnswer, ...] = GOLDEN) -> Manifest:
    limits = Limits(max_batch_size=8, max_input_len=MAX_INPUT_LEN, max_seq_len=MAX_SEQ_LEN)
    return manifest_of(limits=limits, golden=answers)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (traffic, cancelling):
        monkeypatch.setattr(module, "time", clock)
    return clock


def run(name: str, server: FakeServer, *, known: Manifest | None = None) -> CheckResult:
    metrics = cast(ActiveRequests, FakeMetrics(server))
    target = Target(client=server, manifest=known or manifest(), metrics=metrics, num_clients=4)
    (result,) = run_checks((CHECKS[name],), target, on_result=lambda _result: None)
    return result


def test_no_check_is_left_out_to_be_faster() -> None:
    """Counts by model, and the tokens that show a decoded step, and several in a batch."""
    groups = Counter(name.partition(".")[0] for name in CHECKS)
    assert groups.pop("ensemble") == 11 + len(malformed.CASES) == 22
    assert groups.pop("tensorrt_llm_bls") == 7 + 5
    assert groups.pop("tensorrt_llm") == 2
    assert groups == {"live": 1, "ready": 1, "models": 1, "contract": 1}
    assert CANARY_TOKENS >= 2
    assert TOGETHER_TOKENS >= 4


@pytest.mark.parametrize("name", CHECKS)
def test_sound_server_passes(name: str, clock: Clock) -> None:
    result = run(name, FakeServer(clock=clock))
    assert (result.status, result.reason) == ("pass", "")


@pytest.mark.parametrize(
    ("name", "flaw", "reason"),
    [
        ("live", "not live", "not live"),
        ("ready", "not ready", "not ready"),
        ("models", "model missing", "tensorrt_llm_bls is not in the server's repository"),
        ("models", "model unavailable", "preprocessing is UNAVAILABLE"),
        ("models", "model not ready", "preprocessing is READY"),
        ("contract", "tensor missing", "ensemble input guided_decoding_guide: missing"),
        ("contract", "tensor too many", "ensemble output extra: not in the contract"),
        ("contract", "tensor type", "ensemble input text_input: UINT8, expected BYTES"),
        ("contract", "tensor shape", "ensemble input text_input: shape [1], expected [-1, 1]"),
        ("contract", "tensor optional", "ensemble input text_input: optional is True, expected False"),
        ("tensorrt_llm.golden", "wrong tokens", "tokens of golden prompt 'easy'"),
        ("ensemble.golden", "random", "answer to golden prompt 'easy'"),
        ("ensemble.golden", "one token too many", "answer to golden prompt 'easy'"),
        ("tensorrt_llm_bls.golden", "random", "answer to golden prompt 'easy'"),
        ("ensemble.streaming", "wrong order", "text of the stream joined"),
        ("ensemble.streaming", "loses a chunk", "text of the stream joined"),
        ("ensemble.streaming", "loses spaces", "text of the stream joined"),
        ("ensemble.streaming", "one chunk", "the stream came as 1 response with text"),
        ("ensemble.streaming", "no final flag", "responses with the final flag: 0, expected 1"),
        ("ensemble.streaming", "final twice", "responses with the final flag: 2, expected 1"),
        ("ensemble.streaming", "final too early", "responses came after the one with the final flag"),
        ("ensemble.streaming", "streams unasked", "2 responses with text to a request that is not streamed"),
        ("tensorrt_llm_bls.streaming", "wrong order", "text of the stream joined"),
        ("ensemble.determinism", "random", "the same greedy request got different answers"),
        ("ensemble.seed", "ignores seed", "all gave"),
        ("ensemble.seed", "seed forgotten", "answer with seed 1 the second time"),
        ("ensemble.stop_words", "ignores stop words", "answer with stop word"),
        ("ensemble.stop_words", "stops anywhere", "answer with stop word ' w"),
        ("ensemble.max_tokens", "one token too many", "max_tokens"),
        ("ensemble.end_id", "ignores end_id", "answer with end_id"),
        ("ensemble.batch", "one batch index", "answers of a request with 2 prompts"),
        ("ensemble.concurrency", "mixes concurrent clients", "answer of client"),
        ("tensorrt_llm_bls.concurrency", "mixes concurrent clients", "answer of client"),
        ("ensemble.cancellation", "ignores stop", "s after it was cancelled, with"),
        ("tensorrt_llm_bls.cancellation", "ignores cancellation", "s after it was cancelled, with"),
        ("tensorrt_llm.cancellation", "ignores cancellation", "s after it was cancelled, with"),
        ("ensemble.cancellation", "active not counted", "shows no active request while one is streaming"),
        ("ensemble.stop", "ignores stop", "the stream went on to its end"),
    ],
)
def test_flawed_server_fails_with_the_reason(name: str, flaw: str, reason: str, clock: Clock) -> None:
    result = run(name, FakeServer(flaw, clock=clock))
    assert result.status == "fail"
    assert reason in result.reason


MALFORMED = [name for name in CHECKS if ".refuses." in name]


@pytest.mark.parametrize("name", MALFORMED)
def test_error_that_does_not_name_the_field_fails(name: str) -> None:
    result = run(name, FakeServer("does not name the field"))
    assert result.status == "fail"
    assert "the error does not name" in result.reason


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_request_that_is_answered_fails(name: str) -> None:
    result = run(name, FakeServer("answers malformed requests"))
    assert result.status == "fail"
    assert "expected an error that names" in result.reason


@pytest.mark.parametrize("name", MALFORMED)
def test_server_that_breaks_on_a_malformed_request_fails(name: str) -> None:
    result = run(name, FakeServer("breaks on malformed requests"))
    assert (result.status, result.reason) == ("fail", "Stub process is not healthy")


def test_every_malformed_request_of_the_issue_is_sent() -> None:
    cases = {
        name.removeprefix("ensemble.refuses.") for name in CHECKS if name.startswith("ensemble.refuses.")
    }
    assert cases == {
        "missing_input",
        "wrong_type",
        "wrong_shape",
        "empty_prompt",
        "long_prompt",
        "negative_max_tokens",
        "zero_max_tokens",
        "negative_top_k",
        "negative_temperature",
        "invalid_utf8",
        "huge_prompt",
    }


@pytest.mark.parametrize("name", [name for name in CHECKS if name.endswith(".cancellation")])
def test_of_a_fast_model_a_slot_that_is_freed_at_once_passes_too(name: str, clock: Clock) -> None:
    assert run(name, FakeServer("too fast", clock=clock)).status == "pass"


def test_stream_with_an_empty_final_response_is_sound() -> None:
    assert run("ensemble.streaming", FakeServer("empty final response")).status == "pass"


@pytest.mark.parametrize(
    ("name", "flaw", "reason"),
    [
        ("ensemble.cancellation", "no metrics", "has no nv_trt_llm_request_metrics"),
        ("tensorrt_llm.cancellation", "too fast to tell", "too short to tell"),
        ("tensorrt_llm.cancellation", "read late", "too short to tell"),
        ("ensemble.batch", "no batches", "max_batch_size of ensemble is 1"),
    ],
)
def test_check_that_cannot_tell_is_skipped_with_the_reason(
    name: str, flaw: str, reason: str, clock: Clock
) -> None:
    result = run(name, FakeServer(flaw, clock=clock))
    assert result.status == "skip"
    assert reason in result.reason


def test_golden_checks_are_skipped_until_the_engine_is_verified() -> None:
    result = run("ensemble.golden", FakeServer(), known=manifest(answers=()))
    assert (result.status, result.reason) == (
        "skip",
        "the engine has no golden answers: run `tpforge verify` on it",
    )


def test_golden_text_must_be_of_as_many_tokens_as_are_decisive() -> None:
    answers = (golden("average", "w5 w6 w7", num_decisive=6),)
    assert run("ensemble.golden", FakeServer(), known=manifest(answers)).status == "pass"
    assert run("ensemble.golden", FakeServer("one token too many"), known=manifest(answers)).status == "fail"


def test_when_the_server_goes_away_the_rest_is_skipped() -> None:
    def vanish(_target: Target) -> None:
        raise ServerUnreachable("localhost:1: the connection to the server is lost")

    def never(_target: Target) -> None:
        raise AssertionError("not reached")

    told: list[str] = []
    results = run_checks(
        (Check("first", "", vanish), Check("second", "", never)),
        Target(client=FakeServer()),
        on_result=lambda result: told.append(result.name),
    )
    assert [result.status for result in results] == ["fail", "skip"]
    assert results[1].reason == "the server went away during first"
    assert told == ["first", "second"]


def test_answer_of_another_form_is_a_failure_and_no_crash() -> None:
    def read(_target: Target) -> None:
        raise KeyError("output_ids")

    (result,) = run_checks((Check("odd", "", read),), Target(client=FakeServer()), on_result=lambda _r: None)
    assert (result.status, result.reason) == (
        "fail",
        "the answer does not have the contract's form: KeyError: 'output_ids'",
    )


def test_smoke_of_an_address_where_nothing_listens_is_one_error() -> None:
    with pytest.raises(ServerUnreachable, match="localhost:9: nothing answers there"):
        run_smoke("localhost:9", on_result=lambda _result: None)


REPORT = SmokeReport(
    url="localhost:8001",
    engine="tiny-tp2",
    results=(
        CheckResult("live", "it answers", "pass", "", 0.0012),
        CheckResult("ensemble.seed", "seeds", "fail", "'a\x00' & <b>, expected 'c'", 1.5),
        CheckResult("ensemble.batch", "batches", "skip", "max_batch_size is 1", 0.25),
    ),
)


def test_report_as_json_has_a_schema_version_and_every_check() -> None:
    found = json.loads(REPORT.to_json())
    assert {key: found[key] for key in found if key != "checks"} == {
        "schema_version": 1,
        "url": "localhost:8001",
        "engine": "tiny-tp2",
        "passed": False,
        "num_passed": 1,
        "num_failed": 1,
        "num_skipped": 1,
        "seconds": 1.751,
    }
    assert found["checks"][1] == {
        "name": "ensemble.seed",
        "proves": "seeds",
        "status": "fail",
        "reason": "'a\x00' & <b>, expected 'c'",
        "seconds": 1.5,
    }


def test_report_as_junit_is_xml_with_failures_and_skips() -> None:
    suite = ElementTree.fromstring(REPORT.to_junit())
    assert {key: suite.get(key) for key in ("tests", "failures", "skipped", "time")} == {
        "tests": "3",
        "failures": "1",
        "skipped": "1",
        "time": "1.751",
    }
    cases = {case.get("name"): case for case in suite.iter("testcase")}
    assert cases["seed"].get("classname") == "smoke.ensemble"
    failure = cases["seed"].find("failure")
    assert failure is not None and failure.get("message") == "'a\ufffd' & <b>, expected 'c'"
    assert cases["batch"].find("skipped") is not None
    assert cases["live"].find("failure") is None


def test_report_without_a_pass_has_not_passed() -> None:
    skipped = CheckResult("live", "", "skip", "", 0.0)
    assert not SmokeReport(url="", engine=None, results=(skipped,)).passed


def test_active_requests_are_read_from_prometheus_text() -> None:
    text = (
        "# TYPE nv_trt_llm_request_metrics gauge\n"
        'nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="waiting",version="1"} 7\n'
        'nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="active",version="1"} 3\n'
    )
    assert count_active(parse_metrics(text, source="s")) == 3
    assert count_active(parse_metrics(text.replace('="tensorrt_llm"', '="a}b"'), source="s")) == 3
    forged = text.replace('"waiting"', '"x\\",request_type=\\"active"')
    assert count_active(parse_metrics(forged, source="s")) == 3
    assert count_active(parse_metrics("nv_inference_count 1\n", source="s")) is None


def test_skip_reason_is_the_result_reason() -> None:
    def skip(_target: Target) -> None:
        raise Skipped("no GPU")

    (result,) = run_checks((Check("x", "", skip),), Target(client=FakeServer()), on_result=lambda _r: None)
    assert (result.status, result.reason) == ("skip", "no GPU")
