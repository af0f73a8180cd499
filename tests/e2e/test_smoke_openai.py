"""The smoke test over OpenAI HTTP: it passes on the stand-in for trtllm-serve, and each flaw fails its check.

The stand-in generates by the reference runtime over the tiny engine's rank files. TensorRT-LLM is not run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.flows.smoke import EngineTokens
from scripts.main import main
from tests.e2e.conftest import Engine
from tests.support.servers.scripted_openai import HttpScript, scripted_openai
from triton_repo.client.openai import OpenAiClient
from triton_repo.smoke import CheckResult
from triton_repo.smoke.check import Check
from triton_repo.smoke.openai.malformed import error_message
from triton_repo.smoke.openai.runner import all_checks
from triton_repo.smoke.openai.running import PATHS, ServerGauge
from triton_repo.smoke.openai.target import OpenAiTarget
from triton_repo.smoke.runner import run_checks

pytestmark = pytest.mark.e2e

CHECKS: dict[str, Check[OpenAiTarget]] = {check.name: check for check in all_checks()}


@pytest.fixture(scope="module")
def url(tiny_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    script = HttpScript(engine=str(tiny_engine.folder), model="tiny")
    with scripted_openai(tmp_path_factory.mktemp("openai"), script) as running:
        yield running.url


def run(name: str, url: str, engine: Engine, *, flaw: str = "") -> CheckResult:
    target = OpenAiTarget(
        client=OpenAiClient(url, headers={"x-flaw": flaw} if flaw else {}),
        model="tiny",
        manifest=engine.manifest,
        tokens=EngineTokens(engine.folder / "tokenizer"),
        running=ServerGauge(tuple(url + path for path in PATHS)),
        num_clients=4,
    )
    (result,) = run_checks((CHECKS[name],), target, on_result=lambda _result: None)
    return result


def test_every_check_passes_on_a_server_of_the_reference_runtime(
    url: str, tiny_engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    junit = tmp_path / "junit.xml"
    words = ["smoke", "--api", "openai", url, "--engine", str(tiny_engine.folder), "--junit", str(junit)]
    status = main([*words, "--json"])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    found = json.loads(captured.out)
    assert {check["name"] for check in found["checks"]} == set(CHECKS)
    skipped = {check["name"]: check["reason"] for check in found["checks"] if check["status"] == "skip"}
    # The tiny model ends its longest answer within a few seconds.
    assert all("too short to tell" in reason for reason in skipped.values()), skipped
    assert set(skipped) <= {"completions.cancellation", "chat.cancellation"}
    assert "smoke.completions.refuses" in junit.read_text()


@pytest.mark.parametrize(
    ("name", "flaw", "reason"),
    [
        ("completions.golden", "one token too few", "answer to golden prompt"),
        ("completions.streaming", "wrong order", "text of the stream joined"),
        ("chat.streaming", "loses a chunk", "text of the stream joined"),
        ("completions.streaming", "no [DONE]", "expected [DONE]"),
        ("completions.seed", "ignores seed", "all gave"),
        ("chat.stop_words", "ignores stop", "answer with stop word"),
        ("completions.max_tokens", "one token too few", "finish_reason"),
        ("chat.usage", "begin token doubled", "prompt_tokens"),
        ("completions.usage_in_stream", "no usage", "the last chunk has no usage"),
        ("chat.usage_in_stream", "usage unasked", "in a stream that was not asked for it"),
        ("completions.refuses.negative_max_tokens", "takes any max_tokens", "answered"),
        ("completions.refuses.zero_n", "takes any n", "answered"),
        ("chat.refuses.no_role", "fails with 500", "HTTP 500, expected 4xx"),
    ],
)
def test_a_flawed_server_fails_with_the_reason(
    name: str, flaw: str, reason: str, url: str, tiny_engine: Engine
) -> None:
    sound = run(name, url, tiny_engine)
    assert (sound.status, sound.reason) == ("pass", "")
    result = run(name, url, tiny_engine, flaw=flaw)
    assert result.status == "fail"
    assert reason in result.reason


def test_a_server_that_lists_several_models_or_none_is_asked_for_a_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with scripted_openai(tmp_path) as running:
        assert main(["smoke", "--api", "openai", running.url]) == 2
    assert "lists 0 models (); give --model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('{"error": {"message": "bad", "param": "top_p"}}', "bad top_p"),
        ('{"error": "seed: bad"}', "seed: bad"),
        ('{"object": "error", "message": "n 0", "code": 400}', "n 0"),
        ('{"detail": [{"loc": ["body", "n"]}]}', "[{'loc': ['body', 'n']}]"),
        ('{"code": 400}', None),
        ("Bad Request", None),
        ("[]", None),
    ],
)
def test_an_error_is_read_in_each_form_that_servers_have(body: str, said: str | None) -> None:
    assert error_message(body) == said
