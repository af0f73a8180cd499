"""The commands that README and docs show: parsed, run where nothing else is needed, or said why not.

What they print is judged by the tests of the pages themselves; docs/planning.md's in test_planning_page.py.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import click
import pytest
from click import Context, Group

from engines.store import write_manifest
from scripts.main import cli, main
from tests.support.deployments import MANIFESTS
from tests.support.examples import ROOT, Example, examples, in_the_text
from tests.support.tiny import write_tiny_llama
from tests.support.tiny_engine import write_tiny_engine

EXAMPLES = examples()
OURS = [one for one in EXAMPLES if one.program == "tpforge"]

NEEDED = {
    "cd": "the folders that the commands before it wrote",
    "chmod": "files of the command before it",
    "curl": "a server: tests/e2e/test_examples.py and test_openai_front.py ask one",
    "openssl": "tests/support/certificates.py makes the like for tests/e2e/test_tls.py",
    "git clone": "the address of the repository",
    "uv tool install": "a package index: tests/e2e/test_installed_tool.py",
    "docker": "Docker",
    "kubectl": "a cluster; the files are validated by tests/unit/triton_repo/deploy",
    "helm": "a cluster; the chart is validated by tests/unit/triton_repo/deploy",
    "sh storage.sh": "the engine's files; tests/unit/triton_repo/deploy runs it",
    "aws": "a bucket",
    "sbatch": "Slurm",
    "squeue": "Slurm",
    "scancel": "Slurm",
    "tail": "a job of Slurm",
    "debootstrap": "debootstrap, and an hour of downloads",
    "python -m scripts.dev.run_dockerfile": "a root: test_run_dockerfile.py",
    "python inflight_batcher_llm": "upstream's clients, which were run by hand",
    "trtllm-serve": "TensorRT-LLM: tests/e2e/test_trtllm_serve.py has a stand-in",
    "tpforge serve": "a server: tests/e2e/test_examples.py, test_tls.py, test_openai_front.py",
    "tpforge generate": "a server: tests/e2e/test_examples.py",
    "tpforge smoke": "a server: tests/e2e/test_examples.py, test_tls.py",
    "tpforge status": "a server: tests/e2e/test_examples.py",
    "tpforge logs": "a server: tests/e2e/test_examples.py",
    "tpforge stop": "a server: tests/e2e/test_examples.py",
    "tpforge bench": "a server: tests/e2e/test_bench.py",
    "tpforge promote": "two servers: tests/e2e/test_promote.py, test_promote_cluster.py",
    "tpforge evaluate": "a run: tests/unit/scripts has its tests",
    "tpforge compare": "runs: tests/unit/scripts/test_cli_compare.py",
    "tpforge decide": "runs: tests/unit/scripts/test_cli_decide.py",
    "tpforge quantize": "nvidia-modelopt",
    "tpforge versions --learn": "an installed TensorRT-LLM: tests/unit/engines/test_learning.py",
    "tpforge verify": "an engine that lost little",
    "tpforge migrate out": "an engine of trtllm-build: tests/unit/builders/test_migrate.py",
    "tpforge build demo": "the demo model, which make demo builds",
    "tpforge build DIR": "what the command before it calibrated",
    "tpforge render": "the demo's engine: tests/unit/scripts/test_render.py",
    "tpforge inspect": "a checkpoint: tests/unit/scripts/test_inspect.py",
    "tpforge plan": "nothing, and tests/unit/scripts/planning/test_planning_page.py holds its output",
    "tpforge gpus": "nothing, and tests/unit/scripts/planning/test_planning_page.py holds its output",
    "make": "test_the_targets_of_make_are_there_and_call_what_there_is",
}
"""What a command needs that a test has not, by how it begins; who runs it or the like, if anybody does."""
RUN = (
    "tpforge deploy",
    "tpforge engines push",
    "tpforge engines pull",
    "tpforge formats",
    "tpforge migrate llm.yaml",
)
RUN_DRY = ("tpforge build MODEL",)
"""With --dry-run: the program that would be called is not here."""
ENGINES = {
    "Llama-3.3-70B-Instruct-tp4-pytorch": "llama70b-dynamo",
    "llama-70b": "llama70b-tensorrt",
    "llama-405b": "llama405b-tensorrt",
}
"""The engines of the pages that TensorRT-LLM makes, each with a manifest of its shape."""
OTHERWISE = {("docs/deploy/kubernetes.md", "llama-70b"): "llama70b-dynamo"}
"""By page and name: there it is one that trtllm-serve serves."""
TINY = ("SmolLM2-135M-Instruct.Q4_1-tp4", "smol")
"""Those of the reference runtime: whole ones of a tiny model."""


def _begins(example: Example, starts: tuple[str, ...]) -> bool:
    text = f"{' '.join(example.words)} "
    return text.startswith(tuple(f"{start}{end}" for start in starts for end in " /"))


def test_every_command_is_run_or_it_is_said_what_it_needs() -> None:
    known = (*RUN, *RUN_DRY, *NEEDED)
    assert [str(one) for one in EXAMPLES if not _begins(one, known)] == []
    used = {start for start in known for one in EXAMPLES if _begins(one, (start,))}
    assert used == {*known}
    assert len(EXAMPLES) > 150


@pytest.mark.parametrize("example", OURS, ids=str)
def test_every_command_of_ours_is_understood(example: Example) -> None:
    """By the program's own parser: names and values of options, and that nothing is missing or too much."""
    name, *words = example.words[1:]
    command = cli.get_command(Context(cli), name)
    assert command is not None, name
    if isinstance(command, Group):
        command, words = command.get_command(Context(command), words[0]), words[1:]
        assert command is not None, example.words
    words = [word.removesuffix("...") or word for word in words]
    # As the program does: a command keeps the help option that it is first asked for.
    parent = Context(cli, **cli.context_settings)
    with command.make_context(name, words, parent=parent) as context:
        assert isinstance(context, click.Context)


