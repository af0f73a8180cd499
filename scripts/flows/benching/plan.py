"""What `tpforge bench` is asked to measure: from its options to a plan of loads and prompts.

It sends nothing; `bench` carries the plan out, `preview` tells what it would be.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from engines.chat import chat_prompt, find_template
from scripts.flows.serve import find_openai_server, find_server, find_trtllm_grpc
from tpforge.errors import UsageError
from tpforge.extras import has_extra
from tpforge.manifest import Limits, Manifest
from tpforge.measure.runs.prompts import Prompt
from tpforge.measure.runs.run import Slo
from tpforge.outputs.atomic import os_errors
from tpforge.outputs.places import Places, find_engine
from triton_repo.load.counting import Counting
from triton_repo.load.measuring import Plan
from triton_repo.load.run_prompts import (
    BenchTokenizer,
    PromptChoice,
    choose_prompts,
    fresh_prompts,
    trace_prompts,
)
from triton_repo.load.runner import Extent
from triton_repo.load.schedule import Load, Trace, loads, parse_trace

if TYPE_CHECKING:
    from triton_repo.client.client import Tls

Scalar = bool | int | float | str
DEFAULT_DURATION_S = 20.0
DEFAULT_MODEL = "ensemble"


@dataclass(frozen=True)
class BenchOptions:
    """What is measured and how; the words of `tpforge bench --help`.

    An empty `model` of an OpenAI-compatible server is the only one that it lists.
    """

    api: Literal["triton", "openai", "trtllm-grpc"] = "triton"
    model: str = DEFAULT_MODEL
    concurrency: tuple[int, ...] = ()
    rates: tuple[float, ...] = ()
    constant: bool = False
    trace: Path | None = None
    prompts: str | None = None
    isl: int | None = None
    osl: int | None = None
    max_tokens: int | None = None
    chat_template: bool | None = None
    stream: bool = True
    sampling: Mapping[str, Scalar] = field(default_factory=dict)
    duration_s: float | None = None
    num_requests: int | None = None
    warmup_s: float = 2.0
    num_repeats: int = 3
    seed: int = 0
    warm: bool | None = None
    slo: Slo | None = None
    deadline_s: float = 60.0
    headers: Mapping[str, str] = field(default_factory=dict)
    tls: Tls | None = None
    engine: str | None = None
    tokenizer: Path | None = None
    metrics_url: str | None = None
    label: str | None = None
    out: Path | None = None
    join: Path | None = None


@dataclass(frozen=True)
class Server:
    """Where the load goes, and what is known of it; `places` None is an engine that is not known here."""

    url: str
    metrics_url: str | None
    places: Places | None
    manifest: Manifest | None

    @property
    def host(self) -> str:
        """The name or address of the server's machine."""
        bare = re.sub(r"^\w+://", "", self.url).partition("/")[0]
        return bare.rpartition(":")[0] if ":" in bare else bare


@dataclass(frozen=True)
class Asked:
    """A plan, with what it was made of."""

    server: Server
    tokenizer: BenchTokenizer | None
    trace: Trace | None
    choice: PromptChoice
    plan: Plan


def plan_bench(url: str | None, options: BenchOptions) -> Asked:
    """The server and the plan that the options ask for.

    Raises:
        UsageError: options that exclude each other, or that need what is not known.
        InputRefused: prompts, trace or tokenizer are wrong.
    """
    server = find(url, options)
    if server.manifest is not None:
        refuse_lengths(options, server.manifest.limits)
    tokenizer = _tokenizer(options, server)
    chosen, trace = _loads(options)
    choice = _choice(options, server)
    return Asked(server, tokenizer, trace, choice, _plan(options, chosen, trace, choice, tokenizer))


def refuse_lengths(options: BenchOptions, limits: Limits) -> None:
    """Refuse lengths of which the engine would refuse every request, before prompts are made of them.

    Raises:
        UsageError: names the limit.
    """
    isl, osl = options.isl or 1, options.osl or 1
    if isl > limits.max_input_len:
        raise UsageError(
            f"--isl {isl}: the engine takes prompts of at most {limits.max_input_len} tokens (max_input_len)"
        )
    if isl + osl > limits.max_seq_len:
        asked = " ".join(
            f"{name} {value}" for name, value in (("--isl", options.isl), ("--osl", options.osl)) if value
        )
        raise UsageError(
            f"{asked}: prompt and answer have at most {limits.max_seq_len} tokens together in this engine "
            "(max_seq_len)"
        )


