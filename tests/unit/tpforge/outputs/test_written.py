"""tpforge.outputs.written: replacing an output loses nothing that its earlier run did not write."""

import json
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tpforge.errors import EnvironmentUnusable, InputRefused
from tpforge.outputs import atomic, exchange, written
from tpforge.outputs.atomic import atomic_folder, write_atomic, write_into
from tpforge.outputs.written import RECORD_NAME


def write(folder: Path, files: dict[str, str], *, force: bool = True) -> None:
    with atomic_folder(folder, force=force) as temporary:
        for name, text in files.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            (temporary / name).write_text(text)


def texts(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and path.name != RECORD_NAME
    }


def test_a_folder_that_no_run_of_ours_wrote_is_refused_with_force_and_stays(tmp_path: Path) -> None:
    (tmp_path / "keep").mkdir()
    (tmp_path / "keep" / "precious").write_text("1")
    with pytest.raises(InputRefused, match=r"keep: holds files and no \.tpforge\.json"):
        write(tmp_path / "keep", {"new": "2"})
    assert texts(tmp_path) == {"keep/precious": "1"}


def test_an_empty_folder_is_taken_with_force(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o700)
    write(tmp_path / "out", {"new": "2"})
    assert texts(tmp_path / "out") == {"new": "2"}
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o700


def test_files_of_the_user_stay_with_their_modes_links_and_empty_folders(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, {"compose.yaml": "old", "gone": "old", "config/prepare.sh": "old"})
    (out / "credentials.env").write_text("KEY=1")
    (out / "credentials.env").chmod(0o600)
    inode = (out / "credentials.env").stat().st_ino
    (out / "config" / "site").mkdir(mode=0o750)
    (out / "config" / "site" / "mine").write_text("2")
    (out / "empty").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_text("outside")
    (out / "link").symlink_to("../elsewhere")
    (out / "broken").symlink_to("nowhere")
    os.mkfifo(out / "pipe")
    write(out, {"compose.yaml": "new", "config/prepare.sh": "old"})
    assert texts(out) == {
        "compose.yaml": "new",
        "config/prepare.sh": "old",
        "config/site/mine": "2",
        "credentials.env": "KEY=1",
    }
    assert (out / "credentials.env").stat().st_ino == inode
    assert stat.S_IMODE((out / "credentials.env").stat().st_mode) == 0o600
    assert stat.S_IMODE((out / "config" / "site").stat().st_mode) == 0o750
    assert (out / "empty").is_dir()
    assert (out / "link").readlink() == Path("../elsewhere")
    assert (out / "broken").readlink() == Path("nowhere")
    assert stat.S_ISFIFO((out / "pipe").stat().st_mode)
    assert texts(tmp_path / "elsewhere") == {"file": "outside"}
    assert {path.name for path in tmp_path.iterdir()} == {"out", "elsewhere"}


def test_an_edited_file_is_kept_beside_the_new_one_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    write(out, {"storage.yaml": "ReadWriteMany", "job.sh": "run", "same": "x"})
    (out / "storage.yaml").write_text("ReadWriteOnce")
    (out / "job.sh").write_text("mine")
    write(out, {"storage.yaml": "ReadWriteMany", "same": "x"})
    assert texts(out) == {
        "storage.yaml": "ReadWriteMany",
        "storage.yaml.kept": "ReadWriteOnce",
        "job.sh.kept": "mine",
        "same": "x",
    }
    assert "kept as job.sh.kept, storage.yaml.kept" in caplog.text


def test_an_edited_file_that_equals_the_new_one_is_not_kept_twice(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, {"a": "1"})
    (out / "a").write_text("2")
    write(out, {"a": "2"})
    assert texts(out) == {"a": "2"}


def test_what_was_kept_stays_through_the_runs_after_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for edit in ("first", "second", "third"):
        write(out, {"a": "ours"})
        (out / "a").write_text(edit)
    write(out, {"a": "ours"})
    write(out, {"a": "ours"})
    assert texts(out) == {"a": "ours", "a.kept": "first", "a.kept.1": "second", "a.kept.2": "third"}


