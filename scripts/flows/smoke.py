"""The smoke test of a server, with what is known here of its engine. Composes engines and triton_repo.

It prints nothing; the checks are `triton_repo.smoke`, one room per protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from engines.chat import find_template, render_chat
from scripts.flows.serve import find_openai_server, find_server, find_trtllm_grpc
from tpforge.outputs.atomic import refuse_unwritable, write_atomic
from tpforge.outputs.places import Places, find_engine

if TYPE_CHECKING:
    from tpforge.manifest import Manifest
    from triton_repo.smoke import CheckResult, SmokeOptions, SmokeReport

Api = Literal["triton", "openai", "trtllm-grpc"]
"""Triton's gRPC, OpenAI's HTTP, or the gRPC of trtllm-serve."""


@dataclass(frozen=True)
class SmokeRequest:
    """Which server is tested over which protocol, and what is said of it besides.

    Without `url` it is the one that runs here. The engine, given or known from that server, brings limits
    and golden answers. `model` and `metrics_url` are of OpenAI's API: the model to ask, and where requests
    that run are counted when the server itself does not tell.
    """

    url: str | None = None
    api: Api = "triton"
    engine: str | None = None
    model: str | None = None
    metrics_url: str | None = None
    junit: Path | None = None


def smoke_server(
    asked: SmokeRequest, *, options: SmokeOptions | None = None, on_result: Callable[[CheckResult], None]
) -> SmokeReport:
    """Run every check of the protocol against the server; `on_result` is told of each as it ends.

    Raises:
        UsageError: no server was named and none, or several, run; it does not speak the protocol, or lists
            several models and none is named.
        InputRefused: the engine is none.
    """
    from triton_repo.smoke import SmokeOptions

    if asked.junit is not None:
        refuse_unwritable(asked.junit)
    run = {"triton": _smoke_triton, "openai": _smoke_openai, "trtllm-grpc": _smoke_trtllm_grpc}[asked.api]
    report = run(asked, options or SmokeOptions(), on_result)
    if asked.junit is not None:
        write_atomic(asked.junit, report.to_junit())
    return report


def _smoke_triton(
    asked: SmokeRequest, options: SmokeOptions, on_result: Callable[[CheckResult], None]
) -> SmokeReport:
    from triton_repo.client.other_answers import recognized
    from triton_repo.smoke import run_smoke

    url, metrics_url, places = find_server(asked.url)
    manifest = _manifest(asked, places)
    with recognized(url, tls=options.tls):
        return run_smoke(
            url, manifest=manifest, metrics_url=metrics_url, on_result=on_result, options=options
        )


def _smoke_openai(
    asked: SmokeRequest, options: SmokeOptions, on_result: Callable[[CheckResult], None]
) -> SmokeReport:
    from triton_repo.smoke.openai import run_openai_smoke

    url, places = find_openai_server(asked.url)
    places = _places(asked, places)
    return run_openai_smoke(
        url,
        model=asked.model,
        manifest=_manifest(asked, places),
        tokens=EngineTokens(places.engine / "tokenizer") if places is not None else None,
        metrics_urls=(asked.metrics_url,) if asked.metrics_url is not None else (),
        on_result=on_result,
        options=options,
    )


def _smoke_trtllm_grpc(
    asked: SmokeRequest, options: SmokeOptions, on_result: Callable[[CheckResult], None]
) -> SmokeReport:
    from triton_repo.smoke.smg import run_smg_smoke

    url, places = find_trtllm_grpc(asked.url)
    return run_smg_smoke(url, manifest=_manifest(asked, places), on_result=on_result, options=options)


def _places(asked: SmokeRequest, found: Places | None) -> Places | None:
    """Those of the engine that was given, else of the one that the running server has."""
    return found if asked.engine is None else find_engine(asked.engine)


def _manifest(asked: SmokeRequest, found: Places | None) -> Manifest | None:
    from engines.store import read_manifest

    places = _places(asked, found)
    return None if places is None else read_manifest(places.engine)


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
