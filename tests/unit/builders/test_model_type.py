"""A config.json without a model type, or with one that transformers does not know: said wherever it is read.

The judge is transformers: AutoConfig finds no class for those that are refused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from builders.model_type import known_types, model_type_problem
from scripts.main import main
from tests.support.published.configs import PUBLISHED
from tests.support.published.older import OLDER
from tests.support.tiny import write_tiny_llama
from tpforge.plan.models.known import known_models

UPSTREAM = Path(__file__).parents[2] / "contract" / "upstream" / "model_configs.json"
ABSENT: dict[str, Any] = {}
BROKEN = [
    (
        ABSENT,
        "model_type: found none; runtime pytorch and `tpforge verify` load the model by it; expected 'llama'",
    ),
    ({"model_type": None}, "model_type: found none"),
    ({"model_type": ""}, "model_type: found '', of which transformers has no class"),
    ({"model_type": "lama"}, "model_type: found 'lama', of which transformers has no class"),
    ({"model_type": ["llama"]}, "model_type: found ['llama'], of which transformers has no class"),
]


def write(folder: Path, changes: dict[str, Any]) -> Path:
    write_tiny_llama(folder)
    config = json.loads((folder / "config.json").read_text())
    del config["model_type"]
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


@pytest.mark.parametrize(("changes", "words"), BROKEN)
def test_it_is_refused_for_the_runtime_that_loads_by_it_and_said_before_any_other(
    tmp_path: Path, changes: dict[str, Any], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(write(tmp_path / "model", changes))
    with pytest.raises((ValueError, TypeError)):
        AutoConfig.from_pretrained(model)

    out = tmp_path / "out"
    build = ["build", model, "--runtime", "pytorch", "--sm", "90", "--max-seq-len", "320", "--out", str(out)]
    assert main(build) == 4
    assert words in capsys.readouterr().err
    assert not out.exists()

    for command in (
        ["inspect", model],
        ["plan", model, "--gpu", "h100-sxm", "--isl", "100", "--osl", "100"],
        ["convert", model, "--out", str(tmp_path / "shards")],
    ):
        assert main(command) == 0, command
        said = capsys.readouterr()
        assert words in " ".join((said.out + said.err).split()), command


def test_inspect_does_not_say_that_pytorch_loads_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(write(tmp_path / "model", ABSENT)), "--json"]) == 0
    runtimes = {one["runtime"]: one for one in json.loads(capsys.readouterr().out)["runtimes"]}
    assert not runtimes["pytorch"]["serves"] and "model_type: found none" in runtimes["pytorch"]["reason"]
    assert runtimes["reference"]["serves"]


@pytest.mark.parametrize(
    "config",
    [
        {"architectures": ["LlamaForCausalLM"], "auto_map": {"AutoConfig": "configuration_x.X"}},
        {"architectures": ["NewerThanThisForCausalLM"], "model_type": "newer_than_this"},
        {"architectures": ["DeepseekV3ForCausalLM"], "model_type": "kimi_k2"},
        {"architectures": ["DeepseekV32ForCausalLM"], "model_type": "deepseek_v32"},
    ],
)
def test_own_code_and_what_is_newer_than_the_tables_is_not_refused(config: dict[str, Any]) -> None:
    assert model_type_problem(config, where="config.json") is None


def test_published_configs_name_a_type_that_is_known() -> None:
    upstream = json.loads(UPSTREAM.read_text(encoding="utf-8"))["models"]
    configs = [one.config for one in (*PUBLISHED, *OLDER)] + [one.config for one in known_models()]
    configs += [one["config"] for one in upstream.values()]
    assert len(configs) > 150
    for config in configs:
        assert model_type_problem(config, where="config.json") is None, config["architectures"]


def test_types_of_both_versions_and_of_tensorrt_llm_itself_are_known() -> None:
    assert {"llama", "gpt_oss", "qwen3_next", "deepseek_v32"} <= known_types()
    # Only the installed version has it; only 4.57 has what it dropped; only TensorRT-LLM has the last.
    assert {"qwen4_exp", "deta", "kimi_k2"} <= known_types()
    assert "lama" not in known_types()
