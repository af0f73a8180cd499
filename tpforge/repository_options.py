"""How an engine is served: the options of its Triton model repository, a record for each runtime.

It renders nothing. Options that no repository of a runtime has are refused here, and by no renderer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, TypeAdapter

from tpforge.errors import UsageError
from tpforge.manifest import Runtime
from tpforge.records import Record

Size = Annotated[int, Field(ge=1, strict=True)]
Count = Annotated[int, Field(ge=0, strict=True)]
Switch = Annotated[bool, Field(strict=True)]
QUEUE_PER_SLOT = 16
"""Who is behind more than so many others for a place will hardly wait for the answer."""


class CommonOptions(Record):
    """What every runtime's repository has: how text becomes tokens, and how requests are answered.

    `max_batch_size` None is the engine's own; `max_queue_size` None is `QUEUE_PER_SLOT` for each of the
    batch, 0 is unlimited.
    """

    decoupled: Switch = True
    max_batch_size: Size | None = None
    max_queue_size: Count | None = None
    preprocessing_instances: Size = 2
    add_special_tokens: Switch = True
    skip_special_tokens: Switch = True
    exclude_input_in_output: Switch = False
    accumulate_tokens: Switch = False
    cancellation_check_period_ms: Size = 100
    stats_check_period_ms: Size = 100

    def queue_size(self, max_batch_size: int) -> int:
        """How many requests may wait beside a batch of that size; 0 is any number."""
        return QUEUE_PER_SLOT * max_batch_size if self.max_queue_size is None else self.max_queue_size


class ExecutionOptions(CommonOptions):
    """How the reference runtime executes, itself or as a stand-in; `num_threads` None is torch's choice."""

    executor: Literal["auto", "lockstep", "processes"] = "auto"
    device: str = "auto"
    compute_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    num_threads: Size | None = None


class ReferenceOptions(ExecutionOptions):
    """Of runtime reference: `embed_engine` puts the engine inside the repository, which can then be moved.

    Otherwise the repository points at the engine by its absolute path.
    """

    runtime: Literal["reference"] = "reference"
    embed_engine: Switch = False


class TensorrtOptions(ExecutionOptions):
    """Of runtime tensorrt: `parameters` are those of upstream's config.pbtxt files.

    `stand_in` serves `tensorrt_llm` by the reference runtime over the same checkpoint, to try the repository
    where there is no GPU.
    """

    runtime: Literal["tensorrt"] = "tensorrt"
    max_queue_delay_microseconds: Count = 0
    parameters: dict[str, Any] = Field(default_factory=dict)
    stand_in: Switch = False


class PytorchOptions(CommonOptions):
    """Of runtime pytorch: clients see upstream's tensors of `llmapi`, or those of `inflight_batcher_llm`."""

    runtime: Literal["pytorch"] = "pytorch"
    front: Literal["llmapi", "inflight"] = "llmapi"


RepositoryOptions = Annotated[
    ReferenceOptions | TensorrtOptions | PytorchOptions, Field(discriminator="runtime")
]
"""The options of the repository of one runtime."""

RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)
_RECORDS: dict[Runtime, type[CommonOptions]] = {
    "reference": ReferenceOptions,
    "tensorrt": TensorrtOptions,
    "pytorch": PytorchOptions,
}
_ADAPTER: TypeAdapter[ReferenceOptions | TensorrtOptions | PytorchOptions] = TypeAdapter(RepositoryOptions)

_REASONS = {
    ("embed_engine", "tensorrt"): (
        "the C++ backend wants an absolute gpt_model_path; mount the engine folder where it lies, as "
        "`tpforge serve --dry-run` does"
    ),
    ("embed_engine", "pytorch"): (
        "the LLM API wants the model's absolute path; leave it out for runtime pytorch"
    ),
    ("parameters", "pytorch"): "these are parameters of compiled engines; leave it out for runtime pytorch",
    ("stand_in", "pytorch"): "is for compiled engines; leave it out for runtime pytorch",
}


def option_defaults() -> dict[str, Any]:
    """Every option of every runtime's repository, in the order of the records, with its default."""
    defaults: dict[str, Any] = {}
    for record in _RECORDS.values():
        defaults |= record().model_dump(exclude={"runtime"})
    return defaults


def own_options(values: Mapping[str, Any], *, runtime: Runtime) -> dict[str, Any]:
    """`values` for a runtime's record: what others alone have is left out where it says nothing.

    A flag is always given, with its default; so is a key of a recipe whose runtime was changed.
    """
    own, defaults = _RECORDS[runtime].model_fields, option_defaults()
    silent = {name for name, value in values.items() if name not in own and defaults.get(name, ...) == value}
    kept = {name: value for name, value in values.items() if name not in silent}
    return kept | {"runtime": runtime}


def foreign_reason(name: str, *, runtime: Runtime) -> str | None:
    """Why a runtime's repository has no such option, where another's has; None when none has."""
    if name in _RECORDS[runtime].model_fields:
        return None
    others = [other for other, record in _RECORDS.items() if name in record.model_fields]
    if not others:
        return None
    return _REASONS.get((name, runtime), f"is for runtime {' or '.join(others)}, and this is {runtime}")


def repository_options(
    values: Mapping[str, Any], *, runtime: Runtime, spelled: Callable[[str], str] = str
) -> RepositoryOptions:
    """The options of the repository of a runtime; `spelled` says how an option's name was written.

    Raises:
        UsageError: an option is another runtime's; all are named.
        ValidationError: a value is wrong.
    """
    given = own_options(values, runtime=runtime)
    foreign = [(name, reason) for name in given if (reason := foreign_reason(name, runtime=runtime))]
    if foreign:
        raise UsageError("; ".join(f"{spelled(name)}: {reason}" for name, reason in sorted(foreign)))
    return _ADAPTER.validate_python(given)
