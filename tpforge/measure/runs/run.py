"""run.json: a measurement that others can repeat, with what it was made on; and its folder.

It measures nothing. `samples.jsonl` beside it holds every request; `exports` writes the other formats.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, JsonValue, ValidationError, model_validator

from tpforge.errors import InputRefused
from tpforge.measure.runs.samples import ErrorKind, MetricSummary, Sample
from tpforge.outputs.atomic import atomic_folder, os_errors, write_into
from tpforge.outputs.recognized import instead
from tpforge.records import Record

RUN_NAME, SAMPLES_NAME = "run.json", "samples.jsonl"

_OLDER = re.compile(r'"schema_version":\s*1\b')

ENGINE_FIELDS = (
    "name", "model", "revision", "license", "weights_sha256", "precision", "quantization", "tp", "pp",
    "moe_ep", "runtime", "runtime_version", "max_batch_size", "max_input_len", "max_seq_len",
)  # fmt: skip
"""The facts of the engine, each a variable of a comparison; tp, pp, moe_ep and the limits are ints."""

ENVIRONMENT_FIELDS = (
    "server", "server_version", "container", "gpu", "num_gpus", "driver", "cuda", "nccl", "topology",
    "cpu", "num_cpus", "memory_bytes", "host_load", "operating_system", "python", "tpforge_version",
    "batch_settings",
)  # fmt: skip
"""The facts of the machine and the server."""


CountedBy = Literal["share", "arrival"]
"""How a request that crosses an edge of its window counts: `window` says what each means."""


def _time(text: str) -> str:
    """Raises ValueError where it is no time."""
    datetime.fromisoformat(text)
    return text


class Fact(Record):
    """A value, or why it could not be read; exactly one of them."""

    value: JsonValue = None
    unavailable_because: str | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.value is None) == (self.unavailable_because is None):
            raise ValueError("a fact has either a value or a reason for its absence")
        return self


class Slo(Record):
    """Limits that a request must keep to count as good, in milliseconds; None is no limit.

    `itl_ms` bounds the request's inter-token latency, as AIPerf's ``--goodput inter_token_latency:40``.
    """

    ttft_ms: float | None = None
    itl_ms: float | None = None
    request_latency_ms: float | None = None


class Workload(Record):
    """What was asked of the server, the same at every level.

    `target` is the protocol (``triton``, ``openai``), `model` the model of the server that was asked.
    `prompts` names the prompt set or file, or is ``synthetic``; `prompts_sha256` is the hash of their texts.
    `isl` and `osl` are tokens per request, None where the prompts decide. `trace` is the file's name.
    A repeat is over after `duration_s` (0 is no limit) or `num_requests`, whichever comes first.
    `token_source` says who counted: ``tokenizer``, ``server`` or ``responses`` (one a response). `prompt_use`
    is the state in which a server that keeps prompts was: ``new`` prompts in every repeat, all of them asked
    once before (``warm``), or asked again and again without that (``repeated``).
    """

    target: Literal["triton", "openai", "trtllm-grpc"]
    model: str
    url: str
    loop: Literal["closed", "open"]
    arrival: Literal["concurrency", "poisson", "constant", "trace"]
    trace: str | None = None
    prompts: str
    prompts_sha256: str
    num_prompts: int
    isl: int | None = None
    osl: int | None = None
    duration_s: float
    num_requests: int | None = None
    warmup_s: float = 0.0
    num_repeats: int
    deadline_s: float
    seed: int
    streaming: bool = True
    sampling: dict[str, JsonValue] = Field(default_factory=dict)
    slo: Slo | None = None
    token_source: Literal["tokenizer", "server", "responses"]
    prompt_use: Literal["new", "warm", "repeated"] = "repeated"


class Repeat(Record):
    """One repeat of a level: when its clock began (UTC, ISO 8601) and its window.

    The window begins at `warmup_s` and is `duration_s` long, by which throughput is divided; it ends when the
    load did: with the time asked for, or when a user first found no more requests to make. A server that
    was lost on the way is charged the whole of it. `counted_by` says how requests that cross its edges
    count (see `window`). `num_requests` are those that began in it, the failed included.
    """

    started: Annotated[str, AfterValidator(_time)]
    warmup_s: float = 0.0
    duration_s: float
    counted_by: CountedBy = "share"
    num_requests: Annotated[int, Field(ge=0)]
    num_completed: Annotated[int, Field(ge=0)]
    interrupted: bool = False

    @model_validator(mode="after")
    def _no_more_than_all(self) -> Self:
        if self.num_completed > self.num_requests:
            raise ValueError(f"{self.num_completed} of {self.num_requests} requests cannot be complete")
        return self

    @property
    def end_s(self) -> float:
        """When the window ends, on the clock of its samples."""
        return self.warmup_s + self.duration_s


class SeriesSummary(Record):
    """A quantity that was read again and again during a level; `first` and `last` show growth."""

    unit: str
    avg: float
    min: float
    max: float
    first: float
    last: float
    count: int


class GpuTelemetry(Record):
    """One GPU: memory_used, utilization, power, sm_clock, pcie_rx, pcie_tx, nvlink_rx, nvlink_tx, ...

    `unavailable` names what it would not tell and why.
    """

    index: int
    name: str
    uuid: str
    series: dict[str, SeriesSummary]
    unavailable: dict[str, str] = Field(default_factory=dict)


class Telemetry(Record):
    """What was read beside the load; `unavailable` says per source (gpu, server, host) why it is missing.

    `server` are Triton's metrics: gauges as read, counters as their increase over the level (the unit of
    these is ``increase``). `notes` point out what someone should look at, such as uneven GPUs.
    """

    gpus: tuple[GpuTelemetry, ...] = ()
    server: dict[str, SeriesSummary] = Field(default_factory=dict)
    host: dict[str, SeriesSummary] = Field(default_factory=dict)
    unavailable: dict[str, str] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Prediction(Record):
    """What a plan expected of a metric, in the metric's unit; never in a column with measured values."""

    value: float
    unit: str
    low: float | None = None
    high: float | None = None
    source: str


