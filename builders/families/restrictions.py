"""What TensorRT-LLM's definition of some families cannot take, beyond what the arithmetic of a plan allows.

It knows no family: their tables name these restrictions.
"""

from __future__ import annotations

from tpforge.sharding import ShardPlan


def heads_as_they_are(plan: ShardPlan) -> str | None:
    """For definitions that take hidden_size / num_attention_heads for the head size, whatever is stated.

    A checkpoint with padded heads would be read with heads of another size.
    """
    found, padded = plan.model.attention.num_heads, plan.padding.heads.num_heads
    if found == padded:
        return None
    return (
        f"tp={plan.mapping.tp_size} would pad {found} attention heads to {padded}, but TensorRT-LLM derives "
        f"the head size of {plan.model.architecture} from their number; use a tp that divides {found}"
    )


def embedding_by_rows(plan: ShardPlan) -> str | None:
    """For definitions that divide the embedding by vocabulary over the tp ranks, whatever is asked."""
    if plan.parallel_embedding_dim != 1:
        return None
    return (
        f"--parallel-embedding 1: TensorRT-LLM divides the embedding of {plan.model.architecture} "
        "by vocabulary; use 0, or leave it out"
    )
