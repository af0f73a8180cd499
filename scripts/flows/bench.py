"""A measurement from the options of `tpforge bench` to a folder: prompts, load, telemetry, facts, records.

It prints nothing; what runs is told to `on_progress`. `sweep` repeats it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from engines.chat import chat_prompt
from scripts.flows.serve import find_server
from tpforge.atomic import os_errors, refuse_existing
from tpforge.errors import EnvironmentUnusable, UsageError
from tpforge.manifest import Manifest
from tpforge.measure.engine_facts import engine_facts, environment_facts
from tpforge.measure.exports import export_texts
from tpforge.measure.joining import join_runs, refuse_different
from tpforge.measure.prompts import Prompt, hash_prompts
from tpforge.measure.run import Fact, Run, Slo, Workload, read_run, read_samples, write_run
from tpforge.places import OUT, Places, find_engine
from tpforge.progress import Progress
from triton_repo.load.run_prompts import BenchTokenizer, PromptChoice, choose_prompts, trace_prompts
from triton_repo.load.server_facts import openai_facts, triton_facts

if TYPE_CHECKING:
    from triton_repo.client.client import Tls
    from triton_repo.load.exchange import Target
    from triton_repo.load.measuring import Measured, OnProgress
    from triton_repo.load.schedule import Load, Trace

Scalar = bool | int | float | str
DEFAULT_DURATION_S = 20.0


@dataclass(frozen=True)
class BenchOptions:
    """What is measured and how; the words of `tpforge bench --help`."""

    api: Literal["triton", "openai"] = "triton"
    model: str = "ensemble"
    concurrency: tuple[int, ...] = ()
    rates: tuple[float, ...] = ()
    constant: bool = False
    trace: Path | None = None
    prompts: str | None = None
    isl: int | None = None
    osl: int | None = None
    max_tokens: int | None = None
    chat_template: bool = False
    stream: bool = True
    sampling: Mapping[str, Scalar] = field(default_factory=dict)
    duration_s: float | None = None
    num_requests: int | None = None
    warmup_s: float = 2.0
    num_repeats: int = 3
    seed: int = 0
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
class Bench:
    """A run with the folder that it was written to."""

    folder: Path
    run: Run


def bench(
    url: str | None,
    options: BenchOptions,
    *,
    command: tuple[str, ...],
    on_progress: OnProgress | None = None,
    note: Progress,
) -> Bench | None:
    """Measure the server at `url`, else the one that runs here, and write the run; None when nothing was.

    With `join` the repeats are added to the run that lies there, unless they were broken off.

    Raises:
        UsageError: options that exclude each other, or that need what is not known.
        EnvironmentUnusable: nothing answers.
        InputRefused: prompts, trace or tokenizer are wrong, the run's folder exists, or the run to join
            measured something else.
    """
    from triton_repo.load.machine import machine_facts
    from triton_repo.load.measuring import measure

    if options.out is not None:
        refuse_existing(options.out, force=False)
    earlier = read_run(options.join) if options.join is not None else None
    server = find(url, options)
    tokenizer = _tokenizer(options, server)
    loads, trace = _loads(options)
    choice = _choice(options, server)
    prompts = trace_prompts(trace, choice, tokenizer) if trace else choose_prompts(choice, tokenizer)
    target, known = _target(server, options, tokenizer)
    engine = engine_facts(server.manifest)
    environment = environment_facts(machine_facts(server.host), known)
    if earlier is not None:
        refuse_different(earlier, earlier.model_copy(update={"engine": engine, "environment": environment}))
        options = replace(options, seed=earlier.workload.seed + earlier.workload.num_repeats)
    plan = _plan(options, loads, prompts, tokenizer)
    measured = measure(target, plan, recorder=_recorder(server, options), on_progress=on_progress)
    if not measured.levels and not measured.interrupted:
        raise UsageError("; ".join(measured.notes))
    if not measured.levels or (measured.interrupted and earlier is not None):
        return None
    begun = measured.levels[0].repeats[0].started
    label = options.label or (server.manifest.name if server.manifest else _slug(server.url))
    folder = options.out or _folder(server, begun=begun, label=label)
    run = Run(
        id=folder.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        label=label,
        command=command,
        interrupted=measured.interrupted,
        engine=engine,
        environment=environment,
        workload=_workload(options, server, choice, prompts, measured, trace),
        levels=measured.levels,
        notes=(*measured.notes, *_repeated_prompts(measured, prompts)),
    )
    samples = measured.samples
    if earlier is not None and options.join is not None:
        folder = options.join if options.join.is_dir() else options.join.parent
        run, samples = join_runs(earlier, read_samples(folder), run, samples)
    write_run(folder, run, samples, exports=export_texts(run), force=earlier is not None)
    return Bench(folder, run)


def find(url: str | None, options: BenchOptions) -> Server:
    """The server to measure, and its engine where it is given or known.

    Raises:
        UsageError: no server was named and none, or several, run.
    """
    from engines.store import read_manifest

    if options.api == "openai":
        if url is None:
            raise UsageError("--api openai needs the server's URL, such as http://localhost:8000")
        grpc_url, metrics_url, places = url, None, None
    else:
        grpc_url, metrics_url, places = find_server(url)
    if options.engine is not None:
        places = find_engine(options.engine)
    manifest = read_manifest(places.engine) if places is not None else None
    return Server(grpc_url, options.metrics_url or metrics_url, places, manifest)


def _target(
    server: Server, options: BenchOptions, tokenizer: BenchTokenizer | None
) -> tuple[Target, dict[str, Fact]]:
    """The target for the protocol, and what the server says of itself."""
    if options.api == "openai":
        from triton_repo.load.openai_target import OpenAiOptions, OpenAiTarget

        facts = openai_facts(server.url)
        roots = options.tls.root_certificates if options.tls else None
        asked = OpenAiOptions(
            deadline_s=options.deadline_s,
            streaming=options.stream,
            chat=options.chat_template,
            sampling=options.sampling,
            headers=options.headers,
            root_certificates=str(roots) if roots else None,
        )
        return OpenAiTarget(server.url, options.model, options=asked), facts
    from triton_repo.client.client import Client
    from triton_repo.load.triton_target import TritonOptions, TritonTarget, describe_model

    with Client(server.url, deadline_s=10, headers=options.headers, tls=options.tls) as client:
        model = describe_model(client, options.model)
        facts = triton_facts(client, model.name)
    how = TritonOptions(
        deadline_s=options.deadline_s,
        streaming=options.stream,
        sampling=options.sampling,
        headers=options.headers,
        tls=options.tls,
    )
    encode = tokenizer.encode if tokenizer is not None else None
    return TritonTarget(server.url, model, options=how, encode=encode), facts


def _loads(options: BenchOptions) -> tuple[tuple[Load, ...], Trace | None]:
    from triton_repo.load.schedule import loads, parse_trace

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
    if options.chat_template and options.api == "triton":
        if server.places is None:
            raise UsageError("--chat-template needs the engine's chat template; name it with --engine")
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


def _plan(
    options: BenchOptions,
    loads: tuple[Load, ...],
    prompts: tuple[Prompt, ...],
    tokenizer: BenchTokenizer | None,
) -> Any:
    from triton_repo.load.measuring import Plan
    from triton_repo.load.reading import Counting
    from triton_repo.load.runner import Extent

    return Plan(
        loads=loads,
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
    )


def duration(options: BenchOptions) -> float | None:
    """How long a repeat may measure; None is as long as its requests, or its trace, last."""
    if options.duration_s is None and options.num_requests is None and options.trace is None:
        return DEFAULT_DURATION_S
    return options.duration_s


def _recorder(server: Server, options: BenchOptions) -> Any:
    from triton_repo.load.machine import is_local
    from triton_repo.load.telemetry import Recorder

    return Recorder(metrics_url=server.metrics_url, is_local=is_local(server.host))


def _workload(
    options: BenchOptions,
    server: Server,
    choice: PromptChoice,
    prompts: tuple[Prompt, ...],
    measured: Measured,
    trace: Trace | None,
) -> Workload:
    is_open = bool(options.rates or trace)
    arrival: Any = "constant" if options.constant else "poisson"
    return Workload(
        target=options.api,
        model=options.model,
        url=server.url,
        loop="open" if is_open else "closed",
        arrival="trace" if trace else arrival if options.rates else "concurrency",
        trace=trace.file if trace else None,
        prompts=choice.name,
        prompts_sha256=hash_prompts(prompts),
        num_prompts=len(prompts),
        isl=options.isl,
        osl=options.osl,
        duration_s=duration(options) or 0.0,
        num_requests=options.num_requests,
        warmup_s=options.warmup_s,
        num_repeats=options.num_repeats,
        deadline_s=options.deadline_s,
        seed=options.seed,
        streaming=options.stream,
        sampling=dict(options.sampling),
        slo=options.slo,
        token_source=measured.token_source,
    )


def _tokenizer(options: BenchOptions, server: Server) -> BenchTokenizer | None:
    if options.tokenizer is not None:
        return BenchTokenizer(options.tokenizer)
    folder = server.places.engine / "tokenizer" if server.places is not None else None
    has_one = folder is not None and (folder / "tokenizer.json").is_file()
    return BenchTokenizer(folder) if folder is not None and has_one else None


def _folder(server: Server, *, begun: str, label: str) -> Path:
    runs = server.places.runs if server.places is not None else OUT / _slug(server.url) / "runs"
    stamp = re.sub(r"[-:]|\.\d+|\+.*", "", begun).replace("T", "-")
    name = f"{stamp}-{_slug(label)}"
    candidates = [name, *(f"{name}-{number}" for number in range(2, 100))]
    return next(runs / candidate for candidate in candidates if not (runs / candidate).exists())


def _repeated_prompts(measured: Measured, prompts: tuple[Prompt, ...]) -> tuple[str, ...]:
    most = max((repeat.num_requests for level in measured.levels for repeat in level.repeats), default=0)
    if most <= len(prompts):
        return ()
    return (
        f"{len(prompts)} prompts were asked up to {-(-most // len(prompts))} times a repeat: a server that "
        "keeps the KV cache of prompts answers them faster than new ones",
    )


def _slug(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", re.sub(r"^\w+://", "", text)).strip("-")


def refuse_unanswered(found: Bench) -> None:
    """Raise when no request at all got a whole answer.

    Raises:
        EnvironmentUnusable: names the errors of the first level.
    """
    levels = found.run.levels
    if any(level.num_failed < level.num_requests for level in levels):
        return
    counted = ", ".join(f"{count} {kind}" for kind, count in levels[0].errors.items())
    raise EnvironmentUnusable(
        f"no request got a whole answer ({counted}); the messages are in {found.folder}/samples.jsonl"
    )
