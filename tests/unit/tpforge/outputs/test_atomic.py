"""tpforge.outputs.atomic: outputs appear whole or not at all."""

import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tpforge.errors import EnvironmentUnusable, InputRefused
from tpforge.outputs import exchange
from tpforge.outputs.atomic import (
    atomic_folder,
    claimed,
    hash_file,
    os_errors,
    refuse_unwritable,
    write_atomic,
)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def write(folder: Path, text: str, *, force: bool = False) -> None:
    with atomic_folder(folder, force=force) as temporary:
        (temporary / "file").write_text(text)


def test_the_folder_appears_when_the_block_ends_and_leaves_no_siblings(tmp_path: Path) -> None:
    final = tmp_path / "deep" / "out"
    with atomic_folder(final) as temporary:
        assert not final.exists()
        (temporary / "file").write_text("whole")
    assert (final / "file").read_text() == "whole"
    assert names(final.parent) == {"out"}


def test_a_failing_block_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "out") as temporary:
        (temporary / "file").write_text("half")
        raise ZeroDivisionError
    assert names(tmp_path) == set()


def test_an_existing_output_is_refused_without_force_and_stays(tmp_path: Path) -> None:
    write(tmp_path / "out", "first")
    with pytest.raises(InputRefused, match="exists already; give another --out, or --force"):
        write(tmp_path / "out", "second")
    assert (tmp_path / "out" / "file").read_text() == "first"


def test_force_keeps_the_old_output_until_the_new_one_is_complete(tmp_path: Path) -> None:
    final = tmp_path / "out"
    write(final, "first")
    with atomic_folder(final, force=True) as temporary:
        (temporary / "file").write_text("second")
        assert (final / "file").read_text() == "first"
    assert (final / "file").read_text() == "second"
    assert names(tmp_path) == {"out"}


def test_force_that_fails_keeps_the_old_output(tmp_path: Path) -> None:
    final = tmp_path / "out"
    write(final, "first")
    with pytest.raises(ZeroDivisionError), atomic_folder(final, force=True):
        raise ZeroDivisionError
    assert (final / "file").read_text() == "first"


def test_without_renameat2_the_old_output_is_replaced_by_renames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Library:
        def renameat2(self, *arguments: object) -> int:
            return -1

    monkeypatch.setattr(exchange.ctypes, "CDLL", lambda name, use_errno: Library())
    monkeypatch.setattr(exchange.ctypes, "get_errno", lambda: errno.EINVAL)
    write(tmp_path / "out", "first")
    write(tmp_path / "out", "second", force=True)
    assert (tmp_path / "out" / "file").read_text() == "second"
    assert names(tmp_path) == {"out"}


def test_an_output_lost_between_two_renames_is_brought_back(tmp_path: Path) -> None:
    write(tmp_path / "out", "first")
    (tmp_path / "out").rename(tmp_path / ".out.old")
    with pytest.raises(InputRefused, match="exists already"):
        write(tmp_path / "out", "second")
    assert (tmp_path / "out" / "file").read_text() == "first"


def test_force_replaces_neither_a_file_nor_a_link_nor_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("file", "link"):
        with pytest.raises(InputRefused, match="is not a folder"):
            write(tmp_path / name, "new", force=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputRefused, match="holds the current directory"):
        write(Path(), "new", force=True)
    assert (tmp_path / "file").read_text() == "precious"


def test_the_leftover_of_a_killed_run_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "stale").write_text("half")
    (tmp_path / ".out.lock").touch()
    write(tmp_path / "out", "whole")
    assert names(tmp_path / "out") == {"file", ".tpforge.json"}
    assert names(tmp_path) == {"out"}


def test_two_writers_of_one_output_exclude_each_other(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "out") as temporary:
        (temporary / "file").write_text("mine")
        for _ in range(2):  # the second try finds the lock where the first left it
            with pytest.raises(EnvironmentUnusable, match="another tpforge is writing it"):
                write(tmp_path / "out", "other")
    assert (tmp_path / "out" / "file").read_text() == "mine"


