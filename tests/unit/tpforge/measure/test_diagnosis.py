"""Each failure mode is found in the evidence that shows it, and not in evidence of health."""

from __future__ import annotations

import io
import json
import os
import re
import re._parser as sre_parser  # type: ignore[import-not-found]
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from scripts.main import main
from tests.support.measured import sample
from tests.support.runs import GIB, level_of, run_of
from tpforge.measure.failures import symptoms
from tpforge.measure.failures.diagnosis import (
    LOOKED_FOR,
    TITLES,
    Finding,
    diagnose_log,
    diagnose_topology,
    log_signs,
    summarize,
)
from tpforge.measure.failures.symptoms import diagnose_metrics
from tpforge.measure.runs.run import GpuTelemetry, Level, Run, SeriesSummary, Telemetry, write_run
from tpforge.topology import parse_topology
from triton_repo.client.metrics import parse_metrics, read_series

diagnose_run = partial(symptoms.diagnose_run, read_series=read_series)
metric_samples = partial(parse_metrics, source="s")

LINES = {
    "out_of_memory": [
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.5 GiB free",
        "[TensorRT-LLM][ERROR] CUDA runtime error in cudaMallocAsync(ptr, n, s) failed: out of memory",
        "RuntimeError: [enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory",
        "ValueError: `default_max_tokens` (-3) must be greater than 0",
    ],
    "slow_communication": [
        "host:71:99 [0] NCCL INFO Channel 00 : 0[0] -> 1[1] via SHM/direct/direct",
        "host:71:99 [0] NCCL INFO Channel 01/0 : 1[1] -> 0[0] [send] via NET/Socket/0",
        "CUDA runtime error: peer access is not supported between two devices",
    ],
    "unsupported_quantization": [
        "ValueError: unsupported quant mode: QuantMode.INT4_WEIGHTS",
        "ValueError: Unsupported quant_bits: 3",
        "NotImplementedError: NVFP4 only supports group_size=16",
        "ValueError: fp8_rowwise_gemm_plugin=fp8 is not supported on SM 80.",
        "Cannot pack weight with input dimension 4304 and block size 128: partial blocks are not supported",
    ],
    "engine_mismatch": [
        "The engine plan file is generated on an incompatible device, expecting compute 9.0 got compute 8.6, "
        "please rebuild",
        "RuntimeError: Engine world size (2 * 1) != Runtime world size (1)",
        "expecting library version 10.3.0.26 got 10.0.1.6, please rebuild",
    ],
    "latency_spikes": ["Exceeds maximum queue size", "pausing request 17: no free blocks"],
}


@pytest.mark.parametrize(("mode", "line"), [(mode, line) for mode, lines in LINES.items() for line in lines])
def test_a_message_shows_its_failure_mode_and_what_to_do(mode: str, line: str) -> None:
    found = [
        item for item in diagnose_log(["I0101 all is well", line], name="a.log") if item.strength != "fact"
    ]
    assert [item.mode for item in found] == [mode]
    assert found[0].evidence == (f"a.log:2: {line}",)
    assert found[0].action and found[0].source


def test_a_healthy_log_shows_nothing_but_facts() -> None:
    lines = [
        "[TensorRT-LLM][INFO] Loaded engine size: 7341 MiB",
        "[INFO] [MemUsageChange] Allocated 26.91 GiB for max tokens in paged KV cache (220480).",
        "[TRT-LLM] [I] Peak memory during memory usage profiling (torch + non-torch): 91.46 GiB, available "
        "KV cache memory when calculating max tokens: 41.11 GiB, fraction is set 0.85, kv size is 35136.",
        "host:71:99 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[1] via P2P/CUMEM/read",
        "W0101 a slow request took 3 s",
    ]
    found = diagnose_log(lines, name="a.log")
    assert {item.strength for item in found} == {"fact"}
    assert len(found) == 4


def test_many_equal_lines_are_counted_and_the_first_five_shown() -> None:
    lines = [f"NCCL INFO Channel {n:02} : 0[0] -> 1[1] via SHM/direct/direct" for n in range(40)]
    (found,) = diagnose_log(lines, name="x")
    assert (found.count, len(found.evidence)) == (40, 5)
    assert found.evidence[4].startswith("x:5: ")


