"""llm.yaml: the arguments of TensorRT-LLM's LLM API for one model, checked against the release.

It writes no files and loads no model. Which quantized checkpoints the LLM API takes is `formats`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from builders.llm_api.autodeploy import AUTODEPLOY, WARNING, autodeploy_problems, autodeploy_ranks
from builders.llm_api.combinations import doubted, refused
from builders.llm_api.given import check_given, checked_by, doubts, read_unchecked
from builders.llm_api.tagged import tag_problems
from tpforge.errors import InputRefused
from tpforge.manifest import Limits
from tpforge.shards.mapping import Mapping as RankMapping
from tpforge.trtllm.architectures import Backend
from tpforge.trtllm.argument_tables import llm_table
from tpforge.trtllm.arguments import ArgumentTable
from tpforge.trtllm.dotted import nest
from tpforge.trtllm.relations import Asked
from tpforge.trtllm.versions import Release

_NEEDS_DRAFT_MODEL = ("Eagle", "Eagle3", "Draft_Target")
_NEEDS_DRAFT_LEN = ("Eagle", "Eagle3", "NGram", "SA", "Draft_Target", "DSpark", "PARD")
_DRAFT_MODEL = ("speculative_config.speculative_model_dir", "speculative_config.speculative_model")
"""Its name up to 1.2, and from 1.3 on."""


@dataclass(frozen=True)
class LlmTarget:
    """What the LLM API is to run: the release, the ranks, the limits; GPUs and model when they are known.

    `has_latent`: the model has multi-head latent attention. `backend` is the LLM API's that knows the model.
    """

    release: Release
    mapping: RankMapping
    limits: Limits
    sm: int | None = None
    has_latent: bool | None = None
    backend: Backend = "pytorch"

    @property
    def is_autodeploy(self) -> bool:
        """Whether AutoDeploy runs it, and not the PyTorch backend proper."""
        return self.backend == AUTODEPLOY


@dataclass(frozen=True)
class LlmPlan:
    """The arguments by their dotted names, in the order of the table; and what to know.

    `unchecked` are those given past the table; `arguments` has them last. `checked_by` is the table.
    """

    arguments: dict[str, Any]
    warnings: tuple[str, ...]
    unchecked: dict[str, Any] = field(default_factory=dict)
    checked_by: str = ""

    @property
    def nested(self) -> dict[str, Any]:
        """The arguments as the LLM API takes them: a dot becomes a level."""
        return nest(self.arguments)

    @property
    def context_parallel_size(self) -> int:
        """Ranks that share one request's tokens, beside those of --tp and --pp."""
        return int(self.arguments.get("context_parallel_size") or 1)

    @property
    def has_attention_dp(self) -> bool:
        """Whether attention is by data parallelism: a rank has whole heads, and requests of its own."""
        return self.arguments.get("enable_attention_dp") is True


def plan_llm(
    target: LlmTarget, *, given: Mapping[str, Any], unchecked: Mapping[str, Any] | None = None
) -> LlmPlan:
    """The arguments for a target; `given` are the user's, nested or with dots.

    `unchecked` are passed on as they are: the user knows the release better than the table.

    Raises:
        UsageError: an argument is unknown, of a wrong type, or not a choice; or unchecked and tpforge's own.
        InputRefused: arguments contradict each other or the GPUs; all of it at once.
    """
    table = llm_table(target.release)
    rows = table.arguments
    own = check_given(given, table, release=target.release)
    forced = read_unchecked(unchecked or {}, table, own=own)
    arguments = {**_fixed(target), **own}
    values = _Values({**arguments, **forced}, {one.name: one.default for one in rows})
    asked = Asked(values.__getitem__, values.given, target.mapping, target.sm, target.has_latent)
    problems = sorted(
        {
            *_problems(values, target),
            *_speculation(values, table),
            *tag_problems(own, table),
            *refused(asked, release=target.release),
            *(autodeploy_problems(own, mapping=target.mapping) if target.is_autodeploy else ()),
        }
    )
    if problems:
        what = f"the LLM API of TensorRT-LLM {target.release.trtllm}"
        raise InputRefused.listing(f"{what} would refuse this, or not do what was asked:", problems)
    ordered = {one.name: arguments[one.name] for one in rows if one.name in arguments}
    if target.is_autodeploy:
        ordered = {"backend": AUTODEPLOY, **autodeploy_ranks(target.mapping), **ordered}
    warnings = (*_warnings(values, target), *doubted(asked, release=target.release))
    warnings += tuple(doubts(own, forced, table, release=target.release))
    return LlmPlan({**ordered, **forced}, warnings, forced, checked_by(table, release=target.release))


