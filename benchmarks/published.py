"""Published TensorRT-LLM throughput, and what the planner estimates for each row.

The rows are in benchmarks/data: planner_calibration.csv, which the planner's free values are fitted to, and
planner_check.csv, which it is judged by. Neither holds a row of the other. The two are the same of experts in
planner_experts_calibration.csv and planner_experts.csv, above one GPU with attention data parallelism; so are
those of planner_architectures.csv, whose models (DeepSeek, gpt-oss) no fit knows anything of.
Source: NVIDIA/TensorRT-LLM, docs/source/performance/perf-overview.md of releases 0.14, 0.15, 0.17, 0.20 and
1.0, and docs/source/developer-guide/perf-overview.md of 1.2 (per GPU there; here times the GPUs); of 0.15
without GH200, which another program measured. Requests of one length, all at once; tokens a second are output
tokens.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from benchmarks.bench_settings import BenchSettings, by_rule, of_table
from builders.blueprint import blueprint_from_config
from tpforge.dtypes import DType
from tpforge.plan.hardware.gpus import Gpu, find_gpu, make_cluster
from tpforge.plan.memory.kv import KV_BITS
from tpforge.plan.memory.rank import Settings, rank_memory
from tpforge.plan.models.known import find_known
from tpforge.plan.speed.calibration import Fit
from tpforge.plan.speed.load import Load
from tpforge.plan.speed.throughput import Engine, StepModel, speed
from tpforge.quantization import find_format
from tpforge.runtime import Runtime
from tpforge.shards.mapping import Mapping
from tpforge.shards.weights import Blueprint, RankShapes, rank_shapes

DATA = Path(__file__).with_name("data")
# num_requests by input and output length, as the documents give it.
NUM_REQUESTS = {
    (128, 128): 30000,
    (128, 2048): 3000,
    (128, 4096): 1500,
    (500, 2000): 3000,
    (1000, 1000): 3000,
    (1000, 2000): 1500,
    (1024, 1024): 3000,
    (1024, 2048): 1500,
    (1024, 8192): 1500,
    (1024, 32768): 1000,
    (2048, 128): 3000,
    (2048, 2048): 1500,
    (5000, 500): 1500,
    (8192, 1024): 1500,
    (20000, 2000): 1000,
    (32768, 1024): 1000,
}
# From 0.20 on the documents say that most rows were taken with 0.95 of the free memory for the cache.
KV_FRACTIONS = {"0.14": 0.9, "0.15": 0.9, "0.17": 0.9}
# Those measured with compiled engines; the others with the PyTorch backend.
_OF_ENGINES = {"0.9", "0.14", "0.15", "0.17"}
_NAMES = {"mistral-7b": "mistral-7b-v0.1"}


@dataclass(frozen=True)
class Row:
    """One published measurement and the engine it was taken with."""

    release: str
    model: str
    gpu: str
    precision: str
    tp: int
    pp: int
    load: Load
    measured: float
    engine: Engine

    @property
    def group(self) -> tuple[str, ...]:
        """What is equal between rows that differ in tp only."""
        lengths = f"{self.load.input_tokens}/{self.load.output_tokens}"
        return (self.release, self.model, self.gpu, self.precision, str(self.pp), lengths)

    def estimate(self, fit: Fit) -> float:
        """Output tokens a second; 0 when not one request fits."""
        found = speed(self.engine, self.load, fit=fit)
        return found.tokens_per_second if found else 0.0


def first_token_ms(row: Row, fit: Fit) -> float:
    """The estimate for one request alone."""
    return 1e3 * StepModel(row.engine, fit).prefill(row.load).total


def rows(name: str) -> list[Row]:
    """The rows of ``planner_NAME.csv``."""
    with (DATA / f"planner_{name}.csv").open(encoding="utf-8", newline="") as file:
        return [
            _row(values, attention_dp=name not in ("calibration", "check")) for values in csv.DictReader(file)
        ]


def first_tokens() -> list[tuple[Row, float]]:
    """Published milliseconds to the first token of one request alone, each with a row of its engine.

    Source: docs/source/performance/perf-overview.md of release 0.9, low latency.
    """
    with (DATA / "planner_ttft.csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    rest = {"osl": "128", "output_tokens_per_s": "0"}
    return [(_row(values | rest), float(values["first_token_ms"])) for values in found]


def _row(values: dict[str, str], *, attention_dp: bool = False) -> Row:
    tp, pp = int(values["tp"]), int(values["pp"])
    lengths = int(values["isl"]), int(values["osl"])
    return Row(
        release=values["release"],
        model=values["model"],
        gpu=values["gpu"],
        precision=values["precision"],
        tp=tp,
        pp=pp,
        load=Load(*lengths, num_requests=NUM_REQUESTS[lengths]),
        measured=float(values["output_tokens_per_s"]),
        engine=engine_of(
            values["model"],
            gpu=values["gpu"],
            tp=tp,
            pp=pp,
            weight_format=None if values["precision"] == "fp16" else values["precision"],
            # gpt-oss ran with a cache of 16 bits on Hopper: the page's llm_options.yml.
            kv_dtype="float16" if values["model"].startswith("gpt-oss") and values["gpu"][0] == "h" else None,
            kv_fraction=KV_FRACTIONS.get(values["release"], 0.95),
            attention_dp=attention_dp and tp > 1,
            moe_ep=tp if attention_dp else 1,
            runtime="tensorrt" if values["release"] in _OF_ENGINES else "pytorch",
            lengths=lengths,
            release=values["release"],
        ),
    )


def engine_of(
    model: str,
    *,
    gpu: str,
    tp: int,
    pp: int,
    weight_format: str | None,
    kv_fraction: float,
    kv_dtype: str | None = None,
    moe_ep: int = 1,
    attention_dp: bool = False,
    runtime: Runtime,
    lengths: tuple[int, int] | None = None,
    release: str | None = None,
) -> Engine:
    """The engine of a row: an FP8 cache with quantized weights, 16 bits with others.

    Windows bound no cache: the pages set no max_attention_window. Of a `release` and `lengths` it is run with
    what trtllm-bench set for them.
    """
    settings = Settings(
        DType.FLOAT16,
        weight_format=weight_format,
        kv_dtype=kv_dtype or ("float16" if weight_format is None else "fp8"),
        kv_fraction=kv_fraction,
        runtime=runtime,
    )
    shapes, kind = _shapes(model, tp, pp, moe_ep, attention_dp), find_gpu(gpu)
    if lengths is not None and release is not None:
        own = _of_bench(model, shapes, kind, settings=settings, lengths=lengths, release=release)
        settings = replace(
            settings,
            max_batch_size=own.max_batch_size,
            max_num_tokens=own.max_num_tokens,
            max_seq_len=sum(lengths),
        )
    memory = rank_memory(shapes, gpu=kind, settings=settings)
    return Engine(shapes, memory, make_cluster(kind, num_gpus=tp * pp), settings)


def _of_bench(
    model: str, shapes: RankShapes, gpu: Gpu, *, settings: Settings, lengths: tuple[int, int], release: str
) -> BenchSettings:
    if release == "0.14":
        return of_table(model, tp_size=shapes.mapping.tp_size, request_tokens=sum(lengths))
    held = settings.weight_format
    return by_rule(
        shapes,
        parameters=_blueprint(model).num_parameters,
        gpu=gpu,
        weight_bits=16 if held is None else find_format(held).weight_bits,
        kv_bits=KV_BITS[settings.kv_dtype],
        lengths=lengths,
        runtime=settings.runtime,
    )


@cache
def _blueprint(model: str) -> Blueprint:
    known = find_known(_NAMES.get(model, model))
    assert known is not None, f"{model} is not among the known models"
    # The sliding window of Mistral 7B holds only where max_attention_window says so, and the pages do not.
    left_out = {"sliding_window": None} if model in _NAMES else {}
    return blueprint_from_config(known.config | left_out, name=model, where=model)


@cache
def _shapes(model: str, tp: int, pp: int, moe_ep: int, attention_dp: bool) -> RankShapes:
    mapping = Mapping(tp_size=tp, pp_size=pp, moe_ep_size=moe_ep)
    return rank_shapes(_blueprint(model), mapping=mapping, attention_dp=attention_dp)
