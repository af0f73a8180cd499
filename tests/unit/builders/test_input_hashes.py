"""builders.conversion.input_hashes: the hashes of input files, in order, side by side, not too far ahead."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from builders.conversion.input_hashes import InputHashes, num_input_threads
from tpforge.outputs.atomic import hash_file


def test_a_failing_conversion_does_not_wait_for_the_hashes(tmp_path: Path) -> None:
    with (tmp_path / "endless").open("wb") as file:
        file.truncate(8 << 40)
    with pytest.raises(ZeroDivisionError), input_hashes(tmp_path / "endless"):
        raise ZeroDivisionError


@contextmanager
def input_hashes(
    *paths: Path, num_threads: int = 1, pace: Callable[[], float] = lambda: 1.0
) -> Iterator[InputHashes]:
    root = paths[0].parent
    with (
        ThreadPoolExecutor(num_threads) as pool,
        InputHashes(paths, relative_to=root, pool=pool, num_threads=num_threads, pace=pace) as hashes,
    ):
        yield hashes


@pytest.mark.parametrize("num_threads", [1, 2, 5])
def test_records_come_in_the_order_of_the_files(tmp_path: Path, num_threads: int) -> None:
    paths = [tmp_path / f"{number}" for number in range(4)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]) * (number * 700_001))
    with input_hashes(*paths, num_threads=num_threads) as hashes:
        records = hashes.result()
    assert records == tuple(hash_file(path, relative_to=tmp_path) for path in paths)


def test_the_hashes_do_not_run_further_ahead_of_the_writing_than_the_page_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, done, asked = tmp_path / "file", [0.0], []
    path.write_bytes(bytes(10 << 20))
    monkeypatch.setattr("builders.conversion.input_hashes._ahead_bytes", lambda: 3 << 20)

    def pace() -> float:
        """Every time the hashes wait, a tenth more is written."""
        asked.append(done[0])
        if asked.count(done[0]) > 4:
            done[0] += 0.1
        return done[0]

    with input_hashes(path, pace=pace) as hashes:
        assert hashes.result() == (hash_file(path, relative_to=tmp_path),)
    assert max(done) >= 0.6, "the last MiB is read once 7 of 10 MiB are as good as written"


def test_a_missing_input_file_is_said_when_the_hashes_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    with ThreadPoolExecutor(1) as pool:
        hashes = InputHashes([path], relative_to=tmp_path, pool=pool)
        path.unlink()
        with hashes, pytest.raises(FileNotFoundError):
            hashes.result()


@pytest.mark.parametrize(
    ("files", "processors", "threads"), [(1, 1, 1), (1, 64, 1), (30, 2, 1), (30, 8, 4), (3, 64, 3)]
)
def test_half_the_processors_hash_the_input_as_far_as_there_are_files(
    files: int, processors: int, threads: int
) -> None:
    assert num_input_threads(files, num_processors=processors) == threads
