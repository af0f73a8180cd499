"""The steps of a quantized KV cache, measured: the largest key or value of each layer on some texts.

It rounds nothing; `engines.reference` does.
"""

from __future__ import annotations

from pathlib import Path

from engines.perplexity import load_texts
from engines.reference import load_config
from engines.reference.batches import Logits, Prefill
from engines.reference.lockstep import Lockstep

LIMITS = {"int8": 127.0, "fp8": 448.0}
"""The largest number of each format, which the largest value is put to."""


def measure_kv_scales(engine_dir: Path, kv_cache: str) -> tuple[float, ...]:
    """One step per layer, from the passages that ship; the engine has one rank and no quantized KV cache.

    A step is the largest size of a key (after its rotation) or value, divided by the format's largest number.
    """
    import torch
    from tokenizers import Tokenizer

    config = load_config(engine_dir)
    tokenizer = Tokenizer.from_file(str(engine_dir / "tokenizer" / "tokenizer.json"))
    executor = Lockstep(config, num_slots=1, device=torch.device("cpu"), dtype=torch.float32)
    try:
        largest = [0.0] * config.num_layers
        for text in load_texts():
            ids = tuple(tokenizer.encode(text.text).ids[: config.limits.max_seq_len])
            executor.forward(Prefill(slot=0, start=0, tokens=ids, logits=Logits.NONE))
            found = executor.ranks[0].cache.largest()
            largest = [max(pair) for pair in zip(largest, found, strict=True)]
    finally:
        executor.close()
    # A layer that only ever holds zeros needs a step all the same.
    return tuple(one / LIMITS[kv_cache] or 1.0 for one in largest)
