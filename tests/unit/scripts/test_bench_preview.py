"""`tpforge bench --dry-run`: what it would ask and could see, without a server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.flows.benching.plan import BenchOptions, refuse_lengths
from scripts.flows.benching.preview import preview_bench
from scripts.main import main
from tests.support.runs import level_of, run_of
from tpforge.errors import UsageError
from tpforge.manifest import Limits
from tpforge.measure.comparison.power import smallest_change
from tpforge.measure.runs.run import write_run

NOWHERE = "localhost:1"


def test_it_needs_no_server_and_says_what_would_be_asked(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--concurrency", "1,8", "--duration", "30", "--repeats", "5", "--prompts", "easy"]
    assert main(["bench", NOWHERE, "--dry-run", *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "bench_preview"
    assert found["loads"] == ["concurrency 1", "concurrency 8"]
    assert found["least_s"] == 2 * 5 * (2 + 30)
    assert found["num_for_p95"] == 100
    assert "in whole passes, shuffled, each asked once before" in found["prompts"]
    assert [one["smallest"] for one in found["seen"]] == [
        smallest_change(5, noise=noise, alpha=0.05 / 2 / 2) for noise in (0.01, 0.02, 0.05, 0.1)
    ]


def test_one_repeat_is_told_to_see_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", NOWHERE, "--dry-run", "--repeats", "1", "--num-requests", "8"]) == 0
    assert "none: give --repeats 2 or more" in capsys.readouterr().out


def test_the_noise_is_that_of_the_run_to_join(tmp_path: Path) -> None:
    level, samples = level_of([[0.1, 0.1]] * 2, durations=(2.0, 2.2))
    write_run(tmp_path / "run", run_of("run", [level], workload={"num_repeats": 2}), samples)
    found = preview_bench(NOWHERE, BenchOptions(num_repeats=1, join=tmp_path / "run"))
    (seen,) = found.seen
    assert (found.num_repeats, found.num_earlier, seen.where) == (1, 2, "measured at concurrency 1")
    assert seen.noise == pytest.approx(0.0674, abs=0.0001)
    assert seen.smallest == smallest_change(3, noise=seen.noise, alpha=0.05 / 2)


def test_wrong_options_are_refused_as_they_would_be(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        preview_bench(NOWHERE, BenchOptions(concurrency=(1,), rates=(2.0,)))
    assert main(["bench", "--dry-run", "--sweep", "grid.toml"]) == 2
    assert "--dry-run is of one measurement" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"isl": 65}, "--isl 65: the engine takes prompts of at most 64 tokens"),
        ({"isl": 60, "osl": 41}, "--isl 60 --osl 41: prompt and answer have at most 100 tokens together"),
        ({"osl": 100}, "--osl 100: prompt and answer have at most 100 tokens together"),
    ],
)
def test_lengths_that_the_engine_refuses_are_refused_before_prompts_are_made(
    options: dict[str, int], words: str
) -> None:
    limits = Limits(max_batch_size=1, max_input_len=64, max_seq_len=100)
    with pytest.raises(UsageError, match=words):
        refuse_lengths(BenchOptions(**options), limits)
    refuse_lengths(BenchOptions(isl=64, osl=36), limits)