def _fixed(target: LlmTarget) -> dict[str, Any]:
    """What tpforge itself sets: backend, ranks, limits."""
    mapping, limits = target.mapping, target.limits
    fixed: dict[str, Any] = {"backend": target.backend}
    if not target.is_autodeploy:
        fixed |= {"tensor_parallel_size": mapping.tp_size, "pipeline_parallel_size": mapping.pp_size}
    if not target.is_autodeploy and mapping.moe_ep_size > 1:
        fixed |= {
            "moe_expert_parallel_size": mapping.moe_ep_size,
            "moe_tensor_parallel_size": mapping.moe_tp_size,
        }
    return {
        **fixed,
        "max_batch_size": limits.max_batch_size,
        "max_input_len": limits.max_input_len,
        "max_seq_len": limits.max_seq_len,
    }


class _Values:
    """Arguments with upstream's defaults behind them."""

    def __init__(self, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        self.given, self._defaults = dict(given), dict(defaults)

    def __getitem__(self, name: str) -> Any:
        """A value; null, which upstream takes for the default too, is the default."""
        found = self.given.get(name)
        return self._defaults.get(name) if found is None else found

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
    tokens, batch = values["max_num_tokens"] or math.inf, values["max_batch_size"]
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
    tokens, kept = (values[f"{name}.tokens_per_block"] for name in ("cp_config", "kv_cache_config"))
    if values["cp_config.cp_type"] == "HELIX" and tokens not in (None, kept):
        yield f"cp_config.tokens_per_block {tokens}: is not kv_cache_config.tokens_per_block {kept}"
    if mapping.tp_size == 1 and values["allreduce_strategy"] not in (None, "AUTO"):
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
    connector = values.below("kv_connector_config")
    if connector and "kv_connector_config.connector" not in connector and len(connector) < 3:
        yield "kv_connector_config: needs its module, its scheduler's class and its worker's class"


def _speculation(values: _Values, table: ArgumentTable) -> Iterator[str]:
    prefix = "speculative_config"
    kind = values[f"{prefix}.decoding_type"]
    if kind is None or not values.below(prefix):
        return
    model = next((one.name for one in table.arguments if one.name in _DRAFT_MODEL), _DRAFT_MODEL[0])
    for name, kinds in ((f"{prefix}.max_draft_len", _NEEDS_DRAFT_LEN), (model, _NEEDS_DRAFT_MODEL)):
        if kind in kinds and not values[name]:
            yield f"{name}: missing; {kind} needs it"
    pool, batch = values[f"{prefix}.global_pool_size"], values["max_batch_size"]
    if pool is not None and pool < batch:
        yield f"{prefix}.global_pool_size {pool}: is below max_batch_size {batch}"
    block, draft = values[f"{prefix}.block_size"], values[f"{prefix}.max_draft_len"]
    if block is not None and block != draft:
        yield f"{prefix}.block_size {block}: is not {prefix}.max_draft_len {draft}"
    if values["max_beam_width"] > 1:
        yield f"max_beam_width {values['max_beam_width']}: there is no beam search with {prefix}; use 1"


def _warnings(values: _Values, target: LlmTarget) -> Iterator[str]:
    if target.is_autodeploy:
        yield WARNING
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
