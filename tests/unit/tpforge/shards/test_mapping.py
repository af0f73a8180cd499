"""tpforge.shards.mapping: ranks, stages and their layers."""

import pytest

from tpforge.errors import PlanError, UsageError
from tpforge.shards.mapping import Mapping


def test_rank_is_stage_times_tp_plus_tp_rank() -> None:
    mapping = Mapping(tp_size=4, pp_size=2)
    assert mapping.world_size == 8
    assert [(mapping.pp_rank(rank), mapping.tp_rank(rank)) for rank in range(8)] == [
        (0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2), (1, 3),
    ]  # fmt: skip
    assert [mapping.is_first_stage(rank) for rank in (0, 3, 4, 7)] == [True, True, False, False]
    assert [mapping.is_last_stage(rank) for rank in (0, 3, 4, 7)] == [False, False, True, True]


def test_first_stages_get_the_remaining_layers() -> None:
    mapping = Mapping(pp_size=3)
    assert [mapping.layers(rank, num_layers=8) for rank in range(3)] == [range(3), range(3, 6), range(6, 8)]


@pytest.mark.parametrize("num_layers", [1, 5, 7, 32])
def test_every_layer_is_in_exactly_one_stage(num_layers: int) -> None:
    for pp_size in range(1, num_layers + 1):
        mapping = Mapping(pp_size=pp_size)
        layers = [layer for rank in range(pp_size) for layer in mapping.layers(rank, num_layers=num_layers)]
        assert layers == list(range(num_layers))


def test_more_stages_than_layers_is_refused_with_the_largest_that_fits() -> None:
    with pytest.raises(PlanError, match="pp=3 leaves a stage without layers: the model has 2; use pp=2"):
        Mapping(pp_size=3).layers(0, num_layers=2)


@pytest.mark.parametrize("size", [0, -1])
def test_a_size_below_one_is_wrong_usage(size: int) -> None:
    with pytest.raises(UsageError, match=f"tp={size} is not a size; use tp=1 or more"):
        Mapping(tp_size=size)
    with pytest.raises(UsageError, match=f"pp={size}"):
        Mapping(pp_size=size)