def test_steps_that_prefills_make_slow_are_told_from_ordinary_ones() -> None:
    def step(number: int, milliseconds: float, tokens: int) -> str:
        return (
            f"[TRT-LLM] [I] iter = {number}, host_step_time = {milliseconds}ms, num_scheduled_requests: 8, "
            f"states = {{'num_ctx_requests': 1, 'num_ctx_tokens': {tokens}, 'num_generation_tokens': 7}}"
        )

    lines = [step(n, 10 + n % 3, 0) for n in range(20)] + [step(20, 95, 4096), step(21, 14, 32)]
    (found,) = diagnose_log(lines, name="x")
    assert (found.mode, found.count) == ("latency_spikes", 1)
    assert "up to 95 ms, one without prompts 11 ms" in found.cause
    assert diagnose_log(lines[:4] + lines[20:], name="x") == []


def test_links_through_the_host_are_named_pair_by_pair() -> None:
    text = """\
\x1b[4mGPU0\tGPU1\tGPU2\tNIC0\tCPU Affinity\x1b[0m
GPU0\t X \tNV12\tSYS\tPXB\t0-31
GPU1\tNV12\t X \tNODE\tPXB\t0-31
GPU2\tSYS\tNODE\t X \tSYS\t32-63
NIC0\tPXB\tPXB\tSYS\t X
"""
    matrix = parse_topology(text)
    assert matrix == [["X", "NV12", "SYS"], ["NV12", "X", "NODE"], ["SYS", "NODE", "X"]]
    (found,) = diagnose_topology(matrix, name="t")
    assert found.evidence == ("t: GPU0 - GPU2: SYS", "t: GPU1 - GPU2: NODE")
    assert diagnose_topology([["X", "NV4"], ["NV4", "X"]], name="t") == []
    assert parse_topology("no GPUs here") == []
    alone = "\tGPU0\tCPU Affinity\tNUMA Affinity\nGPU0\t X \t0-31\t0\n"
    assert parse_topology(alone) == [["X"]], "the header of one GPU is no second GPU"


def modes(found: list[Finding]) -> list[str]:
    return [item.mode for item in found]


def test_a_full_kv_cache_paused_and_waiting_requests_are_latency_spikes() -> None:
    text = """\
# TYPE nv_trt_llm_kv_cache_block_metrics gauge
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="used",model="m",version="1"} 990
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="max",model="m",version="1"} 1000
nv_trt_llm_inflight_batcher_metrics{inflight_batcher_specific_metric="paused_requests",model="m"} 3
nv_trt_llm_request_metrics{request_type="waiting",model="m"} 12
nv_inference_queue_duration_us{model="m"} 800
nv_inference_request_duration_us{model="m"} 1000
"""
    found = diagnose_metrics(metric_samples(text), name="s")
    assert modes(found) == ["latency_spikes"] * 4
    causes = " ".join(item.cause for item in found)
    for words in ("99% full", "3 requests were paused", "12 requests wait", "80% of their time"):
        assert words in causes
    calm = re.sub(r"} (990|3|12|800)\n", "} 0\n", text)
    assert diagnose_metrics(metric_samples(calm), name="s") == []


def test_metrics_of_trtllm_serve_are_read_too() -> None:
    found = diagnose_metrics(
        metric_samples("trtllm_kv_cache_utilization 0.97\ntrtllm_num_requests_waiting 4\n"), name="s"
    )
    assert modes(found) == ["latency_spikes", "latency_spikes"]


def test_gpus_that_differ_are_uneven_and_idle_ones_take_no_part() -> None:
    def text(second: float) -> str:
        return (
            'nv_gpu_utilization{gpu_uuid="a"} 0.95\n'
            f'nv_gpu_utilization{{gpu_uuid="b"}} {second}\n'
            'nv_gpu_memory_used_bytes{gpu_uuid="a"} 78e9\n'
            'nv_gpu_memory_total_bytes{gpu_uuid="a"} 80e9\n'
        )

    assert modes(diagnose_metrics(metric_samples(text(0.5)), name="s")) == ["uneven_gpus", "out_of_memory"]
    assert modes(diagnose_metrics(metric_samples(text(0.9)), name="s")) == ["out_of_memory"]
    assert modes(diagnose_metrics(metric_samples(text(0.0)), name="s")) == ["out_of_memory"]


