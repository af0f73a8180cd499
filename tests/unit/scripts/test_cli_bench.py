"""`tpforge bench` as its users run it, against a scripted server: the run it writes, and what it refuses."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, tzinfo
from pathlib import Path

import pytest

from scripts.commands.measuring.bench import command_line, read_options
from scripts.main import main
from tests.support.patience import PATIENCE_S
from tests.support.servers.scripted import Running
from tests.support.servers.scripted_openai import HttpScript, scripted_openai
from tests.support.servers.scripted_server import Script, scripted_server
from tests.support.tiny import write_tiny_tokenizer
from tpforge.measure.runs.metrics import summarize
from tpforge.measure.runs.run import Run, Slo, read_run, read_samples
from tpforge.outputs.atomic import claimed
from triton_repo.client.openai import OpenAiClient

FAST = Script(ttft_s=0.02, itl_s=0.002)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    monkeypatch.chdir(tmp_path)
    with scripted_server(tmp_path, FAST) as running:
        yield running


def bench(url: str, *words: str) -> int:
    return main(["bench", url, "--warmup", "0", "--max-tokens", "5", *words])


def only_run(folder: Path) -> tuple[Path, Run]:
    (path,) = folder.glob("out/*/runs/*")
    return path, read_run(path)


def test_run_holds_what_was_asked_and_what_came(server: Running, tmp_path: Path) -> None:
    words = [
        "--concurrency",
        "1,3",
        "--num-requests",
        "6",
        "--repeats",
        "2",
        "--slo",
        "ttft=900000,itl=900000",
    ]
    assert bench(server.url, *words, "--prompts", "easy,multilingual", "--label", "mine") == 0
    path, run = only_run(tmp_path)
    samples = read_samples(path)
    assert path.parent == tmp_path / "out" / server.url.replace(":", "-") / "runs"
    assert path.name.endswith("-mine")
    assert [level.name for level in run.levels] == ["concurrency 1", "concurrency 3"]
    assert [level.num_requests for level in run.levels] == [12, 12]
    assert len(samples) == 24
    assert {sample.output_text for sample in samples} == {" w0 w1 w2 w3 w4"}
    assert {sample.prompt_id for sample in samples} == {f"easy-{number}" for number in range(1, 7)}
    for number, level in enumerate(run.levels):
        own = [sample for sample in samples if sample.level == number]
        assert summarize(own, level.repeats, slo=run.workload.slo) == level.metrics
        assert level.metrics["good_request_fraction"].avg == 1
    assert run.workload.slo == Slo(ttft_ms=900000, itl_ms=900000)
    assert (run.workload.num_prompts, run.workload.token_source) == (18, "responses")
    assert run.environment["server_version"].value == "1.0"
    assert run.engine["tp"].unavailable_because is not None
    assert "host" not in run.levels[0].telemetry.unavailable
    assert "--metrics-url" in run.levels[0].telemetry.unavailable["server"]


def test_join_adds_repeats_to_a_run_and_refuses_another_load(
    server: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--concurrency", "1,3", "--num-requests", "6", "--repeats", "1"]
    assert bench(server.url, *words, "--out", "run", "--label", "mine") == 0
    first = read_run(tmp_path / "run")
    assert bench(server.url, *words, "--join", "run") == 0
    assert bench(server.url, *words, "--join", "run/run.json") == 0
    run, samples = read_run(tmp_path / "run"), read_samples(tmp_path / "run")
    assert (run.id, run.label, run.command, run.workload.num_repeats) == ("run", "mine", first.command, 3)
    assert [(level.num_requests, len(level.repeats)) for level in run.levels] == [(18, 3), (18, 3)]
    assert [sample.repeat for sample in samples] == 2 * [*6 * [0], *6 * [1], *6 * [2]]
    for number, level in enumerate(run.levels):
        assert summarize([s for s in samples if s.level == number], level.repeats) == level.metrics
        assert level.metrics["time_to_first_token"].interval is not None
    assert len({sample.prompt_id for sample in samples}) == 6
    capsys.readouterr()
    asked = server.log.read_text()
    assert bench(server.url, "--concurrency", "2", "--num-requests", "6", "--join", "run") == 4
    assert "loads: concurrency 1, concurrency 3 in the run, concurrency 2 now" in capsys.readouterr().err
    assert bench(server.url, *words, "--prompts", "easy", "--no-stream", "--join", "run") == 4
    said = capsys.readouterr().err
    assert "workload, prompts: average in the run, easy now" in said and "workload, streaming" in said
    assert server.log.read_text() == asked, "nothing is asked that cannot be joined"
    assert read_run(tmp_path / "run") == run
    assert bench(server.url, "--join", "run", "--label", "other") == 2
    assert bench(server.url, "--join", "nowhere") == 4


def test_in_which_state_a_cache_was_is_recorded_and_shown(
    server: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tokenizer").mkdir()
    write_tiny_tokenizer(tmp_path / "tokenizer", vocab_size=320)
    words = ["--num-requests", "3", "--repeats", "2"]
    made = ["--isl", "12", "--tokenizer", "tokenizer"]
    for name, more in (("warm", []), ("repeated", ["--no-warm"]), ("new", made)):
        before = len(server.log.read_text().splitlines()) if server.log.exists() else 0
        assert bench(server.url, *words, *more, "--out", name) == 0
        assert read_run(tmp_path / name).workload.prompt_use == name
        # Each of the 8 prompts of the set is asked once before, and nothing of it is kept.
        asked = len(server.log.read_text().splitlines()) - before
        assert asked == 6 + (8 if name == "warm" else 0)
        assert len(read_samples(tmp_path / name)) == 6
    said = capsys.readouterr()
    assert "prompts: each was asked once before" in said.out and "prompts: none was asked twice" in said.out
    assert "--warm asks each once before" in said.err
    assert bench(server.url, *words, *made, "--warm") == 2


def test_failures_are_shown_as_infinitely_late_and_few_requests_as_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with scripted_server(tmp_path, Script(ttft_s=0.0, itl_s=0.0, refuse_every=4)) as server:
        assert bench(server.url, "--num-requests", "100", "--repeats", "1", "--no-warm") == 0
        many = capsys.readouterr().out.splitlines()[1].split()
        assert bench(server.url, "--num-requests", "8", "--repeats", "1", "--no-warm") == 0
        few = capsys.readouterr().out
    assert many[2:4] == ["100", "25"] and many[5] == "inf"
    assert few.splitlines()[1].split()[5] == "few" and "a p95 takes 100" in few


def test_exports_say_the_same_as_the_run(server: Running, tmp_path: Path) -> None:
    assert bench(server.url, "--num-requests", "4", "--repeats", "2") == 0
    path, run = only_run(tmp_path)
    metrics = run.levels[0].metrics
    with (path / "metrics.csv").open() as file:
        rows = {row["metric"]: row for row in csv.DictReader(file)}
    assert set(rows) == set(metrics)
    assert float(rows["time_to_first_token"]["p50"]) == metrics["time_to_first_token"].p50
    assert rows["time_to_first_token"]["p95"] == "", "eight requests have no p95"
    interval = metrics["time_to_first_token"].interval
    assert interval is not None and float(rows["time_to_first_token"]["high"]) == interval.high
    aiperf = json.loads((path / "aiperf.json").read_text())
    assert aiperf["schema_version"] == "1.4"
    assert aiperf["inter_token_latency"]["p50"] == metrics["inter_token_latency"].p50
    assert aiperf["output_token_throughput"] == {
        "unit": "tokens/sec",
        "avg": metrics["output_token_throughput"].avg,
    }


def test_json_is_one_object_with_the_whole_run(
    server: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(server.url, "--num-requests", "2", "--repeats", "1", "--json") == 0
    value = json.loads(capsys.readouterr().out)
    path, run = only_run(tmp_path)
    assert (value["kind"], value["folder"]) == ("bench", str(path.relative_to(tmp_path)))
    assert Run.model_validate(value["run"]) == run


def test_open_loop_and_trace_are_recorded_as_such(server: Running, tmp_path: Path) -> None:
    assert bench(server.url, "--rate", "40", "--duration", "0.5", "--repeats", "1", "--out", "open") == 0
    trace = tmp_path / "t.jsonl"
    trace.write_text(
        "".join(json.dumps({"timestamp": 100 * n, "output_length": n}) + "\n" for n in (1, 2, 4))
    )
    assert bench(server.url, "--trace", str(trace), "--repeats", "1", "--out", "trace") == 0
    workload = read_run(tmp_path / "open").workload
    assert (workload.loop, workload.arrival, workload.duration_s) == ("open", "poisson", 0.5)
    samples = read_samples(tmp_path / "trace")
    assert [sample.scheduled_s for sample in samples] == pytest.approx([0, 0.1, 0.3], abs=1e-6)
    assert [sample.output_tokens for sample in samples] == [1, 2, 4]
    assert read_run(tmp_path / "trace").workload.trace == "t.jsonl"


def test_interrupt_keeps_what_was_measured(server: Running, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "tpforge", "bench", server.url, "--concurrency", "2", "--duration", "600"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [*words, "--warmup", "0", "--no-warm", "--max-tokens", "5", "--out", "cut"],
        env=environment,
        stderr=subprocess.PIPE,
    ) as process:
        while len(server.log.read_text().splitlines() if server.log.exists() else []) < 20:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 130
    run, samples = read_run(tmp_path / "cut"), read_samples(tmp_path / "cut")
    complete = [sample for sample in samples if sample.is_complete]
    assert run.interrupted and run.levels[0].repeats[0].interrupted
    # The server writes an answer down a little before the client has all of it.
    assert len(complete) >= 20 - 2
    assert {sample.error_kind for sample in samples} <= {None, "cancelled"}


def test_too_short_a_measurement_is_an_error_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with scripted_server(tmp_path, Script(ttft_s=0.8)) as server:
        words = ["bench", server.url, "--warmup", "0.1", "--duration", "0.2", "--repeats", "1"]
        assert main([*words, "--max-tokens", "5"]) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert "a request took up to" in said and "has ten of a user's" in said
    assert not list(tmp_path.glob("out/*/runs/*"))


def test_an_interrupted_join_leaves_the_run_as_it_was(server: Running, tmp_path: Path) -> None:
    words = ["--concurrency", "2", "--num-requests", "4", "--repeats", "1", "--no-warm"]
    assert bench(server.url, *words, "--out", "run") == 0
    before = (tmp_path / "run" / "run.json").read_bytes()
    (tmp_path / "stuck").mkdir()
    with scripted_server(tmp_path / "stuck", Script(silent=True)) as stuck:
        command = [sys.executable, "-m", "tpforge", "bench", stuck.url, *words]
        with subprocess.Popen(
            [*command, "--warmup", "0", "--max-tokens", "5", "--join", "run"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stderr is not None
            assert any("2 in flight" in line for line in process.stderr)
            process.send_signal(signal.SIGINT)
            process.stderr.read()
            assert process.wait(PATIENCE_S) == 130
    assert (tmp_path / "run" / "run.json").read_bytes() == before


def test_server_that_refuses_everything_gives_a_run_and_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with scripted_server(tmp_path, Script(refuse_every=1)) as server:
        assert bench(server.url, "--num-requests", "3", "--repeats", "1") == 3
    _, run = only_run(tmp_path)
    assert run.levels[0].errors == {"refused": 3}
    assert "no request got a whole answer (3 refused)" in capsys.readouterr().err


def test_nothing_listens_is_an_error_that_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert bench("localhost:1") == 3
    assert "nothing answers there" in capsys.readouterr().err
    assert bench("http://localhost:1", "--api", "openai") == 3
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--concurrency", "1", "--rate", "2"], "exclude each other"),
        (["--concurrency", "one"], "expected numbers"),
        (["--slo", "speed=3"], "expected ttft=MS"),
        (["--isl", "10"], "need the model's tokenizer"),
        (["--isl", "10", "--prompts", "easy"], "give one of them"),
        (["--prompts", "hard"], "the sets are easy, average"),
        (["--sampling", "temprature=1"], "has no input temprature"),
        (["--trace", "nowhere.jsonl"], "no such trace"),
        (["--chat-template"], "chat template"),
        (["--rate", "nan"], "--rate nan: expected finite numbers"),
        (["--rate", "1,inf"], "--rate 1,inf: expected finite numbers"),
        (["--slo", "ttft=nan"], "above zero"),
        (["--slo", "itl=inf"], "above zero"),
        (["--duration", "nan"], "not a finite number"),
        (["--warmup", "inf"], "not a finite number"),
        (["--deadline", "inf"], "not a finite number"),
        (["--concurrency", "1,100001"], "at most 100000"),
        (["--rate", "1e9"], "at most 100000"),
    ],
)
def test_wrong_options_are_refused_before_any_load(
    server: Running, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(server.url, *words) == 2
    assert said in capsys.readouterr().err
    assert not server.log.exists()


def test_a_run_that_has_no_place_is_refused_before_any_load(
    server: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--num-requests", "3", "--repeats", "1"]
    (tmp_path / "file").touch()
    assert bench(server.url, *words, "--out", "file/run") == 3
    assert "a part of the path is a file" in capsys.readouterr().err
    with claimed(tmp_path / "new" / "run"):
        assert bench(server.url, *words, "--out", "new/run") == 3
    assert "new/run: another tpforge is writing it" in capsys.readouterr().err
    assert not server.log.exists() and not (tmp_path / "new").exists()
    assert bench(server.url, *words, "--out", "run") == 0
    asked = server.log.read_text()
    # Two that join one run would each write back the run without the other's repeats.
    with claimed(tmp_path / "run"):
        assert bench(server.url, *words, "--join", "run/run.json") == 3
    assert server.log.read_text() == asked
    assert bench(server.url, *words, "--join", "run") == 0


def test_runs_that_begin_in_one_second_have_folders_of_their_own(
    server: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Stopped:
            return cls(2026, 1, 2, 3, 4, 5, tzinfo=tz)

    monkeypatch.setattr("scripts.flows.bench.datetime", Stopped)
    words = ["--num-requests", "1", "--repeats", "1", "--no-warm", "--label", "x"]
    runs = tmp_path / "out" / server.url.replace(":", "-") / "runs"
    with claimed(runs / "20260102-030405-x"):
        assert bench(server.url, *words) == 0
    assert bench(server.url, *words) == 0
    assert bench(server.url, *words) == 0
    names = ["20260102-030405-x", "20260102-030405-x-2", "20260102-030405-x-3"]
    assert sorted(path.name for path in runs.iterdir()) == names


def test_command_of_the_record_reads_back_to_the_same_options() -> None:
    values = {
        "concurrency": "1,2", "rate": None, "constant": False, "trace": None, "prompts": "easy", "isl": None,
        "osl": 7, "max_tokens": None, "chat_template": True, "stream": False,
        "sampling": ("temperature=0.5", "top_k=3"),
        "duration": 1234567.25, "num_requests": None, "warmup": 1.0, "repeats": 2, "seed": 4, "warm": False,
        "slo": "itl=40",
        "api": "triton", "model": "tensorrt_llm_bls", "engine": "e", "tokenizer": None, "metrics_url": None,
        "label": None, "out": Path("x"), "join": None, "deadline": 9.0, "headers": ("authorization=secret",),
        "tls": False,
        "tls_root": None, "tls_key": None, "tls_cert": None,
    }  # fmt: skip
    options = read_options(values)
    assert options.sampling == {"temperature": 0.5, "top_k": 3}
    assert options.slo == Slo(itl_ms=40)
    words = command_line("localhost:1", values)
    assert words[:3] == ("tpforge", "bench", "localhost:1")
    assert "secret" not in " ".join(words) and "--out" not in words
    from scripts.commands.measuring.bench import command

    parsed = command.make_context("bench", list(words[2:])).params
    del parsed["as_json"], parsed["dry_run"]
    assert parsed.pop("url") == "localhost:1"
    again = read_options({**parsed, "out": Path("x"), "headers": ("authorization=secret",)})
    assert again == options


def test_of_an_openai_server_the_only_model_is_asked_and_of_several_one_has_to_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--api", "openai", "--num-requests", "2", "--repeats", "1"]
    with scripted_openai(tmp_path, HttpScript(ttft_s=0.0, itl_s=0.0)) as server:
        monkeypatch.setattr(OpenAiClient, "models", lambda _client: ("org/chat",))
        assert bench(server.url, *words, "--out", "one") == 0
        assert read_run(tmp_path / "one").workload.model == "org/chat"
        monkeypatch.setattr(OpenAiClient, "models", lambda _client: ("a", "b"))
        assert bench(server.url, *words) == 2
        assert "lists 2 models (a, b); give --model" in capsys.readouterr().err
        assert bench(server.url, *words, "--model", "b", "--out", "two") == 0
    assert read_run(tmp_path / "two").workload.model == "b"
