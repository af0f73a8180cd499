"""`tpforge plan --trace`: the load is the trace's, by numpy's arithmetic on the same rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from scripts.main import main

ASKED = ["plan", "llama-3.1-8b", "--gpu", "h100", "--gpus", "8"]
ROWS = [(0, 100, 10), (500, 4000, 300), (1000, 250, 20), (3000, 900, 2000), (4000, 70, 5)]


def written(folder: Path, rows: list[tuple[int, int, int]]) -> str:
    file = folder / "trace.jsonl"
    keys = ("timestamp", "input_length", "output_length")
    file.write_text("\n".join(json.dumps(dict(zip(keys, row, strict=True))) for row in rows), "utf-8")
    return str(file)


def test_lengths_rate_and_the_longest_request_are_the_traces(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*ASKED, "--json", "--trace", written(tmp_path, ROWS)]) == 0
    printed = capsys.readouterr()
    value = json.loads(printed.out)
    times, prompts, answers = np.array(ROWS).T
    assert value["input_tokens"] == round(float(np.mean(prompts)))
    assert value["output_tokens"] == round(float(np.mean(answers)))
    assert value["requests_per_second"] == pytest.approx(1e3 / float(np.mean(np.diff(times))))
    assert value["max_len"] == int(np.max(prompts + answers))
    assert f"{np.percentile(prompts, 95):.0f} p95" in printed.err
    simulated = value["simulated"]
    assert simulated["requests"] == len(ROWS)
    assert simulated["ttft"]["p50_ms"] <= simulated["ttft"]["p95_ms"]


def test_a_stated_load_stays_and_stated_lengths_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, ROWS)
    assert main([*ASKED, "--json", "--trace", file, "--concurrency", "4", "--max-len", "9000"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert (value["concurrency"], value["requests_per_second"], value["max_len"]) == (4, None, 9000)
    assert main([*ASKED, "--trace", file, "--isl", "1000"]) == 2
    assert "leave out --isl" in capsys.readouterr().err


def test_requests_that_all_come_at_once_state_no_rate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*ASKED, "--json", "--trace", written(tmp_path, [(7, 100, 10), (7, 300, 30)])]) == 0
    value = json.loads(capsys.readouterr().out)
    assert (value["requests_per_second"], value["input_tokens"]) == (None, 200)


def test_a_trace_without_lengths_or_a_missing_one_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bare.jsonl"
    file.write_text('{"timestamp": 0, "input_length": 5}\n{"timestamp": 1}\n', "utf-8")
    assert main([*ASKED, "--trace", str(file)]) == 4
    assert "2 requests, of which 1 have input_length and 0 output_length" in capsys.readouterr().err
    assert main([*ASKED, "--trace", str(tmp_path / "none")]) == 4
    assert "no such file" in capsys.readouterr().err


def test_a_limit_on_the_longest_request_that_the_trace_breaks_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, [(0, 100, 10), (500, 3000, 30)])
    assert main([*ASKED, "--trace", file, "--max-len", "3000"]) == 2
    assert "3030 tokens" in capsys.readouterr().err
    assert main([*ASKED, "--trace", file, "--max-len", "3030"]) == 0


def test_a_stated_rate_is_the_one_that_the_requests_of_the_trace_come_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # One a second waits for no other; of eight a second one waits for the prompt of another.
    file = written(tmp_path, [(1000 * index, 4000, 200) for index in range(200)])
    waits = []
    for rate in ("1", "8"):
        assert main([*ASKED, "--json", "--trace", file, "--rate", rate]) == 0
        waits.append(json.loads(capsys.readouterr().out)["simulated"]["ttft"]["p95_ms"])
    assert main([*ASKED, "--json", "--trace", file]) == 0
    own = json.loads(capsys.readouterr().out)["simulated"]["ttft"]["p95_ms"]
    assert waits[0] == own
    assert waits[1] > 1.2 * own


def test_what_is_wrong_in_a_trace_is_said_line_by_line_in_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "other.jsonl"
    lines = ['{"time": 1, "prompt_tokens": 9}', "[1]", '{"timestamp": 1, "input_length": 0}', '{"timestamp"']
    file.write_text("\n".join([*lines, f'{{"timestamp": {10**400}}}', *["[]"] * 40]), "utf-8")
    assert main([*ASKED, "--trace", str(file)]) == 4
    said = capsys.readouterr().err.splitlines()
    assert "45 lines are wrong" in said[0]
    assert [line.split(":")[0].strip() for line in said[1:]] == [f"line {number}" for number in range(1, 21)]
    assert said[1].endswith("has no timestamp, but prompt_tokens, time")
    assert said[2].endswith("holds no object")
    assert not any("Error" in line for line in said[1:])
