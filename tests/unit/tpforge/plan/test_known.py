"""tpforge.plan.models.known: models by the names that people give them, planned as what they are."""

from __future__ import annotations

import pytest

from builders.blueprint import find_blueprint
from tpforge.plan.models.known import find_known, known_models


@pytest.mark.parametrize(
    ("spelled", "id_on_the_hub"),
    [
        ("gpt-oss-120b", "openai/gpt-oss-120b"),
        ("GPT_OSS-120B", "openai/gpt-oss-120b"),
        ("deepseek-v3.2", "deepseek-ai/DeepSeek-V3.2"),
        ("DeepSeek V3.2", "deepseek-ai/DeepSeek-V3.2"),
        ("kimi-k2", "moonshotai/Kimi-K2-Instruct"),
        ("kimi-k2-instruct", "moonshotai/Kimi-K2-Instruct"),
        ("qwen3-next-80b-a3b", "Qwen/Qwen3-Next-80B-A3B-Instruct"),
        ("qwen3-next-80b-a3b-instruct", "Qwen/Qwen3-Next-80B-A3B-Instruct"),
        ("glm-5", "zai-org/GLM-5"),
        ("glm5", "zai-org/GLM-5"),
        ("llama-4-scout", "meta-llama/Llama-4-Scout-17B-16E-Instruct"),
        ("llama4-scout", "meta-llama/Llama-4-Scout-17B-16E-Instruct"),
        ("minimax-m2", "MiniMaxAI/MiniMax-M2"),
        ("nvidia/qwen3-235b-a22b-nvfp4", "nvidia/Qwen3-235B-A22B-NVFP4"),
        ("qwen3-235b-a22b", "Qwen/Qwen3-235B-A22B"),
    ],
)
def test_a_name_finds_its_model_however_it_is_spelled(spelled: str, id_on_the_hub: str) -> None:
    found = find_known(spelled)
    assert found is not None
    assert found.id == id_on_the_hub


def test_no_two_models_have_one_name_and_an_unknown_owner_is_not_guessed() -> None:
    names = [name for model in known_models() for name in (model.name, *model.aliases)]
    assert len(set(names)) == len(names)
    ids = [model.id for model in known_models()]
    assert len(set(ids)) == len(ids)
    assert find_known("somebody/gpt-oss-120b-tuned") is None
    assert find_known("gpt-oss-121b") is None


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("gpt-oss-120b", "mxfp4"),
        ("deepseek-v3.2", "fp8_block"),
        ("qwen3-235b-a22b-nvfp4", "nvfp4"),
        ("qwen3-235b-a22b", None),
        ("llama-3.1-70b-fp8", "fp8"),
        ("qwen3-next-80b-a3b", None),
    ],
)
def test_a_model_that_is_published_quantized_is_planned_so(name: str, stored: str | None) -> None:
    assert find_blueprint(name).stored_format == stored
