"""Post-training quantization by nvidia-modelopt, in an environment of its own, and what holds its output.

Its pins clash with ours, so that it runs as another process. Its output is never trusted: `repair` compares
it with the model and puts back what it dropped.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builders.sources.json_files import read_json_object
from builders.sources.tokenizer_files import find_tokenizer_files
from builders.sources.weight_files import Weights
from tpforge.errors import EnvironmentUnusable, VerificationFailed
from tpforge.outputs.atomic import exclusive
from tpforge.progress import Progress
from tpforge.system.programs import run_lines

VERSION = "0.47.0"
# modelopt imports requests undeclared; with transformers 5 it drops rotary_base from TensorRT ranks.
PINS = (f"nvidia-modelopt=={VERSION}", "transformers==4.57.3", "requests", "accelerate")
CONFIGS = {
    "fp8": "FP8_DEFAULT_CFG",
    "int8_sq": "INT8_SMOOTHQUANT_CFG",
    "int4_awq": "INT4_AWQ_CFG",
}
NOT_RUN = {
    "w4a8_awq": "nothing here reads what it exports",
}
_KEPT = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "max_position_embeddings",
    "tie_word_embeddings",
    "attention_bias",
    "mlp_bias",
    "sliding_window",
)


@dataclass(frozen=True)
class Task:
    """One quantization; `format` is one of CONFIGS.

    `tokens` are the calibration samples, `windows` those it is scored on; `group_size` 0 is the format's own.
    """

    model: Path
    out: Path
    format: str
    tokens: tuple[tuple[int, ...], ...]
    windows: tuple[tuple[int, ...], ...]
    group_size: int = 0
    device: str = "cpu"


def environment(cache: Path, *, progress: Progress) -> Path:
    """The Python that has modelopt, made in `cache` on first use with the torch of this environment.

    Raises:
        EnvironmentUnusable: it cannot be made.
    """
    import torch

    pins = (*PINS, f"torch=={torch.__version__.partition('+')[0]}")
    folder = cache / f"modelopt-{VERSION}"
    python, stamp = folder / "bin" / "python", folder / ".pins"
    # Of two at once the second waits, and finds it made: it would clear away what the first installs.
    with exclusive(folder):
        if stamp.is_file() and stamp.read_text(encoding="utf-8") == "\n".join(pins):
            return python
        progress(f"making an environment for nvidia-modelopt {VERSION} in {folder}")
        _run([sys.executable, "-m", "venv", "--clear", str(folder)], what="python -m venv")
        _run([str(python), "-m", "pip", "install", "--quiet", *pins], what="pip install nvidia-modelopt")
        stamp.write_text("\n".join(pins), encoding="utf-8")
    return python


def _run(command: list[str], *, what: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise EnvironmentUnusable(f"{what}: {error}") from error
    if done.returncode:
        raise EnvironmentUnusable(f"{what} failed:\n{_end(done.stderr)}")


def quantize(python: Path, task: Task, *, scratch: Path, progress: Progress) -> dict[str, Any]:
    """Run modelopt and repair its output; seconds, peak memory, and the perplexity of modelopt's own model.

    Raises:
        EnvironmentUnusable: modelopt failed.
        VerificationFailed: its output is not the model.
    """
    record = scratch / "record.json"
    request = scratch / "task.json"
    content = {
        "model": str(task.model),
        "out": str(task.out),
        "config": CONFIGS[task.format],
        "group_size": task.group_size,
        "tokens": task.tokens,
        "windows": task.windows,
        "device": task.device,
        "record": str(record),
    }
    request.write_text(json.dumps(content), encoding="utf-8")
    worker = Path(__file__).with_name("modelopt_worker.py")
    errors = scratch / "stderr"
    with errors.open("w", encoding="utf-8") as stderr:
        status = run_lines(
            # -P: our own module of the name modelopt lies beside the worker.
            [str(python), "-P", str(worker), str(request)],
            on_line=lambda line: progress(line.strip()) if line.startswith("modelopt: ") else None,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            stderr=stderr,
        )
    if status:
        raise EnvironmentUnusable(f"nvidia-modelopt failed:\n{_end(errors.read_text(encoding='utf-8'))}")
    repair(task.model, task.out, progress=progress)
    return dict(read_json_object(record))


def repair(model: Path, out: Path, *, progress: Progress) -> None:
    """Put back what an export dropped of config.json and the tokenizer, remove what does not belong to it.

    Raises:
        VerificationFailed: heads, layers or the embedding are not the model's; all is listed.
    """
    before, after = read_json_object(model / "config.json"), read_json_object(out / "config.json")
    dropped = {key: before[key] for key in _KEPT if key in before and after.get(key) != before[key]}
    changed = sorted(key for key in dropped if after.get(key) is not None)
    if changed:
        said = [f"{key}: found {after[key]!r}, the model has {before[key]!r}" for key in changed]
        raise VerificationFailed("\n  ".join([f"{out}: nvidia-modelopt changed the model:", *said]))
    if missing := {key: value for key, value in dropped.items() if value is not None}:
        progress(f"put back into config.json: {', '.join(sorted(missing))}")
        text = json.dumps(after | missing, indent=2) + "\n"
        (out / "config.json").write_text(text, encoding="utf-8")
    for stray in [*out.glob("rank*"), *out.glob("*.py")]:
        progress(f"removed {stray.name}, which belongs to no checkpoint")
        stray.unlink()
    for file in find_tokenizer_files(model):
        (out / file.name).write_bytes(file.read_bytes())
    if problems := _differences(model, out):
        raise VerificationFailed("\n  ".join([f"{out}: is not the model that was quantized:", *problems]))


def _differences(model: Path, out: Path) -> list[str]:
    """Tensors of the model that are missing or have other rows, and a tied head that came loose."""
    before, after = Weights(model), Weights(out)
    try:
        plain, made = before.entries, after.entries
        problems = [f"{name}: missing" for name in plain if name not in made]
        for name in plain.keys() & made.keys():
            rows, found = plain[name].shape[0], made[name].shape[0]
            # Two rows of 4 bits lie in a byte.
            halved = made[name].dtype == "U8" and found * 2 == rows
            if found != rows and not halved:
                problems.append(f"{name}: found {found} rows, the model has {rows}")
        tied = read_json_object(model / "config.json").get("tie_word_embeddings")
        if tied and "lm_head.weight" in made and "lm_head.weight" not in plain:
            problems.append("lm_head.weight: the model's is tied to the embedding")
        return sorted(problems)
    finally:
        before.close()
        after.close()


def _end(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.strip().splitlines()[-8:])
