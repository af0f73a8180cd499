"""What a stranger's store can do to `engines pull`: names, links, bytes without end or none, broken answers.

The store is a socket that says what it is told to; nothing of ours parses or judges what it sends.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from engines.store import write_manifest
from engines.transfer.index import Index
from engines.transfer.remote import FsspecRemote, open_remote
from engines.transfer.staging import staging_folder
from engines.transfer.threads import STALL_BYTES, STALL_S, Pace, TimeLimit, in_threads
from engines.transfer.transport import pull, push
from scripts.main import main
from tests.support.patience import PATIENCE_S
from tests.support.records import manifest_of
from tests.support.stores import BIG, add_file, contents, write_engine
from tpforge.errors import EnvironmentUnusable, InputRefused, VerificationFailed
from tpforge.manifest import FileRecord


def quiet(_message: str) -> None:
    pass


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with a pushed engine, as an attacker may change it."""
    push(write_engine(tmp_path / "mine"), open_remote(f"file://{tmp_path}/store"), progress=quiet)
    return tmp_path / "store"


def add_to_index(store: Path, name: str, data: bytes = b"x", *, write: bool = True, **changes: Any) -> None:
    """List a file in the index, with its true size and hash, and put it there."""
    value = json.loads((store / "transfer.json").read_text())
    digest = hashlib.sha256(data).hexdigest()
    value["files"].append({"path": name, "size": len(data), "sha256": digest, **changes})
    (store / "transfer.json").write_text(json.dumps(value))
    if write:
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        (store / name).write_bytes(data)


def test_a_file_that_engine_json_does_not_list_is_not_written(store: Path, tmp_path: Path) -> None:
    said: list[str] = []
    for name in ("server/server.json", "router.json", "stages.json"):
        add_to_index(store, name)
    moved = pull(open_remote(f"file://{store}"), tmp_path / "out" / "x" / "engine", progress=said.append)
    assert contents(tmp_path / "out" / "x" / "engine") == contents(tmp_path / "mine")
    assert moved.num_files == 3
    assert [line for line in said if line.startswith("left out")] == [
        "left out router.json: engine.json does not list it",
        "left out server/server.json: engine.json does not list it",
        "left out stages.json: engine.json does not list it",
    ]
    assert sorted(path.name for path in (tmp_path / "out" / "x").iterdir()) == ["engine"]


def test_a_file_that_engine_json_does_not_list_is_not_published(tmp_path: Path) -> None:
    engine = write_engine(tmp_path / "mine")
    (engine / "notes.txt").write_text("mine alone")
    (engine / "secret").symlink_to("/etc/hostname")
    push(engine, open_remote(f"file://{tmp_path}/store"), progress=quiet)
    assert not {"notes.txt", "secret"} & contents(tmp_path / "store").keys()


