"""A file is linked, or copied where that is impossible; nothing that exists is written over."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tpforge.system.linking import link_or_copy, link_tree


def refuse(code: int) -> object:
    def link(*_arguments: object, **_options: object) -> None:
        raise OSError(code, os.strerror(code))

    return link


def test_a_file_and_what_a_symbolic_link_leads_to_are_hard_linked(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"weights")
    (tmp_path / "snapshot").symlink_to("blob")
    link_or_copy(tmp_path / "snapshot", tmp_path / "linked")
    assert not (tmp_path / "linked").is_symlink()
    assert (tmp_path / "linked").stat().st_ino == (tmp_path / "blob").stat().st_ino


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP])
def test_what_cannot_be_linked_is_copied(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"weights")
    monkeypatch.setattr(os, "link", refuse(code))
    link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"weights"
    assert (tmp_path / "b").stat().st_ino != (tmp_path / "a").stat().st_ino


@pytest.mark.parametrize("code", [None, errno.EXDEV])
def test_an_existing_target_and_its_other_names_keep_their_bytes(
    code: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"new")
    (tmp_path / "model").write_bytes(b"old")
    link_or_copy(tmp_path / "model", tmp_path / "b")
    if code is not None:
        monkeypatch.setattr(os, "link", refuse(code))
    with pytest.raises(FileExistsError):
        link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "model").read_bytes() == (tmp_path / "b").read_bytes() == b"old"


def test_another_failure_is_not_taken_for_one_to_copy_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"weights")
    monkeypatch.setattr(os, "link", refuse(errno.ENOSPC))
    with pytest.raises(OSError, match="No space left"):
        link_or_copy(tmp_path / "a", tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_a_tree_is_linked_file_by_file(tmp_path: Path) -> None:
    (tmp_path / "tree" / "deep").mkdir(parents=True)
    (tmp_path / "tree" / "empty").mkdir()
    for name in ("a", "deep/b"):
        (tmp_path / "tree" / name).write_text(name)
    link_tree(tmp_path / "tree", tmp_path / "other")
    found = {path.relative_to(tmp_path / "other").as_posix() for path in (tmp_path / "other").rglob("*")}
    assert found == {"a", "deep", "deep/b", "empty"}
    for name in ("a", "deep/b"):
        assert (tmp_path / "other" / name).stat().st_ino == (tmp_path / "tree" / name).stat().st_ino