AWKWARD = 'm}x\\",request_type=\\"waiting'
"""A value of a label that a brace and quotes would break for a reader that knows no quoting."""


def test_a_label_with_a_brace_and_quotes_neither_hides_nor_forges_a_sample() -> None:
    text = (
        f'nv_trt_llm_request_metrics{{model="{AWKWARD}",request_type="active"}} 9\n'
        'nv_trt_llm_kv_cache_block_metrics{model="a}b",kv_cache_block_type="used"} 99\n'
        'nv_trt_llm_kv_cache_block_metrics{model="a}b",kv_cache_block_type="max"} 100\n'
    )
    (found,) = diagnose_metrics(metric_samples(text), name="s")
    assert "99% full" in found.cause
    of_a_run = {sample.key: series(0, sample.value) for sample in metric_samples(text)}
    level, _ = level_of([[0.1] * 4, [0.1] * 4])
    run = run_of("r", [level.model_copy(update={"telemetry": Telemetry(server=of_a_run)})])
    assert [item.cause for item in diagnose_run(run, [])] == [found.cause]


def series(least: float, most: float, unit: str = "%") -> SeriesSummary:
    return SeriesSummary(
        unit=unit, avg=(least + most) / 2, min=least, max=most, first=least, last=most, count=9
    )


def gpu(index: int, load: float, memory: float, **more: Any) -> GpuTelemetry:
    used = {"utilization": series(load, load), "memory_used": series(memory, memory, "B"), **more}
    return GpuTelemetry(index=index, name="g", uuid=str(index), series=used)


def run_with(gpus: list[GpuTelemetry], **options: Any) -> Run:
    level, _ = level_of([[0.1] * 4, [0.1] * 4])
    level = level.model_copy(update={"telemetry": Telemetry(gpus=tuple(gpus))})
    return run_of("r", [level], **options)


def test_uneven_ranks_are_seen_in_a_run() -> None:
    even = run_with([gpu(0, 90, 30 * GIB), gpu(1, 88, 31 * GIB), gpu(2, 0, 1 * GIB)])
    assert diagnose_run(even, []) == []
    uneven = run_with([gpu(0, 90, 30 * GIB), gpu(1, 40, 20 * GIB)])
    found = diagnose_run(uneven, [])
    assert modes(found) == ["uneven_gpus", "uneven_gpus"]
    assert found[0].evidence[1] == "r, concurrency 1: GPU 1 utilization 40 %"


def test_busy_pcie_with_several_ranks_is_slow_communication() -> None:
    over = [gpu(index, 90, GIB, pcie_tx=series(8e9, 8e9, "B/s")) for index in (0, 1)]
    assert modes(diagnose_run(run_with(over, engine={"tp": 2}), [])) == ["slow_communication"]
    assert diagnose_run(run_with(over, engine={"tp": 1}), []) == []


def test_the_topology_of_a_run_is_looked_at() -> None:
    run = run_with([], environment={"topology": [["X", "SYS"], ["SYS", "X"]]})
    assert modes(diagnose_run(run, [])) == ["slow_communication"]


def test_stalls_between_tokens_are_found_and_steady_streams_are_not() -> None:
    level, _ = level_of([[0.1], [0.1]])
    run = run_of("r", [level])
    steady = [sample(gaps=[0.02, 0.021, 0.019] * 10, index=index) for index in range(10)]
    assert diagnose_run(run, steady) == []
    stalled = [*steady, *(sample(gaps=[0.02, 0.9], index=index) for index in range(20, 26))]
    (found,) = diagnose_run(run, stalled)
    assert found.mode == "latency_spikes"
    assert "45 times as long" in found.cause


