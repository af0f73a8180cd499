"""A measurement from the options of `tpforge bench` to a folder: prompts, load, telemetry, facts, records.

It prints nothing; what runs is told to `on_progress`. `sweep` repeats it.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from scripts.flows.benching.plan import (
    Asked,
    BenchOptions,
    Server,
    duration,
    plan_bench,
    uses_chat_template,
)
from tpforge.errors import EnvironmentUnusable, UsageError
from tpforge.measure.runs.engine_facts import engine_facts, environment_facts
from tpforge.measure.runs.exports import export_texts
from tpforge.measure.runs.joining import join_runs, refuse_different
from tpforge.measure.runs.prompts import Prompt, hash_prompts
from tpforge.measure.runs.run import Fact, Run, Workload, read_run, read_samples, write_run
from tpforge.outputs.atomic import claimed, refuse_existing
from tpforge.outputs.places import OUT
from tpforge.progress import Progress
from triton_repo.load.run_prompts import BenchTokenizer
from triton_repo.load.server_facts import openai_facts, triton_facts

if TYPE_CHECKING:
    from triton_repo.load.exchange import Target, TokenSource
    from triton_repo.load.measuring import Measured, OnProgress, Plan
    from triton_repo.load.run_prompts import BenchTokenizer


PromptUse = Literal["new", "warm", "repeated"]


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

    With `join` the repeats are added to the run that lies there, unless they were broken off. The folder is
    claimed before the first request, so that nothing is measured that has no place.

    Raises:
        UsageError: options that exclude each other, or that need what is not known.
        EnvironmentUnusable: nothing answers, or the run's folder cannot be written or is another's.
        InputRefused: prompts, trace or tokenizer are wrong, the run's folder exists, or the run to join
            measured something else.
    """
    with ExitStack() as held:
        earlier = None
        if options.join is not None:
            folder = _joined_folder(options.join)
            held.enter_context(claimed(folder))
            earlier = read_run(folder)
            options = replace(options, seed=earlier.workload.seed + earlier.workload.num_repeats)
        asked = plan_bench(url, options)
        if not options.model:
            options = replace(options, model=_only_model(asked.server, options))
        if earlier is None:
            folder = held.enter_context(_new_folder(asked.server, options))
        return _bench(
            asked,
            options,
            folder=folder,
            earlier=earlier,
            command=command,
            on_progress=on_progress,
            note=note,
        )


def _bench(
    asked: Asked,
    options: BenchOptions,
    *,
    folder: Path,
    earlier: Run | None,
    command: tuple[str, ...],
    on_progress: OnProgress | None,
    note: Progress,
) -> Bench | None:
    from triton_repo.load.machine import machine_facts
    from triton_repo.load.measuring import measure

    server = asked.server
    if options.chat_template is None and uses_chat_template(options, server):
        note("prompts are put into the engine's chat template; --no-chat-template sends them as they are")
    target, known = _target(server, options, asked.tokenizer)
    engine = engine_facts(server.manifest)
    environment = environment_facts(machine_facts(server.host), known)
    if earlier is not None:
        facts = {"engine": engine, "environment": environment}
        refuse_different(earlier, _as_asked(earlier, asked, options).model_copy(update=facts))
    measured = measure(target, asked.plan, recorder=_recorder(server), on_progress=on_progress)
    if not measured.levels and not measured.interrupted:
        raise UsageError("; ".join(measured.notes))
    if not measured.levels or (measured.interrupted and earlier is not None):
        return None
    run = Run(
        id=folder.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        label=_label(server, options),
        command=command,
        interrupted=measured.interrupted,
        engine=engine,
        environment=environment,
        workload=_workload(
            options, asked, token_source=measured.token_source, prompt_use=_prompt_use(asked.plan, measured)
        ),
        levels=measured.levels,
        notes=(*measured.notes, *_prompt_notes(asked, measured)),
    )
    samples = measured.samples
    if earlier is not None:
        run, samples = join_runs(earlier, read_samples(folder), run, samples)
    write_run(folder, run, samples, exports=export_texts(run), force=earlier is not None)
    return Bench(folder, run)


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
            chat=bool(options.chat_template),
            sampling=options.sampling,
            headers=options.headers,
            root_certificates=str(roots) if roots else None,
        )
        return OpenAiTarget(server.url, options.model, options=asked), facts
    if options.api == "trtllm-grpc":
        return _smg_target(server, options, tokenizer)
    from triton_repo.client.client import Client
    from triton_repo.client.other_answers import recognized
    from triton_repo.load.triton_target import TritonOptions, TritonTarget, describe_model

    with (
        recognized(server.url, tls=options.tls),
        Client(server.url, deadline_s=10, headers=options.headers, tls=options.tls) as client,
    ):
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


def _smg_target(
    server: Server, options: BenchOptions, tokenizer: BenchTokenizer | None
) -> tuple[Target, dict[str, Fact]]:
    """The target of trtllm-serve's gRPC, which takes token ids.

    Raises:
        UsageError: there is no tokenizer to make them.
        EnvironmentUnusable: nothing answers.
    """
    from triton_repo.client.smg import SmgClient
    from triton_repo.load.server_facts import smg_facts
    from triton_repo.load.smg_target import SmgOptions, SmgTarget

    if tokenizer is None:
        raise UsageError("--api trtllm-grpc takes token ids: give the tokenizer with --engine or --tokenizer")
    with SmgClient(server.url, deadline_s=10, headers=options.headers, tls=options.tls) as client:
        facts = smg_facts(client)
    asked = SmgOptions(
        deadline_s=options.deadline_s,
        streaming=options.stream,
        sampling=options.sampling,
        headers=options.headers,
        tls=options.tls,
    )
    target = SmgTarget(server.url, encode=tokenizer.encode, decode=tokenizer.decode, options=asked)
    return target, facts