@pytest.mark.parametrize(
    "name",
    [
        ".",
        "./x",
        "a/./b",
        "a//b",
        "checkpoint/",
        "/etc/x",
        "../x",
        "a/../../x",
        "..",
        "a\\..\\b",
        "a\0b",
        "a\nb",
        "a\x1b[2Jb",
        "a\u202eb",
        "~",
        "~/x",
        "~root/x",
        ".git/hooks/post-checkout",
        "a/.git/config",
        ".lock",
        "x.lock",
        "x.part",
        "checkpoint/rank0.safetensors.part",
        "x.partial",
        ".tpforge.json",
        "-rf",
        "x" * 201,
        "/".join(["x" * 100] * 11),
        "transfer.json",
        "checkpoint/config.json",
        "checkpoint",
        "engine.json/x",
    ],
)
def test_a_name_that_can_be_no_file_of_an_engine_is_refused_before_the_first_byte(
    store: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    true_read = FsspecRemote.read

    def note(self: FsspecRemote, name: str, *, start: int = 0) -> Iterator[bytes]:
        read.append(name)
        return true_read(self, name, start=start)

    monkeypatch.setattr(FsspecRemote, "read", note)
    add_to_index(store, name, write=False)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputRefused, match="names files that") as caught:
        pull(open_remote(f"file://{store}"), tmp_path / "pulled", progress=quiet)
    assert read == ["transfer.json"]
    assert sorted(tmp_path.rglob("*")) == before
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("changes", [{"size": -1}, {"size": 1 << 60}, {"sha256": "00"}, {"sha256": "G" * 64}])
def test_sizes_and_hashes_that_are_none_are_refused(
    store: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    add_to_index(store, "x", write=False, **changes)
    with pytest.raises(InputRefused, match="names files that no engine can hold"):
        pull(open_remote(f"file://{store}"), tmp_path / "pulled", progress=quiet)


def test_an_index_without_end_is_read_to_its_cap_alone(store: Path, tmp_path: Path) -> None:
    with (store / "transfer.json").open("r+b") as file:
        file.truncate(1 << 34)
    with pytest.raises(InputRefused, match=r"found more than 16\.0 MiB"):
        pull(open_remote(f"file://{store}"), tmp_path / "pulled", progress=quiet)


def test_no_more_bytes_are_taken_than_the_size_and_one(store: Path, tmp_path: Path) -> None:
    with (store / "checkpoint" / "rank0.safetensors").open("r+b") as file:
        file.truncate(1 << 34)
    with pytest.raises(VerificationFailed, match=r"rank0\.safetensors: 257 bytes, expected 256"):
        pull(open_remote(f"file://{store}"), tmp_path / "pulled", progress=quiet)


@pytest.mark.parametrize(
    "place", ["", "checkpoint", "checkpoint/rank0.safetensors.part", "engine.json", ".lock"]
)
def test_a_link_in_the_staging_folder_is_never_followed(store: Path, tmp_path: Path, place: str) -> None:
    target = tmp_path / "mine to keep"
    if place in ("", "checkpoint"):
        target.mkdir()
    else:
        target.write_text("mine")
    link = staging_folder(tmp_path / "pulled") / place
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target)
    with pytest.raises(InputRefused, match="is neither a file nor a folder, and no pull made it"):
        pull(open_remote(f"file://{store}"), tmp_path / "pulled", progress=quiet)
    assert list(target.iterdir()) == [] if target.is_dir() else target.read_text() == "mine"


Answer = Callable[[socket.socket, str], None]


@contextmanager
def raw_server(answer: Answer) -> Iterator[str]:
    """A socket that reads a request's head and leaves the rest to `answer`; then it closes."""
    ended = Event()

    def serve(listener: socket.socket) -> None:
        while not ended.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            Thread(target=one, args=(connection,), daemon=True).start()

    def one(connection: socket.socket) -> None:
        with connection:
            head = b""
            while b"\r\n\r\n" not in head and (data := connection.recv(65536)):
                head += data
            try:
                if head:
                    answer(connection, head.decode("latin-1"))
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        Thread(target=serve, args=(listener,), daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/tiny"
        ended.set()
        listener.shutdown(socket.SHUT_RDWR)


def always(text: str) -> Answer:
    return lambda connection, _head: connection.sendall(text.encode("latin-1"))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "Content-Length: 'x', expected a number"),
        ("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "Content-Length: '-1', expected a number"),
        ("HTTP/1.1 200 OK\r\nContent-Length: \xb2\r\n\r\n", "Content-Length"),
        (f"HTTP/1.1 200 OK\r\nContent-Length: {'9' * 5000}\r\n\r\n", "Content-Length"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\n", "Content-Length"),
        ("HTTP/1.1 200 OK\r\n\r\n", "does not say how large it is"),
        ("HTTP/1.1 999\r\n", "gave 999|broke off"),
        ("HTTP/1.1 abc\r\n\r\n", "broke off"),
        ("", "broke off"),
        ("\0" * 100, "broke off"),
        ("HTTP/1.1 200 OK\r\n" + "x: y\r\n" * 200 + "\r\n", "broke off"),
        ("HTTP/1.1 302 Found\r\nLocation: ftp://127.0.0.1/x\r\n\r\n", "expected http or https"),
        ("HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n", "expected http or https"),
        ("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:port/\r\n\r\n", "redirects to what is no URL"),
        ("HTTP/1.1 302 Found\r\nLocation: http://[::1/\r\n\r\n", "redirects to what is no URL"),
        ("HTTP/1.1 302 Found\r\nLocation: http://\r\n\r\n", "infinite loop"),
        ("HTTP/1.1 302 Found\r\nLocation: http://a:b@127.0.0.1/\r\n\r\n", "holds a name or password"),
    ],
)
def test_a_broken_answer_is_no_internal_error(tmp_path: Path, answer: str, words: str) -> None:
    with raw_server(always(answer)) as url, pytest.raises(EnvironmentUnusable, match=words):
        pull(open_remote(url, headers={"Authorization": "x"}), tmp_path / "pulled", progress=quiet)


