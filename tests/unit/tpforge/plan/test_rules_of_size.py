"""Each rule of size where it must speak, and where it must not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.tpforge.plan.test_choose import advice, plan
from tpforge.errors import InputRefused, NothingFits
from tpforge.plan.options.option import Ask
from tpforge.plan.speed.load import Load

ASK = Ask(Load(1000, 1000), 2000)
ALONE = Ask(Load(1000, 1000, concurrency=1), 2000)


def test_one_gpu_is_not_judged_where_it_was_not_to_be_tried() -> None:
    assert "one-gpu" not in advice(plan("llama-3.3-70b", "h100", 8, ask=replace(ASK, tp_sizes=(8,))))


def test_one_gpu_that_is_too_slow_is_called_slow_and_not_too_small() -> None:
    said = advice(plan("llama-3.3-70b", "h100", 8, ask=replace(ASK, ttft_ms=70)))["one-gpu"]
    assert said.startswith("one GPU holds it, but not within the limits")
    assert "ms to the first token with one request alone, more than 70" in said


def test_one_gpu_that_holds_16_bits_but_is_slow_with_them_is_not_called_too_small() -> None:
    said = advice(plan("llama-3.1-8b", "h100", 8, ask=replace(ALONE, tpot_ms=5.5)))["one-gpu"]
    assert said.startswith("one GPU does what is asked only quantized (fp8), though it holds 16 bits")


def test_one_gpu_with_too_little_cache_for_the_longest_request_says_so() -> None:
    ask = replace(ASK, load=Load(90_000, 1000, 1), max_len=91_000, formats=("fp8",), kv_dtypes=("bfloat16",))
    said = advice(plan("llama-3.3-70b", "h100", 4, ask=ask))["one-gpu"]
    assert said.startswith("one GPU holds the weights, but not the cache of the longest request")


def test_a_model_larger_than_one_gpu_at_every_precision_says_by_how_much() -> None:
    said = advice(plan("llama-3.1-405b", "h100", 16))["one-gpu"]
    assert said.startswith("no precision that loads there fits one GPU (")
    assert "and has 79.1 GiB" in said


def test_16_bits_that_were_not_tried_are_not_said_to_be_too_large() -> None:
    said = advice(plan("llama-3.1-8b", "h100", 2, ask=replace(ASK, formats=("fp8",))))["one-gpu"]
    assert said == ("one GPU holds it quantized (fp8); 16 bits were not tried: TP is a choice, not a need")


def test_quantize_first_notes_the_chosen_format_that_saves_dividing() -> None:
    said = advice(plan("qwen2.5-14b", "l4", 1))
    assert said["quantize-first"].startswith("in 16 bits it needs 1.3 x the memory of one GPU; fp8 saves")


def test_quantize_first_warns_of_16_bits_over_ranks_where_fewer_bits_need_one() -> None:
    ask = replace(ASK, formats=(None, "int4_awq"))
    found = plan("qwen2.5-32b", "a100-sxm-40gb", 2, ask=ask)
    assert (found.chosen.weight_format, found.chosen.mapping.world_size) == (None, 2)
    warned = {one.rule: one for one in found.advice}["quantize-first"]
    assert warned.level == "warning"
    assert "1.6 x the memory of one GPU; TP1 x 2 int4_awq" in warned.text


@pytest.mark.parametrize(
    ("model", "gpu", "count"),
    [("llama-3.1-8b", "h100", 1), ("llama-3.1-405b", "h100", 8), ("llama-3.3-70b", "h100", 8)],
)
def test_quantize_first_is_silent_of_what_fits_of_what_misses_by_far_and_of_replicas_of_two(
    model: str, gpu: str, count: int
) -> None:
    assert "quantize-first" not in advice(plan(model, gpu, count))


def test_an_alternative_is_named_just_when_nothing_fits() -> None:
    with pytest.raises(NothingFits, match=r"instead: llama-3\.1-8b, TP1 fp8"):
        plan("llama-3.3-70b", "rtx-4090", 1, alternatives=("llama-3.1-8b",))
    with pytest.raises(NothingFits) as caught:
        plan("llama-3.3-70b", "rtx-4090", 1, alternatives=("llama-3.1-70b",))
    assert "instead" not in str(caught.value)


def test_no_precision_of_a_release_without_trtllm_build_is_planned_for_engines() -> None:
    with pytest.raises(InputRefused, match=r"bfloat16, .*1\.3\.0 builds no engines"):
        plan("llama-3.1-8b", "h100", 1, ask=replace(ASK, version="1.3.0"))
    served = plan("llama-3.1-8b", "h100", 1, ask=replace(ASK, version="1.3.0", runtime="pytorch"))
    assert served.chosen.precision == "fp8"


def test_the_band_of_ranks_on_two_hosts_claims_no_published_rows() -> None:
    two = plan("llama-3.1-405b", "h100", 16)
    assert two.chosen.band is not None
    assert (two.chosen.mapping.world_size, two.chosen.band.kind, two.chosen.band.rows) == (
        16,
        "several hosts",
        0,
    )
    assert "16 ranks or several hosts" in advice(two)["unmeasured"]
    replicas = plan("llama-3.1-8b", "h100", 16)
    assert replicas.chosen.band is not None
    assert replicas.chosen.band.kind == "one GPU"
    assert "unmeasured" not in advice(replicas)


def test_an_alternative_that_does_not_do_it_or_is_larger_is_called_so() -> None:
    said = advice(plan("llama-3.1-8b", "h100", 1, alternatives=("llama-3.1-405b",)))
    assert said["other-model"] == "llama-3.1-405b does not do it on these GPUs"
    both = advice(plan("llama-3.3-70b", "h100", 2, alternatives=("llama-3.1-8b", "llama-3.1-405b")))
    assert "smaller-model" not in both
    assert both["other-model"].startswith("llama-3.1-8b (")
    assert "; llama-3.1-405b does not do it on these GPUs; compare quality" in both["other-model"]


def test_how_often_16_bits_exceed_one_gpu_is_never_said_as_once() -> None:
    ask = replace(ASK, runtime="pytorch", formats=(None, "fp8"))
    found = plan("mistral-small-24b", "l40s", 8, ask=ask)
    said = advice(found)["quantize-first"]
    need = float(said.partition("needs ")[2].partition(" x")[0])
    assert 1 < need < 1.1


def test_a_checkpoint_that_is_stored_quantized_fits_as_it_is_stored() -> None:
    ask = replace(ASK, runtime="pytorch", tpot_ms=30)
    said = advice(plan("minimax-m2.5-nvfp4", "b200", 2, ask=ask))["one-gpu"]
    assert said == "one GPU holds it as it is stored (nvfp4): TP is a choice, not a need"


@pytest.mark.parametrize("formats", [(None,), ("fp8",), ("int4_awq", "fp8")])
def test_a_quantized_checkpoint_is_not_planned_in_another_format(formats: tuple[str | None, ...]) -> None:
    with pytest.raises(InputRefused, match="the checkpoint holds mxfp4 and is run as that alone"):
        plan("gpt-oss-20b", "h100", 1, ask=replace(ASK, runtime="pytorch", formats=formats))
    own = replace(ASK, runtime="pytorch", formats=(*formats, "mxfp4"))
    assert plan("gpt-oss-20b", "h100", 1, ask=own).chosen.precision == "mxfp4"


def test_only_what_was_asked_for_is_said_not_to_fit_where_a_format_was_named() -> None:
    found = plan("qwen2.5-32b", "a10", 4, ask=replace(ASK, formats=(None,)))
    assert advice(found)["one-gpu"].startswith("no precision that was asked for fits one GPU (")
    assert "that loads there fits" in advice(plan("llama-3.1-405b", "h100", 8))["one-gpu"]
