"""recipe.toml: one engine and its deployment, declared; and the part of it that `tpforge build` takes.

It parses text; it does not open the model or know the machine.
"""

from __future__ import annotations

import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from tpforge.dtypes import DType
from tpforge.errors import UsageError
from tpforge.manifest import Limits, Runtime
from tpforge.model import ModelSpec
from tpforge.records import Record
from tpforge.versions import DEFAULT_RELEASE

DEFAULT_MAX_SEQ_LEN = 2048

Size = Annotated[int, Field(ge=1, strict=True)]
Count = Annotated[int, Field(ge=0, strict=True)]
Switch = Annotated[bool, Field(strict=True)]


class LimitsRecipe(Record):
    """The limits as asked; what is left out follows from the model."""

    max_batch_size: Size = 8
    max_input_len: Size | None = None
    max_seq_len: Size | None = None

    def resolve(self, model: ModelSpec) -> Limits:
        """The limits with their defaults: the model's positions up to 2048, half of them for the prompt.

        Raises:
            UsageError: they exceed the model's positions, or leave no room for an answer.
        """
        positions = model.max_position_embeddings
        max_seq_len = self.max_seq_len or min(DEFAULT_MAX_SEQ_LEN, positions)
        max_input_len = self.max_input_len or max(1, max_seq_len // 2)
        if max_seq_len > positions:
            raise UsageError(
                f"max_seq_len {max_seq_len} exceeds the {positions} positions of {model.architecture}; "
                f"use {positions} or less"
            )
        if max_input_len >= max_seq_len:
            raise UsageError(
                f"max_input_len {max_input_len} leaves no room for an answer in max_seq_len {max_seq_len}; "
                f"use {max_seq_len - 1} or less"
            )
        return Limits(
            max_batch_size=self.max_batch_size, max_input_len=max_input_len, max_seq_len=max_seq_len
        )


class TensorrtRecipe(Record):
    """How engines of runtime tensorrt are compiled; `build_args` are arguments of trtllm-build by name.

    `container` says what runs trtllm-build: this host, or the release's container by docker, podman or
    Slurm; `image` is another container than the one that the table of releases has.
    """

    optimize_for: Literal["latency", "throughput", "memory"] | None = None
    container: Literal["none", "docker", "podman", "slurm"] = "none"
    image: str | None = None
    build_args: dict[str, Any] = Field(default_factory=dict)


class PytorchRecipe(Record):
    """What the LLM API of runtime pytorch is given; `llm_args` are its arguments, nested or with dots."""

    link_model: Switch = True
    llm_args: dict[str, Any] = Field(default_factory=dict)


class EngineRecipe(Record):
    """What `tpforge build` needs to know; `model` is a directory, a hub id, a .gguf file or `demo`.

    `quantize` names a format of `tpforge.quantization`; `portable` leaves the weights float and only declares
    it. `kv_cache` is the format of the KV cache. An engine whose perplexity grows by more than the fraction
    `max_drop` is not published. `trtllm` is the release for the runtimes tensorrt and pytorch, `sm` the
    compute capability of the GPUs that will serve (90 for Hopper; None: those of this host).
    """

    model: str
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")] | None = None
    tp: Size = 1
    pp: Size = 1
    moe_ep: Size = 1
    dtype: DType | None = None
    pad: Switch = True
    parallel_embedding: Literal[0, 1] | None = None
    quantize: str | None = None
    portable: Switch = False
    kv_cache: Literal["int8", "fp8"] | None = None
    max_drop: Annotated[float, Field(gt=0)] | None = None
    runtime: Runtime = "reference"
    trtllm: str = DEFAULT_RELEASE
    sm: Annotated[int, Field(ge=50, le=200, strict=True)] | None = None
    limits: LimitsRecipe = LimitsRecipe()
    tensorrt: TensorrtRecipe = TensorrtRecipe()
    pytorch: PytorchRecipe = PytorchRecipe()


class RepositoryOptions(Record):
    """How an engine is served: the options of its Triton model repository and of `tpforge render`.

    `embed_engine` puts the engine inside the repository, which can then be moved; otherwise the
    repository points at the engine by its absolute path. `max_batch_size` None is the engine's own;
    `max_queue_size` 0 is unlimited; `num_threads` None is torch's choice. For runtime tensorrt, `parameters`
    are those of upstream's config.pbtxt files, and `stand_in` serves `tensorrt_llm` by the reference runtime
    over the same checkpoint, to try the repository where there is no GPU. For runtime
    pytorch, `front` says whose tensors clients see: upstream's `llmapi`, or those of `inflight_batcher_llm`.
    """

    embed_engine: Switch = False
    decoupled: Switch = True
    executor: Literal["auto", "lockstep", "processes"] = "auto"
    device: str = "auto"
    compute_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    num_threads: Size | None = None
    max_batch_size: Size | None = None
    max_queue_size: Count = 0
    preprocessing_instances: Size = 1
    add_special_tokens: Switch = True
    skip_special_tokens: Switch = True
    exclude_input_in_output: Switch = False
    accumulate_tokens: Switch = False
    cancellation_check_period_ms: Size = 100
    stats_check_period_ms: Size = 100
    max_queue_delay_microseconds: Count = 0
    stand_in: Switch = False
    front: Literal["llmapi", "inflight"] = "llmapi"
    parameters: dict[str, Any] = Field(default_factory=dict)


class ServeRecipe(Record):
    """Where the server listens: HTTP at `port_base`, gRPC one above, metrics two above.

    `container`, `image`, `mode` and `devices` are for TensorRT-LLM's runtimes: where it runs ("auto": here
    when the engine's release is installed, else docker), how ranks are started, and on which GPUs.
    """

    port_base: Annotated[int, Field(ge=1024, le=65533, strict=True)] = 8000
    host: str = "127.0.0.1"
    tritonserver: Path | None = None
    load_timeout: Annotated[float, Field(gt=0)] | None = None
    container: Literal["auto", "none", "docker", "podman"] = "auto"
    image: str | None = None
    mode: Literal["leader", "orchestrator"] = "leader"
    devices: str | None = None


class SmokeRecipe(Record):
    """Whether `tpforge up` runs the smoke test, and where its JUnit file goes."""

    enabled: Switch = True
    junit: Path | None = None


class Recipe(EngineRecipe):
    """The whole file."""

    repository: RepositoryOptions = RepositoryOptions()
    serve: ServeRecipe = ServeRecipe()
    smoke: SmokeRecipe = SmokeRecipe()


def parse_recipe(text: str, *, path: Path) -> Recipe:
    """The recipe in `text`; `path` is named in errors, and relative model paths start at its folder.

    A model is a path when it starts with ``/``, ``./``, ``../`` or ``~``; else it is taken as it is.

    Raises:
        UsageError: not TOML, unknown keys, missing or wrong values; all of them at once.
    """
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from error
    return recipe_of(value, path=path)


def recipe_of(value: dict[str, Any], *, path: Path) -> Recipe:
    """The recipe of a parsed file; as `parse_recipe`.

    Raises:
        UsageError: unknown keys, missing or wrong values; all of them at once.
    """
    try:
        recipe = Recipe.model_validate(value)
    except ValidationError as error:
        problems = [_problem(problem["type"], problem["loc"], problem["msg"]) for problem in error.errors()]
        raise UsageError("\n  ".join([f"{path}: the recipe is wrong:", *sorted(problems)])) from error
    return recipe.model_copy(update={"model": _locate(recipe.model, folder=path.parent)})


def _locate(model: str, *, folder: Path) -> str:
    if model.startswith("~"):
        return str(Path(model).expanduser())
    if model.startswith(("./", "../")):
        return str(folder / model)
    return model


def _problem(kind: str, location: tuple[int | str, ...], message: str) -> str:
    name = ".".join(str(part) for part in location)
    if kind == "extra_forbidden":
        nearest = _nearest_key(str(location[-1]), table=location[:-1])
        return f"{name}: unknown key" + (f"; did you mean {nearest}?" if nearest else "")
    if kind == "missing":
        return f"{name}: missing"
    return f"{name}: {message[0].lower()}{message[1:]}"


def _nearest_key(key: str, *, table: tuple[int | str, ...]) -> str | None:
    """The known key most like `key`: of its own table, or else of another, with that one's name."""
    tables = {
        name: field.annotation.model_fields
        for name, field in Recipe.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    }
    own = tables[str(table[0])] if table else Recipe.model_fields
    if nearest := get_close_matches(key, own, n=1, cutoff=0.5):
        return nearest[0]
    others = {name: f"[{part}] {name}" for part, fields in tables.items() for name in fields}
    nearest = get_close_matches(key, others, n=1, cutoff=0.7)
    return others[nearest[0]] if nearest else None