def test_a_writer_killed_with_sigkill_leaves_no_output_and_no_lock(tmp_path: Path) -> None:
    script = (
        "import os, pathlib, signal\nfrom tpforge.outputs.atomic import atomic_folder\n"
        f"with atomic_folder(pathlib.Path({str(tmp_path / 'out')!r})) as folder:\n"
        "    (folder / 'file').write_text('half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    assert not (tmp_path / "out").exists()
    write(tmp_path / "out", "whole")
    assert names(tmp_path) == {"out"}


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EACCES, "no permission"),
        (errno.EROFS, "the file system is read-only"),
        (errno.ENOTDIR, "a part of the path is a file"),
        (errno.EFBIG, "a file may not grow so large here"),
        (errno.EMFILE, "this process has too many files open"),
        (errno.ENFILE, "this machine has too many files open"),
        (errno.EIO, "the disk does not answer"),
    ],
)
def test_an_os_error_becomes_one_line_with_the_path_and_the_remedy(code: int, words: str) -> None:
    with pytest.raises(EnvironmentUnusable, match=f"/some/out: {words}"), os_errors(Path("/some/out")):
        raise OSError(code, os.strerror(code))


def test_a_copy_that_finds_the_disk_full_names_what_it_writes() -> None:
    with pytest.raises(EnvironmentUnusable, match=r"^/new/b: the disk is full"), os_errors(Path("/some/out")):
        raise OSError(errno.ENOSPC, "No space left on device", "/old/a", None, "/new/b")


def test_a_name_that_is_too_long_is_told_with_what_to_do(tmp_path: Path) -> None:
    with (
        pytest.raises(EnvironmentUnusable, match="too long for the file system; give another --out"),
        atomic_folder(tmp_path / ("n" * 250)),
    ):
        pass
    assert names(tmp_path) == set()


def test_an_unexpected_os_error_is_not_hidden() -> None:
    with pytest.raises(FileNotFoundError), os_errors(Path("/some/out")):
        raise FileNotFoundError(errno.ENOENT, "gone")


def test_a_path_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentUnusable, match="a part of the path is a file"):
        write(tmp_path / "file" / "out", "new")


def test_files_are_written_and_hashed_by_content(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", "text")
    record = hash_file(tmp_path / "a", relative_to=tmp_path)
    assert (record.path, record.size) == ("a", 4)
    assert record.sha256 == hashlib.sha256(b"text").hexdigest()
    assert names(tmp_path) == {"a"}


def test_a_file_is_written_into_folders_that_are_made_and_over_no_folder(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a" / "b" / "file", "text")
    assert (tmp_path / "a" / "b" / "file").read_text() == "text"
    for write_or_check in (lambda path: write_atomic(path, "x"), refuse_unwritable):
        with pytest.raises(InputRefused, match="a/b: is a folder; give the name of a file"):
            write_or_check(tmp_path / "a" / "b")
        with pytest.raises(EnvironmentUnusable, match="a part of the path is a file"):
            write_or_check(tmp_path / "a" / "b" / "file" / "c")


def test_what_is_claimed_is_nobody_elses_and_leaves_nothing_where_nothing_came(tmp_path: Path) -> None:
    with claimed(tmp_path / "new" / "out"):
        with pytest.raises(EnvironmentUnusable, match="another tpforge"), claimed(tmp_path / "new" / "out"):
            pass
        write(tmp_path / "other", "claims bind who claims")
    assert names(tmp_path) == {"other"}
    with claimed(tmp_path / "new" / "out"):
        write(tmp_path / "new" / "out", "whole")
    assert names(tmp_path / "new") == {"out"}


def test_a_text_that_is_no_utf8_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"\xff\xfe")
    with pytest.raises(InputRefused, match="text: is not UTF-8 text"), os_errors(tmp_path / "text"):
        (tmp_path / "text").read_text("utf-8")
