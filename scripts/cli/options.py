"""The options that several commands share: the same word means the same thing everywhere.

It does not act on them: `engine_recipe` turns the values into the record that `build` takes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scripts.cli.headers import parse_headers
from tpforge.errors import UsageError

if TYPE_CHECKING:
    from tpforge.recipe import EngineRecipe
    from triton_repo.client.client import Tls

Function = Callable[..., Any]
Decorator = Callable[[Function], Function]

SIZE = click.IntRange(min=1)
COUNT = click.IntRange(min=0)
_FILE = click.Path(path_type=Path)


def options(*decorators: Decorator) -> Decorator:
    """Several option decorators as one, in the order in which --help lists them."""

    def apply(function: Function) -> Function:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


MODEL = click.argument("model", metavar="MODEL")
"""A Hugging Face directory, a hub id (with @revision), a .gguf file, or `demo`."""

ENGINE = click.argument("engine", metavar="[ENGINE]", required=False)
"""An engine folder, or its name under out/; without it the newest one there."""

DEBUG = click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
RESUME = click.option(
    "--resume", is_flag=True, help="Go on where an interrupted run stopped; its bytes are hashed again first."
)
FORCE = click.option("--force", is_flag=True, help="Replace an existing output.")
SM = click.option(
    "--sm",
    type=click.IntRange(50, 200),
    help="Compute capability of the serving GPUs, 90 for Hopper.  [default: this host's]",
)
DRY_RUN = click.option("--dry-run", is_flag=True, help="Say what would be done, and write nothing.")


def out(help_text: str) -> Decorator:
    """`--out PATH` with the default named in the help."""
    return click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help=help_text)


def sharding() -> Decorator:
    """How the model is divided over ranks."""
    return options(
        click.option("--tp", type=SIZE, default=1, show_default=True, help="Tensor-parallel size."),
        click.option("--pp", type=SIZE, default=1, show_default=True, help="Pipeline-parallel size."),
        click.option(
            "--moe-ep",
            type=SIZE,
            default=1,
            show_default=True,
            help="Groups of ranks that hold different experts; divides tp.",
        ),
        click.option(
            "--dtype",
            type=click.Choice(["bfloat16", "float16", "float32"]),
            help="Type of the weights.  [default: the checkpoint's]",
        ),
        click.option(
            "--pad/--no-pad",
            default=True,
            show_default=True,
            help="Add zero heads and columns where tp does not divide them, or refuse.",
        ),
        click.option(
            "--parallel-embedding",
            type=click.Choice([0, 1]),
            help="Divide the embedding by vocabulary (0) or hidden size (1).  [default: not divided]",
        ),
        click.option(
            "--quantize", metavar="FORMAT", help="Quantize the weights; `tpforge formats` lists the formats."
        ),
        click.option(
            "--portable",
            is_flag=True,
            help="Leave the weights float and declare the format: trtllm-build quantizes them.",
        ),
    )


def limits() -> Decorator:
    """What a server of the engine accepts, and which runtime runs it."""
    return options(
        click.option(
            "--max-batch-size", type=SIZE, default=8, show_default=True, help="Requests in flight at once."
        ),
        click.option(
            "--max-input-len", type=SIZE, help="Tokens of a prompt.  [default: half of max-seq-len]"
        ),
        click.option(
            "--max-seq-len",
            type=SIZE,
            help="Tokens of prompt and answer.  [default: the model's positions, at most 2048]",
        ),
        click.option(
            "--runtime",
            type=click.Choice(["reference", "tensorrt", "pytorch"]),
            default="reference",
            show_default=True,
            help="What runs the engine: ours, compiled TensorRT-LLM engines, or TensorRT-LLM's LLM API.",
        ),
    )


def tensorrt_llm() -> Decorator:
    """What the runtimes of TensorRT-LLM take: the release, the target GPUs, and upstream's own arguments."""
    return options(
        click.option(
            "--trtllm",
            metavar="VERSION",
            help="Release of TensorRT-LLM; `tpforge versions` lists them.  [default: 1.2.1]",
        ),
        SM,
        click.option(
            "--optimize-for",
            type=click.Choice(["latency", "throughput", "memory"]),
            help="tensorrt: settings for a goal, each explained.",
        ),
        click.option(
            "--build-arg",
            "build_args",
            multiple=True,
            metavar="KEY=VALUE",
            help="tensorrt: an argument of trtllm-build; may be repeated.",
        ),
        click.option(
            "--container",
            type=click.Choice(["none", "docker", "podman", "slurm"]),
            default="none",
            show_default=True,
            help="tensorrt: run trtllm-build in the release's container.",
        ),
        click.option("--image", help="tensorrt: another container than the release's."),
        click.option(
            "--llm-arg",
            "llm_args",
            multiple=True,
            metavar="KEY=VALUE",
            help="pytorch: an argument of the LLM API, dots for levels; may be repeated.",
        ),
    )


