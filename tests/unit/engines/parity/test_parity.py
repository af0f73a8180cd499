"""The proof itself: right shards pass, and deliberately wrong ones are caught by the logits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig

from engines.parity import parity as parity_module
from engines.parity.comparing import LOGIT_TOLERANCE
from engines.parity.expected import NUM_GREEDY_TOKENS, expectations
from engines.parity.parity import measure_parity
from engines.parity.positions_apart import places_apart
from engines.parity.prompts import load_prompts
from engines.parity.transformers_model import load_transformers
from engines.reference import load_config, open_executor
from engines.reference.batches import Logits, Prefill
from engines.reference.cache import LayerCache
from tests.support.tiny import write_tiny_llama
from tests.support.tiny_engine import write_engine_of, write_tiny_engine
from tpforge.dtypes import DType
from tpforge.manifest import GoldenAnswer, Limits
from tpforge.shards.mapping import Mapping

Tensors = dict[str, Tensor]


def swap_heads(tensors: Tensors) -> None:
    weight = tensors["transformer.layers.0.attention.qkv.weight"]
    first, second = weight[0:16].clone(), weight[16:32].clone()
    weight[0:16], weight[16:32] = second, first


def shift_vocabulary(tensors: Tensors) -> None:
    tensors["lm_head.weight"] = tensors["lm_head.weight"].roll(1, 0)


def exchange_gate_and_up(tensors: Tensors) -> None:
    fc, gate = "transformer.layers.1.mlp.fc.weight", "transformer.layers.1.mlp.gate.weight"
    tensors[fc], tensors[gate] = tensors[gate], tensors[fc]


def test_right_shards_pass_and_give_golden_answers(tmp_path: Path) -> None:
    engine, manifest, source = write_tiny_engine(tmp_path, tp_size=2)
    messages: list[str] = []
    parity, golden = measure_parity(engine, manifest, source_path=source, progress=messages.append)
    assert parity.passed
    assert parity.problems == ()
    assert 0 < parity.max_abs_logit_error < LOGIT_TOLERANCE
    assert parity.num_greedy_equal == parity.num_greedy_tokens > 0
    assert parity.top1_agreement == 1.0
    assert 0 <= parity.mean_kl_divergence < 1e-9
    assert golden[0].name == "easy"
    assert "What is the capital of France?" in golden[0].prompt
    assert 0 < golden[0].num_decisive <= len(golden[0].token_ids)
    assert any("easy" in message for message in messages)


@pytest.mark.parametrize("damage", [swap_heads, shift_vocabulary, exchange_gate_and_up])
def test_a_wrong_shard_is_caught_by_the_logits(tmp_path: Path, damage: Callable[[Tensors], None]) -> None:
    engine, manifest, source = write_tiny_engine(tmp_path, tp_size=2)
    file = engine / "checkpoint" / "rank1.safetensors"
    tensors = load_file(file)
    damage(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    parity, _ = measure_parity(engine, manifest, source_path=source, progress=lambda _: None)
    assert not parity.passed
    assert parity.max_abs_logit_error > 5 * LOGIT_TOLERANCE
    assert "largest logit error" in parity.problems[-1]
    assert parity.problems[0].startswith("prompt 'easy': logits off by up to ")
    assert "computed again, the ranks change by " in parity.problems[0]


def test_transformers_is_asked_once_a_prompt_and_all_of_it_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list of what is checked: each position of each prompt and answer, each greedy token."""
    engine, manifest, source = write_tiny_engine(tmp_path, tp_size=2)
    lengths = count_lengths(monkeypatch)
    messages: list[str] = []
    parity, golden = measure_parity(engine, manifest, source_path=source, progress=messages.append)
    prompts = load_prompts(engine / "tokenizer", manifest=manifest)
    counts = [min(NUM_GREEDY_TOKENS, manifest.limits.max_seq_len - len(one.ids)) for one in prompts]
    # The last call is that of the tokens apart.
    num_apart = lengths.pop()
    assert num_apart == len(places_apart(LlamaConfig(), limits=manifest.limits))
    assert lengths == [len(one.ids) + count - 1 for one, count in zip(prompts, counts, strict=True)]
    assert parity.num_positions == sum(lengths)
    assert parity.num_prompts == len(golden) == len(prompts)
    assert parity.num_greedy_tokens == sum(counts)
    assert "ranks: greedy tokens of every prompt, step by step" in messages


