"""What is claimed of a host, in the order in which it is tried, and the commands that try it.

It runs nothing; what an answer must show is `seen`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from scripts.flows.accepting import seen
from scripts.flows.accepting.records import Claim

INPUT_TOKENS, OUTPUT_TOKENS, CONCURRENCY = 128, 64, 4
"""What is asked where the plan has an estimate of it."""
_QUANTIZED = "quantized"


@dataclass(frozen=True)
class Asked:
    """The model, the tensor-parallel sizes, what `tpforge doctor --json` said, and the port of servers."""

    model: str
    sizes: Sequence[int]
    host: dict[str, Any]
    port: int = 8000

    @property
    def runtime(self) -> str:
        """What --runtime auto builds here."""
        return str(self.host["auto"]["runtime"])

    @property
    def num_gpus(self) -> int:
        """GPUs of this host."""
        return len(self.host["host"]["gpus"])

    @property
    def has_grpc(self) -> bool:
        """Whether the release's trtllm-serve has a gRPC of its own."""
        from triton_repo.trtllm_serve.command import has_grpc

        return self.runtime == "pytorch" and has_grpc(str(self.host["auto"]["trtllm"]))

    @property
    def tritonserver_lacks(self) -> str | None:
        """Why the reference runtime cannot be served here; None when it can."""
        for finding in self.host["findings"]:
            if finding["part"] == "tritonserver" and finding["verdict"] == "missing":
                return f"tritonserver is not found: {finding['advice']}"
        return None


def sizes_of(host: dict[str, Any]) -> tuple[int, ...]:
    """Every power of two that the GPUs allow; the reference runtime takes two ranks on any machine."""
    most = max(len(host["host"]["gpus"]), 2 if host["auto"]["runtime"] == "reference" else 1)
    return tuple(1 << power for power in range(most.bit_length()) if 1 << power <= most)


def claims(asked: Asked) -> tuple[Claim, ...]:
    """All that is claimed; the largest engine is served."""
    found = [
        Claim(
            "host",
            "doctor says what --runtime auto builds here, and why",
            ("doctor", "--json"),
            seen.chosen,
            again=True,
        ),
        _learn(asked),
    ]
    for size in asked.sizes:
        found += _engine(asked, f"tp={size}", size, runtime=asked.runtime)
    largest = max(asked.sizes)
    if asked.runtime != "reference":
        found += _engine(asked, f"reference tp={largest}", largest, runtime="reference")
    found += _quantized(asked)
    found += _served(asked, "", f"tp={largest}", largest, runtime=asked.runtime)
    found.append(_as_planned(asked, largest))
    if asked.has_grpc:
        found += _served_by_grpc(asked, f"tp={largest}")
    if asked.runtime != "reference":
        found += _served(asked, "reference ", f"reference tp={largest}", largest, runtime="reference")
    found.append(
        Claim("nothing left", "no server runs afterwards", ("status", "--json"), seen.none_runs, again=True)
    )
    return tuple(found)


def _learn(asked: Asked) -> Claim:
    auto = asked.host["auto"]
    where: tuple[str, ...] = ()
    lacks = None
    if "tensorrt_llm" not in dict(asked.host["host"]["packages"]):
        if auto.get("container", "none") != "none":
            where = ("--container", auto["container"], "--trtllm", auto["trtllm"])
        else:
            lacks = f"no TensorRT-LLM can be asked: {auto['because']}"
    claimed = "versions --learn reads the arguments of this host's TensorRT-LLM, and validation uses them"
    words = ("versions", "--learn", *where, "--json")
    return Claim("learn", claimed, words, seen.learned, lacks=lacks)


def _engine(asked: Asked, label: str, size: int, *, runtime: str) -> Iterator[Claim]:
    """An engine of `size` ranks, and its proof where the runtime has rank files."""
    name, build = _name(label), f"build {label}"
    words: tuple[str, ...] = ("build", asked.model, "--tp", str(size), "--name", name, "--force")
    words += () if runtime == asked.runtime else ("--runtime", runtime)
    yield Claim(
        build, f"builds for runtime {runtime}", (*words, "--json"), partial(seen.built, runtime, size)
    )
    if runtime == "pytorch":
        return
    where = " on CUDA" if asked.num_gpus and runtime == "reference" else ""
    yield Claim(
        f"verify {label}",
        f"the rank files are the checkpoint bit for bit, and answer{where} as transformers does",
        ("verify", name, "--json"),
        partial(seen.verified, on_cuda=bool(where)),
        (build,),
        may_lack=True,
    )


def _quantized(asked: Asked) -> Iterator[Claim]:
    """Calibrated on a GPU, and proven; needs nvidia-modelopt, which is fetched."""
    lacks = None if asked.num_gpus else "this host has no NVIDIA GPU"
    words = ("quantize", asked.model, "--format", "fp8", "--device", "cuda", "--samples", "8")
    yield Claim(
        "quantize on CUDA",
        "nvidia-modelopt calibrates fp8 on the GPU, and the result is the model",
        (*words, "--out", _QUANTIZED, "--force", "--json"),
        seen.quantized,
        lacks=lacks,
        may_lack=True,
    )
    name = _name("fp8")
    build = ("build", _QUANTIZED, "--tp", "1", "--runtime", "reference", "--name", name, "--force", "--json")
    yield Claim(
        "build fp8",
        "builds what was calibrated",
        build,
        partial(seen.built, "reference", 1),
        ("quantize on CUDA",),
    )
    yield Claim(
        "verify fp8",
        "the stored values are the checkpoint's, and answer as transformers does with them",
        ("verify", name, "--json"),
        partial(seen.verified, on_cuda=True),
        ("build fp8",),
        may_lack=True,
    )


