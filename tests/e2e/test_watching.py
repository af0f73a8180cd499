"""What is watched on a real server: the dashboard's metrics, logs, `status --watch`, the canary script."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from scripts.main import main
from tests.e2e.conftest import Engine, Serving, served
from tests.support.patience import PATIENCE_S, wait_until
from tpforge.errors import TpforgeError
from tpforge.repository_options import ReferenceOptions
from tpforge.system.opener import read_url
from tpforge.yaml_text import to_yaml
from triton_repo.client.client import Client
from triton_repo.client.metrics import fetch_metrics, parse_metrics
from triton_repo.deploy import files
from triton_repo.monitoring import watch
from triton_repo.monitoring.queries import QUERIES, metric_names
from triton_repo.monitoring.rules import rules_yaml
from triton_repo.serve.local import Server, status
from triton_repo.serve.processes import stubs_of
from triton_repo.serve.state import read_state

pytestmark = pytest.mark.e2e
_RECORDED = ("tpforge:request_ms:mean1m", "tpforge:requests_waiting", "tpforge:queue_ms:mean1m")


def ask(serving: Serving, count: int = 4) -> None:
    with Client(serving.server.grpc_url) as client:
        for index in range(count):
            client.generate(f"Hello {index}", max_tokens=4)


def test_the_server_has_every_metric_that_panels_for_any_server_read(lockstep: Serving) -> None:
    ask(lockstep)
    url = lockstep.server.metrics_url
    found = {sample.name for sample in parse_metrics(fetch_metrics(url), source=url)}
    wanted = {name for query in QUERIES if query.source == "any" for name in metric_names(query.expression)}
    # A counter of failures appears with the first failure.
    assert wanted - found <= {"nv_inference_request_failure"}


def test_a_clients_bad_requests_are_counted_apart_from_failures(
    lockstep: Serving,
) -> None:
    url = lockstep.server.metrics_url

    def counted() -> tuple[float, ...]:
        samples = parse_metrics(fetch_metrics(url), source=url)
        names = ("nv_inference_request_failure", "tpforge_requests_refused", "tpforge_requests_failed")
        return tuple(sum(one.value for one in samples if one.name == name) for name in names)

    failures, refused, failed = counted()
    with Client(lockstep.server.grpc_url) as client:
        for model in ("ensemble", "tensorrt_llm_bls"):
            for bad in ({"max_tokens": 0}, {"max_tokens": 4, "top_p": 2.0}):
                with pytest.raises(TpforgeError):
                    client.generate("Hello", model=model, **bad)
    # Two failures for each request of an ensemble, none for one of tensorrt_llm_bls: so this Triton counts.
    assert counted() == (failures + 4, refused + 4, failed)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_prometheus_answers_the_panels_from_the_real_server(lockstep: Serving, tmp_path: Path) -> None:
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed (Debian: prometheus)")
    (tmp_path / "rules.yml").write_text(rules_yaml())
    target = {
        "targets": [f"127.0.0.1:{lockstep.server.ports.metrics}"],
        "labels": {"engine": "tiny"},
    }
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yml"],
        "scrape_configs": [{"job_name": "triton", "static_configs": [target]}],
    }
    (tmp_path / "prometheus.yml").write_text(to_yaml(config))
    address = f"127.0.0.1:{free_port()}"
    command = [
        *("prometheus", f"--config.file={tmp_path}/prometheus.yml", f"--web.listen-address={address}"),
        f"--storage.tsdb.path={tmp_path}/data",
    ]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        empty = set()
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            ask(lockstep, 2)
            empty = {
                query.panel
                for query in QUERIES
                if query.source == "any" and not _has_result(address, query.expression)
            }
            recorded = [_has_result(address, name) for name in _RECORDED]
            if empty <= {"Requests failed"} and all(recorded):  # None has failed.
                break
            time.sleep(1)
        assert empty <= {"Requests failed"}, (tmp_path / "log").read_text()[-2000:]
        assert all(_has_result(address, name) for name in _RECORDED)
        assert not _has_result(address, 'ALERTS{alertstate="firing",severity="critical"}')
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def _has_result(address: str, expression: str) -> bool:
    import json
    from urllib.parse import urlencode

    try:
        answer = read_url(f"http://{address}/api/v1/query?{urlencode({'query': expression})}", timeout_s=5)
        return bool(json.loads(answer)["data"]["result"])
    except OSError:
        return False


def test_the_canary_passes_on_a_server_and_fails_where_none_is(lockstep: Serving, tmp_path: Path) -> None:
    script = tmp_path / "canary.py"
    script.write_text(files.canary())
    command = [sys.executable, str(script), "--timeout", "60", "--url"]
    assert subprocess.run([*command, lockstep.server.http_url], check=False).returncode == 0
    done = subprocess.run(
        [*command, f"http://127.0.0.1:{free_port()}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "canary:" in done.stderr


def test_watch_shows_requests_rates_and_the_memory_of_every_model(lockstep: Serving) -> None:
    found = status(lockstep.server.state_dir)
    before = watch.scrape(found)
    ask(lockstep, 5)
    now = watch.scrape(found)
    assert before is not None and now is not None
    rows = dict(watch.rows(now, before))
    rate = float(re.match(r"([\d.]+) answered/s, 0.00 failed/s, \d+ ms", rows["ensemble"])[1])  # type: ignore[index]
    assert rate * (now.seconds - before.seconds) == pytest.approx(5, abs=0.1)
    assert rows["requests running"] == "0"
    state = read_state(lockstep.server.state_dir)
    assert state is not None and state.server is not None
    memory = dict(watch.memory_rows(state.server.pid))
    assert {"memory of tensorrt_llm", "memory of preprocessing", "memory of postprocessing"} <= memory.keys()


def test_logs_shows_the_last_lines_of_a_server(lockstep: Serving, capsys: pytest.CaptureFixture[str]) -> None:
    folder = lockstep.server.state_dir
    engine = folder.parent / "engine"
    engine.mkdir(exist_ok=True)
    assert main(["logs", str(engine), "--lines", "2"]) == 0
    last = (folder / "triton.log").read_text(errors="replace").splitlines()[-2:]
    assert len(capsys.readouterr().out.splitlines()) == len(last) == 2
    assert main(["logs", str(engine.parent / "none"), "--lines", "2"]) == 2


def saturated(server: Server, stop: threading.Event) -> list[threading.Thread]:
    """Three times as many streams as there are slots, each 200 tokens long, begun again until `stop`."""

    def run() -> None:
        while not stop.is_set():
            with suppress(TpforgeError), Client(server.grpc_url, deadline_s=120) as client:
                client.generate("the capital of", max_tokens=200, min_tokens=200)
            stop.wait(0.2)

    threads = [threading.Thread(target=run, daemon=True) for _ in range(28)]
    for thread in threads:
        thread.start()
    return threads


def stub_pid(server: Server) -> int:
    state = read_state(server.state_dir)
    assert state is not None and state.server is not None
    return next(stub.pid for stub, name in stubs_of(state.server.pid).items() if name == "tensorrt_llm")


def test_a_saturated_server_is_alive_and_a_stuck_one_is_started_again(
    tiny_engine: Engine, tmp_path: Path
) -> None:
    script = tmp_path / "canary.py"
    script.write_text(files.canary())
    options = ReferenceOptions(executor="lockstep", num_threads=1)
    with served(tiny_engine, tmp_path, options) as serving:
        server, stop = serving.server, threading.Event()
        words = [sys.executable, str(script), "--url", server.http_url, "--metrics", server.metrics_url]

        def alive() -> subprocess.CompletedProcess[str]:
            command = [*words, "--alive", "--timeout", "60"]
            return subprocess.run(command, capture_output=True, text=True, check=False)

        assert alive().returncode == 0, "without load, the token is what tells"
        threads = saturated(server, stop)
        try:
            for _ in range(4):
                done = alive()
                assert (done.returncode, done.stderr) == (0, "")
            found = status(server.state_dir)
            assert (found.phase, found.restarts) == ("ready", 0)
            os.kill(stub_pid(server), signal.SIGSTOP)
            wait_until(lambda: status(server.state_dir).restarts > 0, "a stuck model is found")
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        wait_until(lambda: status(server.state_dir).phase == "ready", "ready again")
        with Client(server.grpc_url) as client:
            assert client.generate("the capital of", max_tokens=2).chunks[-1].final
