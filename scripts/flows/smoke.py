"""The smoke test of a server, with what is known here of its engine. Composes engines and triton_repo.

It prints nothing; the checks are `triton_repo.smoke`, and `triton_repo.smoke.openai` over HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engines.chat import find_template, render_chat
from scripts.flows.serve import find_openai_server, find_server, find_trtllm_grpc
from tpforge.outputs.atomic import write_atomic
from tpforge.outputs.places import find_engine

if TYPE_CHECKING:
    from triton_repo.smoke import CheckResult, SmokeOptions, SmokeReport
    from triton_repo.smoke.openai import OpenAiSmokeOptions
    from triton_repo.smoke.smg import SmgSmokeOptions


def smoke_server(
    url: str | None,
    *,
    engine: str | None = None,
    junit: Path | None = None,
    options: SmokeOptions | None = None,
    on_result: Callable[[CheckResult], None],
) -> SmokeReport:
    """Run every check against a server; without `url` against the one that runs.

    The engine, given or known from the running server, brings limits and golden answers.

    Raises:
        UsageError: no server was named and none, or several, run.
        InputRefused: `engine` is none.
    """
    from engines.store import read_manifest
    from triton_repo.client.other_answers import recognized
    from triton_repo.smoke import SmokeOptions, run_smoke

    grpc_url, metrics_url, places = find_server(url)
    if engine is not None:
        places = find_engine(engine)
    options = options or SmokeOptions()
    with recognized(grpc_url, tls=options.tls):
        report = run_smoke(
            grpc_url,
            manifest=read_manifest(places.engine) if places is not None else None,
            metrics_url=metrics_url,
            on_result=on_result,
            options=options,
        )
    _write_junit(report, junit)
    return report


def smoke_openai_server(
    url: str | None,
    *,
    engine: str | None = None,
    junit: Path | None = None,
    metrics_url: str | None = None,
    options: OpenAiSmokeOptions | None = None,
    on_result: Callable[[CheckResult], None],
) -> SmokeReport:
    """Run every check of an OpenAI-compatible server; without `url` of the only one that runs.

    The engine, given or known from the running server, brings limits, golden answers and the tokenizer that
    counts; `metrics_url` is where requests that run are counted when the server itself does not tell.

    Raises:
        UsageError: it is no such server, none or several run, or it lists several models and `options` names
            none.
        InputRefused: `engine` is none.
    """
    from engines.store import read_manifest
    from triton_repo.smoke.openai import run_openai_smoke

    found, places = find_openai_server(url)
    if engine is not None:
        places = find_engine(engine)
    report = run_openai_smoke(
        found,
        manifest=read_manifest(places.engine) if places is not None else None,
        tokens=EngineTokens(places.engine / "tokenizer") if places is not None else None,
        metrics_urls=(metrics_url,) if metrics_url is not None else (),
        on_result=on_result,
        options=options,
    )
    _write_junit(report, junit)
    return report


def smoke_trtllm_grpc(
    url: str | None,
    *,
    engine: str | None = None,
    junit: Path | None = None,
    options: SmgSmokeOptions | None = None,
    on_result: Callable[[CheckResult], None],
) -> SmokeReport:
    """Run every check of a server of `trtllm-serve --grpc`; without `url` of the only one that runs.

    Raises:
        UsageError: none or several run.
        InputRefused: `engine` is none.
    """
    from engines.store import read_manifest
    from triton_repo.smoke.smg import run_smg_smoke

    found, places = find_trtllm_grpc(url)
    if engine is not None:
        places = find_engine(engine)
    manifest = read_manifest(places.engine) if places is not None else None
    report = run_smg_smoke(found, manifest=manifest, options=options, on_result=on_result)
    _write_junit(report, junit)
    return report


class EngineTokens:
    """Counts by the tokenizer and the chat template of an engine's folder.

    Raises:
        InputRefused: there is no tokenizer, or it cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        from triton_repo.load.run_prompts import BenchTokenizer

        self._folder, self._tokenizer = folder, BenchTokenizer(folder)

    def in_prompt(self, text: str) -> int:
        """How many a plain prompt has, with the special tokens that the tokenizer adds."""
        return len(self._tokenizer.encode(text))

    def in_conversation(self, messages: Sequence[dict[str, str]]) -> int | None:
        """How many a conversation has in the chat template; None without a template."""
        if find_template(self._folder) is None:
            return None
        count = self._tokenizer.counting().outputs
        assert count is not None
        return count([render_chat(self._folder, messages)])[0]


def _write_junit(report: SmokeReport, junit: Path | None) -> None:
    if junit is not None:
        junit.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(junit, report.to_junit())