def repository() -> Decorator:
    """How an engine is served: the options of its Triton model repository."""
    return options(
        click.option(
            "--embed-engine", is_flag=True, help="Put the engine inside, so that the repository can be moved."
        ),
        _switch("decoupled", True, "Allow streaming."),
        click.option(
            "--executor",
            type=click.Choice(["auto", "lockstep", "processes"]),
            default="auto",
            show_default=True,
            help="All ranks in one process, or one process a rank.",
        ),
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:0, ..."),
        click.option(
            "--compute-dtype",
            type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
            default="auto",
            show_default=True,
            help="Type of the arithmetic.",
        ),
        click.option("--num-threads", type=SIZE, help="Threads of a rank on the CPU.  [default: torch's]"),
        click.option(
            "--max-batch-size", type=SIZE, help="Requests in flight at once.  [default: the engine's]"
        ),
        click.option(
            "--max-queue-size", type=COUNT, default=0, help="Requests that may wait; 0 is no limit."
        ),
        click.option(
            "--preprocessing-instances", type=SIZE, default=1, show_default=True, help="Tokenizing processes."
        ),
        _switch("add-special-tokens", True, "Add the tokenizer's special tokens to prompts."),
        _switch("skip-special-tokens", True, "Leave special tokens out of answers."),
        _switch("exclude-input-in-output", False, "Leave the prompt out of answers unless asked."),
        _switch("accumulate-tokens", False, "Make tensorrt_llm_bls stream the text so far."),
        click.option(
            "--cancellation-check-period-ms",
            type=SIZE,
            default=100,
            show_default=True,
            help="How often to look for cancelled requests.",
        ),
        click.option(
            "--stats-check-period-ms",
            type=SIZE,
            default=100,
            show_default=True,
            help="How often metrics are updated.",
        ),
        click.option(
            "--max-queue-delay-microseconds",
            type=COUNT,
            default=0,
            show_default=True,
            help="tensorrt: how long Triton waits for a fuller batch.",
        ),
        click.option(
            "--parameter",
            "parameters",
            multiple=True,
            metavar="KEY=VALUE",
            help="tensorrt: a parameter of upstream's config.pbtxt; may be repeated.",
        ),
        click.option(
            "--stand-in",
            is_flag=True,
            help="tensorrt: serve tensorrt_llm by the reference runtime, to try it without a GPU.",
        ),
        click.option(
            "--front",
            type=click.Choice(["llmapi", "inflight"]),
            default="llmapi",
            show_default=True,
            help="pytorch: tensors that clients see, upstream's llmapi or those of compiled engines.",
        ),
    )


def _switch(name: str, default: bool, help_text: str) -> Decorator:
    return click.option(f"--{name}/--no-{name}", default=default, show_default=True, help=help_text)


def server() -> Decorator:
    """Where and how Triton runs."""
    return options(
        click.option(
            "--port-base",
            type=click.IntRange(1024, 65533),
            default=8000,
            show_default=True,
            help="HTTP port; gRPC is the next one, metrics the one after.",
        ),
        click.option(
            "--host",
            default="127.0.0.1",
            show_default=True,
            help="Address to listen on; 0.0.0.0 is all of them.",
        ),
        click.option(
            "--tritonserver",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="The server's binary.  [default: on PATH, else the one of nvidia-pytriton]",
        ),
        click.option(
            "--load-timeout",
            type=click.FloatRange(min=1),
            help="Seconds for all models to load.  [default: 300; TensorRT-LLM: 1800]",
        ),
        click.option(
            "--container",
            type=click.Choice(["auto", "none", "docker", "podman"]),
            default="auto",
            show_default=True,
            help="TensorRT-LLM: where it runs; auto: here when that release is installed, else docker.",
        ),
        click.option("--image", help="TensorRT-LLM: another container than the release's."),
        click.option(
            "--mode",
            type=click.Choice(["leader", "orchestrator"]),
            default="leader",
            show_default=True,
            help="tensorrt: a tritonserver a rank, or one that starts the ranks itself.",
        ),
        click.option(
            "--devices", metavar="0,1,...", help="TensorRT-LLM: which GPUs.  [default: the first ones]"
        ),
    )


