"""tpforge.recipe: defaults, limits, and every mistake of a recipe said at once."""

from pathlib import Path

import pytest

from tests.support.records import model_of
from tpforge.dtypes import DType
from tpforge.errors import UsageError
from tpforge.manifest import Limits
from tpforge.recipe import LimitsRecipe, Recipe, parse_recipe
from tpforge.sweep import read_sweep

WHERE = Path("/recipes/recipe.toml")
EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"


def problems_of(text: str) -> list[str]:
    with pytest.raises(UsageError) as caught:
        parse_recipe(text, path=WHERE)
    headline, *problems = str(caught.value).splitlines()
    assert headline == "/recipes/recipe.toml: the recipe is wrong:"
    return [problem.strip() for problem in problems]


def test_a_model_is_all_a_recipe_needs() -> None:
    recipe = parse_recipe('model = "demo"', path=WHERE)
    assert recipe == Recipe(model="demo")
    assert (recipe.tp, recipe.pp, recipe.pad, recipe.runtime) == (1, 1, True, "reference")
    assert recipe.serve.port_base == 8000
    assert recipe.smoke.enabled is True


def test_every_table_is_read() -> None:
    recipe = parse_recipe(
        """
        model = "demo"
        name = "small-tp4"
        tp = 4
        pp = 2
        dtype = "float16"
        pad = false
        parallel_embedding = 1
        runtime = "reference"
        [limits]
        max_batch_size = 16
        max_input_len = 100
        max_seq_len = 200
        [repository]
        embed_engine = true
        decoupled = false
        num_threads = 2
        [serve]
        port_base = 9000
        drain = 90
        [smoke]
        enabled = false
        """,
        path=WHERE,
    )
    assert (recipe.name, recipe.tp, recipe.pp, recipe.dtype) == ("small-tp4", 4, 2, DType.FLOAT16)
    assert (recipe.pad, recipe.parallel_embedding) == (False, 1)
    assert recipe.limits == LimitsRecipe(max_batch_size=16, max_input_len=100, max_seq_len=200)
    assert (recipe.repository.embed_engine, recipe.repository.decoupled) == (True, False)
    assert recipe.repository.num_threads == 2
    assert (recipe.serve.port_base, recipe.serve.drain, recipe.smoke.enabled) == (9000, 90, False)


def test_unknown_keys_suggest_the_nearest_known_one_in_any_table() -> None:
    text = 'model = "m"\ntpp = 4\nmax_input_length = 9\n[limits]\nmax_batchsize = 3\n[serve]\nzebra = 1'
    assert problems_of(text) == [
        "limits.max_batchsize: unknown key; did you mean max_batch_size?",
        "max_input_length: unknown key; did you mean [limits] max_input_len?",
        "serve.zebra: unknown key",
        "tpp: unknown key; did you mean tp?",
    ]


def test_all_problems_are_said_at_once_and_sorted() -> None:
    assert problems_of('tp = 0\npp = "two"\ndtype = "int3"\nparallel_embedding = 2') == [
        "dtype: input should be 'float32', 'float16' or 'bfloat16'",
        "model: missing",
        "parallel_embedding: input should be 0 or 1",
        "pp: input should be a valid integer",
        "tp: input should be greater than or equal to 1",
    ]


def test_a_number_is_not_taken_for_a_string_or_a_boolean() -> None:
    assert problems_of('model = "m"\ntp = true\npad = 1') == [
        "pad: input should be a valid boolean",
        "tp: input should be a valid integer",
    ]


def test_a_limit_that_compares_with_nothing_is_refused() -> None:
    for text, key in (("max_drop = nan", "max_drop"), ("[serve]\nload_timeout = inf", "serve.load_timeout")):
        with pytest.raises(UsageError, match=rf"{key}: .*finite"):
            parse_recipe(f'model = "demo"\n{text}\n', path=Path("r.toml"))


def test_broken_toml_is_refused_with_its_line() -> None:
    with pytest.raises(UsageError, match=r"/recipes/recipe\.toml: not valid TOML: .*line 2"):
        parse_recipe('model = "m"\ntp = = 4', path=WHERE)


@pytest.mark.parametrize(
    ("given", "located"),
    [
        ("./llama", "/recipes/llama"),
        ("../llama", "/recipes/../llama"),
        ("/models/llama", "/models/llama"),
        ("org/llama", "org/llama"),
        ("org/llama@main", "org/llama@main"),
        ("demo", "demo"),
    ],
)
def test_a_model_path_with_a_dot_starts_at_the_recipe(given: str, located: str) -> None:
    assert parse_recipe(f'model = "{given}"', path=WHERE).model == located


def test_limits_default_to_the_models_positions_up_to_2048_and_half_for_the_prompt() -> None:
    assert LimitsRecipe().resolve(model_of(max_position_embeddings=512)) == Limits(
        max_batch_size=8, max_input_len=256, max_seq_len=512
    )
    assert LimitsRecipe().resolve(model_of(max_position_embeddings=8192)) == Limits(
        max_batch_size=8, max_input_len=1024, max_seq_len=2048
    )
    assert LimitsRecipe(max_seq_len=4096).resolve(model_of(max_position_embeddings=8192)) == Limits(
        max_batch_size=8, max_input_len=2048, max_seq_len=4096
    )


def test_limits_beyond_the_models_positions_or_without_room_for_an_answer_are_refused() -> None:
    with pytest.raises(UsageError, match="max_seq_len 513 exceeds the 512 positions"):
        LimitsRecipe(max_seq_len=513).resolve(model_of(max_position_embeddings=512))
    with pytest.raises(UsageError, match=r"max_input_len 64 leaves no room .* use 63 or less"):
        LimitsRecipe(max_seq_len=64, max_input_len=64).resolve(model_of())


@pytest.mark.parametrize(
    "path", sorted(set(EXAMPLES.glob("*.toml")) - {EXAMPLES / "prices.toml"}), ids=lambda path: path.name
)
def test_the_examples_of_the_documentation_are_sound(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if "[sweep]" in text:
        assert len(read_sweep(path).points) > 1
    else:
        parse_recipe(text, path=path)
