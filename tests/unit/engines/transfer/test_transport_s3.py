"""Engines pushed to and pulled from S3: the real s3fs against moto's server, a process of its own."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scripts.main import main
from tests.support.patience import PATIENCE_S
from tests.support.stores import BIG, add_file, contents, write_engine

pytestmark = pytest.mark.manifests

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_HEADERS = {
    "Content-Type": "application/octet-stream",
    "Authorization": "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request",
}
"""Moto wants to be told who asks, and believes it."""
RANK = "checkpoint/rank0.safetensors"


def ask(address: str, method: str = "GET", body: bytes | None = None) -> bytes:
    """One plain request, so that nothing but the server is shared with the driver that is tested."""
    request = urllib.request.Request(address, data=body, method=method, headers=_HEADERS)
    with _DIRECT.open(request, timeout=60) as answer:
        return bytes(answer.read())


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of an S3 server on this machine."""
    pytest.importorskip("s3fs", reason="pip install s3fs")
    pytest.importorskip("moto", reason="pip install 'moto[server]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + PATIENCE_S
            while True:
                assert process.poll() is None and time.monotonic() < deadline, "moto's server did not start"
                try:
                    ask(f"{address}/moto-api/")
                    break
                except OSError:
                    time.sleep(0.1)
            yield address
        finally:
            process.terminate()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an empty bucket, ``engines``; the driver's surroundings point to its server."""
    import s3fs  # type: ignore[import-untyped,import-not-found,unused-ignore]

    for name, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    ask(f"{server}/moto-api/reset", "POST", b"")
    ask(f"{server}/engines", "PUT", b"")
    return f"{server}/engines"


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    folder = write_engine(tmp_path / "mine" / "engine")
    add_file(folder, "tokenizer/tokenizer.json", BIG)
    return folder


def test_an_engine_comes_back_from_a_bucket_byte_for_byte(
    engine: Path, bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["engines", "push", str(engine), "s3://engines/a/tiny", "--json"]) == 0
    digest = json.loads(capsys.readouterr().out)["digest"]
    for name, data in contents(engine).items():
        assert ask(f"{bucket}/a/tiny/{name}") == data, "what lies in the bucket is an engine folder as it is"
    out = tmp_path / "pulled"
    assert main(["engines", "pull", "s3://engines/a/tiny", "--out", str(out), "--digest", digest]) == 0
    assert contents(out) == contents(engine)


def test_a_second_push_to_a_bucket_sends_only_what_changed(
    engine: Path, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = []
    for tokenizer in (BIG, BIG, BIG[::-1]):
        add_file(engine, "tokenizer/tokenizer.json", tokenizer)
        assert main(["engines", "push", str(engine), "s3://engines/tiny", "--json"]) == 0
        moved.append(json.loads(capsys.readouterr().out)["num_moved_bytes"])
    total = sum(len(data) for data in contents(engine).values())
    assert moved == [total, 0, len(BIG) + (engine / "engine.json").stat().st_size]
    assert ask(f"{bucket}/tiny/tokenizer/tokenizer.json") == BIG[::-1]


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (RANK, lambda data: data[:-1], "rank0.safetensors: 255 bytes, expected 256"),
        (RANK, lambda data: data[:9] + b"X" + data[10:], "rank0.safetensors: SHA-256"),
        ("engine.json", lambda data: data.replace(b"tiny", b"TINY"), "engine.json: SHA-256"),
    ],
    ids=["truncated", "one byte", "manifest"],
)
def test_an_engine_that_was_altered_in_the_bucket_is_refused(
    engine: Path,
    bucket: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    change: Callable[[bytes], bytes],
    words: str,
) -> None:
    assert main(["engines", "push", str(engine), "s3://engines/tiny"]) == 0
    before = ask(f"{bucket}/tiny/{name}")
    ask(f"{bucket}/tiny/{name}", "PUT", change(before))
    out = tmp_path / "pulled"
    assert main(["engines", "pull", "s3://engines/tiny", "--out", str(out)]) == 6
    assert words in capsys.readouterr().err
    assert not out.exists()
    ask(f"{bucket}/tiny/{name}", "PUT", before)
    assert main(["engines", "pull", "s3://engines/tiny", "--out", str(out)]) == 0
    assert contents(out) == contents(engine)


def test_a_missing_file_and_a_missing_bucket_are_said_and_no_bucket_is_made(
    engine: Path, bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["engines", "push", str(engine), "s3://engines/tiny"]) == 0
    ask(f"{bucket}/tiny/{RANK}", "DELETE")
    assert main(["engines", "pull", "s3://engines/tiny", "--out", str(tmp_path / "pulled")]) == 3
    assert f"s3://engines/tiny/{RANK}: is not there" in capsys.readouterr().err
    assert main(["engines", "push", str(engine), "s3://nobody/tiny"]) == 3
    assert "s3://nobody/tiny" in capsys.readouterr().err
    with pytest.raises(urllib.error.HTTPError, match="404"):
        ask(bucket.replace("engines", "nobody"))
