"""builders.sources.hub: a hub id is downloaded, and each way to fail has its own words."""

from pathlib import Path
from typing import Any

import pytest

from builders.sources import open_source
from tests.support.tiny import write_tiny_llama
from tpforge.errors import EnvironmentUnusable, InputRefused, TpforgeError, UsageError

COMMIT = "89abcdef01" * 4


def test_a_hub_id_with_a_revision_is_downloaded_and_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    snapshot = write_tiny_llama(tmp_path / "snapshots" / COMMIT)
    asked: list[tuple[str, Any]] = []

    def download(repository: str, **options: Any) -> str:
        asked.append((repository, options["revision"]))
        assert not any(pattern.endswith((".bin", ".pt", ".py")) for pattern in options["allow_patterns"])
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    for location, revision in [("org/name@v1.0", None), ("org/name", None), ("org/name", "main")]:
        with open_source(location, revision=revision) as source:
            assert (source.kind, source.location, source.revision) == ("hub", location, COMMIT)
    assert asked == [("org/name", "v1.0"), ("org/name", None), ("org/name", "main")]


def test_two_different_revisions_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="names revision a, but --revision says b; give one"):
        open_source("org/name@a", revision="b")


def test_a_directory_of_that_name_wins_over_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    write_tiny_llama(tmp_path / "org" / "name")
    with open_source("org/name") as source:
        assert source.kind == "huggingface"


@pytest.mark.parametrize(
    ("failure", "error", "words"),
    [
        ("GatedRepoError", InputRefused, "is gated; accept its terms"),
        ("RepositoryNotFoundError", InputRefused, "the hub has no such model, or it is private"),
        ("RevisionNotFoundError", InputRefused, "but not this revision"),
        ("LocalEntryNotFoundError", EnvironmentUnusable, "the hub cannot be reached"),
        ("OfflineModeIsEnabled", EnvironmentUnusable, "the hub cannot be reached"),
        ("HfHubHTTPError", EnvironmentUnusable, "the hub cannot be reached"),
        ("HFValidationError", InputRefused, "not a name the hub can have"),
    ],
)
def test_each_failure_says_what_to_do_and_names_the_directory_form(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: str,
    error: type[TpforgeError],
    words: str,
) -> None:
    from huggingface_hub import errors

    kind = getattr(errors, failure)
    cause = kind.__new__(kind, "server said no")

    def download(repository: str, **options: Any) -> str:
        raise cause

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(error, match=words) as caught:
        open_source("org/name@v1")
    assert "org/name@v1" in str(caught.value)
    assert "./path/to/model" in str(caught.value)


def test_a_full_disk_while_downloading_is_not_called_a_network_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(repository: str, **options: Any) -> str:
        raise OSError(28, "No space left on device", "/cache/blob")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(EnvironmentUnusable, match="/cache/blob: No space left on device; free space"):
        open_source("org/name")
