"""engines.store: what is written is read back, and what is wrong with a folder is said."""

import json
import re
import shutil
import threading
from pathlib import Path

import pytest

from engines import store
from tests.support.records import manifest_of
from tests.support.stores import write_engine
from tpforge.errors import InputRefused
from tpforge.manifest import FileRecord
from tpforge.outputs.atomic import hash_file
from tpforge.outputs.written import write_record


def test_a_manifest_that_is_written_is_read_back_equal(tmp_path: Path) -> None:
    manifest = manifest_of()
    store.write_manifest(tmp_path, manifest)
    assert store.read_manifest(tmp_path) == manifest


def test_equal_manifests_give_equal_bytes_and_leave_no_temporary_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        store.write_manifest(tmp_path / name, manifest_of())
    assert (tmp_path / "a" / "engine.json").read_bytes() == (tmp_path / "b" / "engine.json").read_bytes()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["engine.json"]


def test_a_missing_folder_a_file_and_a_folder_without_manifest_are_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    (tmp_path / "empty").mkdir()
    for path, words in (
        (tmp_path / "absent", "no such engine folder"),
        (file, "is a file"),
        (tmp_path / "empty", "holds no engine.json"),
    ):
        with pytest.raises(InputRefused, match=f"{re.escape(str(path))}: {words}"):
            store.read_manifest(path)


def test_broken_json_is_refused_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "engine.json").write_text('{"schema_version": 1,')
    with pytest.raises(InputRefused, match=r"engine\.json: not valid JSON \(.*line 1 column 22"):
        store.read_manifest(tmp_path)


def test_a_newer_schema_is_refused_by_its_number_and_not_by_its_unknown_keys(tmp_path: Path) -> None:
    (tmp_path / "engine.json").write_text('{"schema_version": 2, "colour": "red"}')
    with pytest.raises(InputRefused, match=r"schema version 2 is newer than this tpforge, which reads 1"):
        store.read_manifest(tmp_path)


def test_every_wrong_key_of_a_manifest_is_named_at_once(tmp_path: Path) -> None:
    value = json.loads(manifest_of().model_dump_json())
    value["colour"] = "red"
    value["dtype"] = "int3"
    del value["name"]
    (tmp_path / "engine.json").write_text(json.dumps(value))
    with pytest.raises(InputRefused) as caught:
        store.read_manifest(tmp_path)
    named = [line.split(":")[0].strip() for line in str(caught.value).splitlines()[1:]]
    assert named == ["colour", "dtype", "name"]


def test_json_that_is_no_object_is_refused(tmp_path: Path) -> None:
    (tmp_path / "engine.json").write_text("[1, 2]")
    with pytest.raises(InputRefused, match="not an engine's manifest"):
        store.read_manifest(tmp_path)


def test_files_as_built_have_no_problems(tmp_path: Path) -> None:
    engine = write_engine(tmp_path)
    assert store.check_files(engine, store.read_manifest(engine)) == []


def test_a_missing_a_shortened_and_a_changed_file_are_each_named(tmp_path: Path) -> None:
    engine = write_engine(tmp_path / "gone")
    (engine / "checkpoint" / "config.json").unlink()
    changed = bytearray(range(256))
    changed[100] ^= 1
    (engine / "checkpoint" / "rank0.safetensors").write_bytes(changed)
    first, second = store.check_files(engine, store.read_manifest(engine))
    assert first == "checkpoint/config.json: missing"
    assert second.startswith("checkpoint/rank0.safetensors: SHA-256 ")

    engine = write_engine(tmp_path / "short")
    (engine / "checkpoint" / "rank0.safetensors").write_bytes(bytes(255))
    assert store.check_files(engine, store.read_manifest(engine)) == [
        "checkpoint/rank0.safetensors: 255 bytes, engine.json says 256"
    ]


def test_files_are_hashed_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each hash waits for the other: one after another they would never end."""
    engine = write_engine(tmp_path)
    both = threading.Barrier(2, timeout=30)
    begun: list[str] = []

    def hash_together(path: Path, *, relative_to: Path) -> FileRecord:
        begun.append(path.name)
        both.wait()
        return hash_file(path, relative_to=relative_to)

    monkeypatch.setattr(store, "hash_file", hash_together)
    monkeypatch.setattr(store, "usable_processors", lambda: 2)
    manifest = store.read_manifest(engine)
    assert store.check_files(engine, manifest) == []
    sizes = {Path(record.path).name: record.size for record in manifest.files}
    assert sorted(begun) == sorted(sizes)


def test_engines_are_listed_by_name_and_other_folders_passed_over(tmp_path: Path) -> None:
    write_engine(tmp_path / "b" / "engine", name="b")
    write_engine(tmp_path / "a" / "engine", name="a")
    (tmp_path / "c" / "repository").mkdir(parents=True)
    found = store.list_engines(tmp_path)
    assert [(path, manifest.name) for path, manifest in found] == [
        (tmp_path / "a" / "engine", "a"),
        (tmp_path / "b" / "engine", "b"),
    ]
    assert store.list_engines(tmp_path / "absent") == []


def test_removing_refuses_a_folder_that_is_no_engine(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").touch()
    with pytest.raises(InputRefused, match=r"holds no engine\.json"):
        store.remove_engine(tmp_path / "photos")
    assert (tmp_path / "photos" / "cat.png").exists()


def test_removing_takes_the_whole_engine_even_with_a_broken_manifest(tmp_path: Path) -> None:
    engine = write_engine(tmp_path / "engine")
    write_record(engine)
    (engine / "engine.json").write_text("{")
    assert store.remove_engine(engine)
    assert list(tmp_path.iterdir()) == []


def test_removing_leaves_what_is_not_of_the_engine_and_follows_no_link(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine, elsewhere = write_engine(tmp_path / "engine"), tmp_path / "elsewhere"
    write_record(engine)
    (engine / "notes.md").write_text("of the user")
    shutil.copytree(engine / "checkpoint", elsewhere)
    shutil.rmtree(engine / "checkpoint")
    (engine / "checkpoint").symlink_to(elsewhere)
    before = sorted(elsewhere.iterdir())
    assert not store.remove_engine(engine)
    assert sorted(path.name for path in engine.iterdir()) == ["checkpoint", "notes.md"]
    assert sorted(elsewhere.iterdir()) == before
    assert "stays, since files in it are not of tpforge" in caplog.text
