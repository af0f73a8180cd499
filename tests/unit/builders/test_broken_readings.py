"""Where the reading of a checkpoint is broken on purpose, the build is silent and `verify` fails.

Each mistake is one that was made before, in tpforge or in another converter. It stays while the proof runs,
since a proof opens the source by the same reading; transformers and the tensors' own shapes judge.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from builders.families import llama, qwen
from builders.families.common import windows
from builders.families.common.keys import ConfigKeys
from builders.sources.quantized import awq, compressed, gptq, reading
from engines.store import read_manifest
from scripts.main import main
from tests.support.quantized.checkpoints import write_quantized
from tests.support.tiny import write_tiny_llama

WINDOW = 320
ALTERNATING = ["sliding_attention", "full_attention"]
Patch = pytest.MonkeyPatch


def with_config(folder: Path, *absent: str, **changes: Any) -> Path:
    """A tiny llama whose config.json says more, or less."""
    write_tiny_llama(folder)
    values = json.loads((folder / "config.json").read_text()) | {"max_position_embeddings": 512} | changes
    kept = {key: value for key, value in values.items() if key not in absent}
    (folder / "config.json").write_text(json.dumps(kept))
    return folder


def qwen3(folder: Path) -> Path:
    """Every other layer with a window."""
    with_config(
        folder,
        architectures=["Qwen3ForCausalLM"],
        model_type="qwen3",
        use_sliding_window=True,
        sliding_window=WINDOW,
        layer_types=ALTERNATING,
    )
    tensors = load_file(folder / "model.safetensors")
    for layer in range(2):
        for name in ("q_norm", "k_norm"):
            tensors[f"model.layers.{layer}.self_attn.{name}.weight"] = torch.ones(16)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def mistral(folder: Path, *absent: str) -> Path:
    names = {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": WINDOW}
    return with_config(folder, *absent, **names)


def quantized(folder: Path, method: str, *, finer: bool = False) -> Path:
    """In groups of 32; `finer`: one matrix in groups of 16, as GPTQModel's rules make it."""
    sizes = {"num_layers": 1, "head_size": 32, "hidden_size": 128, "intermediate_size": 256}
    plain = write_tiny_llama(folder.parent / "plain", dtype="float16", **sizes)
    write_quantized(plain, folder, method=method)
    if finer:
        write_quantized(plain, folder.parent / "finer", method=method, group=16)
        others = load_file(folder.parent / "finer" / "model.safetensors")
        tensors = load_file(folder / "model.safetensors")
        tensors |= {name: one for name, one in others.items() if "down_proj" in name}
        save_file(tensors, folder / "model.safetensors")
    return folder


def every_layer_windowed(patch: Patch) -> None:
    patch.setattr(windows, "_sliding_layers", lambda _config, *, otherwise: (True,) * len(otherwise))


def no_layer_windowed(patch: Patch) -> None:
    patch.setattr(qwen, "with_windows", lambda _config, model, **_: model)


def other_layers_windowed(patch: Patch) -> None:
    right = windows._sliding_layers
    patch.setattr(
        windows, "_sliding_layers", lambda *config, **rest: tuple(not one for one in right(*config, **rest))
    )


def window(size: int | None) -> Callable[[Patch], None]:
    return lambda patch: patch.setattr(llama, "read_window", lambda _config: size)


def default(key: str, value: object) -> Callable[[Patch], None]:
    """An absent key means something else than transformers' class says."""
    right = ConfigKeys.filled

    def wrong(keys: ConfigKeys, values: dict[str, Any]) -> dict[str, Any]:
        filled = right(keys, values)
        return filled if key in values else filled | {key: value}

    return lambda patch: patch.setattr(ConfigKeys, "filled", wrong)


def groups_unchecked(patch: Patch) -> None:
    patch.setattr(reading, "companion_problems", lambda *_, **__: ())
    patch.setattr(reading.QuantizedWeights, "_check_order", lambda *_, **__: None)


def no_offset(patch: Patch) -> None:
    right = gptq.read_gptq
    patch.setattr(
        gptq, "read_gptq", lambda read, module, **rest: right(read, module, **rest | {"zero_offset": 0})
    )


