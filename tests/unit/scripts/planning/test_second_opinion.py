"""A second opinion by aiconfigurator's program: what it is asked, and what is read of its answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.flows.planning.second_opinion import parse
from scripts.main import main

ANSWER = """
============================================================
  Performance Estimate (agg)
============================================================
  Backend:          trtllm (1.3.0rc20)
------------------------------------------------------------
  Batch Size:       240
------------------------------------------------------------
  TTFT:             454.361 ms
  TPOT:             55.763 ms
------------------------------------------------------------
  tokens/s:         4,286.25
  tokens/s/gpu:     2,143.13
"""


def program(tmp_path: Path, body: str) -> str:
    file = tmp_path / "aiconfigurator"
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)
    return str(file)


def test_its_estimate_is_read_from_what_it_prints() -> None:
    found = parse(ANSWER)
    assert found is not None
    assert (found.version, found.tokens_per_second_per_gpu) == ("trtllm (1.3.0rc20)", 2143.13)
    assert (found.ttft_ms, found.tpot_ms) == (454.361, 55.763)
    assert parse("something else") is None


def test_it_is_asked_for_the_chosen_option_and_shown_beside_ours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = tmp_path / "asked"
    answer = tmp_path / "answer"
    answer.write_text(ANSWER)
    path = program(tmp_path, f'printf "%s\\n" "$@" > {asked}; cp "$4/config.json" {tmp_path}; cat {answer}')
    assert (
        main(["plan", "llama-3.3-70b", "--gpu", "h100", "--gpus", "8", "--saturated", "--estimator", path])
        == 0
    )
    assert (
        "aiconfigurator (trtllm (1.3.0rc20)): 2143 tokens/s per GPU, 55.8 ms per token"
        in capsys.readouterr().out
    )
    words = asked.read_text().split()
    pairs = dict(zip(words[2:-3:2], words[3:-3:2], strict=False))
    assert (pairs["--system"], pairs["--tp-size"], pairs["--pp-size"]) == ("h100_sxm", "2", "1")
    assert (pairs["--gemm-quant-mode"], pairs["--kvcache-quant-mode"]) == ("fp8", "fp8")
    assert (pairs["--isl"], pairs["--osl"], pairs["--batch-size"]) == ("1000", "1000", "242")
    assert json.loads((tmp_path / "config.json").read_text())["num_hidden_layers"] == 80


def test_when_it_has_no_answer_its_last_words_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = program(tmp_path, "echo no such model >&2; exit 3")
    assert main(["plan", "llama-3.1-8b", "--gpu", "h100", "--estimator", path, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["second_opinion"]["unavailable_because"]
    assert said == "it gave no estimate (exit status 3): no such model"
    assert main(["plan", "llama-3.1-8b", "--gpu", "l40", "--estimator", path]) == 0
    assert "aiconfigurator: it has no system for L40" in capsys.readouterr().out


def test_a_missing_program_says_how_to_install_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "llama-3.1-8b", "--gpu", "h100", "--estimator", "/nowhere/aic"]) == 3
    assert "aiconfigurator==0.12.0" in capsys.readouterr().err
