"""More mistakes of reading that a build would not say: layouts of matrices, experts, ropes, rows of a .gguf.

See `test_broken_readings`, whose judge it shares; here each mistake is in what takes a tensor apart.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from builders.families import llama
from builders.sources import fused_experts, gguf
from builders.sources.quantized import compressed, layouts, nvfp4_reading
from builders.sources.quantized.components import Components
from tests.support.families.configs import SIZES as TINY
from tests.support.quantized.checkpoints import write_quantized
from tests.support.tiny import write_tiny_llama
from tests.unit.builders.quantize.test_checkpoints import SIZES
from tests.unit.builders.sources.test_gguf import write_gguf
from tests.unit.builders.test_broken_readings import (
    Patch,
    groups_unchecked,
    judge,
    nothing,
    quantized,
    with_config,
)

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def fused(folder: Path, *, prefix: str = "") -> Path:
    """Experts as transformers 5 holds them, under names with or without a wrapper."""
    write_tiny_llama(folder.parent / "words")
    words = json.loads((folder.parent / "words" / "config.json").read_text())
    settings = {**TINY, "vocab_size": words["vocab_size"], "eos_token_id": words["eos_token_id"]}
    settings |= {"max_position_embeddings": 512, "head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2}
    torch.manual_seed(0)
    config = AutoConfig.for_model("qwen3_moe", **settings, moe_intermediate_size=48)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder, save_original_format=False)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((folder.parent / "words" / name).read_bytes())
    held = load_file(folder / "model.safetensors")
    save_file({prefix + name: one for name, one in held.items()}, folder / "model.safetensors")
    return folder


def halves_swapped(patch: Patch) -> None:
    """gate_up_proj taken for up first."""
    right = fused_experts._matrices
    other = {"gate_proj": "up_proj", "up_proj": "gate_proj", "down_proj": "down_proj"}
    patch.setattr(
        fused_experts, "_matrices", lambda *args: ((other[name], part) for name, part in right(*args))
    )


def rope_of_5(folder: Path) -> Path:
    return with_config(folder, "rope_theta", rope_parameters=LLAMA3)


def rope_lost(patch: Patch) -> None:
    right = llama.read_rope

    def wrong(*args: Any, **rest: Any) -> Any:
        return right(*args, **rest).model_copy(update={"scaling": None})

    patch.setattr(llama, "read_rope", wrong)


def of_gguf(folder: Path) -> Path:
    model = write_tiny_llama(folder)
    return write_gguf(model, folder.parent / "tiny.gguf", extra={"llama.vocab_size": 320})


def rows_as_they_are(patch: Patch) -> None:
    patch.setattr(gguf, "unpermute", lambda tensor, **_: tensor)


def dynamic(folder: Path) -> Path:
    """Other groups in one matrix, and GPTQModel's rule that says so."""
    quantized(folder, "gptq", finer=True)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["dynamic"] = {"+:.*down_proj.*": {"group_size": 16}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def rules_passed_over(patch: Patch) -> None:
    groups_unchecked(patch)
    patch.setattr(layouts, "_refuse_dynamic", lambda _values: None)


def of_method(method: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        plain = write_tiny_llama(folder.parent / "plain", **SIZES)
        write_quantized(plain, folder, method=method)
        return folder

    return make


def read_otherwise(
    module: Any, name: str, change: Callable[[Components], Components]
) -> Callable[[Patch], None]:
    """What `module.name` reads is changed before it is used."""
    right = getattr(module, name)

    def wrong(*args: Any, **rest: Any) -> Components:
        return change(right(*args, **rest))

    return lambda patch: patch.setattr(module, name, wrong)


def pairs_swapped(parts: Components, *, dim: int) -> Components:
    """Both numbers of a byte change places."""
    codes = parts.codes.view(torch.uint8).unflatten(dim, (-1, 2)).flip(dim + 1).flatten(dim, dim + 1)
    return replace(parts, codes=codes.view(parts.codes.dtype))


def scales_upside_down(parts: Components) -> Components:
    return replace(parts, scales=parts.scales.flip(0))


def scales_of_the_next_group(parts: Components) -> Components:
    return replace(parts, scales=parts.scales.roll(1, 1))


def inputs_as_they_are(parts: Components) -> Components:
    assert parts.column_scales is not None
    return replace(parts, column_scales=torch.ones_like(parts.column_scales))


def whole_inverted(parts: Components) -> Components:
    assert parts.whole_scale is not None
    return replace(parts, whole_scale=1 / parts.whole_scale)


CASES: list[tuple[str, Callable[[Path], Path], Callable[[Patch], None]]] = [
    ("fused experts", fused, nothing),
    ("fused experts, halves swapped", fused, halves_swapped),
    ("wrapped fused experts", partial(fused, prefix="_orig_mod."), nothing),
    ("wrapped fused experts, halves swapped", partial(fused, prefix="_orig_mod."), halves_swapped),
    ("rope of transformers 5", rope_of_5, nothing),
    ("rope of transformers 5, not scaled", rope_of_5, rope_lost),
    ("gguf", of_gguf, nothing),
    ("gguf, rows of q and k as they lie", of_gguf, rows_as_they_are),
    ("gptq, rules of single modules passed over", dynamic, rules_passed_over),
    (
        "fp8 blocks, scales of other rows",
        of_method("fp8 blocks"),
        read_otherwise(compressed, "read_blocks", scales_upside_down),
    ),
    (
        "int8, scales of other rows",
        of_method("int8"),
        read_otherwise(compressed, "read_rows", scales_upside_down),
    ),
    (
        "nvfp4, scales of the next group",
        of_method("modelopt nvfp4"),
        read_otherwise(nvfp4_reading, "read_modelopt", scales_of_the_next_group),
    ),
    (
        "nvfp4, halves of bytes swapped",
        of_method("modelopt nvfp4"),
        read_otherwise(nvfp4_reading, "read_modelopt", partial(pairs_swapped, dim=1)),
    ),
    (
        "nvfp4, divided for multiplied",
        of_method("packed nvfp4"),
        read_otherwise(nvfp4_reading, "read_compressed", whole_inverted),
    ),
    (
        "modelopt awq, halves of bytes swapped",
        of_method("modelopt awq"),
        read_otherwise(compressed, "read_modelopt_awq", partial(pairs_swapped, dim=0)),
    ),
    (
        "smooth, inputs not scaled",
        of_method("smooth"),
        read_otherwise(compressed, "read_smooth", inputs_as_they_are),
    ),
]


@pytest.mark.parametrize(("name", "make", "mistake"), CASES, ids=[name for name, *_ in CASES])
def test_verify_fails_where_a_layout_is_broken_on_purpose(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    make: Callable[[Path], Path],
    mistake: Callable[[Patch], None],
) -> None:
    judge(tmp_path, monkeypatch, make, mistake)
