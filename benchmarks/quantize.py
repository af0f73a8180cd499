"""What each format costs on SmolLM2, in quality and in time: `python -m benchmarks.quantize OUT`.

The model is exported from the demo's .gguf as a bfloat16 Hugging Face directory, once. Every format is made
(or read, from a checkpoint that the writer of the tests rounds to nearest), sharded at tp 1, 2 and 4, proven,
and scored at tp=1 against the bfloat16 model. Times are the best of three conversions at tp=1, each into
a new folder. One JSON line a format. Names choose formats; `read:gptq` chooses a checkpoint of the writer,
`dir:FOLDER` one that lies there, `kv:int8` a format of the KV cache.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from builders.conversion.planned import plan_of
from builders.export import write_huggingface
from builders.proof.verify import verify_shards
from builders.sources.models import open_model
from engines.quality import Baseline, compare_with, measure_baseline
from engines.store import read_manifest
from scripts.flows.build import build_engine
from tests.support.quantized.checkpoints import write_quantized
from tpforge.errors import TpforgeError
from tpforge.quantization import formats
from tpforge.recipe import EngineRecipe

READ = {"gptq": "gptq", "awq": "awq", "packed": "gptq", "int8": "int8_w8a8", "fp8": "fp8"}
GROUP = 64


def main(out: Path, names: list[str]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    model = out / "smollm2"
    if not model.exists():
        model.mkdir()
        with open_model("demo") as source:
            write_huggingface(source, model)
    engine = _build(EngineRecipe(model=str(model)), out / "none")
    baseline = measure_baseline(engine, read_manifest(engine), source_path=model, progress=_say)
    plain_s = _time(EngineRecipe(model=str(model)), out / "timed")
    for row in formats():
        if row.made_by == "convert" and (not names or row.name in names):
            recipe = EngineRecipe(model=str(model), quantize=row.name)
            _report(out, row.name, recipe, baseline, plain_s=plain_s)
    for given in names:
        if given.startswith("kv:"):
            recipe = EngineRecipe.model_validate({"model": str(model), "kv_cache": given.removeprefix("kv:")})
            _report(out, given.replace(":", "-"), recipe, baseline, plain_s=plain_s)
        if given.startswith("dir:"):
            folder = Path(given.removeprefix("dir:"))
            _report(out, folder.name, EngineRecipe(model=str(folder)), baseline, plain_s=plain_s)
    for method, name in READ.items():
        if names and f"read:{method}" not in names:
            continue
        folder = out / f"checkpoint-{method}"
        if not folder.exists():
            write_quantized(model, folder, method=method, group=GROUP)
        recipe = EngineRecipe(model=str(folder))
        _report(out, f"{name} (read, {method})", recipe, baseline, plain_s=plain_s)


def _report(out: Path, name: str, recipe: EngineRecipe, baseline: Baseline, *, plain_s: float) -> None:
    line: dict[str, Any] = {"format": name}
    for tp_size in (1, 2, 4):
        folder = out / name.replace(" ", "-") / f"tp{tp_size}"
        try:
            engine = _build(recipe.model_copy(update={"tp": tp_size}), folder)
        except TpforgeError as error:
            line[f"tp{tp_size}"] = str(error)
            continue
        manifest = read_manifest(engine)
        with open_model(recipe.model) as source:
            report = verify_shards(
                source, engine / "checkpoint", plan=plan_of(manifest), dtype=manifest.dtype
            )
        size = sum(file.size for file in manifest.files if file.path.startswith("checkpoint/"))
        line[f"tp{tp_size}"] = {"problems": len(report.problems), "bytes": size}
        if tp_size == 1:
            quality = compare_with(baseline, engine, manifest, progress=_say)
            line |= quality.model_dump(exclude={"weight_errors", "text_sha256", "not_emulated"})
            errors = [error.relative for error in report.weight_errors]
            line |= {"weight_error": sum(errors) / len(errors) if errors else None}
            seconds = _time(recipe, out / "timed")
            line |= {"convert_s": round(seconds, 2), "times_plain": round(seconds / plain_s, 2)}
    print(json.dumps(line), flush=True)


def _build(recipe: EngineRecipe, folder: Path) -> Path:
    build_engine(recipe, out=folder / "engine", existing="replace", progress=_say)
    return folder / "engine"


def _time(recipe: EngineRecipe, folder: Path) -> float:
    return min(_seconds(lambda: _build(recipe, folder), folder) for _ in range(3))


def _seconds(act: Callable[[], object], folder: Path) -> float:
    shutil.rmtree(folder, ignore_errors=True)
    start = time.monotonic()
    act()
    return time.monotonic() - start


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