def find(url: str | None, options: BenchOptions) -> Server:
    """The server to measure, and its engine where it is given or known.

    Raises:
        UsageError: no server was named and none, or several, run.
    """
    from engines.store import read_manifest

    if options.api == "openai":
        grpc_url, places = find_openai_server(url)
        metrics_url = None
    elif options.api == "trtllm-grpc":
        grpc_url, places = find_trtllm_grpc(url)
        metrics_url = None
    else:
        grpc_url, metrics_url, places = find_server(url)
    if options.engine is not None:
        places = find_engine(options.engine)
    manifest = read_manifest(places.engine) if places is not None else None
    return Server(grpc_url, options.metrics_url or metrics_url, places, manifest)


def duration(options: BenchOptions) -> float | None:
    """How long a repeat may measure; None is as long as its requests, or its trace, last."""
    if options.duration_s is None and options.num_requests is None and options.trace is None:
        return DEFAULT_DURATION_S
    return options.duration_s


def _loads(options: BenchOptions) -> tuple[tuple[Load, ...], Trace | None]:
    trace = None
    if options.trace is not None:
        if not options.trace.is_file():
            raise UsageError(f"{options.trace}: no such trace")
        with os_errors(options.trace):
            text = options.trace.read_text("utf-8", errors="replace")
        trace = parse_trace(text, file=options.trace.name)
    chosen = loads(
        concurrency=options.concurrency, rates=options.rates, constant=options.constant, trace=trace
    )
    return chosen, trace


def _choice(options: BenchOptions, server: Server) -> PromptChoice:
    in_chat = None
    if uses_chat_template(options, server):
        assert server.places is not None
        in_chat = partial(chat_prompt, server.places.engine / "tokenizer")
    return PromptChoice(
        given=options.prompts,
        isl=options.isl,
        osl=options.osl,
        max_tokens=options.max_tokens,
        count=options.num_requests,
        in_chat=in_chat,
        seed=options.seed,
    )


def uses_chat_template(options: BenchOptions, server: Server) -> bool:
    """Whether prompts are put into the engine's chat template: as asked, else where it has one.

    Prompts of a given length, and those of a trace, are sent as they are unless it is asked for.

    Raises:
        UsageError: it is asked for, and the engine is not known.
    """
    if options.api == "openai" or options.chat_template is False:
        return False
    if options.chat_template:
        if server.places is None:
            raise UsageError("--chat-template needs the engine's chat template; name it with --engine")
        return True
    if server.places is None or options.isl is not None or options.trace is not None:
        return False
    return find_template(server.places.engine / "tokenizer") is not None and has_extra("chat")


def _plan(
    options: BenchOptions,
    chosen: tuple[Load, ...],
    trace: Trace | None,
    choice: PromptChoice,
    tokenizer: BenchTokenizer | None,
) -> Plan:
    prompts = trace_prompts(trace, choice, tokenizer) if trace else choose_prompts(choice, tokenizer)
    is_new = choice.isl is not None and trace is None
    if is_new and options.warm:
        raise UsageError("--isl asks new prompts each time, which cannot be warm; leave out --warm")

    def fresh(level: int, repeat: int) -> tuple[Prompt, ...]:
        return fresh_prompts(choice, tokenizer, part=f"{choice.seed + repeat}-{level}")

    return Plan(
        loads=chosen,
        prompts=prompts,
        extent=Extent(
            warmup_s=options.warmup_s,
            duration_s=duration(options),
            num_requests=options.num_requests,
            seed=options.seed,
        ),
        num_repeats=options.num_repeats,
        slo=options.slo,
        counting=tokenizer.counting() if tokenizer is not None else Counting(),
        fresh=fresh if is_new else None,
        warm=options.warm if options.warm is not None else not is_new and trace is None,
    )


def _tokenizer(options: BenchOptions, server: Server) -> BenchTokenizer | None:
    if options.tokenizer is not None:
        return BenchTokenizer(options.tokenizer)
    folder = server.places.engine / "tokenizer" if server.places is not None else None
    has_one = folder is not None and (folder / "tokenizer.json").is_file()
    return BenchTokenizer(folder) if folder is not None and has_one else None