def _served(asked: Asked, prefix: str, label: str, size: int, *, runtime: str) -> Iterator[Claim]:
    """A server of an engine from its start to its end."""
    name, built, serve = _name(label), f"build {label}", f"{prefix}serve"
    is_openai, is_reference = runtime == "pytorch", runtime == "reference"
    lacks = asked.tritonserver_lacks if is_reference else None
    before, over = [built], ""
    if is_reference and asked.num_gpus >= size > 1:
        render = f"{prefix}render"
        before, over = [built, render], f", its {size} ranks processes on a GPU each over NCCL"
        words = ("render", name, "--executor", "processes", "--device", "cuda", "--force", "--json")
        claimed = "its model repository takes one process per rank"
        yield Claim(render, claimed, words, seen.rendered, (built,), lacks=lacks)
    by = ("--server", "trtllm-serve") if is_openai else ()
    api = ("--api", "openai") if is_openai else ()
    ports = ("--port-base", str(asked.port))
    yield Claim(
        serve,
        f"is ready once it has generated a token{over}",
        ("serve", name, *by, *ports, "--detach", "--json"),
        seen.ready,
        tuple(before),
        lacks=lacks,
        again=True,
    )
    yield Claim(
        f"{prefix}smoke",
        "keeps its contract, check by check",
        ("smoke", *api, "--json"),
        seen.smoked,
        (serve,),
        again=True,
    )
    if not prefix:
        yield _bench(asked, name, api)
    stop = ("stop", "--json")
    yield Claim(f"{prefix}stop", "ends in order", stop, seen.stopped, (serve,), again=True)


def _served_by_grpc(asked: Asked, label: str) -> Iterator[Claim]:
    """The same engine once more, by trtllm-serve's own gRPC."""
    words = ("--server", "trtllm-grpc", "--port-base", str(asked.port), "--detach", "--json")
    yield Claim(
        "gRPC serve",
        "trtllm-serve --grpc is ready once it has generated a token",
        ("serve", _name(label), *words),
        seen.ready,
        (f"build {label}",),
        again=True,
    )
    smoke = ("smoke", "--api", "trtllm-grpc", "--json")
    claimed = "takes and gives token ids as upstream's protocol says, check by check"
    yield Claim("gRPC smoke", claimed, smoke, seen.smoked, ("gRPC serve",), again=True)
    stop = ("stop", "--json")
    yield Claim("gRPC stop", "ends in order", stop, seen.stopped, ("gRPC serve",), again=True)


def _bench(asked: Asked, engine: str, api: tuple[str, ...]) -> Claim:
    words: tuple[str, ...] = ("bench", *api, "--concurrency", f"1,{CONCURRENCY}", "--repeats", "1")
    if asked.runtime == "reference":
        words += ("--warmup", "1", "--duration", "5", "--max-tokens", "16")
    else:
        words += (
            "--warmup",
            "2",
            "--duration",
            "10",
            "--isl",
            str(INPUT_TOKENS),
            "--osl",
            str(OUTPUT_TOKENS),
        )
    if api:
        words += ("--model", _model_name(engine, asked.host["auto"]["trtllm"]))
    return Claim(
        "bench",
        f"answers every request at 1 and {CONCURRENCY} users",
        (*words, "--out", "bench", "--json"),
        seen.measured,
        ("serve",),
        again=True,
        replaces=("bench",),
    )


def _as_planned(asked: Asked, size: int) -> Claim:
    """What was measured beside the plan's estimate, which is of TensorRT-LLM."""
    lacks = None
    if asked.runtime == "reference":
        lacks = "the plan estimates TensorRT-LLM, and it is the reference runtime that was served"
    words = (
        *("plan", asked.model, "--gpu", "host", "--gpus", str(size), "--tp", str(size)),
        *("--isl", str(INPUT_TOKENS), "--osl", str(OUTPUT_TOKENS), "--concurrency", str(CONCURRENCY)),
        *("--runtime", asked.runtime, "--json"),
    )
    return Claim(
        "as planned",
        f"tokens/s at {CONCURRENCY} users lie in the plan's band, which holds 8 of 10 published rows",
        words,
        seen.as_planned,
        ("bench",),
        lacks=lacks,
        again=True,
        beside="bench",
    )


def _name(label: str) -> str:
    return f"accept-{label}".replace("=", "").replace(" ", "-")


def _model_name(engine: str, trtllm: str) -> str:
    """What trtllm-serve calls the model of an engine."""
    from triton_repo.trtllm_serve.command import TrtllmServe

    return TrtllmServe(Path(engine), engine, trtllm, port=0).model_name
