"""The options of a repository: each runtime has its own, and another's are refused with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.main import main
from tests.support.tiny_engine import write_tiny_engine
from tpforge.errors import UsageError
from tpforge.manifest import Runtime
from tpforge.recipe import Recipe, parse_recipe
from tpforge.repository_options import (
    PytorchOptions,
    ReferenceOptions,
    TensorrtOptions,
    option_defaults,
    repository_options,
)

WHERE = Path("/recipes/recipe.toml")


@pytest.mark.parametrize(
    ("runtime", "options"),
    [
        ("reference", ReferenceOptions(decoupled=False)),
        ("tensorrt", TensorrtOptions(decoupled=False)),
        ("pytorch", PytorchOptions(decoupled=False)),
    ],
)
def test_a_runtime_takes_all_flags_at_their_defaults_and_keeps_its_own(
    runtime: Runtime, options: ReferenceOptions | TensorrtOptions | PytorchOptions
) -> None:
    assert repository_options({**option_defaults(), "decoupled": False}, runtime=runtime) == options


@pytest.mark.parametrize(
    ("runtime", "name", "value", "said"),
    [
        ("tensorrt", "embed_engine", True, "the C\\+\\+ backend wants an absolute gpt_model_path"),
        ("pytorch", "embed_engine", True, "the LLM API wants the model's absolute path; leave it out"),
        ("pytorch", "parameters", {"x": 1}, "parameters of compiled engines; leave it out"),
        ("pytorch", "stand_in", True, "is for compiled engines; leave it out"),
        ("pytorch", "num_threads", 2, "is for runtime reference or tensorrt, and this is pytorch"),
        ("reference", "front", "inflight", "is for runtime pytorch, and this is reference"),
        ("reference", "stand_in", True, "is for runtime tensorrt, and this is reference"),
        ("tensorrt", "front", "inflight", "is for runtime pytorch, and this is tensorrt"),
    ],
)
def test_an_option_of_another_runtime_is_refused_with_the_reason(
    runtime: Runtime, name: str, value: object, said: str
) -> None:
    with pytest.raises(UsageError, match=f"^--x-{name}: .*{said}"):
        repository_options({name: value}, runtime=runtime, spelled=lambda name: f"--x-{name}")


def test_a_recipe_has_the_options_of_its_runtime() -> None:
    text = 'model = "m"\nruntime = "{}"\n[repository]\n{}'
    assert parse_recipe(text.format("pytorch", 'front = "inflight"'), path=WHERE).repository == (
        PytorchOptions(front="inflight")
    )
    assert parse_recipe(text.format("tensorrt", "stand_in = true"), path=WHERE).repository == (
        TensorrtOptions(stand_in=True)
    )
    assert Recipe(model="m", runtime="tensorrt").repository == TensorrtOptions()
    # What says nothing may stay when the runtime of a recipe is changed.
    silent = text.format("reference", 'front = "llmapi"\nstand_in = false')
    assert parse_recipe(silent, path=WHERE).repository == ReferenceOptions()


def test_every_mistake_of_a_recipes_repository_is_said_at_once() -> None:
    text = """
        model = "m"
        [repository]
        front = "inflight"
        decopled = false
        num_threads = 0
        """
    with pytest.raises(UsageError) as caught:
        parse_recipe(text, path=WHERE)
    assert [line.strip() for line in str(caught.value).splitlines()[1:]] == [
        "repository.decopled: unknown key; did you mean decoupled?",
        "repository.front: is for runtime pytorch, and this is reference",
        "repository.num_threads: input should be greater than or equal to 1",
    ]


def test_a_recipe_whose_repository_is_of_another_runtime_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"\[repository\] is for runtime pytorch, but the engine is of reference"
    ):
        parse_recipe('model = "m"\n[repository]\nruntime = "pytorch"', path=WHERE)


def test_the_command_refuses_another_runtimes_flag_by_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine, _, _ = write_tiny_engine(tmp_path, tp_size=1)
    assert main(["render", str(engine), "--front", "inflight", "--parameter", "a=1"]) == 2
    said = capsys.readouterr().err
    assert "--front: is for runtime pytorch, and this is reference" in said
    assert "--parameter: is for runtime tensorrt, and this is reference" in said
    assert main(["render", str(engine), "--executor", "lockstep"]) == 0
