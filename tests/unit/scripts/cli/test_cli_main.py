"""scripts.main: how every failure becomes one line and an exit status, and that --help stays light."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from importlib import import_module
from pathlib import Path

import click
import pytest

from scripts import main as cli
from scripts.commands.table import COMMANDS, STAGES, module_of
from scripts.main import main
from tests.support.patience import PATIENCE_S
from tpforge.errors import InputRefused


def failing_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Make `tpforge stop` raise `error` in the function it calls."""

    def fail(*_arguments: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr("scripts.flows.serve.stop_servers", fail)


def test_the_short_help_of_every_command_is_the_first_sentence_of_its_own() -> None:
    for name, text in COMMANDS.items():
        command = import_module(module_of(name)).command
        assert command.name == name
        first = " ".join((command.help or "").split("\n\n")[0].split())
        assert first == text, name


def test_every_module_of_a_command_is_in_the_table_under_its_own_stage() -> None:
    rooms = Path(cli.__file__).with_name("commands")
    modules = {f"scripts.commands.{path.parent.name}.{path.stem}" for path in rooms.glob("*/[!_]*.py")}
    assert modules == {module_of(name) for name in COMMANDS}
    assert len(COMMANDS) == sum(len(stage.commands) for stage in STAGES)


def test_help_lists_the_commands_of_each_stage_under_its_title(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    after = shown
    for stage in STAGES:
        _, title, after = after.partition(f"\n{stage.title}:\n")
        assert title, f"no section {stage.title!r}, or before the one that precedes it"
        section = after.split("\n\n")[0]
        assert [line.split()[0] for line in section.splitlines() if re.match(r"  \S", line)] == [
            *stage.commands
        ]


def test_every_command_takes_debug_and_those_that_print_a_result_take_json() -> None:
    for name in COMMANDS:
        command = cli.cli.get_command(click.Context(cli.cli), name)
        assert command is not None
        parts = list(command.commands.values()) if isinstance(command, click.Group) else [command]
        for part in parts:
            options = {option for parameter in part.params for option in parameter.opts}
            assert {"--debug", "--json"} <= options, (name, part.name)


def test_one_option_name_has_one_meaning_everywhere() -> None:
    """The same flag never takes another type in another command, but for these.

    --model is a model of the repository or a name; --max-batch-size, --concurrency and --rate take several
    values where several engines or levels are meant.
    """
    several = ("--model", "--max-batch-size", "--concurrency", "--rate")
    types: dict[str, set[str]] = {}
    for name in COMMANDS:
        command = cli.cli.get_command(click.Context(cli.cli), name)
        assert command is not None
        for parameter in command.params:
            for option in parameter.opts:
                if option.startswith("--") and option not in several:
                    types.setdefault(option, set()).add(parameter.type.name)
    assert {option: found for option, found in types.items() if len(found) > 1} == {}


def test_help_imports_nothing_heavy() -> None:
    """It takes a quarter of a second where nothing else runs; torch alone would take seconds."""
    code = (
        "import sys\n"
        "from scripts.main import main\n"
        "main(['--help'])\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'transformers', 'tritonclient', 'grpc', 'jinja2', 'gguf'}\n"
        "sys.stderr.write(' '.join(sorted(heavy & set(sys.modules))))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stderr == ""
    assert all(name in run.stdout for name in COMMANDS)


def test_the_help_of_a_command_imports_nothing_heavy_either() -> None:
    code = (
        "import sys\n"
        "from scripts.commands.table import COMMANDS\n"
        "from scripts.main import main\n"
        "for name in COMMANDS: main([name, '--help'])\n"
        "heavy = {'torch', 'numpy', 'transformers', 'tritonclient', 'grpc', 'jinja2', 'gguf'}\n"
        "sys.stderr.write(' '.join(sorted(heavy & set(sys.modules))))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stderr == ""


def test_a_list_of_gpus_imports_no_planning() -> None:
    code = (
        "import sys\n"
        "from scripts.main import main\n"
        "main(['gpus'])\n"
        "needless = ('builders.blueprint', 'engines.host', 'scripts.flows.plan')\n"
        "sys.stderr.write(' '.join(sorted({*needless} & {*sys.modules})))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stderr == ""
    assert "h100-sxm" in run.stdout.lower()


def test_no_command_or_flow_loads_a_heavy_library_before_it_is_called() -> None:
    """What is wrong with the arguments is said at once, and not after torch was loaded."""
    code = (
        "import importlib, pkgutil, sys\n"
        "for folder in ('commands', 'flows'):\n"
        "    package = importlib.import_module(f'scripts.{folder}')\n"
        "    for module in pkgutil.walk_packages(package.__path__, f'{package.__name__}.'):\n"
        "        importlib.import_module(module.name)\n"
        "        found = {'torch', 'transformers', 'grpc', 'tokenizers'} & set(sys.modules)\n"
        "        assert not found, f'{module.name} loads {found}'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_unknown_command_and_option_are_usage_errors_that_suggest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["bild"]) == 2
    assert capsys.readouterr().err.startswith("error: No such command 'bild'")
    assert main(["build", "m", "--force-it"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: No such option '--force-it'")
    assert captured.err.splitlines()[-1] == "see: tpforge build --help"
    assert captured.out == ""


@pytest.mark.parametrize("option", ["--tp", "--pp", "--max-batch-size"])
def test_a_size_of_zero_is_a_usage_error(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "m", option, "0"]) == 2
    assert f"error: Invalid value for '{option}': 0 is not in the range x>=1." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("runtime", "option", "of"),
    [
        ("reference", ["--llm-arg", "a=1"], "pytorch"),
        ("reference", ["--container", "docker"], "tensorrt"),
        ("pytorch", ["--build-arg", "max_num_tokens=1"], "tensorrt"),
        ("pytorch", ["--optimize-for", "latency"], "tensorrt"),
        ("pytorch", ["--image", "x"], "tensorrt"),
        ("tensorrt", ["--llm-arg", "a=1"], "pytorch"),
    ],
)
def test_an_option_that_the_runtime_would_not_look_at_is_a_usage_error(
    runtime: str, option: list[str], of: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", "m", "--runtime", runtime, *option, "--dry-run"]) == 2
    assert f"error: {option[0]}: is for --runtime {of}, and this is {runtime}" in capsys.readouterr().err


@pytest.mark.parametrize("runtime", ["tensorrt", "pytorch"])
def test_up_of_a_model_that_is_not_there_fails_in_its_first_stage(
    runtime: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'model = "./absent"\nruntime = "{runtime}"\n')
    assert main(["up", str(recipe)]) == 4
    captured = capsys.readouterr()
    assert "absent" in captured.err
    assert [line.split()[0] for line in captured.out.splitlines()] == ["stage", "build", "total"]


def test_an_expected_failure_is_one_line_with_its_own_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing_with(monkeypatch, InputRefused("x: found 1, expected 2; do 3"))
    assert main(["stop"]) == 4
    assert capsys.readouterr() == ("", "error: x: found 1, expected 2; do 3\n")


def test_an_unexpected_failure_names_itself_and_shows_its_traceback_only_with_debug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing_with(monkeypatch, ZeroDivisionError("division by zero"))
    assert main(["stop"]) == 1
    assert capsys.readouterr().err == (
        "internal error: ZeroDivisionError: division by zero; run again with --debug for the traceback\n"
    )
    assert main(["stop", "--debug"]) == 1
    captured = capsys.readouterr().err
    assert "Traceback (most recent call last)" in captured
    assert captured.endswith("internal error: ZeroDivisionError: division by zero\n")


def test_ctrl_c_says_interrupted_with_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing_with(monkeypatch, KeyboardInterrupt())
    assert main(["stop"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_sigterm_and_sighup_unwind_like_ctrl_c_and_the_handler_is_put_back(
    number: signal.Signals, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unwound = []

    def wait(*_arguments: object, **_options: object) -> None:
        threading.Timer(0.05, os.kill, (os.getpid(), number)).start()
        try:
            time.sleep(PATIENCE_S)
        finally:
            unwound.append(True)

    monkeypatch.setattr("scripts.flows.serve.stop_servers", wait)
    inherited = signal.signal(number, signal.SIG_DFL)  # ignored, when the tests run under nohup
    try:
        assert main(["stop"]) == status
        assert capsys.readouterr().err == "terminated\n"
        assert unwound == [True]
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, inherited)


def test_a_sighup_that_is_ignored_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang_up(*_arguments: object, **_options: object) -> tuple[()]:
        os.kill(os.getpid(), signal.SIGHUP)
        return ()

    monkeypatch.setattr("scripts.flows.serve.stop_servers", hang_up)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert main(["stop"]) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_reader_that_goes_away_ends_it_silently() -> None:
    code = "import sys\nfrom scripts.main import main\nsys.stdin.readline()\nsys.exit(main(['--help']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, errors = process.communicate("go\n", timeout=PATIENCE_S)
    assert (process.returncode, errors) == (141, "")


@pytest.mark.parametrize("words", [["serve", "nix", "--json"], ["serve", "nix"], ["stop", "nix", "--json"]])
def test_a_reader_of_both_that_goes_away_ends_a_failure_silently(words: list[str], tmp_path: Path) -> None:
    """As `2>&1 | head -1` does: neither the message nor its JSON can be written."""
    code = f"import sys; from scripts.main import main; sys.stdin.readline(); sys.exit(main({words!r}))"
    read, write = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=write,
        stderr=write,
        text=True,
        cwd=tmp_path,
    )
    os.close(read)
    os.close(write)
    process.communicate("go\n", timeout=PATIENCE_S)
    assert process.returncode == 141


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    from tpforge import __version__

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"tpforge {__version__}\n"


def test_the_installed_program_runs(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("tpforge")
    run = subprocess.run([program, "--version"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert run.stdout.startswith("tpforge ")
