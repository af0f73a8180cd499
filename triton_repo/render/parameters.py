"""The parameters of upstream's config.pbtxt files: default, type and meaning of each, and the user's values.

It is data (parameters.toml) with its checks, and reads those of a repository back; `tensorrt` renders it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from tpforge.errors import InputRefused
from tpforge.manifest import Manifest
from tpforge.trtllm.arguments import Argument, check_values
from tpforge.trtllm.typed_values import Value, write_value
from tpforge.units import counted


class Parameter(Argument):
    """One parameter; a key that is `always` there is written even when it is empty."""

    always: bool = False


@dataclass(frozen=True)
class ParameterTable:
    """The parameters of one model, in upstream's order."""

    model: str
    parameters: tuple[Parameter, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All keys."""
        return tuple(one.name for one in self.parameters)

    @property
    def required(self) -> tuple[str, ...]:
        """The keys that are always written."""
        return tuple(one.name for one in self.parameters if one.always)


@cache
def parameter_tables() -> dict[str, ParameterTable]:
    """The parameters by model."""
    text = resources.files("triton_repo.render").joinpath("parameters.toml").read_text("utf-8")
    return {
        model["name"]: ParameterTable(
            model["name"], tuple(Parameter.model_validate(row) for row in model["parameters"])
        )
        for model in tomllib.loads(text)["model"]
    }


def settable() -> tuple[Parameter, ...]:
    """Every parameter that the user may set; no two of them have the same name."""
    found = [one for table in parameter_tables().values() for one in table.parameters if not one.owned]
    assert len({one.name for one in found}) == len(found), "a name of two models"
    return tuple(found)


def check_parameters(given: Mapping[str, Value], manifest: Manifest) -> dict[str, Value]:
    """The user's values, checked one by one, against each other and against the engine.

    Raises:
        UsageError: a name is unknown, or a value has another type.
        InputRefused: values contradict each other or the engine; all of it at once.
    """
    table = settable()
    values = check_values(given, table, what="the model repository")
    full = {one.name: one.default for one in table} | values
    if problems := sorted(_problems(full, values, manifest)):
        raise InputRefused.listing("parameters of the model repository:", problems)
    return values


def parameter_texts(model: str, known: Mapping[str, Value], given: Mapping[str, Value]) -> dict[str, str]:
    """The parameters of a model as config.pbtxt has them; those without a value are left out or empty."""
    texts = {}
    for one in parameter_tables()[model].parameters:
        value = given.get(one.name, known.get(one.name, one.default))
        if value is not None:
            texts[one.name] = ",".join(map(str, value)) if isinstance(value, list) else write_value(value)
        elif one.always:
            texts[one.name] = ""
    return texts


def _problems(full: Mapping[str, Value], given: Mapping[str, Value], manifest: Manifest) -> Iterator[str]:
    build = manifest.engine_build.arguments if manifest.engine_build else {}
    yield from _of_the_build(full, given, build)
    yield from _of_decoding(full)
    tokens, beams, length = (
        full["max_tokens_in_paged_kv_cache"],
        full["max_beam_width"],
        manifest.limits.max_seq_len,
    )
    if tokens is not None and tokens < beams * length:
        yield (
            f"max_tokens_in_paged_kv_cache {tokens}: does not hold one request of max_beam_width {beams} x "
            f"max_seq_len {length} tokens (tensorrtllm_backend 168)"
        )
    if full["gpt_model_type"] == "V1":
        yield "gpt_model_type V1: batches are static, and nothing is streamed; use inflight_fused_batching"
    if full["cuda_graph_cache_size"] is not None and not full["cuda_graph_mode"]:
        yield "cuda_graph_cache_size: needs cuda_graph_mode"
    if full["participant_ids"] is not None and full["gpu_device_ids"] is None:
        yield "participant_ids: needs gpu_device_ids"
    if full["gpu_device_ids"] is not None:
        yield from _of_devices(full["gpu_device_ids"], world_size=manifest.mapping.world_size)


def _of_the_build(
    full: Mapping[str, Value], given: Mapping[str, Value], build: Mapping[str, Any]
) -> Iterator[str]:
    if build.get("use_paged_context_fmha") == "disable":
        if full["enable_chunked_context"]:
            yield "enable_chunked_context: the engine was built without use_paged_context_fmha"
        if given.get("enable_kv_cache_reuse"):
            yield "enable_kv_cache_reuse: the engine was built without use_paged_context_fmha"
    if full["max_beam_width"] > build.get("max_beam_width", 1):
        beams = build.get("max_beam_width", 1)
        yield f"max_beam_width {full['max_beam_width']}: the engine was built for {beams}"
    if full["gpu_weights_percent"] < 1 and not build.get("weight_streaming"):
        percent = full["gpu_weights_percent"]
        yield f"gpu_weights_percent {percent}: the engine was built without weight_streaming"
    if full["lora_prefetch_dir"] is not None and build.get("lora_plugin", "disable") == "disable":
        yield "lora_prefetch_dir: the engine was built without lora_plugin"


def _of_decoding(full: Mapping[str, Value]) -> Iterator[str]:
    mode = full["decoding_mode"]
    lookahead = [name for name in full if name.startswith("lookahead_") and full[name] is not None]
    if lookahead and (len(lookahead) < 3 or mode != "lookahead"):
        yield f"{', '.join(lookahead)}: decoding_mode lookahead goes with all three of lookahead_*"
    for name, wanted in (("medusa_choices", "medusa"), ("eagle_choices", "eagle")):
        if full[name] is not None and mode != wanted:
            yield f"{name}: needs decoding_mode {wanted}"
    if mode == "beam_search" and full["max_beam_width"] == 1:
        yield "decoding_mode beam_search: needs max_beam_width above 1"
    if full["xgrammar_tokenizer_info_path"] is not None and full["guided_decoding_backend"] is None:
        yield "xgrammar_tokenizer_info_path: needs guided_decoding_backend xgrammar"


def _of_devices(text: str, *, world_size: int) -> Iterator[str]:
    """Instances have GPUs of their own, one per rank."""
    groups = [[part.strip() for part in group.split(",")] for group in text.split(";")]
    ids = [part for group in groups for part in group]
    if not all(part.isdigit() for part in ids):
        yield f"gpu_device_ids {text!r}: expected numbers, such as 0,1;2,3"
    elif len(set(ids)) != len(ids):
        yield f"gpu_device_ids {text!r}: a GPU is given twice"
    if any(len(group) != world_size for group in groups):
        yield f"gpu_device_ids {text!r}: every instance needs {counted(world_size, 'GPU')}, one per rank"


def read_parameters(repository: Path) -> dict[str, str]:
    """The parameters of tensorrt_llm in a model repository, ours or upstream's.

    Raises:
        InputRefused: there is no such model, or its config.pbtxt cannot be parsed.
    """
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    file = repository / "tensorrt_llm" / "config.pbtxt"
    if not file.is_file():
        raise InputRefused(f"{file}: no such file; expected a repository with the model tensorrt_llm")
    try:
        config = text_format.Parse(file.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise InputRefused(f"{file}:{error}") from error
    found = {key: value.string_value for key, value in config.parameters.items()}
    # A variable that nobody filled in is a default to the backend.
    return {key: value for key, value in found.items() if value and "${" not in value}
