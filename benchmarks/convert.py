"""Measures conversion over model sizes and tp against `cp` + `sync` of its output, and against the usual way.

It proves nothing about correctness. Run it as: python -m benchmarks.convert [--sizes 0.5,1,2] [--tp 1,2,4,8]
[--rounds N] [--usual] [--cold] [--dtype T] [--folder DIR] [--json FILE]

Each round converts in a fresh process (open, audit, hash inputs, write, hash outputs, fsync, rename; timed
once Python and torch are imported, which does not grow with the model), then copies the result with cp and
syncs the copies. Input files are in the page cache for both, or with --cold
for neither. Peak memory is the largest RssAnon of the process, sampled every 5 ms, so clean file pages do
not count. --usual loads the whole model with transformers, slices it, and saves one file per rank.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

Measured = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=_numbers, default=[1.0], help="GB, separated by commas")
    parser.add_argument("--tp", type=_numbers, default=[4.0], help="separated by commas")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", default=None, help="cast to this type; by default no cast")
    parser.add_argument("--usual", action="store_true", help="also load, slice and save with transformers")
    parser.add_argument("--cold", action="store_true", help="drop files from the page cache before each read")
    parser.add_argument("--folder", type=Path, default=None, help="where to work; by default a temporary one")
    parser.add_argument("--json", type=Path, default=None, help="write the rounds to this file")
    parser.add_argument("--child", nargs=3, metavar=("WAY", "SOURCE", "OUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        way, source, out = arguments.child
        run_child(way, Path(source), Path(out), tp=int(arguments.tp[0]), dtype=arguments.dtype)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="tpforge-bench-") as folder:
        measure(Path(folder), arguments)


def _numbers(text: str) -> list[float]:
    return [float(one) for one in text.split(",")]


def measure(folder: Path, arguments: argparse.Namespace) -> None:
    """Every size and tp, its rounds in a row, a line of the table as soon as it is known."""
    from benchmarks.checkpoints import write_checkpoint

    results = []
    print_head(usual=arguments.usual)
    for size in arguments.sizes:
        source = folder / "source"
        num_bytes = write_checkpoint(source, gigabytes=size)
        for tp in arguments.tp:
            rounds = [
                run_round(source, folder, tp=int(tp), arguments=arguments) for _ in range(arguments.rounds)
            ]
            results.append({"input_bytes": num_bytes, "tp": int(tp), "rounds": rounds})
            print_line(num_bytes, int(tp), rounds)
        shutil.rmtree(source)
    print_machine("convert")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


def run_round(source: Path, folder: Path, *, tp: int, arguments: argparse.Namespace) -> Measured:
    """One conversion and one copy of what it wrote; with --usual the usual way between them."""
    prepare = drop_from_cache if arguments.cold else lambda files: None
    out = folder / "out"
    weights = sorted(source.iterdir())
    prepare(weights)
    measured = run_process("ours", source, out, tp=tp, dtype=arguments.dtype)
    files = sorted(out.iterdir())
    measured["output_bytes"] = sum(file.stat().st_size for file in files)
    if arguments.usual:
        prepare(weights)
        usual = run_process("usual", source, folder / "usual", tp=tp, dtype=arguments.dtype)
        measured |= {f"usual_{key}": value for key, value in usual.items()}
        shutil.rmtree(folder / "usual")
    measured["copy_seconds"] = copy_seconds(files, folder / "copy", prepare=prepare)
    shutil.rmtree(out)
    return measured


def copy_seconds(files: list[Path], copy: Path, *, prepare: Callable[[list[Path]], None]) -> float:
    """How long cp of the files and a sync of the copies take."""
    copy.mkdir()
    prepare(files)
    started = time.perf_counter()
    subprocess.run(["cp", *map(str, files), str(copy)], check=True)
    subprocess.run(["sync", *(str(path) for path in copy.iterdir())], check=True)
    seconds = time.perf_counter() - started
    shutil.rmtree(copy)
    return seconds


def drop_from_cache(files: list[Path]) -> None:
    """Ask the kernel to forget the pages of files that are on the disk already."""
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def run_process(way: str, source: Path, out: Path, *, tp: int, dtype: str | None) -> Measured:
    """Run one way in a process of its own, and wait until its files are on the disk."""
    command = [sys.executable, "-m", "benchmarks.convert", "--child", way, str(source), str(out)]
    command += ["--tp", str(tp), *(["--dtype", dtype] if dtype else [])]
    started = time.perf_counter()
    child = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    measured: Measured = json.loads(child.stdout)
    measured["process_seconds"] = time.perf_counter() - started
    return measured


def run_child(way: str, source: Path, out: Path, *, tp: int, dtype: str | None) -> None:
    """In a process of its own: do it, and print seconds and peak memory."""
    import_modules(way)
    work = convert_ours if way == "ours" else convert_usual
    samples: list[int] = []
    done = threading.Event()
    sampler = threading.Thread(target=sample_memory, args=(samples, done))
    sampler.start()
    started = time.perf_counter()
    work(source, out, tp=tp, dtype=dtype)
    seconds = time.perf_counter() - started
    done.set()
    sampler.join()
    print(json.dumps({"seconds": seconds, "peak_anonymous_bytes": max(samples)}))


def import_modules(way: str) -> None:
    """What either way imports, so that its time is not counted."""
    for name in ("builders.conversion.convert", "builders.sources.huggingface", "scripts.flows.convert"):
        importlib.import_module(name)
    if way == "usual":
        importlib.import_module("transformers.models.llama.modeling_llama")


def convert_ours(source: Path, out: Path, *, tp: int, dtype: str | None) -> None:
    from scripts.flows.convert import convert_checkpoint
    from tpforge.dtypes import parse_dtype
    from tpforge.recipe import EngineRecipe

    recipe = EngineRecipe(model=str(source), tp=tp, dtype=parse_dtype(dtype) if dtype else None)
    convert_checkpoint(recipe, out=out, force=False, progress=lambda line: None)


def convert_usual(source: Path, out: Path, *, tp: int, dtype: str | None) -> None:
    """Load the whole model, cut every matrix by rows or columns, save one file per rank, sync; no hashes."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    kind = getattr(torch, dtype or "bfloat16")
    model = AutoModelForCausalLM.from_pretrained(source, dtype=kind)
    out.mkdir()
    for rank in range(tp):
        tensors = {}
        for name, tensor in model.state_dict().items():
            dim = 1 if name.endswith(("o_proj.weight", "down_proj.weight")) else 0
            whole = tensor.dim() == 1 or "embed" in name
            tensors[name] = (tensor if whole else tensor.chunk(tp, dim)[rank]).contiguous()
        save_file(tensors, out / f"rank{rank}.safetensors")
    subprocess.run(["sync", *(str(path) for path in out.iterdir())], check=True)