def count_lengths(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The tokens of each call of the transformers model, from now on."""
    lengths: list[int] = []

    def load(*args: Any, **options: Any) -> Any:
        model = load_transformers(*args, **options)
        model.register_forward_pre_hook(lambda _, given: lengths.append(given[0].shape[1]))
        return model

    monkeypatch.setattr(parity_module, "load_transformers", load)
    return lengths


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_source_that_computes_no_numbers_fails_the_proof_in_words(tmp_path: Path, value: float) -> None:
    source = write_tiny_llama(tmp_path / "source")
    tensors = load_file(source / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = value
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    limits = Limits(max_batch_size=2, max_input_len=256, max_seq_len=512)
    engine, manifest = write_engine_of(source, tmp_path / "engine", mapping=Mapping(), limits=limits)
    parity, golden = measure_parity(engine, manifest, source_path=source, progress=lambda line: None)
    assert not parity.passed
    assert "transformers' own logits are no numbers, of " in parity.problems[0]
    assert golden == ()


@pytest.mark.parametrize("place", [0, 5, NUM_GREEDY_TOKENS - 1])
def test_a_token_that_transformers_would_not_choose_never_becomes_its_answer(
    tmp_path: Path, place: int
) -> None:
    engine, manifest, source = write_tiny_engine(tmp_path, tp_size=2)
    prompts = load_prompts(engine / "tokenizer", manifest=manifest)[:2]
    model = load_transformers(source, manifest)
    right = expectations(model, manifest, prompts, progress=lambda _: None)
    said = {item.prompt.name: list(item.tokens) for item in right}
    said[prompts[0].name][place] = (said[prompts[0].name][place] + 1) % manifest.model.vocab_size
    messages: list[str] = []
    lengths: list[int] = []
    model.register_forward_pre_hook(lambda _, given: lengths.append(given[0].shape[1]))
    found = expectations(model, manifest, prompts, proposed=said, progress=messages.append)
    # A pass over all of it, one as far as the answers are the same, a step for each token but one after that.
    asked = [len(prompt.ids) for prompt in prompts]
    steps = [1] * (NUM_GREEDY_TOKENS - place - 1)
    assert lengths == [
        asked[0] + NUM_GREEDY_TOKENS - 1,
        asked[0] + place,
        *steps,
        asked[1] + len(said[prompts[1].name]) - 1,
    ]
    assert [item.tokens for item in found] == [item.tokens for item in right]
    for ours, theirs in zip(found, right, strict=True):
        assert torch.allclose(ours.logits, theirs.logits, atol=1e-5)
    assert [message.rsplit(", ", 1)[1] for message in messages] == ["step by step", "in one pass"]


def test_ranks_that_go_wrong_only_when_they_decode_are_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a KV cache that is read at the wrong place: one pass over all tokens never reads it."""
    engine, manifest, source = write_tiny_engine(tmp_path, tp_size=2)
    right = LayerCache.write_tokens

    def write(
        self: LayerCache, slots: Tensor, positions: Tensor, keys: Tensor, values: Tensor | None = None
    ) -> None:
        right(self, slots, positions, 8 * keys.flip(-1), None if values is None else -8 * values)

    monkeypatch.setattr(LayerCache, "write_tokens", write)
    parity, _ = measure_parity(engine, manifest, source_path=source, progress=lambda _: None)
    assert parity.max_abs_logit_error < LOGIT_TOLERANCE
    assert not parity.passed
    assert parity.num_greedy_equal < parity.num_greedy_tokens
    assert any(": greedy token " in problem for problem in parity.problems)


def test_bfloat16_engines_are_compared_with_the_source_rounded_alike(tmp_path: Path) -> None:
    engine, manifest, source = write_tiny_engine(tmp_path, tp_size=2, dtype=DType.BFLOAT16)
    parity, _ = measure_parity(engine, manifest, source_path=source, progress=lambda _: None)
    assert parity.passed
    assert torch.isfinite(torch.tensor(parity.mean_kl_divergence))


@pytest.mark.parametrize("own", [DType.FLOAT32, DType.BFLOAT16, DType.FLOAT16])
def test_rounding_is_measured_in_every_dtype_that_may_be_served(tmp_path: Path, own: DType) -> None:
    """The errors of bfloat16 are measured again here, by the executor in bfloat16 and transformers alone."""
    engine, manifest, source = write_tiny_engine(tmp_path, tp_size=2, dtype=own)
    parity, golden = measure_parity(engine, manifest, source_path=source, progress=lambda _: None)
    found = {one.compute_dtype: one for one in parity.rounding}
    assert set(found) == {DType.FLOAT32, DType.BFLOAT16, own}
    assert found[DType.FLOAT32].max_abs_logit_error == parity.max_abs_logit_error
    assert found[DType.BFLOAT16].max_margin_error > 10 * found[DType.FLOAT32].max_margin_error
    logits, margins = _errors_in_bfloat16(engine, source, golden, dtype=own)
    assert found[DType.BFLOAT16].max_abs_logit_error >= logits > 0
    assert found[DType.BFLOAT16].max_margin_error >= margins > 0
    for answer in golden:
        assert len(answer.margins) == len(answer.token_ids)
        decided = [margin > 2 * found[DType.FLOAT32].max_margin_error for margin in answer.margins]
        assert answer.num_decisive == [*decided, False].index(False)


def _errors_in_bfloat16(
    engine: Path, source: Path, golden: tuple[GoldenAnswer, ...], *, dtype: DType
) -> tuple[float, float]:
    """The largest error of any logit, and of best less second best, over the golden answers."""
    model = AutoModelForCausalLM.from_pretrained(source, dtype=getattr(torch, dtype.value)).float()
    config = load_config(engine)
    executor = open_executor(config, kind="lockstep", device="cpu", compute_dtype="bfloat16", num_slots=1)
    worst, worst_margin = 0.0, 0.0
    for answer in golden:
        if not answer.token_ids:
            continue
        tokens = (*answer.prompt_ids, *answer.token_ids[:-1])
        with torch.inference_mode():
            true = model(torch.tensor([tokens])).logits[0]
        logits = executor.forward(Prefill(0, 0, tokens, Logits.ALL))
        assert logits is not None
        worst = max(worst, float((logits - true).abs().max()))
        for place in range(len(answer.prompt_ids) - 1, len(tokens)):
            first, second = true[place].topk(2).indices.tolist()
            error = (logits[place, first] - logits[place, second]) - (
                true[place, first] - true[place, second]
            )
            worst_margin = max(worst_margin, abs(float(error)))
    return worst - 1e-5, worst_margin - 1e-5
