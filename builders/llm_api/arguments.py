"""llm.yaml: the arguments of TensorRT-LLM's LLM API for one model, checked against the release.

It writes no files and loads no model. Which quantized checkpoints the LLM API takes is `llm_formats`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tpforge.errors import InputRefused
from tpforge.manifest import Limits
from tpforge.shards.mapping import Mapping as RankMapping
from tpforge.trtllm.arguments import check_values, llm_arguments
from tpforge.trtllm.versions import Release

_SPARSE = {
    "rocket": ("window_size", "kernel_size", "topr", "topk", "prompt_budget", "page_size"),
    "dsa": ("index_n_heads", "index_head_dim", "index_topk", "indexer_max_chunk_size"),
}
_NEEDS_DRAFT_MODEL = ("Eagle", "DraftTarget")
_NEEDS_DRAFT_LEN = ("Eagle", "NGram", "DraftTarget")


@dataclass(frozen=True)
class LlmTarget:
    """What the LLM API is to run: the release, the ranks, the limits, and the GPUs when they are known."""

    release: Release
    mapping: RankMapping
    limits: Limits
    sm: int | None = None


@dataclass(frozen=True)
class LlmPlan:
    """The arguments by their dotted names, in the order of the table; and what to know."""

    arguments: dict[str, Any]
    warnings: tuple[str, ...]

    @property
    def nested(self) -> dict[str, Any]:
        """The arguments as the LLM API takes them: a dot becomes a level."""
        return nest(self.arguments)

    @property
    def has_attention_dp(self) -> bool:
        """Whether attention is by data parallelism: a rank has whole heads, and requests of its own."""
        return self.arguments.get("enable_attention_dp") is True


def plan_llm(target: LlmTarget, *, given: Mapping[str, Any]) -> LlmPlan:
    """The arguments for a target; `given` are the user's, nested or with dots.

    Raises:
        UsageError: an argument is unknown, of a wrong type, or not a choice.
        InputRefused: arguments contradict each other or the GPUs; all of it at once.
    """
    table = llm_arguments(target.release)
    what = f"the LLM API of TensorRT-LLM {target.release.trtllm}"
    own = check_values(flatten(given, known={one.name for one in table}), table, what=what)
    mapping, limits = target.mapping, target.limits
    fixed: dict[str, Any] = {
        "backend": "pytorch",
        "tensor_parallel_size": mapping.tp_size,
        "pipeline_parallel_size": mapping.pp_size,
        "max_batch_size": limits.max_batch_size,
        "max_input_len": limits.max_input_len,
        "max_seq_len": limits.max_seq_len,
    }
    if mapping.moe_ep_size > 1:
        fixed |= {
            "moe_expert_parallel_size": mapping.moe_ep_size,
            "moe_tensor_parallel_size": mapping.moe_tp_size,
        }
    arguments = {**fixed, **own}
    values = _Values(arguments, {one.name: one.default for one in table})
    only = {one.name: one.only for one in table if one.only}
    problems = sorted({*_problems(values, target), *_speculation(values, only)})
    if problems:
        raise InputRefused.listing(f"{what} would refuse this, or not do what was asked:", problems)
    ordered = {one.name: arguments[one.name] for one in table if one.name in arguments}
    return LlmPlan(ordered, tuple(_warnings(values, target)))


def flatten(values: Mapping[str, Any], *, known: set[str], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted names; a table that is an argument itself stays whole."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        has_parts = any(one.startswith(f"{name}.") for one in known)
        if isinstance(value, Mapping) and (has_parts or name not in known):
            flat |= flatten(value, known=known, prefix=f"{name}.")
        else:
            flat[name] = value
    return flat


def nest(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names as nested tables."""
    nested: dict[str, Any] = {}
    for name, value in values.items():
        *tables, last = name.split(".")
        table = nested
        for part in tables:
            table = table.setdefault(part, {})
        table[last] = value
    return nested


