"""Drill: checkpoints, engines, stores and states as a stranger would make them, and commands that read them.

Canaries, a file and a process that no command has to do with, must be as they were. No server is started.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import struct
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engines.store import write_manifest
from tests.drills.children import run_watched
from tests.drills.figures import Figure
from tests.support.tiny import write_tiny_llama
from tests.support.tiny_engine import write_engine_of
from tpforge.shards.mapping import Mapping
from triton_repo.serve import processes

LIMIT_S = 120.0
"""A command that has not ended by then is hung."""
WEIGHTS = "model.safetensors"
NUM_OTHERS = 8
"""How many commands read an engine, a store and a state that lie."""
Change = Callable[[Path, Path], Any]


def _header(value: object, *, length: int | None = None) -> Change:
    def change(model: Path, _canary: Path) -> None:
        text = value if isinstance(value, bytes) else json.dumps(value).encode()
        size = len(text) if length is None else length
        (model / WEIGHTS).write_bytes(struct.pack("<Q", size) + text + bytes(64))

    return change


def _config(**changes: object) -> Change:
    def change(model: Path, _canary: Path) -> None:
        path = model / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def _file(name: str, data: bytes) -> Change:
    return lambda model, _canary: (model / name).write_bytes(data)


def _link(name: str) -> Change:
    def change(model: Path, canary: Path) -> None:
        (model / name).unlink(missing_ok=True)
        (model / name).symlink_to(canary)

    return change


def _fifo(name: str) -> Change:
    def change(model: Path, _canary: Path) -> None:
        (model / name).unlink(missing_ok=True)
        os.mkfifo(model / name)

    return change


def _index(name: str) -> Change:
    def change(model: Path, _canary: Path) -> None:
        (model / WEIGHTS).unlink()
        weights = {"weight_map": {"model.embed_tokens.weight": name}}
        (model / f"{WEIGHTS}.index.json").write_text(json.dumps(weights))

    return change


def _one(name: str, **changes: Any) -> dict[str, Any]:
    return {name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **changes}}


MODELS: dict[str, Change] = {
    "a header of 2^60 bytes": _header(b"{}", length=1 << 60),
    "a header nested 100,000 deep": _header(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "a header that is a list": _header([1]),
    "a header of bytes that are no text": _header(b"\xff" * 100),
    "a shape of 2^62": _header(_one("a", shape=[1 << 62])),
    "a negative offset": _header(_one("a", data_offsets=[-4, 0])),
    "offsets behind the end": _header(_one("a", data_offsets=[0, 1 << 50])),
    "a name that a terminal obeys": _header(_one("\x1b[2J\x1b]0;owned\x07")),
    "a name of 1 MB": _header(_one("n" * 1_000_000)),
    "weights that are a link to a file of the user": _link(WEIGHTS),
    "a tokenizer that is a link to a file of the user": _link("tokenizer.json"),
    "a config that is a pipe": _fifo("config.json"),
    "an index that leads outside": _index("../../canary"),
    "an index that leads to /dev/zero": _index("/dev/zero"),
    "a config nested 100,000 deep": _file("config.json", b"[" * 100_000),
    "a config of 10^9 layers": _config(num_hidden_layers=10**9),
    "a config of a negative size": _config(hidden_size=-64),
    "a config with a number that is none": _file("config.json", b'{"hidden_size": NaN}'),
    "a config that a terminal obeys": _config(architectures=["\x1b[2J"]),
    "a tokenizer of nothing": _file("tokenizer.json", b""),
    "a tokenizer nested 100,000 deep": _file("tokenizer.json", b"[" * 100_000),
    "code of its own": _config(auto_map={"AutoModelForCausalLM": "evil.Model"}, model_type="evil"),
}


def run(folder: Path, *, num_cases: int | None = None) -> Figure:
    """Each kind of file, read by the commands that read it."""
    figure = Figure("hostile files", "commands")
    figure.bad = {"hung": 0, "internal errors": 0, "escapes shown": 0, "canaries harmed": 0}
    folder.mkdir()
    canary = folder / "canary"
    with subprocess.Popen(["sleep", "86400"]) as process, contextlib.chdir(folder):
        canary.write_text("of the user")
        try:
            for name, change in list(MODELS.items())[:num_cases]:
                model = write_tiny_llama(folder / "given" / "model")
                change(model, canary)
                for words in (["inspect", str(model)], ["build", str(model), "--tp", "2", "--out", "built"]):
                    _judge(figure, name, words, canary=canary, process=process)
                    shutil.rmtree("built", ignore_errors=True)
                shutil.rmtree("given")
            for name, words in _engines(folder, process):
                _judge(figure, name, words, canary=canary, process=process)
        finally:
            process.kill()
    return figure


def _engines(folder: Path, process: subprocess.Popen[bytes]) -> list[tuple[str, list[str]]]:
    """An engine, a store and a state that lie, and what is asked of them."""
    engine, store = folder / "out" / "liar" / "engine", folder / "store"
    engine.parent.mkdir(parents=True)
    _, manifest = write_engine_of(write_tiny_llama(folder / "source"), engine, mapping=Mapping(tp_size=1))
    write_manifest(engine, manifest)
    status, said = run_watched(["engines", "push", str(engine), f"file://{store}"], limit_s=LIMIT_S)
    assert status == 0, said
    outside = {"size": 11, "sha256": hashlib.sha256(b"of the user").hexdigest()}
    for path, name in ((engine / "engine.json", "../../../canary"), (store / "transfer.json", "../canary")):
        value = json.loads(path.read_text())
        value["files"].append({"path": name, **outside})
        path.write_text(json.dumps(value))
    found = processes.identify(process.pid)
    assert found is not None
    planted = {"supervisor": asdict(found), "phase": "ready", "shared_memory": "../../x"}
    (engine.parent / "server").mkdir()
    (engine.parent / "server" / "server.json").write_text(json.dumps(planted))
    lies = "an engine that lists a file outside"
    return [
        ("a state beside an engine", ["status"]),
        ("a state beside an engine", ["stop", "--all"]),
        (lies, ["engines", "show", str(engine)]),
        (lies, ["engines", "verify", str(engine)]),
        (lies, ["render", str(engine), "--out", "rendered"]),
        (lies, ["engines", "push", str(engine), f"file://{folder}/pushed"]),
        ("a store that lists a file outside", ["engines", "pull", f"file://{store}", "--out", "pulled"]),
        (lies, ["engines", "rm", "liar"]),
    ]


def _judge(
    figure: Figure, name: str, words: list[str], *, canary: Path, process: subprocess.Popen[bytes]
) -> None:
    begun = time.monotonic()
    status, said = run_watched(words, limit_s=LIMIT_S)
    figure.num_tries += 1
    figure.took("to the end", time.monotonic() - begun)
    harmed = process.poll() is not None or canary.read_text() != "of the user"
    bad = {
        "hung": status is None,
        "internal errors": status == 1 or (status is not None and status < 0),
        "escapes shown": "\x1b" in said,
        "canaries harmed": harmed,
    }
    for kind, is_so in bad.items():
        if is_so:
            figure.count(kind)
            figure.notes.append(f"{name}: {words[0]}: {kind}: {said.strip()[-300:]}")
