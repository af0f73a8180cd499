"""build, convert, inspect and engines on a tiny checkpoint, as a user would call them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from scripts.main import main
from tests.support.patience import PATIENCE_S
from tests.support.tiny import write_tiny_llama
from tpforge.manifest import Manifest


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny llama; the current directory is empty."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return write_tiny_llama(tmp_path / "tiny-llama")


def json_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """The one object that a command prints with --json."""
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert isinstance(value, dict)
    assert value["schema_version"] == 1
    return value


def tree_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".tpforge.json"
    }


def test_an_engine_holds_its_manifest_rank_files_and_tokenizer(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", str(model), "--tp", "2"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("out/tiny-llama-tp2/engine: tp=2 pp=1 float32, 2 ranks, ")
    assert len(captured.out.splitlines()) == 1
    engine = Path("out/tiny-llama-tp2/engine")
    names = set(tree_of(engine))
    assert {
        "engine.json",
        "checkpoint/config.json",
        "checkpoint/rank0.safetensors",
        "checkpoint/rank1.safetensors",
        "tokenizer/tokenizer.json",
    } <= names
    manifest = Manifest.model_validate_json((engine / "engine.json").read_bytes())
    assert {file.path for file in manifest.files} == names - {"engine.json"}
    assert manifest.mapping.tp_size == 2
    assert manifest.limits.model_dump() == {"max_batch_size": 8, "max_input_len": 256, "max_seq_len": 512}
    assert manifest.source.location == str(model)
    assert [path.name for path in Path("out/tiny-llama-tp2").iterdir()] == ["engine"]


def test_the_command_in_the_manifest_makes_the_same_bytes_again(model: Path) -> None:
    # With --runtime auto engine.json also says why this host chose the runtime, which the command names.
    words = ["--runtime", "reference", "--parallel-embedding", "1"]
    assert main(["build", str(model), "--tp", "2", *words]) == 0
    engine = Path("out/tiny-llama-tp2/engine")
    first = tree_of(engine)
    program, *arguments = json.loads((engine / "engine.json").read_text())["command"]
    assert program == "tpforge"
    assert main([*arguments, "--out", "again"]) == 0
    assert tree_of(Path("again")) == first


def test_an_equal_engine_is_kept_and_a_different_one_refused_without_force(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", str(model), "--tp", "2"]) == 0
    engine = Path("out/tiny-llama-tp2/engine")
    inode = engine.stat().st_ino
    assert main(["build", str(model), "--tp", "2"]) == 0
    assert "unchanged" in capsys.readouterr().err
    assert engine.stat().st_ino == inode

    assert main(["build", str(model), "--tp", "2", "--max-batch-size", "3"]) == 4
    assert capsys.readouterr().err.splitlines()[-2:] == [
        "error: out/tiny-llama-tp2/engine: exists already and is another engine; "
        "give another --out, or --force to replace it:",
        "  max_batch_size is 8, asked for 3",
    ]
    assert engine.stat().st_ino == inode
    assert main(["build", str(model), "--tp", "2", "--max-batch-size", "3", "--force"]) == 0
    assert json.loads((engine / "engine.json").read_text())["limits"]["max_batch_size"] == 3


def test_a_changed_model_and_a_damaged_engine_are_not_taken_for_the_same(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", str(model)]) == 0
    rank = Path("out/tiny-llama-tp1/engine/checkpoint/rank0.safetensors")
    data = bytearray(rank.read_bytes())
    data[-1] ^= 1
    rank.write_bytes(data)
    assert main(["build", str(model)]) == 4
    assert "checkpoint/rank0.safetensors: SHA-256" in capsys.readouterr().err
    assert main(["build", str(model), "--force"]) == 0
    write_tiny_llama(model, seed=1)
    assert main(["build", str(model)]) == 4
    assert f"it was made of other files, {model}" in capsys.readouterr().err


def test_a_dry_run_says_the_sizes_that_are_then_written_and_writes_nothing(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command, checkpoint in (
        ("build", Path("out/tiny-llama-tp2/engine/checkpoint")),
        ("convert", Path("out/tiny-llama-tp2/checkpoint")),
    ):
        planned = json_of(capsys, command, str(model), "--tp", "2", "--dry-run")
        assert not checkpoint.exists()
        assert main([command, str(model), "--tp", "2"]) == 0
        sizes = {path.name: path.stat().st_size for path in checkpoint.glob("*.safetensors")}
        assert planned["file_sizes"] == sizes


def test_convert_and_build_write_the_same_checkpoint(model: Path) -> None:
    assert main(["convert", str(model), "--tp", "2", "--dtype", "float16", "--out", "ckpt"]) == 0
    assert main(["build", str(model), "--tp", "2", "--dtype", "float16", "--out", "engine"]) == 0
    assert tree_of(Path("ckpt")) == tree_of(Path("engine/checkpoint"))
    assert set(tree_of(Path("ckpt"))) == {"config.json", "rank0.safetensors", "rank1.safetensors"}


def test_padding_is_noted_and_no_pad_refuses(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", str(model), "--tp", "3"]) == 0
    assert "note: attention heads 4/2 KV padded with zero heads" in capsys.readouterr().err
    assert main(["build", str(model), "--tp", "3", "--no-pad", "--out", "other"]) == 4
    assert "use tp=1, 2, 4, or --pad" in capsys.readouterr().err
    assert not Path("other").exists()


def test_a_tp_beyond_the_heads_is_refused_and_leaves_nothing(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", str(model), "--tp", "1000"]) == 4
    assert "tp=1000 is more than the 4 attention heads" in capsys.readouterr().err
    assert not Path("out").exists()


def test_what_the_runtime_cannot_execute_is_refused_before_anything_is_written(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No family converts an activation that the runtime lacks today, so that one is taken away."""
    monkeypatch.setattr("engines.reference.refusing.ACTIVATION_NAMES", ("gelu",))
    assert main(["build", str(model), "--tp", "2"]) == 4
    message = capsys.readouterr().err
    assert "not executed by the reference runtime" in message
    assert "hidden_act silu, known are gelu" in message
    assert not Path("out").exists()
    assert main(["convert", str(model), "--tp", "2"]) == 0


