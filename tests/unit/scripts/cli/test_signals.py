"""Signals that come at bad moments: amid an import in C, which makes another error of them, or once more."""

from __future__ import annotations

import json
import os
import signal

import pytest

from scripts.cli import output
from scripts.main import main
from tpforge.errors import InputRefused


def failing_import(number: signal.Signals) -> object:
    """As numpy and pydantic do: what was raised while they import comes out as an error of their own."""

    def broken(*_arguments: object, **_options: object) -> None:
        try:
            os.kill(os.getpid(), number)
        except BaseException as error:
            raise ImportError("numpy._core.umath failed to import") from error

    return broken


@pytest.mark.parametrize(
    ("number", "status", "said"),
    [
        (signal.SIGINT, 130, "interrupted\n"),
        (signal.SIGTERM, 143, "terminated\n"),
        (signal.SIGHUP, 129, "terminated\n"),
    ],
)
def test_a_signal_that_breaks_an_import_is_no_bug(
    number: signal.Signals,
    status: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("scripts.flows.serve.stop_servers", failing_import(number))
    inherited = signal.signal(number, signal.default_int_handler)  # ignored, when the tests run under nohup
    try:
        assert main(["stop", "--json"]) == status
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, inherited)
    shown = capsys.readouterr()
    assert shown.err == said
    assert json.loads(shown.out)["exit_status"] == status


def test_an_expected_error_that_follows_a_signal_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except BaseException as error:
            raise InputRefused("the disk is full") from error

    monkeypatch.setattr("scripts.flows.serve.stop_servers", refuse)
    assert main(["stop"]) == 4
    assert capsys.readouterr().err == "error: the disk is full\n"


def test_a_second_signal_does_not_break_off_the_last_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wait(*_arguments: object, **_options: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("scripts.flows.serve.stop_servers", wait)
    say = output.for_people

    def impatient(text: str) -> str:
        os.kill(os.getpid(), signal.SIGTERM)
        return say(text)

    monkeypatch.setattr("scripts.main.for_people", impatient)
    assert main(["stop"]) == 143
    assert capsys.readouterr().err == "terminated\n"
