"""tpforge.shards.sections and builders.proof.unfuse: which rows of a fused tensor are which matrix, written
out by hand.

Every row of a source is numbered, so that a misplaced one shows.
"""

from __future__ import annotations

import pytest
import torch

from builders.proof.unfuse import unfuse
from tests.support.models import model_of
from tpforge.errors import PlanError
from tpforge.model import LatentSpec, ModelSpec, MoeSpec
from tpforge.shards.mapping import Mapping
from tpforge.shards.padding import plan_padding
from tpforge.shards.sections import Section, Span, compose, merge, section_spans
from tpforge.shards.sharding import Cut, Part, RankTensor, Rule, ShardPlan, rank_tensors


def with_latent(model: ModelSpec) -> ModelSpec:
    """Each of 4 heads has 3 rows of keys and 2 of values."""
    latent = LatentSpec(
        q_lora_rank=None, kv_lora_rank=5, qk_nope_head_size=3, qk_rope_head_size=2, v_head_size=2
    )
    return model.model_copy(update={"attention": model.attention.model_copy(update={"latent": latent})})


def with_experts(model: ModelSpec, *, num_experts: int = 3, width: int = 4) -> ModelSpec:
    moe = MoeSpec(num_experts=num_experts, top_k=2, intermediate_size=width)
    return model.model_copy(update={"moe": moe})


# 4 query heads of 2 rows, 2 KV heads.
MODEL = model_of(num_heads=4, num_kv_heads=2, head_size=2)
LATENT = with_latent(model_of(num_heads=4, num_kv_heads=4, head_size=5))
EXPERTS = with_experts(MODEL)

# fmt: off
ROWS = [
    # section                model    rows  expert  the rows that belong to it
    (Section.WHOLE,          MODEL,    5,   0, [0, 1, 2, 3, 4]),
    (Section.STACKED_QUERY,  MODEL,   16,   0, [0, 1, 2, 3, 4, 5, 6, 7]),
    (Section.STACKED_KEY,    MODEL,   16,   0, [8, 9, 10, 11]),
    (Section.STACKED_VALUE,  MODEL,   16,   0, [12, 13, 14, 15]),
    # Two queries, a key, a value; then the same for the second KV head.
    (Section.GROUPED_QUERY,  MODEL,   16,   0, [0, 1, 2, 3, 8, 9, 10, 11]),
    (Section.GROUPED_KEY,    MODEL,   16,   0, [4, 5, 12, 13]),
    (Section.GROUPED_VALUE,  MODEL,   16,   0, [6, 7, 14, 15]),
    # A bias has one value where a weight has a row; here heads of one.
    (Section.GROUPED_QUERY,  MODEL,    8,   0, [0, 1, 4, 5]),
    (Section.FIRST_HALF,     MODEL,    6,   0, [0, 1, 2]),
    (Section.SECOND_HALF,    MODEL,    6,   0, [3, 4, 5]),
    (Section.AFTER_TWO,      MODEL,    7,   0, [2, 3, 4, 5, 6]),
    (Section.HEAD_KEY,       LATENT,  20,   0, [0, 1, 2, 5, 6, 7, 10, 11, 12, 15, 16, 17]),
    (Section.HEAD_VALUE,     LATENT,  20,   0, [3, 4, 8, 9, 13, 14, 18, 19]),
    (Section.EXPERT,         EXPERTS, 12,   0, [0, 1, 2, 3]),
    (Section.EXPERT,         EXPERTS, 12,   2, [8, 9, 10, 11]),
]
# fmt: on
IDS = [f"{section.name} of {size}, expert {expert}" for section, _, size, expert, _ in ROWS]


def rows_of(spans: tuple[Span, ...]) -> list[int | None]:
    """Every row of the spans; None for a row of zeros."""
    rows: list[int | None] = []
    for span in spans:
        start = span.start
        rows += [None if start is None else start + row for row in range(span.length)]
    return rows


@pytest.mark.parametrize(("section", "model", "size", "expert", "rows"), ROWS, ids=IDS)
def test_a_section_is_exactly_these_rows(
    section: Section, model: ModelSpec, size: int, expert: int, rows: list[int]
) -> None:
    assert rows_of(section_spans(section, size, model=model, expert=expert)) == rows