class _Values:
    """Arguments with upstream's defaults behind them."""

    def __init__(self, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        self.given, self._defaults = dict(given), dict(defaults)

    def __getitem__(self, name: str) -> Any:
        return self.given.get(name, self._defaults.get(name))

    def below(self, table: str) -> list[str]:
        """The arguments given of a table."""
        return [name for name in self.given if name.startswith(f"{table}.")]


def _problems(values: _Values, target: LlmTarget) -> Iterator[str]:
    yield from _sizes(values, target)
    yield from _parallelism(values, target)
    yield from _dependencies(values)
    if target.sm is not None and target.sm < 80 and values["dtype"] == "bfloat16":
        yield f"dtype bfloat16: needs SM 80; the target is SM {target.sm}; use float16"
    graphs = "cuda_graph_config"
    if values[f"{graphs}.batch_sizes"] and values[f"{graphs}.max_batch_size"]:
        yield f"{graphs}.batch_sizes: cannot be given with {graphs}.max_batch_size; give one of them"
    for table in (graphs, "torch_compile_config"):
        if table in values.given and values.below(table):
            yield f"{table}: is null, but {', '.join(values.below(table))} is given"


def _sizes(values: _Values, target: LlmTarget) -> Iterator[str]:
    tokens, batch = values["max_num_tokens"], values["max_batch_size"]
    input_len, seq_len = values["max_input_len"], values["max_seq_len"]
    if batch > tokens:
        yield f"max_batch_size {batch}: is above max_num_tokens {tokens}"
    if input_len > tokens and not values["enable_chunked_prefill"]:
        yield (
            f"max_input_len {input_len}: is above max_num_tokens {tokens}, and without "
            "enable_chunked_prefill such a prompt is refused"
        )
    for name, limit in (
        ("max_input_len", target.limits.max_input_len),
        ("max_seq_len", target.limits.max_seq_len),
        ("max_batch_size", target.limits.max_batch_size),
    ):
        if values[name] != limit:
            yield f"{name} {values[name]}: the engine's limit is {limit}; give --{name.replace('_', '-')}"
    kept = values["kv_cache_config.max_tokens"]
    if kept is not None and kept < seq_len * values["max_beam_width"]:
        yield (
            f"kv_cache_config.max_tokens {kept}: does not hold one request of max_seq_len {seq_len} x "
            f"max_beam_width {values['max_beam_width']}"
        )


def _parallelism(values: _Values, target: LlmTarget) -> Iterator[str]:
    mapping = target.mapping
    if "moe_tensor_parallel_size" in values.given:
        product = values["moe_tensor_parallel_size"] * mapping.moe_ep_size
        if product != mapping.tp_size:
            yield f"moe_tensor_parallel_size: times --moe-ep is {product}, but --tp is {mapping.tp_size}"
    if not values["enable_attention_dp"]:
        for name in ("enable_lm_head_tp_in_adp", *values.below("attention_dp_config")):
            if values.given.get(name):
                yield f"{name}: needs enable_attention_dp"
    if mapping.tp_size == 1 and values["allreduce_strategy"] != "AUTO":
        yield f"allreduce_strategy {values['allreduce_strategy']}: there is no all-reduce at tp=1"


def _dependencies(values: _Values) -> Iterator[str]:
    needs = (
        ("enable_iter_req_stats", "enable_iter_perf_stats"),
        ("perf_metrics_max_requests", "return_perf_metrics"),
    )
    for name, needed in needs:
        if values.given.get(name) and not values[needed]:
            yield f"{name}: needs {needed}"
    if not values["enable_lora"]:
        for name in (*values.below("lora_config"), *values.below("peft_cache_config")):
            yield f"{name}: needs enable_lora"
    sparse = "sparse_attention_config"
    algorithm = values[f"{sparse}.algorithm"]
    for name in values.below(sparse):
        field = name.removeprefix(f"{sparse}.")
        if field != "algorithm" and field not in _SPARSE.get(algorithm or "", ()):
            yield f"{name}: is not a field of the algorithm {algorithm or 'that is not given'}"
    connector = values.below("kv_connector_config")
    if connector and len(connector) < 3:
        yield "kv_connector_config: needs its module, its scheduler's class and its worker's class"


def _speculation(values: _Values, only: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    table = "speculative_config"
    given = values.below(table)
    if not given:
        return
    kind = values[f"{table}.decoding_type"]
    if kind is None:
        yield f"{table}.decoding_type: missing"
        return
    for name in given:
        if name in only and kind not in only[name]:
            yield f"{name}: is not a field of decoding_type {kind}"
    for field, kinds in (("max_draft_len", _NEEDS_DRAFT_LEN), ("speculative_model_dir", _NEEDS_DRAFT_MODEL)):
        if kind in kinds and values[f"{table}.{field}"] is None:
            yield f"{table}.{field}: missing; {kind} needs it"
    if values["max_beam_width"] > 1:
        yield f"max_beam_width {values['max_beam_width']}: there is no beam search with {table}; use 1"


def _warnings(values: _Values, target: LlmTarget) -> Iterator[str]:
    if values["trust_remote_code"]:
        yield "trust_remote_code: Python code in the model's folder will be run"
    if values["load_format"] == "dummy":
        yield "load_format dummy: the weights are random; the answers mean nothing"
    if target.sm is None:
        yield "the target GPU is not known, so nothing was checked against it; give --sm, such as --sm 90"
    if not values["enable_chunked_prefill"]:
        yield (
            "enable_chunked_prefill is off: a prompt above max_num_tokens "
            f"{values['max_num_tokens']} is refused, and long prompts hold up running answers"
        )
