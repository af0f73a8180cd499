"""The rows that family tables are put together from: copies, embeddings, fused and separate q, k, v, experts.

It knows no family: every source name is given. Target names and the order of fused parts are TensorRT-LLM's.
Source: TensorRT-LLM 1.2, models/convert_utils.py, models/llama/convert.py, layers/{attention,mlp,moe}.py.
"""

from __future__ import annotations

from builders.families.common.base import Condition, Row, always
from tpforge.dtypes import DType
from tpforge.shards.sections import Section
from tpforge.shards.sharding import Cut, LayerKind, Part, Rule, ShardPlan, Stage

TARGET = "transformer.layers.{layer}."


def untied(plan: ShardPlan) -> bool:
    """The LM head has weights of its own."""
    return not plan.model.tie_word_embeddings


def tied(plan: ShardPlan) -> bool:
    """The LM head is the embedding."""
    return plan.model.tie_word_embeddings


def biased(plan: ShardPlan) -> bool:
    """Queries, keys and values have biases."""
    return plan.model.attention.bias


def output_biased(plan: ShardPlan) -> bool:
    """The attention output has a bias."""
    return plan.model.attention.output_bias


def mlp_biased(plan: ShardPlan) -> bool:
    """The dense block has biases."""
    return plan.model.mlp.bias


def copy(
    target: str,
    source: str,
    *,
    stage: Stage = Stage.LAYER,
    transform: str | None = None,
    layers: LayerKind = LayerKind.ALL,
    dtype: DType | None = None,
) -> Rule:
    """A tensor that is whole on every rank."""
    return Rule(target, (Part(source, Cut.COPY, transform),), stage, layers, dtype=dtype)


def cut(
    target: str,
    source: str,
    how: Cut,
    *,
    transform: str | None = None,
    section: Section = Section.WHOLE,
    layers: LayerKind = LayerKind.ALL,
) -> Rule:
    """A tensor made of one source tensor, or of a section of it."""
    return Rule(target, (Part(source, how, transform, section),), layers=layers)


def embedding_rows(source: str) -> tuple[Row, ...]:
    """The embedding of the first stage, in the three ways to divide it."""

    def rule(how: Cut) -> Rule:
        return Rule("transformer.vocab_embedding.weight", (Part(source, how),), Stage.FIRST)

    return (
        Row(rule(Cut.COPY), when=lambda plan: plan.parallel_embedding_dim is None),
        Row(rule(Cut.VOCAB_ROWS), when=lambda plan: plan.parallel_embedding_dim == 0),
        Row(rule(Cut.HIDDEN_COLUMNS), when=lambda plan: plan.parallel_embedding_dim == 1),
    )


def divided_embedding_rows(source: str) -> tuple[Row, ...]:
    """The embedding of models that TensorRT-LLM divides by vocabulary, whatever config.json says."""
    rule = Rule("transformer.vocab_embedding.weight", (Part(source, Cut.VOCAB_ROWS),), Stage.FIRST)
    return (Row(rule),)


def lm_head_rows(source: str, *, embedding: str) -> tuple[Row, ...]:
    """The LM head of the last stage; the format wants a real copy of a tied embedding."""

    def rule(tensor: str) -> Rule:
        return Rule("lm_head.weight", (Part(tensor, Cut.VOCAB_ROWS),), Stage.LAST)

    return (Row(rule(source), when=untied), Row(rule(embedding), when=tied))


def separate_qkv(suffix: str, *, query: str, key: str, value: str) -> Rule:
    """`attention.qkv` out of three tensors, each cut by its heads, then joined; `suffix` weight or bias."""
    return Rule(
        TARGET + f"attention.qkv.{suffix}",
        (
            Part(f"{query}.{suffix}", Cut.QUERY_ROWS),
            Part(f"{key}.{suffix}", Cut.KV_ROWS),
            Part(f"{value}.{suffix}", Cut.KV_ROWS),
        ),
    )


def norm_rows(
    target: str,
    source: str,
    *,
    stage: Stage = Stage.LAYER,
    transform: str | None = None,
    when: Condition = always,
    bias: bool = True,
) -> tuple[Row, ...]:
    """A norm, its weight and, for a layernorm that has one, its bias; the transform is the weight's."""
    rows = (Row(copy(f"{target}.weight", f"{source}.weight", stage=stage, transform=transform), when),)
    return (*rows, Row(copy(f"{target}.bias", f"{source}.bias", stage=stage), when)) if bias else rows


