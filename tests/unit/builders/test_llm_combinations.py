"""Features of the LLM API together: what upstream refuses is refused first, what it has not tried is said."""

from __future__ import annotations

from typing import Any

import pytest

from builders.llm_api.arguments import LlmPlan, LlmTarget, plan_llm
from tpforge.errors import InputRefused
from tpforge.manifest import Limits
from tpforge.shards.mapping import Mapping
from tpforge.trtllm.versions import find_release

LIMITS = Limits(max_batch_size=8, max_input_len=1024, max_seq_len=2048)
SPECULATION = {"speculative_config": {"decoding_type": "NGram", "max_draft_len": 4}}


def plan(given: dict[str, Any], *, release: str = "1.4.0rc1", sm: int | None = 100, **sizes: int) -> LlmPlan:
    target = LlmTarget(find_release(release), Mapping(**sizes), LIMITS, sm=sm)
    return plan_llm(target, given=given)


@pytest.mark.parametrize(
    ("given", "sizes", "said"),
    [
        (SPECULATION, {"pp_size": 2}, "speculative_config: does not go with --pp"),
        (
            {**SPECULATION, "context_parallel_size": 2, "cp_config": {"cp_type": "HELIX"}},
            {},
            "speculative_config: does not go with cp_config.cp_type HELIX",
        ),
        (
            {"prefill_cuda_graph_backend": "breakable", "enable_lora": True},
            {},
            "prefill_cuda_graph_backend breakable: does not go with enable_lora",
        ),
        (
            {"prefill_cuda_graph_backend": "breakable", "torch_compile_config": {"enable_userbuffers": True}},
            {},
            "prefill_cuda_graph_backend breakable: does not go with torch_compile_config",
        ),
    ],
)
@pytest.mark.parametrize("release", ["1.3.0rc28", "1.4.0rc1"])
def test_what_upstream_refuses_together_is_refused_and_each_alone_passes(
    given: dict[str, Any], sizes: dict[str, int], said: str, release: str
) -> None:
    with pytest.raises(InputRefused) as refused:
        plan(given, release=release, **sizes)
    assert said in str(refused.value)
    assert plan({}, release=release, **sizes).warnings is not None
    if sizes:
        plan(given, release=release)


@pytest.mark.parametrize(
    ("dtype", "sm", "passes"),
    [("nvfp4", 100, True), ("nvfp4", 90, False), ("nvfp4", 120, False), ("fp8_ds_mla", 90, True),
     ("fp8_ds_mla", 100, False), ("fp8", 80, True), ("nvfp4", None, True)],
)  # fmt: skip
def test_a_type_of_the_kv_cache_is_refused_where_no_kernel_has_it(
    dtype: str, sm: int | None, passes: bool
) -> None:
    given = {"kv_cache_config": {"dtype": dtype}}
    if passes:
        assert plan(given, sm=sm).arguments["kv_cache_config.dtype"] == dtype
        return
    with pytest.raises(InputRefused, match=f"kv_cache_config.dtype {dtype}: works on SM"):
        plan(given, sm=sm)


@pytest.mark.parametrize(
    ("given", "sizes", "other"),
    [
        ({}, {"tp_size": 2, "moe_ep_size": 2}, "--moe-ep"),
        ({"enable_attention_dp": True}, {"tp_size": 2}, "enable_attention_dp"),
        ({"cache_transceiver_config": {"backend": "NIXL"}}, {}, "cache_transceiver_config"),
        (SPECULATION, {}, "speculative_config"),
        ({"guided_decoding_backend": "xgrammar"}, {}, "guided_decoding_backend"),
    ],
)
def test_what_upstream_has_not_tried_with_lora_is_said(
    given: dict[str, Any], sizes: dict[str, int], other: str
) -> None:
    said = f"enable_lora with {other}: upstream's matrix of features calls it untested"
    assert said in plan({**given, "enable_lora": True}, **sizes).warnings
    assert said not in plan(given, **sizes).warnings


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"cp_config": {"cp_type": "HELIX", "tokens_per_block": 64}, "context_parallel_size": 2},
            "cp_config.tokens_per_block 64: is not kv_cache_config.tokens_per_block 32",
        ),
        (
            {"speculative_config": {"decoding_type": "SA", "max_draft_len": 4, "global_pool_size": 7}},
            "speculative_config.global_pool_size 7: is below max_batch_size 8",
        ),
        (
            {"speculative_config": {"decoding_type": "DSpark", "max_draft_len": 4, "block_size": 5}},
            "speculative_config.block_size 5: is not speculative_config.max_draft_len 4",
        ),
        ({"encode_only": True, "mm_encoder_only": True}, "encode_only: does not go with mm_encoder_only"),
        ({"enable_mla_skip_correction": True, "attn_backend": "VANILLA"}, "needs attn_backend TRTLLM"),
    ],
)
def test_sizes_and_modes_that_end_the_start_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputRefused) as refused:
        plan(given)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"enable_early_first_token_response": True, "disable_overlap_scheduler": True},
            "enable_early_first_token_response: upstream ignores it with disable_overlap_scheduler",
        ),
        ({"gms_config": {"mode": "rw"}}, "gms_config: upstream ignores it without load_format gms"),
    ],
)
def test_what_upstream_leaves_out_in_silence_is_said(given: dict[str, Any], said: str) -> None:
    assert said in plan(given).warnings


def test_what_depends_on_latent_attention_is_said_of_such_models_alone() -> None:
    said = "kv_cache_config.enable_block_reuse: upstream ignores it on SM 89"
    for has_latent, release in ((True, "1.2.1"), (True, "1.4.0rc1"), (False, "1.4.0rc1"), (None, "1.4.0rc1")):
        target = LlmTarget(find_release(release), Mapping(), LIMITS, sm=89, has_latent=has_latent)
        assert (said in plan_llm(target, given={}).warnings) is bool(has_latent)