def swapped(module: Any, *, dim: int) -> Callable[[Patch], None]:
    """Two neighbours of every eight change places, in zero points alone: those words are the few ones."""
    right = module.nibbles

    def wrong(words: torch.Tensor, **rest: Any) -> torch.Tensor:
        numbers: torch.Tensor = right(words, **rest)
        if words.shape[dim] > 8:
            return numbers
        pairs = numbers.unflatten(1 - dim, (-1, 2))
        return pairs.flip(2 - dim).flatten(1 - dim, 2 - dim)

    return lambda patch: patch.setattr(module, "nibbles", wrong)


def awq_in_plain_order(patch: Patch) -> None:
    patch.setattr(awq, "ORDER", tuple(range(8)))


def symmetric(patch: Patch) -> None:
    """Stored zero points are passed over, as if all were 8."""
    right = compressed.Components

    def wrong(**parts: Any) -> Any:
        return right(**parts | {"zeros": torch.full_like(parts["zeros"], 8)})

    patch.setattr(compressed, "Components", wrong)


def nothing(_patch: Patch) -> None:
    """The reading as it is."""


CASES: list[tuple[str, Callable[[Path], Path], Callable[[Patch], None]]] = [
    ("qwen3", qwen3, nothing),
    ("qwen3, windows everywhere", qwen3, every_layer_windowed),
    ("qwen3, windows nowhere", qwen3, no_layer_windowed),
    ("qwen3, windows on the other layers", qwen3, other_layers_windowed),
    ("mistral", mistral, nothing),
    ("mistral, no window", mistral, window(None)),
    ("mistral, one token less", mistral, window(WINDOW - 1)),
    ("mistral, absent window", lambda path: mistral(path, "sliding_window"), nothing),
    ("mistral, no default window", lambda path: mistral(path, "sliding_window"), window(None)),
    ("absent base", lambda path: with_config(path, "rope_theta"), nothing),
    ("another base", lambda path: with_config(path, "rope_theta"), default("rope_theta", 5e5)),
    ("another epsilon", lambda path: with_config(path, "rms_norm_eps"), default("rms_norm_eps", 1e-2)),
    ("gptq", lambda path: quantized(path, "gptq"), nothing),
    ("gptq, finer groups", lambda path: quantized(path, "gptq", finer=True), groups_unchecked),
    ("gptq, zero points one less", lambda path: quantized(path, "gptq"), no_offset),
    ("gptq, zero points swapped", lambda path: quantized(path, "gptq"), swapped(gptq, dim=0)),
    ("awq", lambda path: quantized(path, "awq"), nothing),
    ("awq, finer groups", lambda path: quantized(path, "awq", finer=True), groups_unchecked),
    ("awq, zero points swapped", lambda path: quantized(path, "awq"), swapped(awq, dim=0)),
    ("awq, in plain order", lambda path: quantized(path, "awq"), awq_in_plain_order),
    ("packed zeros", lambda path: quantized(path, "packed zeros"), nothing),
    ("packed, finer groups", lambda path: quantized(path, "packed", finer=True), groups_unchecked),
    ("packed, zero points passed over", lambda path: quantized(path, "packed zeros"), symmetric),
]


def judge(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path], Path],
    mistake: Callable[[Patch], None],
) -> None:
    """Build and verify with the mistake made: the one is silent, and the other fails, but for `nothing`."""
    mistake(monkeypatch)
    model, engine = make(tmp_path / "model"), tmp_path / "engine"
    limits = ["--max-input-len", "448", "--max-seq-len", "480", "--max-batch-size", "8"]
    assert main(["build", str(model), "--tp", "2", *limits, "--out", str(engine)]) == 0
    is_right = mistake is nothing
    assert main(["verify", str(engine)]) == (0 if is_right else 6)
    manifest = read_manifest(engine)
    assert manifest.parity is not None
    assert bool(manifest.parity.problems) != is_right
    assert bool(manifest.golden) == is_right


@pytest.mark.parametrize(("name", "make", "mistake"), CASES, ids=[name for name, *_ in CASES])
def test_verify_fails_where_the_reading_is_broken_on_purpose(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    make: Callable[[Path], Path],
    mistake: Callable[[Patch], None],
) -> None:
    judge(tmp_path, monkeypatch, make, mistake)