def test_a_first_token_that_waits_longer_than_the_load_grows_is_queueing() -> None:
    def level(number: int, concurrency: int, ttft: float) -> tuple[Level, list[Any]]:
        made, samples = level_of([[ttft] * 15, [ttft] * 15], concurrency=concurrency)
        return made, [one.model_copy(update={"level": number}) for one in samples]

    (one, first), (four, second) = level(0, 1, 0.1), level(1, 4, 1.2)
    assert modes(diagnose_run(run_of("r", [one, four]), [*first, *second])) == ["latency_spikes"]
    (four, second) = level(1, 4, 0.5)
    assert diagnose_run(run_of("r", [one, four]), [*first, *second]) == []


def test_errors_of_requests_are_read_as_a_log() -> None:
    level, _ = level_of([[0.1], [0.1]])
    failed = sample(error="refused").model_copy(
        update={"error": "CUDA out of memory. Tried to allocate 20.00 MiB"}
    )
    assert modes(diagnose_run(run_of("r", [level]), [failed])) == ["out_of_memory"]


def test_every_mode_stands_as_found_suspected_no_sign_or_not_looked_at() -> None:
    findings = diagnose_log([LINES["out_of_memory"][0], LINES["latency_spikes"][0]], name="x")
    found = summarize(findings, looked_at=["log x"], kinds=["log"])
    assert found.modes == {
        "out_of_memory": "found",
        "slow_communication": "no sign",
        "uneven_gpus": "not looked at: give --url or --run",
        "unsupported_quantization": "no sign",
        "latency_spikes": "suspected",
        "engine_mismatch": "no sign",
        "processes": "no sign",
        "gpu_fault": "no sign",
        "failed_requests": "not looked at: give --url or --run",
        "unrecognized": "no sign",
    }
    assert [item.strength for item in found.findings] == ["proof", "hint"]


def test_every_sign_is_of_a_known_mode_and_its_pattern_compiles() -> None:
    signs = log_signs()
    assert {sign.mode for sign in signs} <= set(TITLES) == set(LOOKED_FOR)
    assert len({sign.pattern for sign in signs}) == len(signs)
    for sign in signs:
        re.compile(sign.pattern)


def test_no_pattern_begins_with_a_run_without_end() -> None:
    """Such a one is tried at each character of a long line, and each time to its end."""
    for sign in log_signs():
        parsed = sre_parser.parse(sign.pattern)
        for alternative in parsed[0][1][1] if str(parsed[0][0]) == "BRANCH" else [parsed]:
            operation, value = alternative[0]
            assert str(operation) != "MAX_REPEAT" or value[1] < 1000, sign.pattern


def test_a_log_may_be_a_pipe_or_stdin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = LINES["slow_communication"][0]
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=(line,))
    writer.start()
    assert main(["diagnose", "--log", str(tmp_path / "pipe")]) == 0
    writer.join()
    assert "SLOW OR BROKEN COMMUNICATION (proof)" in capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff\n" + line.encode())))
    assert main(["diagnose", "--log", "-"]) == 0
    assert "SLOW OR BROKEN COMMUNICATION (proof)" in capsys.readouterr().out
    assert main(["diagnose", "--log", str(tmp_path)]) == 4
    assert "is a folder, not a file" in capsys.readouterr().err


def test_the_command_says_what_was_looked_at_and_what_was_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "server.log"
    log.write_bytes(b"\xff bad byte\n" + LINES["slow_communication"][0].encode() + b"\n")
    level, samples = level_of([[0.1], [0.1]])
    write_run(tmp_path / "run", run_of("run", [level]), samples)
    assert main(["diagnose", "--log", str(log), "--run", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert f"looked at: log {log}, run {tmp_path / 'run'}" in out
    assert "SLOW OR BROKEN COMMUNICATION (proof)" in out
    assert f"{log}:2: host:71:99" in out
    assert main(["diagnose", "--log", str(log), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["modes"]["slow_communication"]) == ("diagnosis", "found")


def test_evidence_that_is_not_there_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["diagnose"]) == 2
    assert "or give evidence" in capsys.readouterr().err
    assert main(["diagnose", "--log", "nothing.log"]) == 4
    assert main(["diagnose", "--url", "localhost:1"]) == 3
    (tmp_path / "topology.txt").write_text("command not found\n")
    assert main(["diagnose", "--topology", "topology.txt"]) == 4
    assert "no matrix of GPUs" in capsys.readouterr().err
