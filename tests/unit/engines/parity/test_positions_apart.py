"""The proof sees windows and ropes at positions that no prompt of it reaches; a wrong one fails it.

Transformers judges: its models compute the same tokens at the same positions, behind its own masks.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from engines.parity.far_positions import MOST_TOKENS
from engines.parity.parity import measure_parity
from engines.parity.positions_apart import apart_error, expect_apart, places_apart
from engines.reference import EngineConfig, load_config, open_executor
from engines.store import read_manifest, write_manifest
from tests.support.families.cases import CASES
from tests.support.families.configs import FamilyCase, write_tiny_family
from tests.support.tiny import write_tiny_llama
from tests.support.tiny_engine import write_engine_of
from tpforge.manifest import Limits, Manifest
from tpforge.shards.mapping import Mapping

FAR = 20_000
LIMITS = Limits(max_batch_size=1, max_input_len=40_000, max_seq_len=40_064)
LENGTH = {"max_position_embeddings": 65536}
MISTRAL = {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": FAR}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": FAR,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": FAR}
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0}
LONG = {
    "rope_type": "longrope",
    "long_factor": [4.0 + pair for pair in range(8)],
    "short_factor": [1.0 + pair / 50 for pair in range(8)],
}
NOT_ROTATED = (
    "gpt2",
    "gpt_bigcode",
    "gpt_bigcode, many keys",
    "opt",
    "bloom",
    "mpt",
    "falcon, alibi",
    "baichuan, alibi",
    "gptj",
)
"""gptj is, but its code takes its frequencies from no config; its models have no threshold."""


def error_of(
    model: Any, engine: Path, manifest: Manifest, config: EngineConfig | None = None
) -> float | None:
    apart = expect_apart(model, manifest, progress=lambda _: None)
    if apart is None:
        return None
    executor = open_executor(
        config or load_config(engine), kind="lockstep", device="cpu", compute_dtype="float32", num_slots=1
    )
    return apart_error(apart, executor) / float(apart.logits.abs().max())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_family_computes_tokens_apart_as_transformers_does(case: FamilyCase, tmp_path: Path) -> None:
    model = write_tiny_family(tmp_path / "source", case)
    limits = Limits(max_batch_size=1, max_input_len=120, max_seq_len=128)
    engine, manifest = write_engine_of(
        tmp_path / "source", tmp_path / "engine", mapping=Mapping(tp_size=2), limits=limits
    )
    error = error_of(model, engine, manifest)
    assert (error is None) == (case.name in NOT_ROTATED)
    assert error is None or error <= case.tolerance


def llama_of(folder: Path, **changes: Any) -> Path:
    """A tiny llama whose config.json says otherwise."""
    write_tiny_llama(folder)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | LENGTH | changes))
    return folder


def without_scaling(config: EngineConfig) -> EngineConfig:
    return replace(config, rotary_scaling=None, longrope=None)


def scaled(**changes: Any) -> Callable[[EngineConfig], EngineConfig]:
    return lambda config: replace(config, rotary_scaling={**(config.rotary_scaling or {}), **changes})


def with_window(size: int | None) -> Callable[[EngineConfig], EngineConfig]:
    return lambda config: replace(config, windows=(size,) * config.num_layers)


MISTAKES: list[tuple[str, dict[str, Any], Callable[[EngineConfig], EngineConfig]]] = [
    ("no window", MISTRAL, with_window(None)),
    ("a window of one token less", MISTRAL, with_window(FAR - 1)),
    ("a window of one token more", MISTRAL, with_window(FAR + 1)),
    ("llama3, not scaled", {"rope_scaling": LLAMA3}, without_scaling),
    ("llama3, of another length", {"rope_scaling": LLAMA3}, scaled(original_max_position_embeddings=8192)),
    ("yarn, not scaled", {"rope_scaling": YARN}, without_scaling),
    ("yarn, of another length", {"rope_scaling": YARN}, scaled(original_max_position_embeddings=8192)),
    (
        "dynamic, not scaled",
        {"rope_scaling": DYNAMIC, "max_position_embeddings": FAR},
        without_scaling,
    ),
    (
        "dynamic, another factor",
        {"rope_scaling": DYNAMIC, "max_position_embeddings": FAR},
        scaled(factor=2.0),
    ),
    ("another base", {"rope_theta": 1e6}, lambda config: replace(config, rotary_base=1.1e6)),
]


@pytest.mark.parametrize(("name", "changes", "mistake"), MISTAKES, ids=[name for name, *_ in MISTAKES])
def test_what_is_wrong_past_all_prompts_is_found(
    tmp_path: Path, name: str, changes: dict[str, Any], mistake: Callable[[EngineConfig], EngineConfig]
) -> None:
    source = llama_of(tmp_path / "source", **changes)
    engine, manifest = write_engine_of(source, tmp_path / "engine", mapping=Mapping(), limits=LIMITS)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    right, wrong = (
        error_of(model, engine, manifest, config=config)
        for config in (load_config(engine), mistake(load_config(engine)))
    )
    assert right is not None and wrong is not None
    assert right < 1e-4 and wrong > 2e-3


def test_a_long_rope_past_all_prompts_is_computed_and_proven(tmp_path: Path) -> None:
    case = next(one for one in CASES if one.name == "phi3, long rope")
    rope = {"rope_theta": 10000.0, **LONG, "original_max_position_embeddings": FAR}
    rope |= {"long_factor": LONG["long_factor"][:4], "short_factor": LONG["short_factor"][:4]}
    settings = {**case.settings, **LENGTH, "original_max_position_embeddings": FAR, "rope_parameters": rope}
    model = write_tiny_family(tmp_path / "source", replace(case, settings=settings))
    engine, manifest = write_engine_of(
        tmp_path / "source", tmp_path / "engine", mapping=Mapping(), limits=LIMITS
    )
    config = load_config(engine)
    assert config.longrope is not None
    later = replace(config, longrope=replace(config.longrope, original_length=FAR + 100_000))
    right, wrong = (error_of(model, engine, manifest, config=one) for one in (config, later))
    assert right is not None and wrong is not None
    assert right < 1e-4 and wrong > 2e-3


@pytest.mark.parametrize("window", [FAR, None, FAR - 1])
def test_verify_fails_on_a_window_that_no_prompt_reaches(tmp_path: Path, window: int | None) -> None:
    source = llama_of(tmp_path / "source", **MISTRAL)
    assert FAR > MOST_TOKENS
    engine, manifest = write_engine_of(source, tmp_path / "engine", mapping=Mapping(), limits=LIMITS)
    attention = manifest.model.attention.model_copy(update={"sliding_window": window})
    model = manifest.model.model_copy(update={"attention": attention})
    write_manifest(engine, manifest.model_copy(update={"model": model}))
    parity, _ = measure_parity(engine, read_manifest(engine), source_path=source, progress=lambda _: None)
    assert parity.passed == (window == FAR)
    words = [one for one in parity.problems if one.startswith("tokens apart, at positions up to 39999")]
    assert len(words) == (window != FAR)


def test_tokens_stand_at_the_beginning_around_thresholds_and_at_the_end() -> None:
    config = AutoConfig.for_model("mistral", sliding_window=100)
    places = places_apart(config, limits=Limits(max_input_len=1000, max_seq_len=1001))
    assert places == (*range(12), *range(88, 112), *range(992, 1000))
    places = places_apart(config, limits=Limits(max_input_len=60, max_seq_len=1001))
    assert places == (*range(12), *range(52, 60))
