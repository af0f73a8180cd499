"""The truth of a proof has the weights that an engine of 16 bits holds, norms kept as distances from one too.

The judges are transformers' own modules and logits.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from engines.parity.rounded_weights import round_weights
from engines.parity.transformers_model import load_transformers
from engines.reference import load_config, open_executor
from engines.reference.batches import Logits, Prefill
from tests.support.families.cases import CASES
from tests.support.families.configs import tiny_model
from tests.support.families.proving import TOKENS
from tests.support.tiny_engine import write_engine_of
from tpforge.dtypes import DType
from tpforge.shards.mapping import Mapping

DISTANCES = ("gemma", "gemma2", "gemma3", "nemotron")
"""Families whose norms multiply by one more than what they store."""


def saved(folder: Path, name: str, *, dtype: torch.dtype) -> Path:
    case = next(case for case in CASES if case.name == name)
    tiny_model(case).to(dtype).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("given", [False, True], ids=["as it is", "with a matrix given"])
@pytest.mark.parametrize(
    ("stored", "dtype"), [("bfloat16", "bfloat16"), ("float16", "float16"), ("float16", "bfloat16")]
)
@pytest.mark.parametrize("name", [*DISTANCES, "llama"])
def test_transformers_computes_what_ranks_of_16_bits_hold(
    tmp_path: Path, name: str, stored: str, dtype: str, given: bool
) -> None:
    source = saved(tmp_path / "source", name, dtype=getattr(torch, stored))
    engine, manifest = write_engine_of(
        source, tmp_path / "engine", mapping=Mapping(tp_size=2), dtype=DType(dtype)
    )
    matrix = "model.layers.0.self_attn.o_proj.weight"
    own = AutoModelForCausalLM.from_pretrained(source).state_dict()[matrix].to(getattr(torch, dtype)).float()
    model = load_transformers(source, manifest, weights={matrix: own} if given else None)
    with torch.inference_mode():
        truth = model(torch.tensor([TOKENS])).logits[0]
    executor = open_executor(
        load_config(engine), kind="lockstep", device="cpu", compute_dtype="float32", num_slots=1
    )
    found = executor.forward(Prefill(0, 0, TOKENS, Logits.ALL))
    assert found is not None
    assert (found - truth).abs().max() < 2e-5 * truth.abs().max()


@pytest.mark.parametrize("name", [*DISTANCES, "llama", "phi2"])
def test_a_norm_is_rounded_where_it_multiplies(name: str) -> None:
    model = tiny_model(next(case for case in CASES if case.name == name))
    norms = [one for one in model.modules() if type(one).__name__.endswith(("Norm", "LayerNorm1P"))]
    before = [norm.weight.clone() for norm in norms]
    matrix = model.get_input_embeddings().weight.clone()
    round_weights(model, torch.bfloat16)
    shift = 1.0 if name in DISTANCES else 0.0
    assert norms
    for norm, weight in zip(norms, before, strict=True):
        assert torch.equal(norm.weight, (weight + shift).bfloat16().float() - shift)
    assert torch.equal(model.get_input_embeddings().weight, matrix.bfloat16().float())


def test_matrices_are_left_alone_where_vectors_are_asked_for() -> None:
    model = tiny_model(CASES[0])
    before = {name: one.clone() for name, one in model.named_parameters()}
    round_weights(model, torch.float16, vectors_alone=True)
    for name, one in model.named_parameters():
        kept = before[name] if one.dim() > 1 else before[name].half().float()
        assert torch.equal(one, kept), name