def test_a_file_of_the_user_whose_name_a_new_run_needs_is_kept_beside_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, {"a": "1"})
    (out / "b").write_text("of the user")
    (out / "c").mkdir()
    (out / "c" / "d").write_text("of the user too")
    (out / "e").write_text("a file")
    write(out, {"b": "ours", "c": "a file now", "e/f": "a folder now"})
    assert texts(out) == {
        "b": "ours",
        "b.kept": "of the user",
        "c": "a file now",
        "c.kept/d": "of the user too",
        "e/f": "a folder now",
        "e.kept": "a file",
    }


def test_a_link_put_in_the_place_of_our_file_is_kept_and_not_written_through(tmp_path: Path) -> None:
    out, target = tmp_path / "out", tmp_path / "target"
    target.mkdir()
    (target / "inside").write_text("outside")
    write(out, {"a": "1", "sub/inside": "2"})
    (out / "a").unlink()
    (out / "a").symlink_to(target / "inside")
    (out / "sub" / "inside").unlink()
    (out / "sub").rmdir()
    (out / "sub").symlink_to(target)
    write(out, {"a": "1", "sub/inside": "3"})
    assert (out / "a.kept").readlink() == target / "inside"
    assert (out / "sub.kept").readlink() == target
    assert (out / "sub" / "inside").read_text() == "3"
    assert texts(target) == {"inside": "outside"}


def test_a_link_of_ours_is_replaced_like_a_file(tmp_path: Path) -> None:
    for target in ("x", "y"):
        with atomic_folder(tmp_path / "out", force=True) as folder:
            (folder / "link").symlink_to(target)
    assert (tmp_path / "out" / "link").readlink() == Path("y")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"link", RECORD_NAME}


def test_an_edit_is_found_though_size_and_times_deny_it(tmp_path: Path) -> None:
    """As after the clock was set back: the record is of a later time than the edit."""
    out = tmp_path / "out"
    write(out, {"weights": "w" * (20 << 20)})
    with (out / "weights").open("r+") as file:
        file.write("mine")
    later = (out / "weights").stat().st_ctime_ns + 3600 * 10**9
    os.utime(out / "weights", ns=(0, 0))
    os.utime(out / RECORD_NAME, ns=(later, later))
    write(out, {"weights": "w" * (20 << 20)})
    assert (out / "weights").read_text().startswith("wwww")
    assert (out / "weights.kept").read_text().startswith("mine")


def test_files_whose_hashes_are_noted_or_in_engine_json_are_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []
    hash_one = written._hashed

    def counted(name: str, path: Path) -> object:
        hashed.append(name)
        return hash_one(name, path)

    monkeypatch.setattr(written, "_hashed", counted)
    with atomic_folder(tmp_path / "out") as folder:
        (folder / "1").mkdir()
        (folder / "1" / "rank0").write_text("r")
        (folder / "noted").write_text("n")
        record = {"path": "rank0", "size": 1, "sha256": "0" * 64}
        (folder / "1" / "engine.json").write_text(json.dumps({"files": [record]}))
        written.note_files(folder, [atomic.hash_file(folder / "noted", relative_to=folder)])
    assert hashed == ["1/engine.json"]
    assert {file.path for file in written.read_written(tmp_path / "out").files} == {
        "1/engine.json",
        "1/rank0",
        "noted",
    }


def test_an_engine_of_an_earlier_version_is_known_by_its_list(tmp_path: Path) -> None:
    out = tmp_path / "engine"
    out.mkdir()
    for name in ("rank0", "rank1", "mine", "parity.json"):
        (out / name).write_text(name)
    records = [atomic.hash_file(out / name, relative_to=out).model_dump() for name in ("rank0", "rank1")]
    (out / "engine.json").write_text(json.dumps({"files": records}))
    (out / "rank1").write_text("other")
    write(out, {"rank0": "new", "rank1": "new", "engine.json": "{}"})
    assert texts(out) == {
        "rank0": "new",
        "rank1": "new",
        "rank1.kept": "other",
        "engine.json": "{}",
        "mine": "mine",
    }


@pytest.mark.parametrize("text", ["", "[]", '{"files": 1}', '{"schema_version": 2}', '{"files": {}, "x": 1}'])
def test_a_broken_record_refuses(tmp_path: Path, text: str) -> None:
    out = tmp_path / "out"
    write(out, {"a": "1"})
    (out / RECORD_NAME).write_text(text)
    with pytest.raises(InputRefused, match="is not the record of what tpforge wrote"):
        write(out, {"a": "2"})
    assert (out / "a").read_text() == "1"


