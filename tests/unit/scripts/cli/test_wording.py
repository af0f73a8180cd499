"""What commands say to a person: the right plural, the nearest name, the missing part, no line too many."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

import pytest

from engines.transfer.push_and_pull import push_engine
from scripts.cli.output import Output
from scripts.commands.table import COMMANDS
from scripts.flows import up
from scripts.flows.deploy import Written, apply
from scripts.main import main
from tests.support.tiny_engine import write_tiny_engine
from tpforge.errors import EnvironmentUnusable, UsageError
from tpforge.recipe import Recipe
from tpforge.units import counted


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory with source/, and an engine of one rank under out/tiny."""
    engine, _, _ = write_tiny_engine(tmp_path)
    (tmp_path / "out" / "tiny").mkdir(parents=True)
    engine.rename(tmp_path / "out" / "tiny" / "engine")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("number", "text"), [(0, "0 ranks"), (1, "1 rank"), (2, "2 ranks")])
def test_a_count_has_the_plural_that_it_needs(number: int, text: str) -> None:
    assert counted(number, "rank") == text


@pytest.mark.parametrize("command", [["convert", "source", "--dry-run"], ["convert", "source", "--out", "c"]])
def test_one_rank_is_one_rank(place: Path, command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command) == 0
    assert "1 rank, " in capsys.readouterr().out


