"""recipe.toml: one engine and its deployment, declared; and the part of it that `tpforge build` takes.

It reads and parses the file; it does not open the model or know the machine.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from tpforge.dtypes import DType
from tpforge.errors import UsageError
from tpforge.manifest import Limits, Runtime
from tpforge.model import ModelSpec
from tpforge.outputs.atomic import os_errors
from tpforge.outputs.recognized import what_it_is
from tpforge.records import Record
from tpforge.repository_options import (
    RUNTIMES,
    ReferenceOptions,
    RepositoryOptions,
    Size,
    Switch,
    foreign_reason,
    option_defaults,
    own_options,
)
from tpforge.toml_text import parse_toml
from tpforge.trtllm.versions import DEFAULT_RELEASE, read_version

DEFAULT_MAX_SEQ_LEN = 2048


Port = Annotated[int, Field(ge=1024, le=65534, strict=True)]
RouterMode = Literal["round-robin", "random", "power-of-two", "least-loaded", "kv"]
"""How Dynamo's front divides requests; kv prefers the server that has seen the start of the prompt."""


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
    """What the LLM API of runtime pytorch is given; `llm_args` are its arguments, nested or with dots.

    `llm_args_unchecked` are passed on without being compared with the table of the release. `describe` is a
    file with sizes of an architecture that is in no table.
    """

    link_model: Switch = True
    describe: Path | None = None
    llm_args: dict[str, Any] = Field(default_factory=dict)
    llm_args_unchecked: dict[str, Any] = Field(default_factory=dict)


class EngineRecipe(Record):
    """What `tpforge build` needs to know; `model` is a directory, a hub id, a .gguf file or `demo`.

    `quantize` names a format of `tpforge.quantization`; `portable` leaves the weights float and only declares
    it. `kv_cache` is the format of the KV cache. An engine whose perplexity grows by more than the fraction
    `max_drop` is not published. `runtime_because` says why the runtime is what it is, where `auto` chose it.
    `trtllm` is the release for the runtimes tensorrt and pytorch, `sm` the
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
    runtime_because: str | None = None
    trtllm: str = DEFAULT_RELEASE
    sm: Annotated[int, Field(ge=50, le=200, strict=True)] | None = None
    limits: LimitsRecipe = LimitsRecipe()
    tensorrt: TensorrtRecipe = TensorrtRecipe()
    pytorch: PytorchRecipe = PytorchRecipe()

    @field_validator("trtllm")
    @classmethod
    def _spelled_as_upstream(cls, value: str) -> str:
        try:
            return read_version(value)
        except UsageError as error:
            raise ValueError(str(error)) from error


class ServeRecipe(Record):
    """Where the server listens: HTTP at `port_base`, gRPC one above, metrics two above.

    `drain` is for how many seconds requests in flight may go on when the server is told to end.

    `server`, `container`, `image`, `mode` and `devices` are for TensorRT-LLM's runtimes: what serves ("auto":
    Triton where one of its containers holds the release, else trtllm-serve), where it runs ("auto": here when
    the engine's release is installed, else docker), how ranks are started, and on which GPUs.

    With `openai`, the front of NVIDIA Dynamo speaks OpenAI's API at `openai_port` (None: three above
    `port_base`) and, where `kserve_port` is given, KServe's gRPC there. It divides requests over `replicas`
    servers by `router`; `tool_call_parser` and `reasoning_parser` are Dynamo's, by name.
    """

    port_base: Annotated[int, Field(ge=1024, le=65533, strict=True)] = 8000
    host: str = "127.0.0.1"
    tritonserver: Path | None = None
    load_timeout: Annotated[float, Field(gt=0)] | None = None
    drain: Annotated[float, Field(ge=0)] | None = None
    server: Literal["auto", "triton", "trtllm-serve", "trtllm-grpc"] = "auto"
    container: Literal["auto", "none", "docker", "podman"] = "auto"
    image: str | None = None
    mode: Literal["leader", "orchestrator"] = "leader"
    devices: str | None = None
    openai: Switch = False
    openai_port: Port | None = None
    kserve_port: Port | None = None
    replicas: Size = 1
    router: RouterMode = "round-robin"
    tool_call_parser: str | None = None
    reasoning_parser: str | None = None


class SmokeRecipe(Record):
    """Whether `tpforge up` runs the smoke test, and where its JUnit file goes."""

    enabled: Switch = True
    junit: Path | None = None


class Recipe(EngineRecipe):
    """The whole file."""

    repository: RepositoryOptions = ReferenceOptions()
    serve: ServeRecipe = ServeRecipe()
    smoke: SmokeRecipe = SmokeRecipe()

    @model_validator(mode="before")
    @classmethod
    def _repository_of_the_runtime(cls, values: dict[str, Any]) -> dict[str, Any]:
        """[repository] has the options of the recipe's runtime, which it need not name."""
        table, runtime = values.get("repository", {}), values.get("runtime", "reference")
        if not isinstance(table, dict) or runtime not in RUNTIMES or "runtime" in table:
            return values
        return {**values, "repository": own_options(table, runtime=runtime)}

    @model_validator(mode="after")
    def _same_runtime(self) -> Self:
        if self.repository.runtime != self.runtime:
            raise ValueError(
                f"[repository] is for runtime {self.repository.runtime}, but the engine is of {self.runtime}"
            )
        return self