def _options(command: click.Command) -> set[str]:
    """Its own, and those of the commands of a group."""
    found = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
    if isinstance(command, Group):
        for name in command.list_commands(Context(command)):
            part = command.get_command(Context(command), name)
            assert part is not None
            found |= _options(part)
    return found


def test_commands_in_the_text_have_the_options_that_it_names() -> None:
    wrong = []
    shown = list(in_the_text())
    for example in shown:
        name, *words = example.words[1:]
        command = cli.get_command(Context(cli), name)
        given = {word.partition("=")[0].strip("[](),.;") for word in words if word.startswith(("--", "[--"))}
        if command is None or given - _options(command) - {"--help"}:
            wrong.append(str(example))
    assert wrong == [] and len(shown) > 50


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("example", [one for one in EXAMPLES if one.program == "make"], ids=str)
def test_the_targets_of_make_are_there_and_call_what_there_is(example: Example) -> None:
    said = subprocess.run(
        ["make", "-n", "-C", str(ROOT), *example.words[1:]], check=True, capture_output=True, text=True
    ).stdout
    scripts = re.findall(r"scripts/dev/[\w.-]+", said)
    assert scripts and all((ROOT / script).is_file() for script in scripts)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A current folder with the engines that the pages name; their weights are not looked at."""
    folder = tmp_path_factory.mktemp("examples")
    for name, shape in ENGINES.items():
        engine = folder / "out" / name / "engine"
        engine.mkdir(parents=True)
        write_manifest(engine, MANIFESTS[shape].model_copy(update={"name": name, "files": ()}))
    for name in TINY:
        tiny, _, _ = write_tiny_engine(folder / "tiny" / name, tp_size=2)
        (folder / "out" / name).mkdir()
        tiny.rename(folder / "out" / name / "engine")
    write_tiny_llama(folder / "MODEL", num_layers=4, num_heads=16, num_kv_heads=8, dtype="bfloat16")
    (folder / "llm.yaml").write_text("backend: pytorch\nmax_batch_size: 8\n")
    return folder


@pytest.mark.parametrize("example", [one for one in EXAMPLES if _begins(one, RUN)], ids=str)
def test_a_command_that_needs_nothing_runs(
    example: Example, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bucket is a folder here, and `sha256:...` the digest that push printed."""
    monkeypatch.chdir(place)
    words = list(example.words[1:])
    if shape := OTHERWISE.get((example.page, words[1])):
        manifest = MANIFESTS[shape].model_copy(update={"name": words[1], "files": ()})
        write_manifest(place / "out" / words[1] / "engine", manifest)
    if words[0] == "engines":
        words = [word.replace("s3://", f"file://{place}/") for word in words]
    digest = f"sha256:{'ab' * 32}"
    if words[1] == "pull":
        assert main(["engines", "push", "out/smol/engine", words[2]]) == 0
        digest = re.findall(r"sha256:[0-9a-f]{64}", "".join(capsys.readouterr()))[0]
    words = [digest if word == "sha256:..." else word for word in words]
    if "deploy" in words or "pull" in words:
        words.append("--force")  # Several pages deploy the same engine, or pull one that is here.
    status = main(words)
    assert status == 0, capsys.readouterr().err


@pytest.mark.parametrize("example", [one for one in EXAMPLES if _begins(one, RUN_DRY)], ids=str)
def test_a_build_is_planned(
    example: Example, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    assert main([*example.words[1:], "--dry-run", "--force"]) == 0, capsys.readouterr().err