@pytest.mark.parametrize(("section", "model", "size", "expert", "rows"), ROWS, ids=IDS)
def test_the_proof_takes_the_same_rows_and_columns(
    section: Section, model: ModelSpec, size: int, expert: int, rows: list[int]
) -> None:
    numbered = torch.arange(size)
    assert unfuse(numbered, section, dim=0, model=model, expert=expert).tolist() == rows
    wide = numbered.repeat(3, 1)
    assert unfuse(wide, section, dim=1, model=model, expert=expert).tolist() == [rows] * 3


def test_every_section_has_its_rows_written_out() -> None:
    assert {section for section, *_ in ROWS} == set(Section)


@pytest.mark.parametrize(
    ("section", "model", "size", "words"),
    [
        (Section.STACKED_KEY, MODEL, 15, r"found size 15, expected a multiple of 4 \+ 2 x 2 heads"),
        (Section.GROUPED_QUERY, MODEL, 9, r"found size 9, expected a multiple of 4 \+ 2 x 2 heads"),
        (Section.FIRST_HALF, MODEL, 7, "found size 7, expected a multiple of 2"),
        (Section.EXPERT, EXPERTS, 13, "found size 13, expected a multiple of 3"),
        (Section.HEAD_VALUE, LATENT, 24, r"found size 24, expected 4 heads x \(3 \+ 2\)"),
    ],
)
def test_a_size_that_cannot_be_divided_so_is_refused(
    section: Section, model: ModelSpec, size: int, words: str
) -> None:
    with pytest.raises(PlanError, match=words):
        section_spans(section, size, model=model)


def test_spans_within_a_section_become_spans_of_the_source() -> None:
    outer = (Span(4, 2), Span(12, 3))
    assert compose(outer, (Span(0, 5),)) == (Span(4, 2), Span(12, 3))
    assert compose(outer, (Span(1, 2),)) == (Span(5, 1), Span(12, 1))
    assert compose(outer, (Span(2, 2), Span(None, 4))) == (Span(12, 2), Span(None, 4))
    assert compose(outer, (Span(3, 1), Span(0, 1))) == (Span(13, 1), Span(4, 1))


def test_neighbours_are_one_copy_and_nothing_is_lost() -> None:
    assert merge([Span(0, 2), Span(2, 3), Span(None, 1), Span(None, 2), Span(7, 0), Span(9, 1)]) == (
        Span(0, 5), Span(None, 3), Span(9, 1),
    )  # fmt: skip


def plan_of(model: ModelSpec, *, tp_size: int, moe_ep_size: int = 1) -> ShardPlan:
    return ShardPlan(
        model=model,
        mapping=Mapping(tp_size=tp_size, moe_ep_size=moe_ep_size),
        padding=plan_padding(model, tp_size=tp_size, moe_ep_size=moe_ep_size),
    )


def on_ranks(
    parts: tuple[Part, ...], shapes: dict[str, tuple[int, ...]], plan: ShardPlan, *, experts: bool = False
) -> list[list[int | None]]:
    """The numbered rows (or columns) of one target tensor on every rank, parts one after the other."""
    rule = Rule("target", parts, experts=experts)
    model = plan.model.model_copy(update={"num_layers": 1})
    plan = ShardPlan(model, plan.mapping, plan.padding)

    def rows(tensor: RankTensor) -> list[int | None]:
        return [row for piece in tensor.slices for row in rows_of(piece.spans)]

    return [
        rows(rank_tensors((rule,), shapes, plan=plan, rank=rank)[0]) for rank in range(plan.mapping.tp_size)
    ]


def qkv(query: Section, key: Section, value: Section) -> tuple[Part, ...]:
    return (
        Part("qkv", Cut.QUERY_ROWS, section=query),
        Part("qkv", Cut.KV_ROWS, section=key),
        Part("qkv", Cut.KV_ROWS, section=value),
    )


def test_stacked_qkv_at_tp2_gives_each_rank_its_heads_of_all_three() -> None:
    parts = qkv(Section.STACKED_QUERY, Section.STACKED_KEY, Section.STACKED_VALUE)
    assert on_ranks(parts, {"qkv": (16, 6)}, plan_of(MODEL, tp_size=2)) == [
        [0, 1, 2, 3, 8, 9, 12, 13],
        [4, 5, 6, 7, 10, 11, 14, 15],
    ]


def test_grouped_qkv_at_tp4_gives_a_kv_head_to_two_ranks() -> None:
    parts = qkv(Section.GROUPED_QUERY, Section.GROUPED_KEY, Section.GROUPED_VALUE)
    assert on_ranks(parts, {"qkv": (16, 6)}, plan_of(MODEL, tp_size=4)) == [
        [0, 1, 4, 5, 6, 7],
        [2, 3, 4, 5, 6, 7],
        [8, 9, 12, 13, 14, 15],
        [10, 11, 12, 13, 14, 15],
    ]


