"""trtllm-serve's gRPC by a stand-in that the reference runtime drives: smoke test, load, and the whole way.

The stand-in's messages are upstream's own. TensorRT-LLM is not run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.main import main
from tests.e2e.conftest import Engine
from tests.e2e.test_launched_server import json_of
from tests.e2e.test_trtllm_serve import PORT, VERSION, recipe
from tests.support.servers.standin_smg import standin_smg
from tests.support.servers.standin_trtllm_serve import write_trtllm_serve
from tpforge.measure.runs.run import read_run, read_samples
from triton_repo.client.channel import ServerUnreachable
from triton_repo.smoke import SmokeOptions, SmokeReport
from triton_repo.smoke.smg import run_smg_smoke

__all__ = ["recipe"]

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def url(tiny_engine: Engine) -> Iterator[str]:
    with standin_smg(tiny_engine.folder) as found:
        yield found


def smoke(url: str, engine: Engine, *, flaw: str = "") -> SmokeReport:
    options = SmokeOptions(headers={"x-flaw": flaw}, num_clients=4)
    return run_smg_smoke(url, manifest=engine.manifest, on_result=lambda _one: None, options=options)


def test_every_check_passes_on_a_sound_server(url: str, tiny_engine: Engine) -> None:
    report = smoke(url, tiny_engine)
    assert [(one.name, one.reason) for one in report.results if one.status != "pass"] == []
    assert len(report.results) == 14


@pytest.mark.parametrize(
    ("flaw", "failed"),
    [
        ("repeats tokens", "generate.streaming"),
        ("no end", "generate.streaming"),
        ("ignores seed", "generate.seed"),
        ("one token too few", "generate.counts"),
        ("takes no max_tokens", "generate.refuses.zero_max_tokens"),
    ],
)
def test_a_flawed_server_fails(flaw: str, failed: str, url: str, tiny_engine: Engine) -> None:
    assert failed in {one.name for one in smoke(url, tiny_engine, flaw=flaw).results if one.status == "fail"}


def test_where_nothing_listens_is_one_error(tiny_engine: Engine) -> None:
    with pytest.raises(ServerUnreachable, match="nothing answers there"):
        smoke("127.0.0.1:9", tiny_engine)


@pytest.mark.parametrize("stream", [True, False])
def test_load_counts_the_tokens_that_the_server_made(
    stream: bool, url: str, tiny_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [
        "--api",
        "trtllm-grpc",
        "--engine",
        str(tiny_engine.folder),
        "--num-requests",
        "5",
        "--warmup",
        "0",
    ]
    words += [
        "--repeats",
        "1",
        "--isl",
        "12",
        "--osl",
        "7",
        "--out",
        "run",
        *([] if stream else ["--no-stream"]),
    ]
    assert main(["bench", url, *words]) == 0
    run = read_run(tmp_path / "run")
    assert (run.workload.target, run.workload.token_source) == ("trtllm-grpc", "server")
    (level,) = run.levels
    assert (level.num_requests, level.num_failed) == (5, 0)
    samples = read_samples(tmp_path / "run")
    assert {(one.input_tokens, one.output_tokens, one.finish_reason) for one in samples} == {
        (12, 7, "length")
    }
    for one in samples:
        assert len(one.token_times_s) == (7 if stream else 1)
        assert one.output_text


def test_load_needs_the_tokenizer(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", url, "--api", "trtllm-grpc"]) == 2
    assert "takes token ids: give the tokenizer with --engine or --tokenizer" in capsys.readouterr().err


def test_up_serves_and_proves_an_engine_by_trtllm_serve_s_grpc(
    recipe: Path,
    tiny_engine: Engine,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe.write_text(recipe.read_text() + 'server = "trtllm-grpc"\n')
    calls = write_trtllm_serve(tmp_path, engine=tiny_engine.folder, version=VERSION)
    stages = {stage["name"]: stage for stage in json_of(capsys, "up", str(recipe))["stages"]}
    assert {name: stages[name]["outcome"] for name in ("serve", "smoke")} == {
        "serve": "done",
        "smoke": "done",
    }
    assert " 0 failed" in stages["smoke"]["result"]
    words = json.loads(calls.read_text().splitlines()[0])
    assert words[-1] == "--grpc" and words[words.index("--port") + 1] == str(PORT + 1)

    (row,) = json_of(capsys, "status")["servers"]
    server = row["server"]
    assert (row["answers"], server["api"], server["http_url"]) == (True, "trtllm-grpc", None)
    assert server["grpc_url"] == f"localhost:{PORT + 1}"
    assert main(["smoke", "--api", "trtllm-grpc", "--json"]) == 0
    capsys.readouterr()
    assert main(["smoke"]) == 2
    assert "is trtllm-serve, without Triton's gRPC; ask it with --api trtllm-grpc" in capsys.readouterr().err
    assert main(["smoke", "--api", "openai"]) == 2
    assert "no server with OpenAI's API runs" in capsys.readouterr().err
    assert [one["was"] for one in json_of(capsys, "stop")["stopped"]] == ["ready"]
