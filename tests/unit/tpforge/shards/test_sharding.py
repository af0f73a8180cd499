"""tpforge.shards.sharding: spans, and the tensors of a rank file."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.models import model_of
from tpforge.errors import PlanError
from tpforge.model import ModelSpec
from tpforge.shards.mapping import Mapping
from tpforge.shards.padding import plan_padding
from tpforge.shards.sections import Span
from tpforge.shards.sharding import Cut, Part, Rule, ShardPlan, Slice, Stage, rank_tensors, spans


def plan_of(model: ModelSpec, *, tp_size: int = 1, pp_size: int = 1) -> ShardPlan:
    mapping = Mapping(tp_size=tp_size, pp_size=pp_size)
    return ShardPlan(model=model, mapping=mapping, padding=plan_padding(model, tp_size=tp_size))


def all_spans(cut: Cut, size: int, plan: ShardPlan) -> list[tuple[Span, ...]]:
    return [spans(cut, size, plan=plan, tp_rank=rank) for rank in range(plan.mapping.tp_size)]


def test_query_rows_are_cut_by_head_with_zeros_for_padded_heads() -> None:
    plan = plan_of(model_of(num_heads=9, num_kv_heads=3, head_size=2), tp_size=4)
    assert all_spans(Cut.QUERY_ROWS, 18, plan) == [
        (Span(0, 6),), (Span(6, 6),), (Span(12, 6),), (Span(None, 6),),
    ]  # fmt: skip
    assert all_spans(Cut.KV_ROWS, 6, plan) == [
        (Span(0, 2),), (Span(2, 2),), (Span(4, 2),), (Span(None, 2),),
    ]  # fmt: skip


def test_a_padded_group_ends_in_zeros_on_its_last_rank() -> None:
    plan = plan_of(model_of(num_heads=28, num_kv_heads=4, head_size=1), tp_size=8)
    assert all_spans(Cut.QUERY_COLUMNS, 28, plan)[:2] == [(Span(0, 4),), (Span(4, 3), Span(None, 1))]


def test_vocab_257_at_tp4_ends_in_three_zero_rows() -> None:
    plan = plan_of(model_of(vocab_size=257), tp_size=4)
    assert all_spans(Cut.VOCAB_ROWS, 257, plan) == [
        (Span(0, 65),), (Span(65, 65),), (Span(130, 65),), (Span(195, 62), Span(None, 3)),
    ]  # fmt: skip


def test_a_tiny_vocabulary_leaves_whole_ranks_of_zeros() -> None:
    plan = plan_of(model_of(vocab_size=5), tp_size=4)
    assert all_spans(Cut.VOCAB_ROWS, 5, plan) == [
        (Span(0, 2),), (Span(2, 2),), (Span(4, 1), Span(None, 1)), (Span(None, 2),),
    ]  # fmt: skip


def test_hidden_columns_that_do_not_divide_are_refused() -> None:
    plan = plan_of(model_of(hidden_size=6), tp_size=4)
    with pytest.raises(PlanError, match="hidden size 6 is not a multiple of tp=4"):
        spans(Cut.HIDDEN_COLUMNS, 6, plan=plan, tp_rank=0)


def test_a_size_that_contradicts_the_config_is_refused() -> None:
    plan = plan_of(model_of(num_heads=4, head_size=2))
    with pytest.raises(
        PlanError, match=r"found size 9, but config.json says 4 heads, which do not divide it"
    ):
        spans(Cut.QUERY_ROWS, 9, plan=plan, tp_rank=0)
    with pytest.raises(PlanError, match=r"found size 9, but config\.json says intermediate_size=16"):
        spans(Cut.MLP_ROWS, 9, plan=plan, tp_rank=0)


@settings(max_examples=300, deadline=None, database=None)
@given(
    num_kv_heads=st.integers(1, 6),
    group=st.integers(1, 6),
    head_size=st.integers(1, 5),
    intermediate_size=st.integers(1, 50),
    vocab_size=st.integers(1, 50),
    tp_size=st.integers(1, 16),
)
def test_every_source_row_is_held_exactly_as_often_as_it_must(
    num_kv_heads: int,
    group: int,
    head_size: int,
    intermediate_size: int,
    vocab_size: int,
    tp_size: int,
) -> None:
    num_heads = num_kv_heads * group
    if tp_size > num_heads:
        return
    plan = plan_of(
        model_of(
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_size=head_size,
            intermediate_size=intermediate_size,
            vocab_size=vocab_size,
        ),
        tp_size=tp_size,
    )
    copies = {Cut.KV_ROWS: max(1, tp_size // plan.padding.heads.num_kv_heads), Cut.COPY: tp_size}
    sizes = {
        Cut.COPY: 7,
        Cut.QUERY_ROWS: num_heads * head_size,
        Cut.QUERY_COLUMNS: num_heads * head_size,
        Cut.KV_ROWS: num_kv_heads * head_size,
        Cut.MLP_ROWS: intermediate_size,
        Cut.MLP_COLUMNS: intermediate_size,
        Cut.VOCAB_ROWS: vocab_size,
    }
    for cut, size in sizes.items():
        held = all_spans(cut, size, plan)
        assert len({sum(span.length for span in rank) for rank in held}) == 1, "ranks of one shape"
        rows = [
            row
            for rank in held
            for span in rank
            if span.start is not None
            for row in range(span.start, span.start + span.length)
        ]
        assert sorted(rows) == sorted(list(range(size)) * copies.get(cut, 1))


RULES = (
    Rule("embedding", (Part("embed", Cut.COPY),), Stage.FIRST),
    Rule("layers.{layer}.w", (Part("h.{layer}.a", Cut.MLP_ROWS), Part("h.{layer}.b", Cut.MLP_ROWS))),
    Rule("head", (Part("embed", Cut.VOCAB_ROWS),), Stage.LAST),
)
SHAPES = {"embed": (10, 8)} | {f"h.{layer}.{name}": (16, 8) for layer in range(3) for name in "ab"}


def test_targets_have_local_layer_indices_and_sources_global_ones() -> None:
    plan = plan_of(model_of(num_layers=3), tp_size=2, pp_size=2)
    first, last = (rank_tensors(RULES, SHAPES, plan=plan, rank=rank) for rank in (1, 3))
    assert [tensor.name for tensor in first] == ["embedding", "layers.0.w", "layers.1.w"]
    assert [tensor.name for tensor in last] == ["layers.0.w", "head"]
    assert last[0].shape == (16, 8)
    assert last[0].slices == (
        Slice("h.2.a", 0, (Span(8, 8),)),
        Slice("h.2.b", 0, (Span(8, 8),)),
    )
    assert last[1].shape == (5, 8)


def test_all_missing_and_contradicting_tensors_are_listed_at_once() -> None:
    shapes = {name: shape for name, shape in SHAPES.items() if name != "h.0.a"} | {"h.1.b": (15, 8)}
    with pytest.raises(PlanError) as caught:
        rank_tensors(RULES, shapes, plan=plan_of(model_of(num_layers=3)), rank=0)
    assert "h.0.a: missing" in str(caught.value)
    assert "h.1.b: shape [15, 8]: found size 15, but config.json says intermediate_size=16" in str(
        caught.value
    )


def test_parts_that_cannot_be_joined_are_refused() -> None:
    shapes = SHAPES | {"h.0.b": (16, 9)}
    with pytest.raises(PlanError, match=r"h.0.b: shape \[16, 9\] cannot be joined into layers.0.w"):
        rank_tensors(RULES, shapes, plan=plan_of(model_of(num_layers=3)), rank=0)
