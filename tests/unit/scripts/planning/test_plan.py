"""`tpforge plan` as a user meets it: text, JSON, page, recipe, exit statuses, how much is computed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from scripts.main import main
from tpforge.plan.record import PlanRecord
from tpforge.plan.speed.products import StageProducts
from tpforge.recipe import parse_recipe

MODEL = ("plan", "llama-3.3-70b", "--gpu", "h100-sxm", "--gpus", "8")


def test_a_plan_prints_the_choice_the_bar_the_options_and_that_nothing_was_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*MODEL]) == 0
    text = capsys.readouterr().out
    assert text.startswith("llama-3.3-70b on 8 x H100 SXM (NVLink): TP2 x 4 fp8")
    bar = re.search(r"^\[(.*)\]$", text, flags=re.MULTILINE)
    assert bar is not None
    assert len(bar[1]) == 48
    assert "8 of 10 of" in text
    assert "Nothing was run." in text


def test_json_is_the_record_of_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*MODEL, "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert (value.pop("schema_version"), value.pop("kind")) == (1, "deployment_plan")
    record = PlanRecord.model_validate(value)
    assert record.chosen == record.options[0]
    memory = record.chosen.memory
    assert memory is not None
    assert sum(line.bytes for line in memory.lines) + memory.free_bytes == memory.total_bytes
    speed = record.chosen.speed
    assert speed is not None
    assert speed.low < speed.tokens_per_second
    assert any(not one.works and one.reason for one in record.options)


def test_the_page_stands_alone_and_names_every_option(tmp_path: Path) -> None:
    page = tmp_path / "plan.html"
    assert main([*MODEL, "--html", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert text.count("<svg") == 4
    assert "<script" not in text
    assert re.findall(r'(?:src|href)="(?!data:)', text) == []
    assert "http" not in re.sub(r'http-equiv="[^"]*"', "", text)
    assert "TP8 fp8, KV fp8" in text
    assert main([*MODEL, "--html", str(page)]) == 4
    assert main([*MODEL, "--html", str(page), "--force"]) == 0


def test_the_page_draws_the_front_of_all_loads_or_the_best_options_of_a_stated_one(tmp_path: Path) -> None:
    from xml.etree import ElementTree

    for words, captions in (
        ([], ("Pareto front", "taken")),
        (["--concurrency", "64"], ("the 8 best",)),
    ):
        file = tmp_path / f"{len(words)}.html"
        assert (
            main(["plan", "llama-3.1-8b", "--gpu", "h100-sxm", "--gpus", "4", *words, "--html", str(file)])
            == 0
        )
        page = file.read_text("utf-8")
        assert all(caption in page for caption in captions)
        figure = page.partition("Tokens/s per GPU against time per token")[2].partition("</figure>")[0]
        drawn = ElementTree.fromstring(figure[figure.index("<svg") :])
        titles = [one.text or "" for one in drawn.iter() if one.tag.endswith("title")]
        # A point each, and the plot's own title; of a stated load no more than eight.
        assert len(titles) > 3
        assert len(titles) <= 9 or not words


def test_the_recipe_is_one_that_up_reads(tmp_path: Path) -> None:
    file = tmp_path / "out.toml"
    assert (
        main(
            [*MODEL, "--recipe", str(file), "--isl", "500", "--osl", "100", "--max-len", "4096", "--tp", "2"]
        )
        == 0
    )
    recipe = parse_recipe(file.read_text(encoding="utf-8"), path=file)
    # FP8 needs calibration: the recipe builds from what `tpforge quantize` makes beside it.
    assert (Path(recipe.model).name, recipe.tp) == ("Llama-3.3-70B-Instruct-fp8", 2)
    assert "tpforge quantize meta-llama/Llama-3.3-70B-Instruct --format fp8" in file.read_text("utf-8")
    assert (recipe.runtime, recipe.sm) == ("tensorrt", 90)
    assert (recipe.limits.max_input_len, recipe.limits.max_seq_len) == (3996, 4096)


def test_a_directory_with_nothing_but_a_config_can_be_planned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tpforge.plan.models.known import find_known

    known = find_known("qwen3-8b")
    assert known is not None
    (tmp_path / "config.json").write_text(json.dumps(known.config))
    assert main(["plan", str(tmp_path), "--gpu", "l40s"]) == 0
    assert "on 1 x L40S" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("declared", "gpu", "weights"),
    [
        ({"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16}, "b200", "nvfp4"),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, "h100", "fp8"),
        (
            {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True, "desc_act": False},
            "a100",
            "gptq",
        ),
        (None, "h100", "bfloat16"),
    ],
)
def test_a_checkpoint_is_planned_as_what_its_config_says_it_holds(
    declared: dict[str, object] | None,
    gpu: str,
    weights: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from tpforge.plan.models.known import find_known

    known = find_known("llama-3.1-8b")
    assert known is not None
    extra = {} if declared is None else {"quantization_config": declared}
    (tmp_path / "config.json").write_text(json.dumps({**known.config, **extra}))
    assert main(["plan", str(tmp_path), "--gpu", gpu, "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    found = {one["weights"] for one in value["options"]}
    assert found == {weights} if declared is not None else weights in found
    bits = {"nvfp4": 4.5, "fp8": 8, "gptq": 4.25}.get(weights, 16)
    if declared is not None:
        # 7.5 billion of its 8 billion weights are in matrices that are quantized.
        least = 6.9e9 * bits / 8
        assert least < value["chosen"]["memory"]["lines"][0]["bytes"] < least + 2.6e9


def test_a_checkpoint_of_a_quantization_that_is_not_read_is_refused_with_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tpforge.plan.models.known import find_known

    known = find_known("llama-3.1-8b")
    assert known is not None
    config = {**known.config, "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert main(["plan", str(tmp_path), "--gpu", "h100"]) == 4
    assert "bitsandbytes" in capsys.readouterr().err


def test_the_recipe_names_a_model_in_any_folder(tmp_path: Path) -> None:
    from tpforge.plan.models.known import find_known

    known = find_known("qwen3-8b")
    assert known is not None
    folder = tmp_path / 'a "b" # \x7f\t\U0001f600'
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(known.config))
    file = tmp_path / "recipe.toml"
    assert main(["plan", str(folder), "--gpu", "l40s", "--recipe", str(file), "--format", "none"]) == 0
    assert parse_recipe(file.read_text(encoding="utf-8"), path=file).model == str(folder)
    assert main(["plan", str(folder), "--gpu", "l40s", "--recipe", str(file), "--force", "--tp", "1"]) == 0
    assert parse_recipe(file.read_text(encoding="utf-8"), path=file).model == f"{folder}-fp8"


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["llama-3.1-70b", "--gpu", "rtx-4090", "--format", "none"], 5, "nearest that works: 8 x RTX 4090"),
        (["llama-3.1-8b", "--gpu", "h100", "--gpus", "3", "--tp", "3", "--no-pad"], 4, "use tp=1, 2, 4, 8"),
        (["llama-3-8b", "--gpu", "h100", "--max-len", "9000"], 4, "use 8192 or less"),
        (["llama-3.1-8b", "--gpu", "h900"], 4, "is not in the table"),
        (["llama-3.1-8b", "--gpu", "a100", "--format", "fp8"], 4, "SM80 is not supported"),
        (["llama-3.1-8b", "--gpu", "mi300x"], 4, "'mi300x' is not NVIDIA's"),
        (["llama-3.1-8b", "--gpu", "AMD Instinct MI250"], 4, "is not NVIDIA's"),
        (["llama-3.1-8b", "--gpu", "h100", "--rate", "2", "--concurrency", "3"], 2, "give one of them"),
        (["llama-3.1-8b", "--gpu", "h100", "--min-gpus"], 2, "give --rate or --concurrency"),
        (["llama-3.1-8b", "--gpu", "v100"], 4, "compute capability 8.0"),
        (["llama-3.1-9b", "--gpu", "h100"], 4, "did you mean llama-3.1-8b"),
        (["llama-3.1-8b", "--gpu", "h100", "--format", "fp7"], 2, "'fp7' is unknown"),
        (["llama-3.1-8b", "--gpu", "l4", "--link", "nvlink"], 2, "has no NVLink"),
    ],
)
def test_an_impossible_ask_says_what_would_work_without_a_traceback(
    arguments: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *arguments]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert said in captured.err
    assert "Traceback" not in captured.err


def test_a_budget_without_prices_asks_for_them_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gpus", "--model", "llama-3.1-8b", "--budget", "10"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "--gpu-file FILE with [per_gpu_hour]" in said


def test_options_within_the_band_of_the_chosen_one_are_called_undecided_and_not_ranked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*MODEL, "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    low, high = value["chosen"]["speed"]["low"], value["chosen"]["speed"]["high"]
    eight_bits = [one for one in value["options"] if one["works"] and one["weights"] != "int4_awq"]
    near = [one["label"] for one in eight_bits if low <= one["speed"]["tokens_per_second"] <= high]
    assert sorted([value["chosen"]["label"], *value["undecided"]]) == sorted(near)
    assert len(near) > 2
    assert main([*MODEL, "--goal", "latency", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["undecided"] == []


@pytest.mark.parametrize(
    ("words", "most"),
    [
        ("plan llama-3.3-70b --gpu h100-sxm --gpus 8", 4_000),
        ("plan llama-3.3-70b --gpu l40s --gpus 8", 4_000),
        ("plan glm-4.5 --gpu gb300 --gpus 72", 45_000),
        ("gpus --model llama-3.3-70b --rate 5 --ttft-ms 1000 --tpot-ms 50", 45_000),
    ],
)
def test_so_few_steps_are_looked_at_that_a_plan_takes_less_than_a_second(
    words: str, most: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """About 10 microseconds a step of a stage; counted, since a busy machine takes longer for each."""
    steps: list[float] = []
    seconds = StageProducts.seconds

    def counted(self: StageProducts, own: float, **other: float) -> float:
        steps.append(own)
        return seconds(self, own, **other)

    monkeypatch.setattr(StageProducts, "seconds", counted)
    assert main([*words.split(), "--json"]) == 0
    assert 0 < len(steps) < most
    capsys.readouterr()


def test_the_page_says_what_the_terminal_says_of_doubt_and_of_a_users_speed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from html import unescape

    file = tmp_path / "plan.html"
    assert main([*MODEL, "--html", str(file)]) == 0
    shown = capsys.readouterr().out
    page = unescape(file.read_text("utf-8"))
    undecided = next(line for line in shown.splitlines() if line.startswith("undecided: "))
    assert undecided in page
    front = shown.partition("what a user's speed costs")[2].partition("taken:")[0].splitlines()[2:]
    assert len(front) > 2
    for row in front:
        for cell in filter(None, row.split("  ")):
            assert f">{cell.strip()}<" in page