Choose = Callable[[dict[str, Any]], dict[str, Any]]
"""Puts a runtime into the values of a recipe that leaves it to the host."""


def no_recipe(path: Path) -> str:
    """Why nothing at `path` is a recipe's file."""
    if not path.exists():
        return "no such recipe"
    return f"is {what_it_is(path) or 'a folder'}; expected a recipe, a .toml file"


def read_recipe(path: Path, *, choose: Choose | None = None) -> Recipe:
    """The recipe in a file; where it names no runtime, or "auto", `choose` does, and else it is reference.

    Raises:
        UsageError: there is no such file, it is not UTF-8 text, or the recipe is wrong.
    """
    if not path.is_file():
        raise UsageError(f"{path}: {no_recipe(path)}; see docs/recipe.md for one")
    with os_errors(path):
        data = path.read_bytes()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text; a recipe is TOML") from error
    return parse_recipe(text, path=path, choose=choose)


def parse_recipe(text: str, *, path: Path, choose: Choose | None = None) -> Recipe:
    """The recipe in `text`; `path` is named in errors, and relative model paths start at its folder.

    A model is a path when it starts with ``/``, ``./``, ``../`` or ``~``; else it is taken as it is.

    Raises:
        UsageError: not TOML, unknown keys, missing or wrong values; all of them at once.
    """
    try:
        value = parse_toml(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from error
    if value.get("runtime", "auto") == "auto":
        value = choose(value) if choose is not None else {**value, "runtime": "reference"}
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
    pytorch = recipe.pytorch
    if pytorch.describe is not None:
        pytorch = pytorch.model_copy(update={"describe": path.parent / pytorch.describe})
    return recipe.model_copy(update={"model": _locate(recipe.model, folder=path.parent), "pytorch": pytorch})


def _locate(model: str, *, folder: Path) -> str:
    if model.startswith("~"):
        return str(Path(model).expanduser())
    if model.startswith(("./", "../")):
        return str(folder / model)
    return model


def _problem(kind: str, location: tuple[int | str, ...], message: str) -> str:
    reason = None
    if location[:1] == ("repository",) and len(location) > 2 and location[1] in RUNTIMES:
        reason = foreign_reason(str(location[2]), runtime=location[1])
        location = (location[0], *location[2:])  # The record of which runtime it was is not in the file.
    name = ".".join(str(part) for part in location)
    if reason is not None:
        return f"{name}: {reason}"
    own = message.removeprefix("Value error, ")
    if not location:
        return own
    if kind == "extra_forbidden":
        nearest = _nearest_key(str(location[-1]), table=location[:-1])
        return f"{name}: unknown key" + (f"; did you mean {nearest}?" if nearest else "")
    if kind == "missing":
        return f"{name}: missing"
    return f"{name}: {own}" if own != message else f"{name}: {message[0].lower()}{message[1:]}"


def _nearest_key(key: str, *, table: tuple[int | str, ...]) -> str | None:
    """The known key most like `key`: of its own table, or else of another, with that one's name."""
    tables = {
        name: field.annotation.model_fields
        for name, field in Recipe.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    }
    names = {part: list(fields) for part, fields in tables.items()} | {"repository": list(option_defaults())}
    own = names[str(table[0])] if table else list(Recipe.model_fields)
    if nearest := get_close_matches(key, own, n=1, cutoff=0.5):
        return nearest[0]
    others = {name: f"[{part}] {name}" for part, fields in names.items() for name in fields}
    nearest = get_close_matches(key, others, n=1, cutoff=0.7)
    return others[nearest[0]] if nearest else None