def test_limits_beyond_the_model_are_a_usage_error(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", str(model), "--max-seq-len", "513"]) == 2
    assert "max_seq_len 513 exceeds the 512 positions" in capsys.readouterr().err


def test_a_missing_directory_a_name_that_is_no_folders_and_no_permission_each_give_one_error(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, status in (
        (["./absent"], 4),
        ([str(model), "--name", "a/b"], 2),
        ([str(model), "--out", "/proc/engine"], 3),
    ):
        assert main(["build", *arguments]) == status
        captured = capsys.readouterr()
        errors = [line for line in captured.err.splitlines() if line.startswith("error: ")]
        assert (len(errors), captured.out) == (1, "")
        assert "Traceback" not in captured.err


def test_inspect_counts_parameters_and_says_how_the_model_divides(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = json_of(capsys, "inspect", str(model))
    assert found["kind"] == "inspection"
    embedding, layer = 320 * 64, 64 * 64 * 2 + 32 * 64 * 2 + 3 * 64 * 128 + 2 * 64
    assert found["num_parameters"] == 2 * embedding + 2 * layer + 64
    divisions = {row["tp"]: row["division"] for row in found["divisions"]}
    assert divisions[2] == "2 heads, 1 KV per rank"
    assert divisions[4] == "1 head, 1 KV per rank, each KV head on 2 ranks"
    assert divisions[8].startswith("impossible: tp=8 is more than the 4 attention heads")


def test_engines_are_listed_shown_checked_and_removed(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert json_of(capsys, "engines", "list")["engines"] == []
    for tp in ("1", "2"):
        assert main(["build", str(model), "--tp", tp]) == 0
    listed = json_of(capsys, "engines", "list")["engines"]
    assert [row["path"] for row in listed] == ["out/tiny-llama-tp1/engine", "out/tiny-llama-tp2/engine"]
    for name in ("tiny-llama-tp2", "out/tiny-llama-tp2", "out/tiny-llama-tp2/engine"):
        assert json_of(capsys, "engines", "show", name)["engine"]["mapping"]["tp_size"] == 2
    assert json_of(capsys, "engines", "verify", "tiny-llama-tp2")["problems"] == []

    assert json_of(capsys, "engines", "rm", "tiny-llama-tp1", "--dry-run")["removed"] == []
    assert json_of(capsys, "engines", "rm", "tiny-llama-tp1")["removed"] == ["out/tiny-llama-tp1/engine"]
    assert [path.name for path in Path("out").iterdir()] == ["tiny-llama-tp2"]
    assert main(["engines", "rm", "tiny-llama-tp1"]) == 4


def test_engines_verify_fails_with_6_on_a_damaged_file(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", str(model)]) == 0
    Path("out/tiny-llama-tp1/engine/checkpoint/config.json").write_text("{}")
    capsys.readouterr()
    assert main(["engines", "verify"]) == 6
    assert "checkpoint/config.json: 2 bytes, engine.json says" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_a_build_that_is_killed_leaves_no_engine_and_the_next_one_succeeds(
    tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_tiny_llama(tmp_path / "tiny-llama")
    # The last thing a build writes is engine.json: stop there, with all rank files on the disk.
    code = (
        "import time, engines.store\n"
        "def hang(*_): print('writing', flush=True); time.sleep(600)\n"
        "engines.store.write_manifest = hang\n"
        "from scripts.main import main\n"
        f"import sys; sys.exit(main(['build', {str(model)!r}, '--tp', '2']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    time.sleep(0.1)
    os.kill(process.pid, number)
    _, errors = process.communicate(timeout=PATIENCE_S)
    engine = tmp_path / "out" / "tiny-llama-tp2" / "engine"
    assert not engine.exists()
    if number is not signal.SIGKILL:
        assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
        assert errors.splitlines()[-1] in ("interrupted", "terminated")
        assert not (engine.parent / ".engine.partial").exists()
    monkeypatch.chdir(tmp_path)
    assert main(["build", str(model), "--tp", "2"]) == 0
    assert [path.name for path in engine.parent.iterdir() if not path.name.endswith(".lock")] == ["engine"]