def linear_rows(
    target: str, source: str, how: Cut, *, bias: Condition = always, transform: str | None = None
) -> tuple[Row, ...]:
    """A linear layer; the bias of one that is cut by columns is whole on every rank and added once."""
    bias_cut = Cut.COPY if how.dim == 1 else how
    return (
        Row(cut(f"{target}.weight", f"{source}.weight", how, transform=transform)),
        Row(cut(f"{target}.bias", f"{source}.bias", bias_cut), when=bias),
    )


STACKED = (Section.STACKED_QUERY, Section.STACKED_KEY, Section.STACKED_VALUE)
"""[q; k; v], each whole."""
GROUPED = (Section.GROUPED_QUERY, Section.GROUPED_KEY, Section.GROUPED_VALUE)
"""For each KV head its queries, its key, its value; with as many KV heads as heads: [heads, 3, head_size]."""


def fused_qkv(
    suffix: str, *, source: str, layout: tuple[Section, Section, Section], transform: str | None = None
) -> Rule:
    """`attention.qkv` out of one fused tensor of the given layout."""
    name = f"{source}.{suffix}"
    query, key, value = layout
    return Rule(
        TARGET + f"attention.qkv.{suffix}",
        (
            Part(name, Cut.QUERY_ROWS, transform, query),
            Part(name, Cut.KV_ROWS, transform, key),
            Part(name, Cut.KV_ROWS, transform, value),
        ),
    )


def gated_mlp_rows(*, gate: str, up: str, down: str, layers: LayerKind = LayerKind.ALL) -> tuple[Row, ...]:
    """The three matrices of a gated block."""
    return (
        # TensorRT-LLM calls HF's gate_proj "fc" and its up_proj "gate".
        Row(cut(TARGET + "mlp.fc.weight", f"{gate}.weight", Cut.MLP_ROWS, layers=layers)),
        Row(cut(TARGET + "mlp.gate.weight", f"{up}.weight", Cut.MLP_ROWS, layers=layers)),
        Row(cut(TARGET + "mlp.proj.weight", f"{down}.weight", Cut.MLP_COLUMNS, layers=layers)),
    )


def fused_gate_up_row(source: str) -> Row:
    """`mlp.fc` = [up; gate] out of [gate; up]: TensorRT-LLM activates the second half.

    Each rank holds its rows of up, then its rows of gate.
    """
    halves = (Section.SECOND_HALF, Section.FIRST_HALF)
    parts = tuple(Part(source, Cut.MLP_ROWS, section=half) for half in halves)
    return Row(Rule(TARGET + "mlp.fc.weight", parts))


def gated_mlp_bias_rows(*, gate: str, up: str, down: str) -> tuple[Row, ...]:
    """The biases of a gated block that has them; that of `down` is whole on every rank and added once."""
    return (
        Row(cut(TARGET + "mlp.fc.bias", f"{gate}.bias", Cut.MLP_ROWS), when=mlp_biased),
        Row(cut(TARGET + "mlp.gate.bias", f"{up}.bias", Cut.MLP_ROWS), when=mlp_biased),
        Row(copy(TARGET + "mlp.proj.bias", f"{down}.bias"), when=mlp_biased),
    )


def expert_rows(*, router: str, gate: str, up: str, down: str) -> tuple[Row, ...]:
    """Router and experts of the layers that have them; the names of the experts hold ``{expert}``.

    The router stays float32, whole on every rank. An expert's up comes before its gate.
    """
    kind = LayerKind.EXPERTS
    up_gate = (Part(up, Cut.EXPERT_ROWS), Part(gate, Cut.EXPERT_ROWS))
    return (
        Row(copy(TARGET + "mlp.router.weight", router, layers=kind, dtype=DType.FLOAT32)),
        Row(Rule(TARGET + "mlp.fc.weight", up_gate, layers=kind, experts=True)),
        Row(Rule(TARGET + "mlp.proj.weight", (Part(down, Cut.EXPERT_COLUMNS),), layers=kind, experts=True)),
    )
