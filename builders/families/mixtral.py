"""Mixtral: Mistral with experts in place of the dense block, as tables.

Source: TensorRT-LLM 1.2, models/llama/convert.py and layers/moe.py; transformers 5, models/mixtral.
"""

from __future__ import annotations

from dataclasses import replace

from builders.families.common.base import SourceTensor
from builders.families.common.fields import (
    BASE_FIELDS,
    EXPERT_SIZE,
    LLAMA_FIELDS,
    SWIGLU,
    moe_field,
    with_fields,
)
from builders.families.common.keys import ConfigKeys
from builders.families.common.reading import ConfigReader
from builders.families.common.rows import expert_rows
from builders.families.common.windows import read_window
from builders.families.llama import (
    ATTENTION_ROWS,
    ATTENTION_TENSORS,
    FIRST_ROWS,
    LAST_ROWS,
    MISTRAL,
    OUTER_TENSORS,
    llama_reads,
    read_llama_like,
)
from tpforge.model import ModelSpec, MoeSpec

_MOE = "model.layers.{layer}.block_sparse_moe."
_EXPERT = _MOE + "experts.{expert}."


def _read(config: ConfigReader) -> ModelSpec:
    model = read_llama_like(config, sliding_window=read_window(config))
    num_experts = config.integer("num_local_experts")
    moe = MoeSpec(
        num_experts=num_experts,
        top_k=config.integer("num_experts_per_tok", maximum=num_experts),
        intermediate_size=model.mlp.intermediate_size,
    )
    return config.checked(model.model_copy(update={"moe": moe}))


MIXTRAL = replace(
    MISTRAL,
    name="mixtral",
    architectures=("MixtralForCausalLM",),
    keys=ConfigKeys(
        "mixtral",
        llama_reads("num_experts_per_tok", "num_local_experts", "sliding_window"),
        inert=("router_jitter_noise",),
    ),
    read_spec=_read,
    source_tensors=(
        *OUTER_TENSORS,
        *ATTENTION_TENSORS,
        SourceTensor(_MOE + "gate.weight", ("experts", "hidden")),
        # w1 is the gate, w3 the up, w2 the down projection.
        SourceTensor(_EXPERT + "w1.weight", ("expert", "hidden")),
        SourceTensor(_EXPERT + "w2.weight", ("hidden", "expert")),
        SourceTensor(_EXPERT + "w3.weight", ("expert", "hidden")),
    ),
    rows=(
        *FIRST_ROWS,
        *ATTENTION_ROWS,
        *expert_rows(
            router=_MOE + "gate.weight",
            gate=_EXPERT + "w1.weight",
            up=_EXPERT + "w3.weight",
            down=_EXPERT + "w2.weight",
        ),
        *LAST_ROWS,
    ),
    config_fields=with_fields((*BASE_FIELDS, *LLAMA_FIELDS), SWIGLU, EXPERT_SIZE, moe_field()),
)
