"""What each format costs on SmolLM2, in quality and in time: `python -m benchmarks.quantize OUT [NAME ...]`.

The model is exported from the demo's .gguf as a bfloat16 Hugging Face directory, once. Every format is made
(or read, from a checkpoint that the writer of the tests rounds to nearest), sharded at tp 1, 2 and 4,
proven, and scored at tp=1 against the bfloat16 model. Times are the best of three conversions at tp=1, each
into a new folder. One row per format. Names choose formats; `read:gptq` chooses a checkpoint of the writer,
`kv:int8` a format of the KV cache, `calibrated:fp8` one that nvidia-modelopt calibrates. With --folders DIR
the rows are the checkpoints that lie there instead, each named by its folder.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.convert import print_machine
from benchmarks.tables import head, line
from builders.conversion.planned import plan_of
from builders.export import write_huggingface
from builders.proof.verify import verify_shards
from builders.sources.models import open_model
from engines.parity.prompts import load_prompts
from engines.quality import Baseline, compare_with, measure_baseline
from engines.store import read_manifest
from scripts.flows.build import build_engine
from tests.support.quantized.checkpoints import write_quantized
from tpforge.manifest import Manifest
from tpforge.quantization import formats
from tpforge.recipe import EngineRecipe

READ = ("gptq", "awq", "packed", "int8", "fp8")
CALIBRATED = {"fp8": (), "int8_sq": (), "int4_awq": ("--group-size", "64")}
KV_CACHES = ("int8", "fp8")
GROUP = 64
TP_SIZES = (1, 2, 4)


@dataclass(frozen=True)
class Way:
    """A row: what chooses it, how the engine is made, of what."""

    name: str
    made: str
    recipe: EngineRecipe


def main() -> None:
    """Print the table, a row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="where engines and checkpoints are kept")
    parser.add_argument("names", nargs="*", help="some of the rows; by default all")
    parser.add_argument("--folders", type=Path, help="a folder of quantized checkpoints of the same model")
    given = parser.parse_args()
    out: Path = given.out
    model = _model(out)
    engine = _build(EngineRecipe(model=str(model)), out / "none")
    manifest = read_manifest(engine)
    prompts = load_prompts(engine / "tokenizer", manifest=manifest)
    baseline = measure_baseline(engine, manifest, source_path=model, prompts=prompts, progress=_say)
    plain_s = _time(EngineRecipe(model=str(model)), out / "timed")
    print(
        head(
            *("format", "how it was made", "perplexity", "change", "KL", "first choice equal"),
            *("greedy tokens", "weight error", "conversion"),
        )
    )
    print(
        line("bfloat16", "", f"{baseline.perplexity:.3f}", "", "", "", "", "", f"{plain_s:.2f} s"), flush=True
    )
    ways = _in_folders(given.folders) if given.folders else _own_ways(model, out, names=given.names)
    for way in ways:
        print(_row(out, way, baseline, plain_s=plain_s), flush=True)
    print_machine("quantize")


def _model(out: Path) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    model = out / "smollm2"
    if not model.exists():
        model.mkdir()
        with open_model("demo") as source:
            write_huggingface(source, model)
    return model


def _own_ways(model: Path, out: Path, *, names: list[str]) -> Iterator[Way]:
    """Every format that is made here, read or calibrated; only those of `names` where some are given."""

    def wanted(name: str) -> bool:
        return not names or name in names

    for row in formats():
        if row.made_by == "convert" and wanted(row.name):
            yield Way(row.name, "`build --quantize`", EngineRecipe(model=str(model), quantize=row.name))
    for kv_cache in filter(lambda one: wanted(f"kv:{one}"), KV_CACHES):
        recipe = EngineRecipe.model_validate({"model": str(model), "kv_cache": kv_cache})
        yield Way(f"kv:{kv_cache}", f"`build --kv-cache {kv_cache}`, bfloat16 weights", recipe)
    for method in filter(lambda one: wanted(f"read:{one}"), READ):
        folder = out / f"checkpoint-{method}"
        if not folder.exists():
            write_quantized(model, folder, method=method, group=GROUP)
        made = f"read ({method}); rounded to nearest, groups of {GROUP}"
        yield Way(f"read:{method}", made, EngineRecipe(model=str(folder)))
    for name, options in CALIBRATED.items():
        if wanted(f"calibrated:{name}"):
            folder = out / f"calibrated-{name}"
            if not folder.exists():
                words = ("quantize", str(model), "--format", name, *options, "--out", str(folder))
                subprocess.run([sys.executable, "-m", "tpforge", *words], check=True, stdout=sys.stderr)
            made = " ".join(("`quantize", *options)) + "`, then `build`"
            yield Way(f"calibrated:{name}", made, EngineRecipe(model=str(folder)))


def _in_folders(folder: Path) -> Iterator[Way]:
    for one in sorted(folder.iterdir()):
        yield Way(f"dir:{one.name}", f"read; {one.name}", EngineRecipe(model=str(one)))


def _row(out: Path, way: Way, baseline: Baseline, *, plain_s: float) -> str:
    """Build at every tp, prove, score tp=1.

    Raises:
        SystemExit: the ranks hold other values than the format says.
    """
    place = out / way.name.replace(":", "-")
    errors: list[float] = []
    for tp_size in TP_SIZES:
        engine = _build(way.recipe.model_copy(update={"tp": tp_size}), place / f"tp{tp_size}")
        manifest = read_manifest(engine)
        with open_model(way.recipe.model) as source:
            report = verify_shards(
                source, engine / "checkpoint", plan=plan_of(manifest), dtype=manifest.dtype
            )
        if report.problems:
            raise SystemExit(f"{way.name} at tp={tp_size} is not proven: {report.problems[:3]}")
        if tp_size == 1:
            errors = [error.relative for error in report.weight_errors]
    engine = place / "tp1" / "engine"
    manifest = read_manifest(engine)
    quality = compare_with(baseline, engine, manifest, progress=_say)
    seconds = _time(way.recipe, out / "timed")
    return line(
        _name(manifest),
        way.made,
        f"{quality.perplexity:.3f}",
        f"{100 * quality.perplexity_drop:+.2f}%",
        f"{quality.mean_kl_divergence:.1e}",
        f"{100 * quality.top1_agreement:.1f}%",
        str(quality.num_greedy_equal),
        f"{100 * sum(errors) / len(errors):.2f}%" if errors else "",
        f"{seconds:.2f} s, {seconds / plain_s:.1f} x",
    )


def _name(manifest: Manifest) -> str:
    found = manifest.quantization
    assert found is not None
    return f"`{found.format}`" if found.format else f"KV cache {str(found.kv_cache).upper()}"


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
    main()
