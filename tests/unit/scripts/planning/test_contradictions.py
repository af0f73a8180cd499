"""Words of one command that contradict each other, or that nothing would read, are refused with both named.

What they mean by themselves is tests/unit/scripts/planning/test_plan.py's.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from scripts.main import main

PLAN = ("plan", "llama-3.1-8b", "--gpu", "h100-sxm")
GPUS = ("gpus", "--model", "llama-3.1-8b")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((*PLAN, "--max-len", "1999"), "--max-len 1999 is shorter than a request of 2000 tokens"),
        ((*GPUS, "--max-len", "10"), "--max-len 10 is shorter than a request of 2000 tokens"),
        ((*PLAN, "--saturated", "--tpot-ms", "20"), "leave it or --tpot-ms out"),
        ((*GPUS, "--saturated", "--ttft-ms", "20"), "leave it or --ttft-ms out"),
        ((*PLAN, "--alternative", "llama-3.1-8b"), "is the model itself"),
        (("gpus", "--budget", "5", "--tpot-ms", "20"), "--budget, --tpot-ms: of which model?"),
    ],
)
def test_words_that_contradict_each_other_are_usage_errors(
    words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words]) == 2
    assert said in capsys.readouterr().err


def test_one_file_is_not_both_the_page_and_the_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*PLAN, "--html", "x", "--recipe", str(tmp_path / "x")]) == 2
    assert "give each a file of its own" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_saturated_is_what_is_asked_though_latency_is_the_goal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PLAN, "--saturated", "--goal", "latency"]) == 0
    assert "requests at once: as many as fit" in capsys.readouterr().out


def test_more_ranks_than_gpus_is_no_fault_of_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PLAN, "--tp", "8", "--gpus", "4"]) == 5
    said = capsys.readouterr().err
    assert "8 ranks, but 4 GPUs" in said
    assert "nearest that works: 8 x H100 SXM" in said


def test_a_share_of_memory_that_holds_no_token_is_not_called_too_large_a_model(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*PLAN, "--kv-fraction", "0.000001", "--kv", "bfloat16", "--format", "none"]) == 5
    said = capsys.readouterr().err
    assert "that are free hold no token of a KV cache" in said
    assert "a rank needs" not in said


def test_the_fewest_gpus_run_all_requests_at_once_or_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "llama-3.3-70b", "--gpu", "h100-sxm", "--gpus", "4", "--concurrency", "5000"]
    assert main([*words, "--min-gpus"]) == 5
    assert "at once of the 5000 asked for" in capsys.readouterr().err
    assert main(words) == 0
    assert "the others wait" in capsys.readouterr().out


def test_gpus_has_columns_of_money_only_where_there_is_a_price(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*GPUS]) == 0
    assert "per hour" not in capsys.readouterr().out
    file = tmp_path / "prices.toml"
    file.write_text('currency = "EUR"\n[per_gpu_hour]\nl4 = 0.7\n', "utf-8")
    assert main([*GPUS, "--gpu-file", str(file)]) == 0
    assert "EUR per hour" in capsys.readouterr().out


def test_why_a_kind_does_not_do_it_is_said_of_the_kind(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gpus", "--model", "llama-3.1-405b", "--tpot-ms", "30"]) == 0
    said = capsys.readouterr().out
    assert "no room for the weights and a cache with 8 of them" in said
    assert "not with 8 of them" not in said


def test_the_picks_as_json_have_the_bands_that_the_table_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*GPUS, "--concurrency", "8"]) == 0
    table = capsys.readouterr().out
    assert main([*GPUS, "--concurrency", "8", "--json"]) == 0
    picks = json.loads(capsys.readouterr().out)["picks"]
    for pick in picks:
        if pick["gpus"] is not None:
            row = next(
                one for one in table.splitlines() if one.startswith(f"{pick['gpus']} x {pick['gpu']} ")
            )
            low, high = (float(end) for end in re.findall(r"  (\d+)-(\d+)  ", row)[0])
            assert (low, high) == pytest.approx((pick["low"], pick["high"]), abs=0.6)
    assert any(pick["low"] is None and pick["reason"] for pick in picks)