def test_an_engine_json_that_lists_nothing_readable_is_no_record(tmp_path: Path) -> None:
    for text in ("", "{}", '{"files": 1}', '{"files": [{"path": 1}]}', '{"files": []}'):
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / "engine.json").write_text(text)
        with pytest.raises(InputRefused, match="not known to be an output"):
            write(tmp_path / "out", {"a": "2"})


def test_what_a_command_of_ours_writes_later_is_ours(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, {"run.json": "1", "other": "x"})
    (out / "other").write_text("edited")
    write_into(out, "run.json", "2")
    write_into(out, "quality.json", "3")
    write(out, {"run.json": "4", "other": "y"})
    assert texts(out) == {"run.json": "4", "other": "y", "other.kept": "edited"}


def test_a_file_that_comes_while_the_folders_are_exchanged_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    write(out, {"a": "1"})
    swap_paths: Callable[[Path, Path], None] = exchange.exchange_paths

    def late(first: Path, second: Path) -> None:
        (second / "late").write_text("of the user")
        swap_paths(first, second)

    monkeypatch.setattr(exchange, "exchange_paths", late)
    write(out, {"a": "2"})
    assert texts(out) == {"a": "2", "late": "of the user"}


def test_where_nothing_can_be_linked_files_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError(1, "no links here")

    out = tmp_path / "out"
    write(out, {"a": "1"})
    (out / "mine").write_text("2")
    (out / "link").symlink_to("mine")
    monkeypatch.setattr(os, "link", refuse)
    write(out, {"a": "2"})
    assert texts(out) == {"a": "2", "mine": "2", "link": "2"}
    assert (out / "link").is_symlink()


def test_the_same_content_gives_the_same_record(tmp_path: Path) -> None:
    for name in ("x", "y"):
        write(tmp_path / name, {"b": "1", "a": "2"})
    assert (tmp_path / "x" / RECORD_NAME).read_bytes() == (tmp_path / "y" / RECORD_NAME).read_bytes()


def test_concurrent_writers_of_one_file_leave_one_whole_text_and_no_debris(tmp_path: Path) -> None:
    path = tmp_path / "state.json"

    def writer(letter: str) -> None:
        for _ in range(50):
            write_atomic(path, letter * 1000)

    threads = [threading.Thread(target=writer, args=(letter,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() in {letter * 1000 for letter in "abcd"}
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


def test_the_leftover_of_a_killed_write_is_removed_by_the_next(tmp_path: Path) -> None:
    (tmp_path / ".state.json.0badc0de.partial").write_text("half")
    write_atomic(tmp_path / "state.json", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


def test_a_write_syncs_the_file_before_its_rename_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    sync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        events.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        sync(descriptor)

    def renamed(path: Path, target: Path) -> Path:
        events.append("rename")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    write_atomic(tmp_path / "a", "text")
    assert events == ["file", "rename", "folder"]


def test_those_who_read_change_and_write_one_file_lose_nothing_of_each_other(tmp_path: Path) -> None:
    path = tmp_path / "stages.json"
    path.write_text("{}")

    def add(letter: str) -> None:
        for number in range(25):
            with atomic.exclusive(path):
                found = json.loads(path.read_text())
                write_atomic(path, json.dumps({**found, f"{letter}{number}": 1}))

    threads = [threading.Thread(target=add, args=(letter,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert json.loads(path.read_text()).keys() == {f"{letter}{n}" for letter in "abcd" for n in range(25)}


def test_a_file_system_that_is_mounted_in_an_output_is_refused_and_its_files_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    write(out, {"a": "1"})
    (out / "data").mkdir()
    (out / "data" / "mine").write_text("2")
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == out / "data")
    with pytest.raises(InputRefused, match="file system is mounted there"):
        write(out, {"a": "2"})
    assert texts(out) == {"a": "1", "data/mine": "2"}
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_a_folder_that_cannot_be_read_is_an_error_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    write(out, {"a": "1"})
    (out / "mine").mkdir()
    (out / "mine" / "file").write_text("2")
    scan = os.scandir

    def refuse(path: os.PathLike[str] | str | int) -> object:
        if not isinstance(path, int) and Path(path) == out / "mine":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(EnvironmentUnusable, match=r"out/mine: no permission"):
        write(out, {"a": "2"})
    monkeypatch.undo()
    assert texts(out) == {"a": "1", "mine/file": "2"}
