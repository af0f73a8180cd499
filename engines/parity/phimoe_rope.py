"""Tells the rope of Phi-3.5-MoE how long a sequence is, which transformers 5 forgets to.

It computes no frequencies: transformers' own function does, asked as its version 4 asks it.
Source: transformers 5.23 and 4.57.3, models/phimoe/modeling_phimoe.py, PhimoeRotaryEmbedding.forward.
"""

from __future__ import annotations

from typing import Any


def tell_length(model: Any) -> None:
    """Have the long factors taken past the original length, where version 5 takes the short ones always.

    Models of other types are left as they are.
    """
    config = model.config
    if config.model_type != "phimoe" or config.rope_parameters["rope_type"] == "default":
        return
    rotary = model.model.rotary_emb
    frequencies = rotary.rope_init_fn

    def before(module: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        positions = named["position_ids"] if "position_ids" in named else arguments[1]
        length = int(positions.max()) + 1

        def of_length(config: Any, device: Any = None, seq_len: int | None = None) -> Any:
            return frequencies(config, device, seq_len=length if seq_len is None else seq_len)

        module.rope_init_fn = of_length

    rotary.register_forward_pre_hook(before, with_kwargs=True)