def sample_memory(samples: list[int], done: threading.Event) -> None:
    while not done.is_set():
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                samples.append(int(line.split()[1]) * 1024)
        done.wait(0.005)


def print_head(*, usual: bool) -> None:
    columns = ["input", "tp", "convert", "cp + sync", "convert / (cp + sync)", "GB/s written", "peak memory"]
    columns += ["the usual way", "its peak memory"] if usual else []
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns), flush=True)


def print_line(num_bytes: int, tp: int, rounds: list[Measured]) -> None:
    """Medians with the range over the rounds; the ratio is the median of the rounds' ratios."""

    def seconds(key: str) -> str:
        values = [one[key] for one in rounds]
        return f"{statistics.median(values):.2f} [{min(values):.2f}, {max(values):.2f}] s"

    ratios = [one["seconds"] / one["copy_seconds"] for one in rounds]
    speed = statistics.median(one["output_bytes"] / one["seconds"] for one in rounds) / 1e9
    cells = [
        f"{num_bytes / 1e9:.2f} GB",
        str(tp),
        seconds("seconds"),
        seconds("copy_seconds"),
        f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]",
        f"{speed:.2f}",
        f"{max(one['peak_anonymous_bytes'] for one in rounds) / 1e6:.0f} MB",
    ]
    if "usual_seconds" in rounds[0]:
        peak = max(one["usual_peak_anonymous_bytes"] for one in rounds)
        cells += [seconds("usual_seconds"), f"{peak / 1e6:.0f} MB"]
    print("| " + " | ".join(cells) + " |", flush=True)


def print_machine(benchmark: str) -> None:
    """Where and with what a benchmark of this folder ran, and how to run it again."""
    import torch
    import transformers

    print(f"\nMachine: {os.cpu_count()} cores, {processor()}, {platform.system()} {platform.release()}")
    print(
        f"Versions: Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}"
    )
    print(f"Command: python -m benchmarks.{benchmark} {' '.join(sys.argv[1:])}")


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


if __name__ == "__main__":
    main()
