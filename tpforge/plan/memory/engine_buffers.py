"""What a compiled engine takes beside weights and cache: activations, I/O buffers, the decoder that samples.

It knows no model and no GPU: sizes go in, bytes come out. What an engine of the LLM API takes is `memory`'s.
Source: figures that TensorRT-LLM 0.15 to 0.17 printed when it loaded engines (benchmarks/data/
planner_buffers.csv), and of its code what they are: cpp/tensorrt_llm/batch_manager and runtime.
"""

from __future__ import annotations

from tpforge.units import MIB

_WORKSPACE_BYTES = 32 * MIB
"""What products need at least, in the block that logits lie in."""


def activation_bytes(
    tokens: int, *, hidden: int, width: float, requests: int, vocab: int, products_of_fp8: bool
) -> int:
    """The execution context's memory, for the largest step: `tokens` (max_num_tokens), `requests` of them.

    16-bit values: the residual and its norm, both inputs of the gated product (of `width` on a rank), and
    the logits of a token of every request. Where products run on FP8 also its output before it is quantized,
    and the quantized norm.
    """
    widths = 2 * hidden + 2 * width
    if products_of_fp8:
        widths += width + hidden / 2
    return round(2 * tokens * widths) + max(2 * requests * vocab, _WORKSPACE_BYTES)


def runtime_bytes(requests: int, *, vocab: int, longest: int) -> int:
    """Buffers for inputs and outputs: logits in float32 twice, and an index for each token of the cache.

    `requests` is max_batch_size, `longest` max_seq_len: both are allocated in full.
    """
    return 4 * requests * (2 * vocab + longest)


def decoder_bytes(requests: int, *, vocab: int, longest: int) -> int:
    """What sampling keeps: logits, their sorted copy, its ids and its workspace; ids and scores of a request.

    Four values of 32 bits for each word of the vocabulary and each token of the longest request.
    """
    return 4 * requests * (4 * vocab + 4 * longest)