def connection() -> Decorator:
    """How to reach a server over gRPC."""
    return options(
        click.option(
            "--deadline",
            type=click.FloatRange(min=0.1),
            default=60,
            show_default=True,
            help="Seconds a request may take.",
        ),
        click.option(
            "--header",
            "headers",
            multiple=True,
            metavar="NAME=VALUE",
            help="Header of every request, such as authorization; NAME=@FILE reads the value from a file.",
        ),
        click.option("--tls", is_flag=True, help="Use TLS, with the system's root certificates."),
        click.option("--tls-root", type=_FILE, metavar="FILE", help="Root certificates, PEM; implies --tls."),
        click.option("--tls-key", type=_FILE, metavar="FILE", help="The client's private key, PEM."),
        click.option("--tls-cert", type=_FILE, metavar="FILE", help="The client's certificates, PEM."),
    )


@dataclass(frozen=True)
class Connection:
    """The values of `connection`, as a client takes them."""

    deadline_s: float
    headers: dict[str, str]
    tls: Tls | None


def read_connection(
    *,
    deadline: float,
    headers: tuple[str, ...],
    tls: bool,
    tls_root: Path | None,
    tls_key: Path | None,
    tls_cert: Path | None,
) -> Connection:
    """The values of `connection`.

    Raises:
        UsageError: a header has no name, or its file cannot be read.
    """
    from triton_repo.client.client import Tls

    wanted = tls or any((tls_root, tls_key, tls_cert))
    return Connection(deadline, parse_headers(headers), Tls(tls_root, tls_key, tls_cert) if wanted else None)


_OF_RUNTIME = {
    "optimize_for": "tensorrt",
    "build_args": "tensorrt",
    "container": "tensorrt",
    "image": "tensorrt",
    "llm_args": "pytorch",
}
"""Options of `tensorrt_llm` that one runtime alone has."""


def _refuse_foreign(values: dict[str, Any]) -> None:
    """Options that the runtime would not look at are a mistake; a recipe may hold the tables of both.

    Raises:
        UsageError: one is given.
    """
    runtime = values.get("runtime", "reference")
    foreign = [
        f"--{name.replace('_', '-').removesuffix('s')}: is for --runtime {of}, and this is {runtime}"
        for name, of in _OF_RUNTIME.items()
        if of != runtime and values.get(name) not in (None, (), "none")
    ]
    if foreign:
        raise UsageError("; ".join(foreign))


def _nested_runtimes(values: dict[str, Any]) -> dict[str, Any]:
    """The values of `tensorrt_llm` in the tables of a recipe; what was not given keeps its default."""
    from tpforge.arguments import parse_pairs
    from tpforge.recipe import PytorchRecipe, TensorrtRecipe

    others = {key: value for key, value in values.items() if key not in ("trtllm", "sm") or value is not None}
    for option in ("build_args", "llm_args"):
        if option in others:
            flag = f"--{option.replace('_', '-').removesuffix('s')}"
            others[option] = parse_pairs(others[option], option=flag)
    for table, fields in (("tensorrt", TensorrtRecipe), ("pytorch", PytorchRecipe)):
        own = {key: others.pop(key) for key in fields.model_fields if key in others}
        if own:
            others[table] = own
    return others


def engine_recipe(model: str, values: dict[str, Any]) -> EngineRecipe:
    """The record for the values of `sharding`, with those of `limits` and `--name` where they are given.

    Raises:
        UsageError: a value that click let pass is wrong, such as a name that cannot be a folder's, or is
            for another runtime.
    """
    from pydantic import ValidationError

    from tpforge.recipe import EngineRecipe, LimitsRecipe

    _refuse_foreign(values)
    limits = {key: value for key, value in values.items() if key in LimitsRecipe.model_fields}
    others = {key: value for key, value in values.items() if key not in limits}
    others = _nested_runtimes(others)
    try:
        return EngineRecipe.model_validate({"model": model, "limits": limits, **others})
    except ValidationError as error:
        problems = [f"--{problem['loc'][-1]}: {problem['msg']}" for problem in error.errors()]
        raise UsageError("; ".join(problems)) from error
