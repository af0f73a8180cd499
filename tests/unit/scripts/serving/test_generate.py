"""`tpforge generate`: a prompt from the line or from stdin, and the server chosen by its engine's name."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from scripts.flows import serve
from scripts.main import main
from tests.support.servers.grpc_server import serving, text_response
from triton_repo.serve.local import Status


@pytest.fixture
def servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Engines `one` and `two` under out/ have a server that says its name and the prompt; `idle` has none."""
    monkeypatch.chdir(tmp_path)
    urls: dict[str, str] = {}

    def status(state_dir: Path) -> SimpleNamespace:
        url = urls.get(state_dir.parent.name)
        server = SimpleNamespace(grpc_url=url, metrics_url=None, model=None, api="triton") if url else None
        phase = "ready" if url else "stopped"
        return SimpleNamespace(state_dir=state_dir, server=server, is_running=bool(url), phase=phase)

    monkeypatch.setattr("triton_repo.serve.local.status", status)
    monkeypatch.setattr(
        "triton_repo.serve.local.list_servers",
        lambda root: tuple(status(root / name / "server") for name in urls),
    )
    for name in ("one", "two", "idle"):
        (tmp_path / "out" / name / "engine").mkdir(parents=True)
        (tmp_path / "out" / name / "engine" / "engine.json").write_text("{}")

    def saying(name: str):  # type: ignore[no-untyped-def]
        def answers(request: object, _context: object) -> Iterator[object]:
            prompt = request.raw_input_contents[0][4:].decode()  # type: ignore[attr-defined]
            yield text_response(f"{name}: {prompt}", final=True)

        return answers

    with serving(saying("one")) as (_, first), serving(saying("two")) as (_, second):
        urls |= {"one": first, "two": second}
        yield urls


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["two", "hello"], "two: hello"),
        (["one", "hello"], "one: hello"),
        (["--engine", "two", "hello"], "two: hello"),
    ],
)
def test_the_server_is_chosen_by_the_name_of_its_engine(
    servers: dict[str, str], words: list[str], answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", *words]) == 0
    assert capsys.readouterr().out == f"{answer}\n"


@pytest.mark.parametrize("words", [["two", "-"], ["-", "--url", "URL"]])
def test_the_prompt_is_read_from_stdin(
    servers: dict[str, str],
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("a line\nand another\n"))
    words = [servers["two"] if word == "URL" else word for word in words]
    assert main(["generate", *words]) == 0
    assert capsys.readouterr().out == "two: a line\nand another\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["hello"], "several servers run; say which by its engine or its URL: out/one/engine (localhost:"),
        (
            ["idle", "hello"],
            "out/idle/engine: no server of it runs (it is stopped); start one with: ",
        ),
        (["nothing", "hello"], "nothing: no such engine"),
        ([], "give either a PROMPT"),
        (["one", "two", "three"], "give either a PROMPT"),
        (["one", "hello", "--chat", "hello"], "give either a PROMPT or --chat"),
    ],
)
def test_what_is_not_clear_is_asked(
    servers: dict[str, str], words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", *words]) == 2
    assert f"error: {said}" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["logs", "nothing"], ["promote", "nothing"], ["stop", "nothing"]])
def test_every_command_says_that_there_is_no_such_engine(
    servers: dict[str, str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert "error: nothing: no such engine; `tpforge engines list`" in capsys.readouterr().err


def test_the_fakes_look_like_a_status() -> None:
    assert {"state_dir", "server", "phase"} <= set(Status.__dataclass_fields__)
    assert callable(serve.known_engine)
