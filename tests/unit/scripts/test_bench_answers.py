"""`tpforge bench`: what counts as an answer, when a run is no success, when prompts are put into a chat."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.flows.benching import plan
from scripts.flows.benching.plan import BenchOptions, Server, uses_chat_template
from scripts.main import main
from tests.support.servers.scripted_server import Script, scripted_server
from tests.support.tiny import CHAT_TEMPLATE
from tpforge.errors import UsageError
from tpforge.measure.runs.run import Run, read_run, read_samples
from tpforge.outputs.places import Places

FAST = {"ttft_s": 0.02, "itl_s": 0.002}


def measured(script: Script, folder: Path) -> tuple[int, Run]:
    words = ["--warmup", "0", "--max-tokens", "5", "--num-requests", "6", "--repeats", "1", "--no-warm"]
    with scripted_server(folder, script) as server:
        status = main(["bench", server.url, *words, "--out", str(folder / "run")])
    return status, read_run(folder / "run")


def test_an_answer_that_ends_at_once_is_an_answer_of_no_token(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, run = measured(Script(**FAST, empty_every=2), tmp_path)
    (level,) = run.levels
    assert (status, level.num_requests, level.num_failed) == (0, 6, 0)
    empty = [sample for sample in read_samples(tmp_path / "run") if not sample.token_times_s]
    assert len(empty) == 3
    for sample in empty:
        assert (sample.output_tokens, sample.first_token_s, sample.error_kind) == (0, None, None)
        assert sample.last_s == sample.ended_s
    assert level.metrics["time_to_first_token"].count == 3
    assert level.metrics["request_latency"].count == 6
    assert level.metrics["output_sequence_length"].sum == 15
    assert "3 of 6 answers are empty" in capsys.readouterr().err


@pytest.mark.parametrize(("answer_every", "status"), [(3, 3), (2, 0)])
def test_a_run_in_which_most_fails_is_no_success(
    answer_every: int, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, run = measured(Script(**FAST, answer_every=answer_every), tmp_path)
    failed = 6 - 6 // answer_every
    assert (found, run.levels[0].num_failed) == (status, failed)
    said = f"error: {failed} of 6 requests got no whole answer ({failed} refused)"
    assert (said in capsys.readouterr().err) == (status == 3)


def server_of(folder: Path | None) -> Server:
    return Server("localhost:1", None, Places(folder) if folder is not None else None, None)


@pytest.mark.parametrize(
    ("options", "has_template", "has_chat", "used"),
    [
        ({}, True, True, True),
        ({}, False, True, False),
        ({}, True, False, False),
        ({"chat_template": False}, True, True, False),
        ({"chat_template": True}, True, False, True),
        ({"isl": 10}, True, True, False),
        ({"isl": 10, "chat_template": True}, True, True, True),
        ({"trace": Path("x")}, True, True, False),
        ({"api": "openai"}, True, True, False),
    ],
)
def test_prompts_are_put_into_a_chat_where_the_engine_has_a_template(
    options: dict[str, object],
    has_template: bool,
    has_chat: bool,
    used: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "tokenizer").mkdir()
    if has_template:
        (tmp_path / "tokenizer" / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    monkeypatch.setattr(plan, "has_extra", lambda extra: {"chat": has_chat}[extra])
    assert uses_chat_template(BenchOptions(**options), server_of(tmp_path)) == used  # type: ignore[arg-type]


def test_without_a_known_engine_prompts_go_as_they_are_unless_it_is_asked_for() -> None:
    assert not uses_chat_template(BenchOptions(), server_of(None))
    with pytest.raises(UsageError, match="name it with --engine"):
        uses_chat_template(BenchOptions(chat_template=True), server_of(None))


def test_the_command_of_a_run_says_what_was_asked() -> None:
    from scripts.commands.measuring.bench import command_line

    for value, words in ((None, ()), (True, ("--chat-template",)), (False, ("--no-chat-template",))):
        assert command_line(None, {"chat_template": value}) == ("tpforge", "bench", *words)
