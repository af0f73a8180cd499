"""What TensorRT-LLM's definition of some families cannot take, beyond what the arithmetic of a plan allows.

It knows no family: their tables name these restrictions.
"""

from __future__ import annotations

from tpforge.shards.sharding import ShardPlan


def heads_as_they_are(plan: ShardPlan) -> str | None:
    """For definitions that take hidden_size / num_attention_heads for the head size, whatever is stated.

    A checkpoint with padded heads would be read with heads of another size.
    """
    attention, hidden_size = plan.model.attention, plan.model.hidden_size
    found, padded = attention.num_heads, plan.padding.heads.num_heads
    if attention.head_size * found != hidden_size:
        return (
            f"heads of {attention.head_size}, but TensorRT-LLM takes hidden_size {hidden_size} / {found} "
            f"for the head size of {plan.model.architecture}"
        )
    if found == padded:
        return None
    return (
        f"tp={plan.mapping.tp_size} would pad {found} attention heads to {padded}, but TensorRT-LLM derives "
        f"the head size of {plan.model.architecture} from their number; use a tp that divides {found}"
    )


def mlp_as_it_is(plan: ShardPlan) -> str | None:
    """For definitions that take 4 x hidden_size for the width of the MLP, whatever is stated."""
    width, padded = 4 * plan.model.hidden_size, plan.padding.intermediate_size
    if width == padded:
        return None
    found = plan.model.mlp.intermediate_size
    return (
        f"tp={plan.mapping.tp_size}: an MLP of width {found}, padded to {padded}, but TensorRT-LLM takes "
        f"4 x hidden_size = {width} for {plan.model.architecture}"
    )


def embedding_by_rows(plan: ShardPlan) -> str | None:
    """For definitions that divide the embedding by vocabulary over the tp ranks, whatever is asked."""
    if plan.parallel_embedding_dim != 1:
        return None
    return (
        f"--parallel-embedding 1: TensorRT-LLM divides the embedding of {plan.model.architecture} "
        "by vocabulary; use 0, or leave it out"
    )