def test_a_gpu_and_a_model_that_are_not_known_end_their_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "llama-3.1-8b", "--gpu", "xx"]) == 4
    assert "is not in the table. Known are t4" in capsys.readouterr().err
    assert main(["plan", "qqqq", "--gpu", "a10"]) == 4
    assert "or known model. Known are " in capsys.readouterr().err
    assert main(["plan", "llama-3.1-8b", "--gpu", "h100"]) in (0, 4, 5)
    assert main(["plan", "llama-3.1-8b", "--gpu", "h100-sx"]) == 4
    assert "is not in the table; did you mean h100-sxm? Known are" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["build", "m", "--tp", "many"], "'many' is not a whole number."),
        (["gpus", "--budget", "much"], "'much' is not a number."),
        (["generate", "x", "--temperature", "hot"], "'hot' is not a number."),
    ],
)
def test_what_is_no_number_is_said_without_ranges(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "end"),
    [("bild", "did you mean build?"), ("engine", "did you mean engines?"), ("qqqqq", "'qqqqq'.")],
)
def test_a_misspelt_command_is_refused_with_the_nearest(
    typed: str, end: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([typed, "x"]) == 2
    assert capsys.readouterr().err.splitlines()[0].endswith(end)


def test_help_of_a_command_is_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    for words, same in (
        (["help"], ["--help"]),
        (["help", "plan"], ["plan", "--help"]),
        (["help", "engines", "push"], ["engines", "push", "--help"]),
    ):
        assert main(words) == main(same) == 0
        said = capsys.readouterr().out
        assert said[: len(said) // 2] == said[len(said) // 2 :]
    assert "help" not in COMMANDS
    assert main(["help", "bild"]) == 2
    assert "did you mean build?" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["-v", "-V", "--version"])
def test_the_version_is_asked_for_as_people_do(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([option]) == 0
    assert capsys.readouterr().out.startswith("tpforge ")


def test_push_pull_and_verify_count_the_files_alike(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts = []
    for words in (
        ["engines", "push", "tiny", f"file://{place}/store"],
        ["engines", "pull", f"file://{place}/store", "--out", "pulled"],
        ["engines", "verify", "tiny"],
        ["engines", "verify", "pulled"],
    ):
        assert main(words) == 0
        said = capsys.readouterr().out
        counts.append(said.partition("engine.json and ")[2].split(",")[0])
    assert counts[0] == "2 files" and len(set(counts)) == 1


@dataclass
class Clock:
    """Time that moves when a test says so."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_count_that_is_piped_is_a_line_now_and_then_and_at_the_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    output = Output(clock=clock)
    for number in range(1, 40):
        clock.now += 0.25
        output.progress(f"answers: {number} of 39")
        if number == 3:
            output.progress("smoke: PASS health")
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["answers: 1 of 39", "smoke: PASS health", "answers: 21 of 39", "answers: 39 of 39"]


def test_a_demo_that_started_no_server_does_not_say_that_it_stops_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail() -> Path:
        raise EnvironmentUnusable("no network")

    monkeypatch.setattr("builders.sources.models.demo_model", fail)
    said: list[str] = []
    with pytest.raises(EnvironmentUnusable, match="no network"):
        up.run_demo(Recipe(model="demo"), keep=False, progress=said.append, on_stage=lambda _stage: None)
    assert said and not any("stopping" in line for line in said)


def test_docker_without_compose_is_said_and_not_its_unknown_flag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\necho 'unknown flag: --detach' >&2\nexit 125\n")
    docker.chmod(docker.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    written = Written(tmp_path, (), ("docker", "compose", "up", "--detach"), None)  # type: ignore[arg-type]
    with pytest.raises(EnvironmentUnusable, match="no compose plugin"):
        apply(written)


@pytest.mark.parametrize("scheme", ["s3", "oci", "adl"])
def test_a_missing_driver_is_named_once(place: Path, scheme: str) -> None:
    with pytest.raises(EnvironmentUnusable) as caught:
        push_engine("tiny", f"{scheme}://bucket/x", headers={}, num_parallel=1, progress=lambda _text: None)
    said = str(caught.value)
    assert said.startswith(f"{scheme}://bucket/x: the driver of {scheme}:// is not installed")
    assert said.count("nstall") == (3 if scheme == "s3" else 2), "it is missing, and one way to bring it"


def test_a_scheme_that_nobody_knows_is_refused_with_those_that_are(place: Path) -> None:
    with pytest.raises(UsageError, match=r"s3x.*expected file:///DIR, .*s3://"):
        push_engine("tiny", "s3x://bucket/x", headers={}, num_parallel=1, progress=lambda _text: None)


def test_the_files_that_push_and_verify_count_add_up(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Push sends the record of the proof as well, and verify names it."""
    (place / "out" / "tiny" / "engine" / "parity.json").write_text("{}")
    assert main(["engines", "push", "tiny", f"file://{tmp_path}/store"]) == 0
    pushed = re.findall(r"engine.json and (\d+) files", capsys.readouterr().out)
    assert main(["engines", "verify", "tiny"]) == 0
    said = capsys.readouterr().out
    assert re.findall(r"engine.json and (\d+) files, all as built, and parity.json", said) == [
        str(int(pushed[0]) - 1)
    ]


def test_engines_of_the_runtimes_of_one_model_lie_side_by_side(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for runtime, name in (("reference", "source-tp2"), ("tensorrt", "source-tp2-trt")):
        assert main(["build", "source", "--tp", "2", "--runtime", runtime, "--dry-run"]) == 0
        assert f"out/{name}/engine" in capsys.readouterr().out
    assert main(["build", "source", "--tp", "2", "--runtime", "pytorch"]) == 0
    assert "out/source-tp2-pytorch/engine" in capsys.readouterr().out


def test_migrate_takes_a_name_under_out_and_says_what_is_missing_in_it(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["migrate", "tiny"]) == 4
    assert "out/tiny/engine: holds no config.json of trtllm-build" in capsys.readouterr().err
    (place / "out/tiny/engine/engine").mkdir()
    (place / "out/tiny/engine/engine/config.json").write_text(
        '{"build_config": {"max_batch_size": 4, "plugin_config": {}}, "pretrained_config": {}}'
    )
    assert main(["migrate", "tiny"]) == 0
    assert "max_batch_size" in capsys.readouterr().out
    assert main(["migrate", "nothing"]) == 4
    assert "nothing: no such engine folder or config.json" in capsys.readouterr().err


def test_an_engine_that_cannot_be_spread_over_nodes_is_told_why(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["deploy", "tiny", "--target", "multi-node", "--gpus-per-node", "1"]) == 2
    assert "is of runtime reference, which serves on one node" in capsys.readouterr().err


def test_a_report_that_cannot_be_written_is_said_before_the_server_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for api in ("triton", "openai", "trtllm-grpc"):
        assert main(["smoke", "localhost:1", "--api", api, "--junit", str(tmp_path)]) == 4
        assert "is a folder; give the name of a file" in capsys.readouterr().err
