"""Engines pushed and pulled: file:// and a real HTTP server; broken connections, altered bytes, refusals."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from engines.store import write_manifest
from engines.transfer.index import Index
from engines.transfer.remote import open_remote
from engines.transfer.staging import staging_folder
from engines.transfer.transport import pull, push
from scripts.cli.headers import parse_headers
from scripts.main import main
from tests.support.deployments import deployment_of
from tests.support.records import manifest_of
from tests.support.servers.web_store import web_server
from tests.support.stores import BIG, add_file, contents, quiet, write_engine
from tpforge.errors import EnvironmentUnusable, InputRefused, TpforgeError, UsageError, VerificationFailed
from tpforge.outputs.atomic import hash_file
from triton_repo.deploy.files import prepare

TOKENIZER = "tokenizer/tokenizer.json"


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    folder = write_engine(tmp_path / "mine" / "engine")
    add_file(folder, TOKENIZER, BIG)
    return folder


@pytest.mark.parametrize("scheme", ["file", "http"])
def test_a_pulled_engine_is_the_pushed_one_byte_for_byte(engine: Path, tmp_path: Path, scheme: str) -> None:
    store = tmp_path / "store"
    with web_server(store) as (base, _):
        url = f"{base}/a/tiny" if scheme == "http" else f"file://{store}/a/tiny"
        sent = push(engine, open_remote(url), progress=quiet)
        got = pull(open_remote(url), tmp_path / "pulled", progress=quiet, digest=f"sha256:{sent.digest}")
    assert contents(tmp_path / "pulled") == contents(engine)
    total = sum(len(data) for data in contents(engine).values())
    assert (sent.num_files, sent.num_bytes, sent.num_moved_bytes) == (4, total, total)
    assert got == sent
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "pulled", "store"]
    # What lies at the URL is an engine folder as it is.
    there = contents(store / "a" / "tiny")
    assert {name: there[name] for name in contents(engine)} == contents(engine)


def test_a_second_push_sends_nothing_and_a_changed_file_is_sent_alone(engine: Path, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/store/tiny"
    first = push(engine, open_remote(url), progress=quiet)
    assert push(engine, open_remote(url), progress=quiet).num_moved_bytes == 0
    add_file(engine, TOKENIZER, BIG[::-1])
    third = push(engine, open_remote(url), progress=quiet)
    assert third.num_moved_bytes == len(BIG) + (engine / "engine.json").stat().st_size
    assert third.digest != first.digest


def test_a_pull_that_broke_off_goes_on_where_it_was(engine: Path, tmp_path: Path) -> None:
    out = tmp_path / "pulled"
    with web_server(tmp_path / "store") as (base, handler):
        push(engine, open_remote(f"{base}/tiny"), progress=quiet)
        handler.break_after = 500_000
        with pytest.raises(EnvironmentUnusable, match=r"tokenizer\.json: GET broke off"):
            pull(open_remote(f"{base}/tiny"), out, progress=quiet)
        assert not out.exists()
        part = staging_folder(out) / "tokenizer" / "tokenizer.json.part"
        # Three tries of 500 000 bytes each, one after the other.
        assert part.read_bytes() == BIG[:1_500_000]
        handler.break_after, handler.ranges[:] = None, []
        pull(open_remote(f"{base}/tiny"), out, progress=quiet)
        assert handler.ranges == ["tokenizer.json@1500000"]
    assert contents(out) == contents(engine)
    assert not staging_folder(out).exists()


def test_a_server_without_ranges_is_resumed_from_too(engine: Path, tmp_path: Path) -> None:
    with web_server(tmp_path / "store") as (base, handler):
        push(engine, open_remote(f"{base}/tiny"), progress=quiet)
        handler.knows_range = False
        part = staging_folder(tmp_path / "pulled") / "tokenizer" / "tokenizer.json.part"
        part.parent.mkdir(parents=True)
        part.write_bytes(BIG[:1_234_567])
        pull(open_remote(f"{base}/tiny"), tmp_path / "pulled", progress=quiet)
    assert contents(tmp_path / "pulled") == contents(engine)


def test_the_rest_of_another_engine_is_not_gone_on_with(engine: Path, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/store/tiny"
    push(engine, open_remote(url), progress=quiet)
    part = staging_folder(tmp_path / "pulled") / "tokenizer" / "tokenizer.json.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"of another engine")
    pull(open_remote(url), tmp_path / "pulled", progress=quiet)
    assert contents(tmp_path / "pulled") == contents(engine)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (
            "checkpoint/rank0.safetensors",
            lambda data: data[:-1],
            "rank0.safetensors: 255 bytes, expected 256",
        ),
        ("tokenizer/tokenizer.json", lambda data: data[:9] + b"X" + data[10:], "tokenizer.json: SHA-256"),
        ("engine.json", lambda data: data.replace(b"tiny", b"TINY"), "engine.json: SHA-256"),
    ],
)
def test_a_truncated_or_altered_file_is_refused_and_no_engine_appears(
    engine: Path, tmp_path: Path, name: str, change: object, words: str
) -> None:
    assert callable(change)
    url = f"file://{tmp_path}/store/tiny"
    push(engine, open_remote(url), progress=quiet)
    file = tmp_path / "store" / "tiny" / name
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(VerificationFailed, match=words):
        pull(open_remote(url), tmp_path / "pulled", progress=quiet)
    assert not (tmp_path / "pulled").exists()


def test_an_engine_that_was_altered_together_with_its_index_is_refused_by_the_digest(
    engine: Path, tmp_path: Path
) -> None:
    url = f"file://{tmp_path}/store/tiny"
    digest = push(engine, open_remote(url), progress=quiet).digest
    add_file(engine, TOKENIZER, b"{}")
    push(engine, open_remote(url), progress=quiet)
    with pytest.raises(VerificationFailed, match=f"expected sha256:{digest}"):
        pull(open_remote(url), tmp_path / "pulled", progress=quiet, digest=digest)


def test_an_unfinished_push_is_refused_by_pull_and_finished_by_push(engine: Path, tmp_path: Path) -> None:
    store = tmp_path / "store" / "tiny"
    remote = open_remote(f"file://{store}")
    push(engine, remote, progress=quiet)
    index = Index.model_validate_json((store / "transfer.json").read_bytes())
    left = tuple(record for record in index.files if record.path != "tokenizer/tokenizer.json")
    (store / "transfer.json").write_bytes(Index(complete=False, files=left).to_bytes())
    (store / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(InputRefused, match=r"push was not finished \(3 files are there\)"):
        pull(remote, tmp_path / "pulled", progress=quiet)
    assert push(engine, remote, progress=quiet).num_moved_bytes == len(BIG)
    pull(remote, tmp_path / "pulled", progress=quiet)


def test_an_index_that_names_a_file_outside_is_refused(engine: Path, tmp_path: Path) -> None:
    store = tmp_path / "store" / "tiny"
    push(engine, open_remote(f"file://{store}"), progress=quiet)
    for name in ("../escape", "/etc/escape"):
        value = json.loads((store / "transfer.json").read_text())
        value["files"].append({"path": name, "size": 1, "sha256": "00"})
        (store / "transfer.json").write_text(json.dumps(value))
        with pytest.raises(InputRefused, match=rf"  {name}: is outside of the engine"):
            pull(open_remote(f"file://{store}"), tmp_path / "pulled", progress=quiet)


def test_an_engine_whose_files_have_other_sizes_is_not_pushed(engine: Path, tmp_path: Path) -> None:
    (engine / "checkpoint" / "rank0.safetensors").write_bytes(b"\0" * 255)
    (engine / "checkpoint" / "config.json").unlink()
    with pytest.raises(VerificationFailed) as caught:
        push(engine, open_remote(f"file://{tmp_path}/store"), progress=quiet)
    assert str(caught.value).splitlines()[1:] == [
        "  checkpoint/config.json: missing",
        "  checkpoint/rank0.safetensors: 255 bytes, engine.json says 256",
    ]
    assert not (tmp_path / "store").exists()


def test_a_folder_that_cannot_be_read_is_not_called_missing(
    engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = os.scandir

    def refuse(path: str) -> object:
        if Path(path) == engine / "checkpoint":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(PermissionError, match="checkpoint"):
        push(engine, open_remote(f"file://{tmp_path}/store"), progress=quiet)


def test_an_altered_file_ends_the_push_and_what_is_there_is_no_engine(engine: Path, tmp_path: Path) -> None:
    (engine / "checkpoint" / "rank0.safetensors").write_bytes(b"\0" * 256)
    with pytest.raises(VerificationFailed, match=r"were built:\n  checkpoint/rank0\.safetensors: SHA"):
        push(engine, open_remote(f"file://{tmp_path}/store"), progress=quiet)
    index = Index.model_validate_json((tmp_path / "store" / "transfer.json").read_bytes())
    assert not index.complete
    assert "checkpoint/rank0.safetensors" not in {record.path for record in index.files}
    with pytest.raises(InputRefused, match="push was not finished"):
        pull(open_remote(f"file://{tmp_path}/store"), tmp_path / "pulled", progress=quiet)


def bytes_read() -> int:
    """What this process has read from files so far, as the kernel counts."""
    return int(re.search(r"^rchar: (\d+)$", Path("/proc/self/io").read_text(), re.MULTILINE)[1])  # type: ignore[index]


def test_push_and_pull_read_every_byte_once(tmp_path: Path) -> None:
    engine = tmp_path / "engine"
    (engine / "checkpoint").mkdir(parents=True)
    for rank in range(2):
        (engine / "checkpoint" / f"rank{rank}.safetensors").write_bytes(BIG * 5)
    files = tuple(hash_file(path, relative_to=engine) for path in sorted((engine / "checkpoint").iterdir()))
    write_manifest(engine, manifest_of(files=files))
    total = 2 * 5 * len(BIG)
    remote = open_remote(f"file://{tmp_path}/store/tiny")
    before = bytes_read()
    push(engine, remote, progress=quiet)
    pushed = bytes_read()
    pull(remote, tmp_path / "pulled", progress=quiet)
    pulled = bytes_read()
    push(engine, remote, progress=quiet)
    assert total <= pushed - before < 1.2 * total
    assert total <= pulled - pushed < 1.2 * total
    assert bytes_read() - pulled < 0.2 * total, "what is there already is not read again"
    assert contents(tmp_path / "pulled") == contents(engine)


@pytest.mark.parametrize(
    ("url", "kind", "words"),
    [
        ("/just/a/path", UsageError, "has no scheme"),
        ("nosuch://host/x", UsageError, "Protocol not known"),
        ("s3://bucket/engine", EnvironmentUnusable, "pip install s3fs"),
    ],
)
def test_a_url_that_cannot_be_opened_says_why(url: str, kind: type[TpforgeError], words: str) -> None:
    if url.startswith("s3") and find_spec("s3fs"):
        pytest.skip("s3fs is installed")
    with pytest.raises(kind, match=words):
        open_remote(url)


def test_no_engine_nobody_there_and_a_missing_token_are_told_apart(engine: Path, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    with pytest.raises(InputRefused, match=r"holds no transfer\.json"):
        pull(open_remote(f"file://{tmp_path}/store"), tmp_path / "pulled", progress=quiet)
    with web_server(tmp_path / "store") as (base, handler):
        push(engine, open_remote(f"{base}/tiny"), progress=quiet)
        handler.token = "Bearer secret"
        with pytest.raises(EnvironmentUnusable, match="HEAD gave 401"):
            pull(open_remote(f"{base}/tiny"), tmp_path / "pulled", progress=quiet)
        (tmp_path / "token").write_text("Bearer secret\n")
        headers = parse_headers((f"Authorization=@{tmp_path}/token",))
        pull(open_remote(f"{base}/tiny", headers=headers), tmp_path / "pulled", progress=quiet)
    with pytest.raises(EnvironmentUnusable, match="broke off"):
        pull(open_remote(f"{base}/tiny"), tmp_path / "other", progress=quiet)


def test_a_token_stays_with_the_server_that_was_named(engine: Path, tmp_path: Path) -> None:
    """A registry that keeps its files elsewhere leads there; what is there must not learn the token."""
    files = tmp_path / "store"
    with web_server(files) as (store, of_store), web_server(files) as (base, handler):
        push(engine, open_remote(f"{store}/tiny"), progress=quiet)
        of_store.tokens_seen.clear()
        handler.token, handler.moved_to = "Bearer secret", store
        headers = {"Authorization": "Bearer secret"}
        pull(open_remote(f"{base}/tiny", headers=headers), tmp_path / "pulled", progress=quiet)
    assert contents(tmp_path / "pulled") == contents(engine)
    assert set(handler.tokens_seen) == {"Bearer secret"}
    assert set(of_store.tokens_seen) == {None}
    assert len(of_store.tokens_seen) == len(handler.tokens_seen) > 4


def test_the_commands_push_and_pull_by_name_and_exit_with_6_on_altered_files(
    engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    url = f"file://{tmp_path}/store/tiny"
    assert main(["engines", "push", str(engine), url, "--json"]) == 0
    digest = json.loads(capsys.readouterr().out)["digest"]
    assert main(["engines", "pull", url, "--digest", digest, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["path"] == "out/tiny/engine"
    assert contents(tmp_path / "out" / "tiny" / "engine") == contents(engine)
    assert main(["engines", "pull", url]) == 4, "an existing engine is replaced by --force only"
    (tmp_path / "store" / "tiny" / "engine.json").write_text("{}")
    assert main(["engines", "pull", url, "--force"]) == 6
    assert contents(tmp_path / "out" / "tiny" / "engine") == contents(engine)


@pytest.mark.parametrize(("value", "status"), [("Bearer secret", 0), ("Bearer other", 3), (None, 3)])
def test_the_init_container_pulls_with_the_token_of_its_environment(
    value: str | None, status: int, engine: Path, tmp_path: Path
) -> None:
    with web_server(tmp_path / "store") as (base, handler):
        url = f"{base}/it's-tiny"
        digest = push(engine, open_remote(url), progress=quiet).digest
        handler.token = "Bearer secret"
        deployment = deployment_of("smollm2-reference", "kubernetes", engine_url=url, digest=digest)
        script = prepare(deployment)
        for place in ("/srv/engines", "/srv/tpforge", "/tmp/authorization"):
            script = script.replace(place, f"{tmp_path}{place}")
        script = script.replace("\ntpforge render", "\necho render")  # It holds no model.
        (tmp_path / "srv" / "engines").mkdir(parents=True)
        (tmp_path / "tmp").mkdir()
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        given = {"AUTHORIZATION": value} if value else {}
        done = subprocess.run(
            ["sh", "-c", script],
            env={"PATH": path, "HOME": str(tmp_path), **given},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == status, done.stderr
    pulled = tmp_path / deployment.engine_in_store.relative_to("/")
    assert pulled.exists() == (status == 0)
    if status == 0:
        assert contents(pulled) == contents(engine)
        assert (tmp_path / "tmp" / "authorization").stat().st_mode & 0o77 == 0
        assert done.stdout.splitlines()[-1].startswith("render")
    else:
        assert "401" in done.stderr