def _recorder(server: Server) -> Any:
    from triton_repo.load.machine import is_local
    from triton_repo.load.telemetry import Recorder

    return Recorder(metrics_url=server.metrics_url, is_local=is_local(server.host))


def _only_model(server: Server, options: BenchOptions) -> str:
    """The model that an OpenAI-compatible server lists.

    Raises:
        UsageError: it lists none, or several.
        EnvironmentUnusable: nothing answers.
    """
    from triton_repo.client.openai import OpenAiClient

    return OpenAiClient(server.url, 10.0, options.headers).only_model()


def _as_asked(earlier: Run, asked: Asked, options: BenchOptions) -> Run:
    """The run to join as if it had measured what is asked now, as far as that is known before."""
    before = earlier.workload
    workload = _workload(options, asked, token_source=before.token_source, prompt_use=before.prompt_use)
    levels = tuple(
        level.model_copy(update={"name": load.name})
        for load in asked.plan.loads
        for level in earlier.levels[:1]
    )
    return earlier.model_copy(update={"workload": workload, "levels": levels})


def _workload(
    options: BenchOptions, asked: Asked, *, token_source: TokenSource, prompt_use: PromptUse
) -> Workload:
    trace, plan = asked.trace, asked.plan
    is_open = bool(options.rates or trace)
    arrival: Any = "constant" if options.constant else "poisson"
    return Workload(
        target=options.api,
        model=options.model,
        url=asked.server.url,
        loop="open" if is_open else "closed",
        arrival="trace" if trace else arrival if options.rates else "concurrency",
        trace=trace.file if trace else None,
        prompts=asked.choice.name,
        prompts_sha256=hash_prompts(_what_is_asked(plan, options)),
        num_prompts=len(plan.prompts),
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
        token_source=token_source,
        prompt_use=prompt_use,
    )


def _joined_folder(join: Path) -> Path:
    """The folder of the run to join, which is there."""
    read_run(join)
    return join if join.is_dir() else join.parent


@contextmanager
def _new_folder(server: Server, options: BenchOptions) -> Iterator[Path]:
    """The folder of a new run, claimed: as given, else one that no other run has."""
    if options.out is not None:
        refuse_existing(options.out, force=False)
        with claimed(options.out):
            yield options.out
        return
    runs = server.places.runs if server.places is not None else OUT / _slug(server.url) / "runs"
    name = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{_slug(_label(server, options))}"
    for number in itertools.count(1):
        folder = runs / (name if number == 1 else f"{name}-{number}")
        claim = ExitStack()
        try:
            claim.enter_context(claimed(folder))
        except EnvironmentUnusable:
            # Another run that began in this second has it; a place that cannot be written has no such lock.
            if not folder.with_name(f".{folder.name}.claim").exists():
                raise
            continue
        with claim:
            if not folder.exists():
                yield folder
                return


def _label(server: Server, options: BenchOptions) -> str:
    return options.label or (server.manifest.name if server.manifest else _slug(server.url))


def _what_is_asked(plan: Plan, options: BenchOptions) -> tuple[Prompt, ...]:
    """The prompts; of those that are new in every repeat, what they are made to be."""
    if plan.fresh is None:
        return plan.prompts
    first = plan.prompts[0]
    made = {
        "id": "made",
        "text": f"made of {options.isl} tokens, chat template: {bool(options.chat_template)}",
    }
    return (first.model_copy(update=made),)


def _prompt_use(plan: Plan, measured: Measured) -> PromptUse:
    """In which state a server that keeps prompts found those of the run."""
    if plan.warm:
        return "warm"
    times_asked = Counter((sample.prompt_id) for sample in measured.samples)
    return "new" if max(times_asked.values(), default=1) == 1 else "repeated"


def _prompt_notes(asked: Asked, measured: Measured) -> tuple[str, ...]:
    if asked.trace is not None or _prompt_use(asked.plan, measured) != "repeated":
        return ()
    instead = "--warm asks each once before"
    if asked.plan.fresh is not None:
        instead = "with --num-requests there are as many new ones as requests"
    return (
        f"{len(asked.plan.prompts)} prompts were asked again and again: a server that keeps the KV cache of "
        f"prompts answers the first time slower than later; {instead}",
    )


def _slug(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", re.sub(r"^\w+://", "", text)).strip("-")


def refuse_unanswered(found: Bench) -> None:
    """Raise when most requests got no whole answer: what was measured is a failure.

    Raises:
        EnvironmentUnusable: names how many, and their errors.
    """
    levels = found.run.levels
    num_failed = sum(level.num_failed for level in levels)
    num_requests = sum(level.num_requests for level in levels)
    if 2 * num_failed <= num_requests:
        return
    kinds = Counter[str]()
    for level in levels:
        kinds.update({str(kind): count for kind, count in level.errors.items()})
    said = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    what = "no request got a whole answer"
    if num_failed < num_requests:
        what = f"{num_failed} of {num_requests} requests got no whole answer"
    raise EnvironmentUnusable(f"{what} ({said}); the messages are in {found.folder}/samples.jsonl")
