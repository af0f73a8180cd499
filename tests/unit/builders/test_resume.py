"""An interrupted conversion goes on where its bytes still hold, and only when it is asked to."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from builders.conversion.journal import Journal, Marks, is_resumable
from builders.conversion.rank_writing import Meter
from scripts.cli.meter import ByteMeter
from scripts.cli.output import Output
from tests.support.conversions import assert_equal, convert_to, load_ranks
from tests.support.forked import run_forked
from tests.support.interrupted import convert_until
from tests.support.tiny import write_tiny_llama
from tpforge.outputs.written import RECORD_NAME

NUM_TENSORS = 2 * 7 + 3


def run(folder: Path, model: Path, *options: str, stop: int = -1, number: int = 0) -> tuple[int, str, str]:
    done = run_forked(convert_until, stop, number, model, options, cwd=folder)
    return done.returncode, done.stdout, done.stderr


def num_noted(folder: Path) -> int:
    """The tensors of all stages that a journal vouches for."""
    lines = (folder / ".journal").read_text().splitlines()[1:]
    last = {line["stage"]: line["num_tensors"] for line in map(json.loads, lines)}
    return sum(last.values())


def expected(tmp_path: Path, model: Path) -> Path:
    convert_to(tmp_path / "expected", model, tp_size=2, pp_size=2)
    return tmp_path / "expected"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
@pytest.mark.parametrize("stop", [3, 11])
def test_resume_writes_only_what_is_missing(tmp_path: Path, number: signal.Signals, stop: int) -> None:
    model = write_tiny_llama(tmp_path / "model", values="arange")
    status, _, errors = run(tmp_path, model, stop=stop, number=number)
    assert status != 0
    assert not (tmp_path / "out").exists()
    if number is not signal.SIGKILL:
        assert ".out.partial is kept: --resume continues it" in errors
    kept = num_noted(tmp_path / ".out.partial")
    # Who is interrupted writes what it has; who is killed has written whole blocks.
    assert kept == stop if number is not signal.SIGKILL else stop - 4 <= kept < stop
    status, output, errors = run(tmp_path, model, "--resume")
    assert status == 0, errors
    assert f"wrote {NUM_TENSORS - kept} tensors" in output
    assert "of an interrupted run, whose hashes hold" in errors
    assert_same_files(tmp_path / "out", expected(tmp_path, model))


def test_a_plain_rerun_starts_over_and_says_so(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "model", values="arange")
    run(tmp_path, model, stop=5, number=signal.SIGINT)
    status, output, errors = run(tmp_path, model)
    assert status == 0
    assert f"wrote {NUM_TENSORS} tensors" in output
    assert "starting over: " in errors
    assert_same_files(tmp_path / "out", expected(tmp_path, model))


def test_a_byte_that_changed_meanwhile_is_not_trusted(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "model", values="arange")
    run(tmp_path, model, stop=5, number=signal.SIGKILL)
    sizes = json.loads((tmp_path / ".out.partial" / ".journal").read_text().splitlines()[-1])["sizes"]
    with (tmp_path / ".out.partial" / "rank1.safetensors").open("r+b") as file:
        file.seek(sizes[1] - 3)
        file.write(b"\xff")
    status, output, errors = run(tmp_path, model, "--resume")
    assert status == 0, errors
    assert f"wrote {NUM_TENSORS} tensors" in output
    assert_same_files(tmp_path / "out", expected(tmp_path, model))


@pytest.mark.parametrize("change", ["source", "options"])
def test_another_conversion_does_not_take_the_files_over(tmp_path: Path, change: str) -> None:
    model = write_tiny_llama(tmp_path / "model", values="arange")
    run(tmp_path, model, stop=5, number=signal.SIGKILL)
    options = ["--resume"]
    if change == "source":
        write_tiny_llama(model, values="random")
    else:
        options += ["--parallel-embedding", "1"]
    status, output, errors = run(tmp_path, model, *options)
    assert status == 0, errors
    assert f"wrote {NUM_TENSORS} tensors" in output
    convert_to(
        tmp_path / "expected", model, tp_size=2, pp_size=2,
        parallel_embedding_dim=None if change == "source" else 1,
    )  # fmt: skip
    assert_same_files(tmp_path / "out", tmp_path / "expected")


def assert_same_files(found: Path, wanted: Path) -> None:
    names = {path.name for path in wanted.iterdir()}
    assert {path.name for path in found.iterdir()} - {RECORD_NAME} == names - {RECORD_NAME}
    for one, other in zip(load_ranks(found), load_ranks(wanted), strict=True):
        assert_equal(one, other)
    for path in wanted.glob("[!.]*"):
        assert (found / path.name).read_bytes() == path.read_bytes(), path.name


def test_other_weights_of_the_same_size_and_time_are_not_mixed_in(tmp_path: Path) -> None:
    """As `rsync --times` puts the next checkpoint of a training run in the place of the last one."""
    model = write_tiny_llama(tmp_path / "model", values="arange")
    run(tmp_path, model, stop=5, number=signal.SIGINT)
    weights = model / "model.safetensors"
    before, data = weights.stat(), bytearray(weights.read_bytes())
    data[-4096:] = bytes(4096)
    weights.write_bytes(data)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    status, output, errors = run(tmp_path, model, "--resume")
    assert status == 0, errors
    assert f"wrote {NUM_TENSORS} tensors" in output
    assert_same_files(tmp_path / "out", expected(tmp_path, model))


def test_a_journal_of_another_conversion_counts_as_empty(tmp_path: Path) -> None:
    first = Journal(tmp_path, fingerprint="a")
    first.add(0, 1, sizes=[5], digests=["x"])
    first.add(0, 2, sizes=[9], digests=["y"])
    first.close()
    assert is_resumable(tmp_path)
    again = Journal(tmp_path, fingerprint="a")
    mark = again.last(0)
    assert mark is not None
    assert (mark.num_tensors, mark.sizes, mark.digests) == (2, (9,), ("y",))
    again.close()
    with (tmp_path / ".journal").open("a") as file:
        file.write('{"stage": 0, "num_ten')
    cut = Journal(tmp_path, fingerprint="a")
    assert cut.last(0) == mark
    cut.close()
    other = Journal(tmp_path, fingerprint="b")
    assert other.last(0) is None
    other.finish()
    assert not is_resumable(tmp_path)


def test_a_tensor_is_noted_once_all_ranks_have_it_and_in_order(tmp_path: Path) -> None:
    journal = Journal(tmp_path, fingerprint="a")
    marks = Marks(journal, stage=2, num_ranks=2)
    marks.add(1, 1, 10, "b1")
    marks.add(2, 1, 20, "b2")
    assert len((tmp_path / ".journal").read_text().splitlines()) == 1
    marks.add(1, 0, 11, "a1")
    marks.add(2, 0, 21, "a2")
    journal.close()
    again = Journal(tmp_path, fingerprint="a")
    mark = again.last(2)
    assert mark is not None
    assert (mark.num_tensors, mark.sizes, mark.digests) == (2, (21, 20), ("a2", "b2"))
    again.close()


def test_the_meter_counts_kept_bytes_as_done_but_not_as_speed(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    meter = Meter(total=10_000_000_000, progress=ByteMeter(Output(), clock=lambda: now[0]))
    meter.add(4_000_000_000)
    for second in range(1, 11):
        now[0] = float(second)
        meter.add(200_000_000)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "written 4.7 GiB of 9.3 GiB  0.20 GB/s  25 s left",
        "written 5.6 GiB of 9.3 GiB  0.20 GB/s  20 s left",
    ]
