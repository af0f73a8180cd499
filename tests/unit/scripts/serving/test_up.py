"""scripts.flows.up: what a stage is called when it ends, and ports for the demo."""

import socket

import pytest

from scripts.flows.up import Run, Stage, stage_rows
from tests.support.ports import free_ports
from tpforge.errors import InputRefused
from tpforge.recipe import Recipe, ServeRecipe


def run_of(port_base: int = 8000) -> tuple[Run, list[str]]:
    said: list[str] = []
    recipe = Recipe(model="m", serve=ServeRecipe(port_base=port_base))
    return Run(recipe, progress=said.append, on_stage=lambda _stage: None), said


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(None, "done"), (InputRefused("no"), "failed"), (KeyboardInterrupt(), "interrupted")],
)
def test_a_stage_ends_done_failed_or_interrupted_and_is_told_once(
    error: BaseException | None, outcome: str
) -> None:
    told: list[Stage] = []
    run = Run(Recipe(model="m"), progress=lambda _text: None, on_stage=told.append)
    try:
        with run.stage("build") as stage:
            stage.result = "half"
            if error is not None:
                raise error
    except (InputRefused, KeyboardInterrupt) as raised:
        assert raised is error
    assert [(stage.name, stage.result, stage.outcome) for stage in told] == [("build", "half", outcome)]
    assert run.stages == told


def test_the_table_says_the_outcome_only_when_it_is_not_plain_success() -> None:
    rows = stage_rows(
        [
            Stage("build", 1.5, "an engine", "unchanged"),
            Stage("verify", 61.0, "all equal", "done"),
            Stage("serve", 0.25, "", "failed"),
        ]
    )
    assert rows == [
        ("build", "1.5 s", "unchanged: an engine"),
        ("verify", "61.0 s", "all equal"),
        ("serve", "250 ms", "failed"),
        ("total", "62.8 s", ""),
    ]


def test_taken_ports_are_replaced_by_free_ones_which_is_said() -> None:
    base = free_ports().http
    run, said = run_of(base)
    run.use_free_ports()
    assert (run.recipe.serve.port_base, said) == (base, [])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", base + 1))
        taken.listen()
        run.use_free_ports()
    free = run.recipe.serve.port_base
    assert free >= base + 10
    assert said == [f"ports {base} to {base + 2} are not all free; using {free} to {free + 2}"]
