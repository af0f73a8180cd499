"""`tpforge bench`: load on a server, measured and recorded."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scripts.cli.options.common import COUNT, DEBUG, JSON, SIZE, Amount, Decorator, out_option, together
from scripts.cli.options.connection import connection_options, read_connection
from scripts.cli.output import Output
from tpforge.errors import UsageError
from tpforge.units import counted

if TYPE_CHECKING:
    from scripts.flows.benching.plan import BenchOptions
    from tpforge.measure.runs.run import Slo
    from triton_repo.load.measuring import OnProgress

_SECONDS = Amount(min=0, min_open=True)
_FILE = click.Path(path_type=Path)


def _load() -> Decorator:
    return together(
        click.option(
            "--concurrency", metavar="N,N,...", help="Closed loop: users that each wait.  [default: 1]"
        ),
        click.option("--rate", metavar="R,R,...", help="Open loop: requests a second, whatever happens."),
        click.option(
            "--constant", is_flag=True, help="With --rate: equal gaps between requests, instead of Poisson's."
        ),
        click.option("--trace", type=_FILE, metavar="FILE", help="Open loop: recorded times, JSONL."),
        click.option(
            "--prompts",
            metavar="SET|FILE",
            help="easy, average, long-context, malformed, high-value, multilingual, structured-output, "
            "mixed, several with commas, or a JSONL file.  [default: average]",
        ),
        click.option("--isl", type=SIZE, help="Make prompts of so many tokens instead."),
        click.option("--osl", type=SIZE, help="Ask for answers of exactly so many tokens."),
        click.option("--max-tokens", type=SIZE, help="Most tokens of an answer.  [default: the prompt's]"),
        click.option(
            "--chat-template/--no-chat-template",
            default=None,
            help="Put prompts into the engine's chat template.  [default: where it has one, but for --isl, "
            "--trace and --api openai]",
        ),
        click.option(
            "--stream/--no-stream",
            default=True,
            show_default=True,
            help="Ask for answers in pieces, or whole.",
        ),
        click.option(
            "--sampling",
            multiple=True,
            metavar="NAME=VALUE",
            help="An input of the model, such as temperature=0.7; may be repeated.",
        ),
    )


def _extent() -> Decorator:
    return together(
        click.option(
            "--duration",
            type=_SECONDS,
            help="Seconds of a repeat, and the pass over the prompts that has begun then.  [default: 20]",
        ),
        click.option("--num-requests", type=SIZE, help="End a repeat after so many requests."),
        click.option(
            "--warmup",
            type=Amount(min=0),
            default=2,
            show_default=True,
            help="Seconds before that which are not counted.",
        ),
        click.option("--repeats", type=SIZE, default=3, show_default=True, help="Repeats of every level."),
        click.option("--seed", type=COUNT, default=0, show_default=True, help="Seed of all that is random."),
        click.option(
            "--warm/--no-warm",
            default=None,
            help="Ask each prompt once before.  [default: with --prompts, so that all repeats are alike]",
        ),
        click.option("--slo", metavar="ttft=MS,itl=MS,latency=MS", help="Limits that make a request good."),
    )


def _server() -> Decorator:
    return together(
        click.option(
            "--api",
            type=click.Choice(["triton", "openai", "trtllm-grpc"]),
            default="triton",
            show_default=True,
            help="Triton's gRPC, an OpenAI-compatible server (trtllm-serve, vLLM), or trtllm-serve --grpc.",
        ),
        click.option(
            "--model",
            help="ensemble, tensorrt_llm_bls, tensorrt_llm, llmapi; with --api openai its name there.  "
            "[default: ensemble; with --api openai the only one that the server lists]",
        ),
        click.option("--engine", help="The engine that is served.  [default: as started here]"),
        click.option(
            "--tokenizer", type=_FILE, metavar="DIR", help="Counts tokens.  [default: the engine's]"
        ),
        click.option("--metrics-url", metavar="URL", help="Its metrics.  [default: as started here]"),
    )


@click.command("bench")
@click.argument("url", metavar="[URL]", required=False)
@_load()
@_extent()
@_server()
@click.option(
    "--sweep",
    type=_FILE,
    metavar="RECIPE",
    help="Build, serve and measure every point of a recipe's [sweep] table, one after another.",
)
@click.option("--label", help="What the run is called.  [default: the engine's name]")
@out_option("Folder of the run.  [default: out/NAME/runs/ID]")
@click.option(
    "--join",
    type=_FILE,
    metavar="RUN",
    help="Add the repeats to this run: for engines that are measured in turns.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be asked and what it could see; ask nothing.")
@connection_options()
@JSON
@DEBUG
def command(url: str | None, sweep: Path | None, dry_run: bool, as_json: bool, **values: Any) -> None:
    """Measure a server under load and record it.

    URL is HOST:PORT of the server's gRPC, or http://HOST:PORT with --api openai; without it the server that
    runs here. Writes run.json, samples.jsonl with every request and its answer, metrics.csv, and AIPerf's
    JSON. Ctrl-C keeps what was measured; a sweep that is run again goes on where it stopped.
    """
    from scripts.cli.show_bench import BenchMeter, print_run
    from scripts.flows import bench

    output = Output(as_json=as_json)
    options = read_options(values)
    if options.join is not None and (options.out is not None or options.label is not None):
        raise UsageError("--join adds to a run that has its folder and label; leave out --out and --label")
    if dry_run:
        _preview(output, url, sweep, options)
        return
    meter = BenchMeter(output, options)
    if sweep is not None:
        _refuse_with_sweep(url, options)
        _run_sweep(output, sweep, options, meter=meter, words=command_line(None, values))
        return
    found = bench.bench(url, options, command=command_line(url, values), on_progress=meter, note=output.note)
    if found is None:
        output.note("interrupted; nothing of it is kept")
        raise KeyboardInterrupt
    print_run(output, found)
    if found.run.interrupted:
        raise KeyboardInterrupt
    bench.refuse_unanswered(found)


def _preview(output: Output, url: str | None, sweep: Path | None, options: BenchOptions) -> None:
    from scripts.cli.show_preview import print_preview
    from scripts.flows.benching.preview import preview_bench

    if sweep is not None:
        raise UsageError("--dry-run is of one measurement; leave out --sweep, whose points are all alike")
    print_preview(output, preview_bench(url, options))


def _run_sweep(
    output: Output, path: Path, options: BenchOptions, *, meter: OnProgress, words: tuple[str, ...]
) -> None:
    from scripts.cli.show_bench import print_point, print_sweep
    from scripts.flows.sweep import Telling, refuse_failed, run_sweep
    from tpforge.sweep import read_sweep

    sweep = read_sweep(path)
    output.note(f"{counted(len(sweep.points), 'point')}, listed in {sweep.summary}")
    done = run_sweep(
        sweep,
        options,
        command=(*words, "--sweep", str(path)),
        telling=Telling(
            progress=output.progress,
            note=output.note,
            on_point=lambda item: print_point(output, item),
            on_progress=meter,
        ),
    )
    print_sweep(output, sweep, done)
    refuse_failed(done)


def _refuse_with_sweep(url: str | None, options: BenchOptions) -> None:
    given = {"URL": url, "--engine": options.engine, "--out": options.out, "--label": options.label}
    given["--join"] = options.join
    given[f"--api {options.api}"] = options.api if options.api != "triton" else None
    if wrong := [name for name, value in given.items() if value is not None]:
        raise UsageError(f"--sweep serves its own engines; leave out {', '.join(wrong)}")


def read_options(values: dict[str, Any]) -> BenchOptions:
    """The options as the record that `bench` takes.

    Raises:
        UsageError: a list of numbers, a limit or a sampling value cannot be read.
    """
    from scripts.flows.benching.plan import DEFAULT_MODEL, BenchOptions

    names = ("deadline", "headers", "tls", "tls_root", "tls_key", "tls_cert")
    connection = read_connection(**{name: values[name] for name in names})
    kept = (
        "api",
        "constant",
        "trace",
        "prompts",
        "isl",
        "osl",
        "max_tokens",
        "chat_template",
        "stream",
    )
    more = ("num_requests", "seed", "warm", "engine", "tokenizer", "metrics_url", "label", "out", "join")
    return BenchOptions(
        **{name: values[name] for name in (*kept, *more)},
        model=values["model"] or ("" if values["api"] == "openai" else DEFAULT_MODEL),
        concurrency=tuple(int(number) for number in _numbers(values["concurrency"], "--concurrency", int)),
        rates=tuple(_numbers(values["rate"], "--rate", float)),
        sampling=_sampling(values["sampling"]),
        duration_s=values["duration"],
        warmup_s=values["warmup"],
        num_repeats=values["repeats"],
        slo=_slo(values["slo"]),
        deadline_s=connection.deadline_s,
        headers=connection.headers,
        tls=connection.tls,
    )


def command_line(url: str | None, values: dict[str, Any]) -> tuple[str, ...]:
    """The command that does the same again; where it would write is left out, and so are headers' values."""
    words = ["tpforge", "bench", *([url] if url else [])]
    for name, value in values.items():
        option = f"--{ {'headers': 'header'}.get(name, name).replace('_', '-') }"
        if name in ("out", "join") or value is None or value is False or value == ():
            if name in ("stream", "warm", "chat_template") and value is False:
                words.append(f"--no-{name.replace('_', '-')}")
            continue
        if value is True:
            words += [] if name == "stream" else [option]
        elif name == "headers":
            words += [word for pair in value for word in (option, f"{pair.partition('=')[0]}=...")]
        elif isinstance(value, tuple):
            words += [word for item in value for word in (option, str(item))]
        else:
            words += [option, str(value).removesuffix(".0")]
    return tuple(words)


