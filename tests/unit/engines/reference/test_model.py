"""The ranks against transformers in float32, over every way of sharding, and with both executors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from engines.reference import EngineError, Executor, load_config, open_executor
from engines.reference.batches import Decode, Logits, Move, Prefill
from engines.reference.greedy import greedy
from tests.support.tiny_engine import write_tiny_engine

PROMPT = tuple((7 * i * i + 3 * i + 1) % 256 for i in range(40))


def open_ranks(
    engine: Path, *, kind: str = "lockstep", num_slots: int = 3, dtype: str = "float32"
) -> Executor:
    return open_executor(
        load_config(engine), kind=kind, device="cpu", compute_dtype=dtype, num_slots=num_slots
    )


def transformers_logits(source: Path, tokens: tuple[int, ...]) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    with torch.inference_mode():
        logits: torch.Tensor = model(torch.tensor([tokens])).logits[0]
    return logits


def all_logits(executor: Executor, tokens: tuple[int, ...]) -> torch.Tensor:
    logits = executor.forward(Prefill(0, 0, tokens, Logits.ALL))
    assert logits is not None
    return logits


LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


@pytest.mark.parametrize(
    "options",
    [
        {"tp_size": 1},
        {"tp_size": 2},
        {"tp_size": 4},
        {"tp_size": 8, "num_heads": 8, "num_kv_heads": 2},
        {"tp_size": 4, "num_heads": 9, "num_kv_heads": 3, "hidden_size": 144},
        {"tp_size": 2, "num_heads": 9, "num_kv_heads": 3, "hidden_size": 144},
        {"tp_size": 3, "num_heads": 9, "num_kv_heads": 3, "hidden_size": 144, "intermediate_size": 130},
        {"tp_size": 8, "num_heads": 28, "num_kv_heads": 4, "hidden_size": 112},
        {"tp_size": 4, "vocab_size": 321},
        {"tp_size": 2, "bias": True},
        {"tp_size": 2, "tie": True},
        {"tp_size": 2, "rope_scaling": LLAMA3_ROPE},
        {"tp_size": 4, "vocab_size": 321, "parallel_embedding_dim": 0},
        {"tp_size": 4, "parallel_embedding_dim": 1},
        {"tp_size": 1, "pp_size": 2, "num_layers": 3},
        {"tp_size": 2, "pp_size": 3, "num_layers": 5},
        {"tp_size": 2, "architecture": "MistralForCausalLM", "config_extra": {"sliding_window": 16}},
    ],
    ids=str,
)
def test_sharded_logits_equal_transformers(tmp_path: Path, options: dict[str, Any]) -> None:
    engine, _, source = write_tiny_engine(tmp_path, **options)
    found = all_logits(open_ranks(engine), PROMPT)
    torch.testing.assert_close(found, transformers_logits(source, PROMPT), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("window", [None, 16])
def test_chunks_and_single_tokens_give_the_logits_of_one_pass(tmp_path: Path, window: int | None) -> None:
    extra = {"sliding_window": window}
    engine, _, _ = write_tiny_engine(
        tmp_path, tp_size=2, architecture="MistralForCausalLM", config_extra=extra
    )
    executor = open_ranks(engine)
    whole = all_logits(executor, PROMPT)
    executor.forward(Prefill(1, 0, PROMPT[:13], Logits.NONE))
    chunk = executor.forward(Prefill(1, 13, PROMPT[13:30], Logits.ALL))
    torch.testing.assert_close(chunk, whole[13:30])
    executor.move(Move(source=1, target=0, length=30))
    for position in range(30, 40):
        one = executor.forward(Decode((PROMPT[position],), (position,)))
        torch.testing.assert_close(one, whole[position : position + 1])


def test_a_batch_of_uneven_requests_gives_each_its_own_logits(tmp_path: Path) -> None:
    engine, _, _ = write_tiny_engine(tmp_path, tp_size=2)
    executor = open_ranks(engine)
    prompts = (PROMPT[:5], PROMPT[3:33], PROMPT[10:21])
    expected = []
    for prompt in prompts:
        expected.append(all_logits(executor, prompt)[-1])
    for slot, prompt in enumerate(prompts):
        executor.forward(Prefill(slot, 0, prompt[:-1]))
    batch = Decode(tuple(p[-1] for p in prompts), tuple(len(p) - 1 for p in prompts))
    found = executor.forward(batch)
    torch.testing.assert_close(found, torch.stack(expected))


@pytest.mark.parametrize(
    "options", [{"tp_size": 2}, {"tp_size": 2, "pp_size": 2, "parallel_embedding_dim": 0}], ids=str
)
def test_a_process_a_rank_equals_lockstep(tmp_path: Path, options: dict[str, Any]) -> None:
    engine, _, _ = write_tiny_engine(tmp_path, **options)
    lockstep = open_ranks(engine)
    processes = open_ranks(engine, kind="processes")
    try:
        torch.testing.assert_close(all_logits(processes, PROMPT), all_logits(lockstep, PROMPT))
        assert greedy(processes, list(PROMPT), 12) == greedy(lockstep, list(PROMPT), 12)
    finally:
        processes.close()


def test_bfloat16_stays_near_float32(tmp_path: Path) -> None:
    engine, _, _ = write_tiny_engine(tmp_path, tp_size=2)
    exact = all_logits(open_ranks(engine), PROMPT)
    rounded = all_logits(open_ranks(engine, dtype="bfloat16"), PROMPT)
    assert 0 < float((rounded - exact).abs().max()) < 0.05 * float(exact.abs().max())


def test_a_missing_tensor_and_a_missing_rank_are_refused_by_name(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    engine, _, _ = write_tiny_engine(tmp_path, tp_size=2)
    file = engine / "checkpoint" / "rank1.safetensors"
    tensors = load_file(file)
    weight = tensors.pop("transformer.layers.1.mlp.gate.weight")
    save_file(tensors, file)
    with pytest.raises(EngineError, match=r"rank1\.safetensors: transformer\.layers\.1\.mlp\.gate\.weight"):
        open_ranks(engine)
    save_file({**tensors, "transformer.layers.1.mlp.gate.weight": weight, "stray": weight.clone()}, file)
    with pytest.raises(EngineError, match="not understood: stray"):
        open_ranks(engine)
    file.unlink()
    with pytest.raises(EngineError, match=r"rank files are missing: rank1\.safetensors"):
        open_ranks(engine)