class Level(Record):
    """One point of load: a concurrency, a rate, or a trace.

    `concurrency` is the requests in flight of a closed loop, `rate_per_s` the arrivals of an open one; both
    None for a trace. `metrics` is keyed by AIPerf's names. `errors` counts the measured requests that failed.
    `mix` counts how often each prompt was asked, empty where prompts were made alike in all that costs time.
    """

    name: str
    concurrency: int | None = None
    rate_per_s: float | None = None
    repeats: tuple[Repeat, ...]
    metrics: dict[str, MetricSummary]
    errors: dict[ErrorKind, int] = Field(default_factory=dict)
    mix: dict[str, int] = Field(default_factory=dict)
    telemetry: Telemetry = Telemetry()
    predicted: dict[str, Prediction] = Field(default_factory=dict)

    @property
    def num_requests(self) -> int:
        """The measured requests of all repeats, the failed ones included."""
        return sum(repeat.num_requests for repeat in self.repeats)

    @property
    def num_failed(self) -> int:
        """The measured requests without a whole answer."""
        return sum(self.errors.values())


class QualityScore(Record):
    """One measure of how good the answers are; `low` and `high` are its 95 % interval over `n` items.

    `baseline` is the id of the run it was measured against, where the measure is relative to one.
    """

    value: float
    unit: str
    higher_is_better: bool
    n: int
    low: float | None = None
    high: float | None = None
    baseline: str | None = None
    detail: str = ""


class Run(Record):
    """The content of run.json.

    `id` is the name of its folder. `created` is UTC, ISO 8601. `engine` and `environment` have every key of
    ENGINE_FIELDS and ENVIRONMENT_FIELDS. `command` is the command line that repeats it. An
    `interrupted` run kept what was measured until then. `quality` is filled in by `tpforge evaluate`.
    """

    schema_version: Literal[2] = 2
    id: str
    created: str
    label: str
    command: tuple[str, ...]
    interrupted: bool = False
    engine: dict[str, Fact]
    environment: dict[str, Fact]
    workload: Workload
    levels: tuple[Level, ...]
    quality: dict[str, QualityScore] | None = None
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _every_fact(self) -> Self:
        for name, found, wanted in (
            ("engine", self.engine, ENGINE_FIELDS),
            ("environment", self.environment, ENVIRONMENT_FIELDS),
        ):
            if found.keys() != set(wanted):
                raise ValueError(f"{name}: differs in {sorted(found.keys() ^ set(wanted))}")
        return self


def unavailable_facts(names: Iterable[str], because: str) -> dict[str, Fact]:
    """Every one of `names` as a fact that could not be read."""
    return {name: Fact(unavailable_because=because) for name in names}


def write_run(
    folder: Path,
    run: Run,
    samples: Iterable[Sample],
    *,
    exports: Mapping[str, str] | None = None,
    force: bool = False,
) -> None:
    """Write run.json, samples.jsonl and the texts of `exports` by file name; the folder appears whole.

    Raises:
        InputRefused: `folder` exists, and is not to be replaced.
        EnvironmentUnusable: it cannot be written.
    """
    with atomic_folder(folder, force=force) as partial:
        (partial / RUN_NAME).write_text(_json(run), encoding="utf-8")
        with (partial / SAMPLES_NAME).open("w", encoding="utf-8") as file:
            file.writelines(sample.model_dump_json(exclude_defaults=True) + "\n" for sample in samples)
        for name, text in (exports or {}).items():
            (partial / name).write_text(text, encoding="utf-8")


def update_run(folder: Path, run: Run) -> None:
    """Write run.json of an existing folder again, such as with the quality that was measured later."""
    write_into(folder, RUN_NAME, _json(run))


def read_run(folder: Path) -> Run:
    """The run in a folder (or in a run.json itself).

    Raises:
        InputRefused: there is none, or it is not one of this version.
    """
    path = folder if folder.is_file() else folder / RUN_NAME
    if not path.is_file():
        raise InputRefused(f"{path}: no such run;{instead(folder)} `tpforge bench` writes one")
    with os_errors(path):
        text = path.read_text("utf-8")
    if _OLDER.search(text[:200]):
        raise InputRefused(
            f"{path}: holds metrics of older definitions (schema 1: throughput over another window); its "
            "figures cannot stand beside new ones, measure it again"
        )
    try:
        return Run.model_validate_json(text)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
        raise InputRefused.listing(f"{path}: is not a run of this version of tpforge:", problems) from error


def read_samples(folder: Path) -> tuple[Sample, ...]:
    """Every request of a run, in the order of the file.

    Raises:
        InputRefused: the file is missing or wrong; the line is named.
    """
    path = folder / SAMPLES_NAME
    if not path.is_file():
        raise InputRefused(f"{path}: is missing; it belongs to {folder / RUN_NAME}")
    samples = []
    with os_errors(path), path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                samples.append(Sample.model_validate_json(line))
            except ValidationError as error:
                what = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
                raise InputRefused(f"{path}:{number}: not a sample: {what}") from error
    return tuple(samples)


def _json(run: Run) -> str:
    return run.model_dump_json(indent=2, exclude_none=True) + "\n"