def _numbers(text: str | None, option: str, kind: type[int] | type[float]) -> list[float]:
    try:
        numbers = [kind(part) for part in text.split(",")] if text else []
    except ValueError:
        raise UsageError(f"{option} {text}: expected numbers with commas, such as 1,2,4") from None
    if not all(map(math.isfinite, numbers)):
        raise UsageError(f"{option} {text}: expected finite numbers with commas, such as 1,2,4")
    return numbers


def _slo(text: str | None) -> Slo | None:
    from tpforge.measure.runs.run import Slo

    if text is None:
        return None
    names = {"ttft": "ttft_ms", "itl": "itl_ms", "latency": "request_latency_ms"}
    limits: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            limits[names[name.strip()]] = float(value)
        except (KeyError, ValueError):
            raise UsageError(f"--slo {part}: expected ttft=MS, itl=MS or latency=MS") from None
        if not 0 < limits[names[name.strip()]] < math.inf:
            raise UsageError(f"--slo {part}: a limit is a number of milliseconds above zero")
    return Slo(**limits)


def _sampling(pairs: tuple[str, ...]) -> dict[str, bool | int | float | str]:
    import json

    values: dict[str, bool | int | float | str] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"--sampling {pair}: expected NAME=VALUE")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        values[name] = value if isinstance(value, bool | int | float | str) else text
    return values
