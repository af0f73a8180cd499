"""Measures conversion of a 1 GB llama-shaped checkpoint at tp=4 against `cp` + `sync` of its output.

It proves nothing about correctness. Run it as: python benchmarks/convert.py [--rounds N] [--folder DIR]
Each round converts in a fresh process (open, audit, hash inputs, write, hash outputs, fsync, rename), then
copies the result with cp and syncs the copies. Input files are in the page cache for both. Peak memory is
the largest RssAnon of the converting process, sampled every 5 ms, so clean file pages do not count.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "max_position_embeddings": 2048,
    "num_attention_heads": 32,
    "num_hidden_layers": 9,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-5,
    "torch_dtype": "bfloat16",
    "vocab_size": 32000,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tp", type=int, default=4)
    parser.add_argument("--dtype", default=None, help="cast to this type; by default no cast")
    parser.add_argument("--folder", type=Path, default=None, help="where to work; by default a temporary one")
    parser.add_argument("--child", nargs=2, metavar=("SOURCE", "OUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        convert_once(*map(Path, arguments.child), tp=arguments.tp, dtype=arguments.dtype)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="tpforge-bench-") as folder:
        source = Path(folder) / "source"
        write_checkpoint(source)
        rounds = [
            run_round(source, Path(folder), tp=arguments.tp, dtype=arguments.dtype)
            for _ in range(arguments.rounds)
        ]
        num_bytes = sum(path.stat().st_size for path in source.iterdir())
        report(rounds, num_bytes=num_bytes)


def write_checkpoint(folder: Path) -> None:
    """Random bits of finite bfloat16 values."""
    import torch
    from safetensors.torch import save_file

    from builders.families.llama import LLAMA
    from builders.families.reading import ConfigReader
    from tpforge.dtypes import DType

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    model = LLAMA.read_model(ConfigReader(dict(CONFIG), where="benchmark", weight_dtype=DType.BFLOAT16))
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randint(0, 0x7C00, (math.prod(shape),), generator=generator, dtype=torch.int16)
        .view(torch.bfloat16)
        .reshape(shape)
        for name, shape in LLAMA.expected_shapes(model).items()
    }
    save_file(tensors, folder / "model.safetensors")
    subprocess.run(["sync", str(folder / "model.safetensors")], check=True)


def run_round(source: Path, folder: Path, *, tp: int, dtype: str | None) -> dict[str, float]:
    out, copy = folder / "out", folder / "copy"
    command = [sys.executable, __file__, "--child", str(source), str(out), "--tp", str(tp)]
    command += ["--dtype", dtype] if dtype else []
    started = time.perf_counter()
    child = subprocess.run(command, check=True, capture_output=True, text=True)
    measured = json.loads(child.stdout)
    measured["process_seconds"] = time.perf_counter() - started
    files = sorted(str(path) for path in out.iterdir())
    measured["output_bytes"] = sum(Path(file).stat().st_size for file in files)
    copy.mkdir()
    started = time.perf_counter()
    subprocess.run(["cp", *files, str(copy)], check=True)
    subprocess.run(["sync", *(str(path) for path in copy.iterdir())], check=True)
    measured["copy_seconds"] = time.perf_counter() - started
    shutil.rmtree(out)
    shutil.rmtree(copy)
    return measured


def convert_once(source: Path, out: Path, *, tp: int, dtype: str | None) -> None:
    from builders.convert import convert
    from builders.sources import open_source
    from tpforge.atomic import atomic_folder
    from tpforge.dtypes import parse_dtype
    from tpforge.mapping import Mapping

    samples: list[int] = []
    done = threading.Event()
    sampler = threading.Thread(target=sample_memory, args=(samples, done))
    sampler.start()
    started = time.perf_counter()
    with open_source(str(source)) as opened, atomic_folder(out) as folder:
        convert(
            opened,
            mapping=Mapping(tp_size=tp),
            dtype=parse_dtype(dtype) if dtype else None,
            pad=True,
            parallel_embedding_dim=None,
            out=folder,
        )
    seconds = time.perf_counter() - started
    done.set()
    sampler.join()
    print(json.dumps({"convert_seconds": seconds, "peak_anonymous_bytes": max(samples)}))


def sample_memory(samples: list[int], done: threading.Event) -> None:
    while not done.is_set():
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                samples.append(int(line.split()[1]) * 1024)
        done.wait(0.005)


def report(rounds: list[dict[str, float]], *, num_bytes: int) -> None:
    import torch

    def column(key: str) -> tuple[float, float, float]:
        values = [one[key] for one in rounds]
        return statistics.median(values), min(values), max(values)

    def line(label: str, key: str) -> str:
        median, low, high = column(key)
        return f"{label:34} {median:7.2f} s  [{low:.2f}, {high:.2f}]  n={len(rounds)}  measured"

    ratios = [one["convert_seconds"] / one["copy_seconds"] for one in rounds]
    print(f"input {num_bytes / 1e9:.2f} GB, output {rounds[0]['output_bytes'] / 1e9:.2f} GB")
    print(line("convert, hashes and fsync included", "convert_seconds"))
    print(line("the same with starting Python", "process_seconds"))
    print(line("cp + sync of the output", "copy_seconds"))
    print(f"ratio convert / (cp + sync): median of rounds {statistics.median(ratios):.2f}", end="")
    print(f"  [{min(ratios):.2f}, {max(ratios):.2f}]  limit 2.00")
    print(f"peak RssAnon {column('peak_anonymous_bytes')[2] / 1e6:.0f} MB  limit 500 MB")
    print(f"machine: {os.cpu_count()} cores, {processor()}, {platform.system()} {platform.release()}")
    print(f"versions: Python {platform.python_version()}, torch {torch.__version__}")
    print(f"command: python {' '.join(sys.argv)}")


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


if __name__ == "__main__":
    main()
