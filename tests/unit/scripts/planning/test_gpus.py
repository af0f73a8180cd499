"""`tpforge gpus`: the table, and the fewest GPUs of every kind for a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.main import main


def picks(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, dict[str, object]]:
    assert main(["gpus", "--json", *arguments]) == 0
    return {one["gpu"]: one for one in json.loads(capsys.readouterr().out)["picks"]}


def test_without_a_model_the_table_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gpus"]) == 0
    text = capsys.readouterr().out
    assert "h100-sxm" in text
    assert "79.1 " in text
    assert "22.1?" in text


def test_of_every_kind_the_fewest_gpus_are_taken(capsys: pytest.CaptureFixture[str]) -> None:
    found = picks(capsys, "--model", "llama-3.3-70b", "--isl", "1000", "--osl", "200")
    assert found["h200-sxm"]["gpus"] == 1
    assert found["a100-sxm-80gb"]["gpus"] == 1
    assert found["rtx-4090"]["gpus"] in (2, 4)
    assert found["t4"]["gpus"] is None
    assert "Turing" in str(found["t4"]["reason"])


def test_requests_that_must_run_at_once_raise_the_number(capsys: pytest.CaptureFixture[str]) -> None:
    few = picks(capsys, "--model", "llama-3.1-8b", "--concurrency", "8")["l40s"]["gpus"]
    many = picks(capsys, "--model", "llama-3.1-8b", "--concurrency", "2000")["l40s"]["gpus"]
    assert isinstance(few, int)
    assert isinstance(many, int)
    assert few == 1 < many


def test_prices_order_the_kinds_and_a_budget_excludes_what_has_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "prices.toml"
    file.write_text("[per_gpu_hour]\nh100-sxm = 3.0\nl40s = 1.0\nb200 = 50.0\n")
    found = picks(capsys, "--model", "llama-3.1-8b", "--gpu-file", str(file), "--budget", "10")
    working = [name for name, one in found.items() if one["gpus"]]
    assert set(working) == {"h100-sxm", "l40s"}
    costs = [found[name]["cost_per_million"] for name in working]
    assert costs == sorted(costs, key=lambda cost: float(str(cost)))
    assert "more than 10.00" in str(found["b200"]["reason"])
    assert "no price" in str(found["a10"]["reason"])


def test_money_is_printed_in_the_currency_of_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "prices.toml"
    prices = "[per_gpu_hour]\nh100-sxm = 3.0\n"
    words = ["--gpu-file", str(file), "--concurrency", "8"]
    for currency, head, end in (
        ('currency = "EUR"\n', "EUR per hour  EUR per million", " EUR"),
        ("", " per hour  per million", "(of the currency of the price)"),
    ):
        file.write_text(currency + prices, encoding="utf-8")
        assert main(["gpus", "--model", "llama-3.1-8b", *words]) == 0
        assert head in capsys.readouterr().out
        assert main(["plan", "llama-3.1-8b", "--gpu", "h100-sxm", *words]) == 0
        line = next(
            one for one in capsys.readouterr().out.splitlines() if one.startswith("price of a million")
        )
        assert line.endswith(end)


def test_kinds_refused_for_one_reason_are_one_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "prices.toml"
    file.write_text("[per_gpu_hour]\nh100-sxm = 3.0\n")
    assert main(["gpus", "--model", "llama-3.1-8b", "--gpu-file", str(file), "--budget", "10"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if "no price in --gpu-file" in line]) == 1


def test_a_budget_without_prices_asks_for_them_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gpus", "--model", "llama-3.1-8b", "--budget", "10"]) == 2
    error = capsys.readouterr().err
    assert "--budget needs prices" in error
    assert len(error.splitlines()) == 1


def test_a_load_that_no_kind_bears_ends_in_5(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gpus", "--model", "llama-3.1-405b", "--tpot-ms", "0.1", "--goal", "latency"]) == 5
    assert "no kind of GPU meets what is asked" in capsys.readouterr().err