def test_a_broken_length_of_a_file_is_no_internal_error(tmp_path: Path) -> None:
    def answer(connection: socket.socket, head: str) -> None:
        length = "10" if head.startswith("HEAD") else "ten"
        connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n".encode())

    with raw_server(answer) as url:
        assert main(["engines", "pull", url, "--out", str(tmp_path / "x")]) == 3


def test_a_pull_from_a_server_that_never_answers_is_given_up_at_the_limit(tmp_path: Path) -> None:
    hold = Event()
    with raw_server(lambda *_: [None for _ in [hold.wait()]].clear()) as url:
        with pytest.raises(EnvironmentUnusable, match=r"not done within .*--time-limit SECONDS allows more"):
            pull(open_remote(url), tmp_path / "pulled", progress=quiet, limit=TimeLimit(total_s=0.2))
        hold.set()


def test_one_interrupt_ends_a_pull_though_the_server_holds_every_connection(tmp_path: Path) -> None:
    """Four files are waited for in threads, as a broken server may keep a pull for ever."""
    files = tuple(FileRecord(path=f"checkpoint/{n}", size=9, sha256="0" * 64) for n in range(4))
    write_manifest(tmp_path, manifest_of(files=files))
    manifest = (tmp_path / "engine.json").read_bytes()
    own = FileRecord(path="engine.json", size=len(manifest), sha256=hashlib.sha256(manifest).hexdigest())
    known = {"engine.json": manifest, "transfer.json": Index(complete=True, files=(own, *files)).to_bytes()}
    asked, hold = Event(), Event()

    def answer(connection: socket.socket, head: str) -> None:
        method, path = head.split()[:2]
        data = known.get(path.rpartition("/")[2], b"123456789")
        connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(data)}\r\n\r\n".encode())
        if method == "GET" and "checkpoint" not in path:
            connection.sendall(data)
        elif method == "GET":
            asked.set()
            hold.wait()

    code = "import sys; from scripts.main import main; sys.exit(main(sys.argv[1:]))"
    with raw_server(answer) as url:
        command = [sys.executable, "-c", code, "engines", "pull", url, "--out", str(tmp_path / "x")]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            assert asked.wait(PATIENCE_S)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate()  # It would wait for 60 s and three tries a file.
        assert not hold.is_set()
        hold.set()
    assert process.returncode == 130, said
    assert not (tmp_path / "x").exists()


def test_bytes_that_drip_are_told_from_a_slow_line() -> None:
    now = 0.0
    slow, drip = Pace("slow", lambda: now), Pace("drip", lambda: now)
    for _ in range(int(STALL_S)):
        now += 1.0
        slow.add(STALL_BYTES // int(STALL_S) + 1)
        if now < STALL_S:
            drip.add(1)
    with pytest.raises(EnvironmentUnusable, match=r"drip: 60 B came in .*the server stalls"):
        drip.add(1)


def test_the_rest_is_not_begun_once_one_failed() -> None:
    begun: list[int] = []

    def action(item: int, _check: Callable[[], None]) -> None:
        begun.append(item)
        raise EnvironmentUnusable("gone")

    with pytest.raises(EnvironmentUnusable, match="gone"):
        in_threads(action, range(1000), num_parallel=1, limit=TimeLimit(), where="here")
    assert len(begun) < 1000


def test_a_pull_that_holds_more_than_it_needs_is_an_engine_byte_for_byte(tmp_path: Path) -> None:
    engine = write_engine(tmp_path / "mine")
    add_file(engine, "tokenizer/tokenizer.json", BIG)
    (engine / "parity.json").write_text("{}")
    push(engine, open_remote(f"file://{tmp_path}/store"), progress=quiet)
    pull(open_remote(f"file://{tmp_path}/store"), tmp_path / "pulled", progress=quiet)
    assert contents(tmp_path / "pulled") == contents(engine)
    assert os.path.lexists(tmp_path / "pulled" / "parity.json")
