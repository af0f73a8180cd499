"""The runtime against transformers for every form of decoder layer, on rank files written by hand.

No family's table takes part: these names and orders were read from TensorRT-LLM's own model definitions.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engines.reference import load_config, open_executor
from engines.reference.batches import Decode, Logits, Prefill
from tests.support.checkpoints.rank_files import write_engine
from tests.support.layer_forms.case import Case, checkpoint_config, tiny_model, whole_checkpoint
from tests.support.layer_forms.dense import DENSE
from tests.support.layer_forms.experts import EXPERTS

TOKENS = tuple(3 + (5 * i * i + 7 * i) % 120 for i in range(30))


@pytest.mark.parametrize("case", (*DENSE, *EXPERTS), ids=str)
def test_every_form_of_layer_computes_what_transformers_computes(tmp_path: Path, case: Case) -> None:
    model = tiny_model(case)
    config = checkpoint_config(case)
    epsilon = (
        next(
            getattr(model.config, name)
            for name in ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_epsilon")
            if hasattr(model.config, name)
        )
        if case.model_type not in ("opt", "dbrx")
        else 1e-5
    )
    whole = whole_checkpoint(case, model.state_dict())
    with torch.inference_mode():
        truth = model(torch.tensor([TOKENS])).logits[0]
    limit = 1e-4 * float(truth.abs().max())
    for tp_size, ep_size in [(1, 1), (2, 1), *([(4, 2), (2, 2)] if case.experts else [])]:
        folder = tmp_path / f"tp{tp_size}-ep{ep_size}"
        write_engine(
            folder,
            whole,
            config | {"norm_epsilon": epsilon},
            case.model,
            tp_size=tp_size,
            ep_size=ep_size,
        )
        executor = open_executor(
            load_config(folder), kind="lockstep", device="cpu", compute_dtype="float32", num_slots=1
        )
        found = executor.forward(Prefill(0, 0, TOKENS, Logits.ALL))
        assert found is not None
        assert float((found - truth).abs().max()) < limit, folder.name
        executor.forward(Prefill(0, 0, TOKENS[:11], Logits.NONE, prompt_length=28))
        executor.forward(Prefill(0, 11, TOKENS[11:28], Logits.NONE, prompt_length=28))
        for place in (28, 29):
            step = executor.forward(Decode((TOKENS[place],), (place,)))
            assert step is not None
            assert float((step[0] - truth[place]).abs().max()) < limit, f"{folder.name}, position {place}"