def test_grouped_qkv_at_tp3_pads_with_a_head_of_zeros() -> None:
    parts = qkv(Section.GROUPED_QUERY, Section.GROUPED_KEY, Section.GROUPED_VALUE)
    assert on_ranks(parts, {"qkv": (16, 6)}, plan_of(MODEL, tp_size=3)) == [
        [0, 1, 2, 3, 4, 5, 6, 7],
        [8, 9, 10, 11, 12, 13, 14, 15],
        [None] * 8,
    ]


def test_gate_and_up_are_cut_each_for_itself_and_swapped() -> None:
    model = model_of(intermediate_size=5)
    parts = (
        Part("gate_up", Cut.MLP_ROWS, section=Section.SECOND_HALF),
        Part("gate_up", Cut.MLP_ROWS, section=Section.FIRST_HALF),
    )
    assert on_ranks(parts, {"gate_up": (10, 6)}, plan_of(model, tp_size=2)) == [
        [5, 6, 7, 0, 1, 2],
        [8, 9, None, 3, 4, None],
    ]


def test_latent_keys_and_values_of_a_rank_are_all_keys_then_all_values() -> None:
    parts = (
        Part("kv_b", Cut.QUERY_ROWS, section=Section.HEAD_KEY),
        Part("kv_b", Cut.QUERY_ROWS, section=Section.HEAD_VALUE),
    )
    assert on_ranks(parts, {"kv_b": (20, 6)}, plan_of(LATENT, tp_size=2)) == [
        [0, 1, 2, 5, 6, 7, 3, 4, 8, 9],
        [10, 11, 12, 15, 16, 17, 13, 14, 18, 19],
    ]


def test_experts_of_one_tensor_are_divided_by_width_and_by_expert() -> None:
    model = with_experts(MODEL, num_experts=4, width=4)
    up_gate = (
        Part("v1", Cut.EXPERT_ROWS, section=Section.EXPERT),
        Part("w1", Cut.EXPERT_ROWS, section=Section.EXPERT),
    )
    shapes = {"v1": (16, 6), "w1": (16, 6)}
    by_width = on_ranks(up_gate, shapes, plan_of(model, tp_size=2), experts=True)
    assert by_width == [
        [0, 1, 0, 1, 4, 5, 4, 5, 8, 9, 8, 9, 12, 13, 12, 13],
        [2, 3, 2, 3, 6, 7, 6, 7, 10, 11, 10, 11, 14, 15, 14, 15],
    ]
    by_expert = on_ranks(up_gate, shapes, plan_of(model, tp_size=2, moe_ep_size=2), experts=True)
    assert by_expert == [
        [0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7],
        [8, 9, 10, 11, 8, 9, 10, 11, 12, 13, 14, 15, 12, 13, 14, 15],
    ]
    # Neighbouring ranks hold different experts; ranks 0 and 2 share the width of the first two.
    both = on_ranks(up_gate, shapes, plan_of(model, tp_size=4, moe_ep_size=2), experts=True)
    assert both == [
        [0, 1, 0, 1, 4, 5, 4, 5],
        [8, 9, 8, 9, 12, 13, 12, 13],
        [2, 3, 2, 3, 6, 7, 6, 7],
        [10, 11, 10, 11, 14, 15, 14, 15],
    ]


def test_columns_of_an_expert_are_taken_from_the_transposed_tensor() -> None:
    model = with_experts(MODEL, num_experts=2, width=3)
    parts = (Part("w2", Cut.EXPERT_COLUMNS, section=Section.EXPERT),)
    assert on_ranks(parts, {"w2": (6, 6)}, plan_of(model, tp_size=2), experts=True) == [
        [0, 1, 3, 4],
        [2, None, 5, None],
    ]


def test_a_source_may_be_used_as_it_is_and_transformed() -> None:
    rules = (
        Rule("plain", (Part("a", Cut.COPY),)),
        Rule("turned", (Part("a", Cut.COPY, "transpose"),)),
    )
    plan = plan_of(model_of(num_layers=1), tp_size=1)
    plain, turned = rank_tensors(
        rules, {"a": (3, 7)}, plan=plan, rank=0, reshape=lambda shape, name: shape[::-1] if name else shape
    )
    assert (plain.shape, turned.shape) == ((3, 7), (7, 3))
