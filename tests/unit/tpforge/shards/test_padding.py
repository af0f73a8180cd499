"""tpforge.shards.padding: which source head lies where, and what is zero."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.models import model_of
from tpforge.errors import PlanError
from tpforge.shards.padding import plan_padding

N = None


def test_sizes_that_fit_are_not_padded() -> None:
    for tp_size in (1, 2, 4, 8):
        padding = plan_padding(model_of(num_heads=8, num_kv_heads=2), tp_size=tp_size, allow=False)
        assert padding.heads.query_heads == tuple(range(8))
        assert padding.heads.kv_heads == (0, 1)
        assert padding.notes == ()


@pytest.mark.parametrize("tp_size", [2, 4])
def test_smollm2_9_heads_3_kv_heads_become_12_and_4(tp_size: int) -> None:
    padding = plan_padding(model_of(num_heads=9, num_kv_heads=3), tp_size=tp_size)
    assert padding.heads.query_heads == (0, 1, 2, 3, 4, 5, 6, 7, 8, N, N, N)
    assert padding.heads.kv_heads == (0, 1, 2, N)
    assert padding.notes == (f"attention heads 9/3 KV padded with zero heads to 12/4 for tp={tp_size}",)


def test_qwen_28_heads_4_kv_heads_at_tp8_pads_each_group_of_7_to_8_over_two_ranks() -> None:
    heads = plan_padding(model_of(num_heads=28, num_kv_heads=4), tp_size=8).heads
    assert (heads.num_heads, heads.num_kv_heads) == (32, 4)
    assert [heads.rank_query_heads(rank, tp_size=8) for rank in range(8)] == [
        (0, 1, 2, 3), (4, 5, 6, N), (7, 8, 9, 10), (11, 12, 13, N),
        (14, 15, 16, 17), (18, 19, 20, N), (21, 22, 23, 24), (25, 26, 27, N),
    ]  # fmt: skip
    assert [heads.rank_kv_heads(rank, tp_size=8) for rank in range(8)] == [
        (0,), (0,), (1,), (1,), (2,), (2,), (3,), (3,),
    ]  # fmt: skip


def test_tp8_duplicates_each_of_two_kv_heads_four_times() -> None:
    heads = plan_padding(model_of(num_heads=8, num_kv_heads=2), tp_size=8).heads
    assert [heads.rank_kv_heads(rank, tp_size=8) for rank in range(8)] == [(0,)] * 4 + [(1,)] * 4


def test_the_mlp_is_padded_to_the_next_multiple() -> None:
    padding = plan_padding(model_of(intermediate_size=10, num_heads=4, num_kv_heads=4), tp_size=4)
    assert padding.intermediate_size == 12
    assert padding.notes == ("MLP intermediate size 10 padded with zeros to 12 for tp=4",)


def test_no_pad_refuses_and_lists_the_sizes_that_fit() -> None:
    with pytest.raises(PlanError, match=r"tp=4 does not divide .*9/3 KV.* use tp=1, 3, 9, or --pad"):
        plan_padding(model_of(num_heads=9, num_kv_heads=3, intermediate_size=36), tp_size=4, allow=False)


@pytest.mark.parametrize("tp_size", [5, 1000])
def test_more_ranks_than_heads_is_refused_even_with_padding(tp_size: int) -> None:
    with pytest.raises(PlanError, match=f"tp={tp_size} is more than the 4 attention heads.*use tp=4 or less"):
        plan_padding(model_of(num_heads=4), tp_size=tp_size)


@settings(max_examples=300, deadline=None, database=None)
@given(
    num_kv_heads=st.integers(1, 12),
    group=st.integers(1, 9),
    tp_size=st.integers(1, 32),
    intermediate_size=st.integers(1, 100),
)
def test_every_rank_holds_its_query_heads_with_their_own_kv_heads(
    num_kv_heads: int, group: int, tp_size: int, intermediate_size: int
) -> None:
    num_heads = num_kv_heads * group
    if tp_size > num_heads:
        return
    model = model_of(num_heads=num_heads, num_kv_heads=num_kv_heads, intermediate_size=intermediate_size)
    padding = plan_padding(model, tp_size=tp_size)
    heads = padding.heads
    assert padding.intermediate_size % tp_size == 0
    assert 0 <= padding.intermediate_size - intermediate_size < tp_size
    held_queries: list[int] = []
    held_kv: list[int] = []
    for rank in range(tp_size):
        queries = heads.rank_query_heads(rank, tp_size=tp_size)
        kv = heads.rank_kv_heads(rank, tp_size=tp_size)
        assert len(queries) * tp_size == heads.num_heads
        assert len(queries) % len(kv) == 0
        for local, query in enumerate(queries):
            if query is not None:
                # The runtime attends local head i with local KV head i // (heads / KV heads).
                assert kv[local // (len(queries) // len(kv))] == query // group
                held_queries.append(query)
        held_kv += [head for head in kv if head is not None]
    assert sorted(held_queries) == list(range(num_heads))
    copies = max(1, tp_size // heads.num_kv_heads)
    assert sorted(held_kv) == sorted(list(range(num_kv_heads)) * copies)
