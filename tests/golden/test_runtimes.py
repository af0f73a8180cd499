"""What is printed for four published models, for both runtimes of TensorRT-LLM, byte for byte.

The weights are holes, and nothing of TensorRT-LLM was run. After a change that is meant, write them again:

    python -m tests.golden.test_runtimes
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from builders.sources import open_source
from engines.host import Host
from engines.store import write_manifest
from scripts.main import main
from tests.golden.models import GEMMA3_27B, LLAMA_70B, MIXTRAL_8X7B, QWEN3_32B, write_hollow
from tests.support.records import manifest_of
from tpforge.manifest import EngineBuild, Limits, LlmApi
from tpforge.shards.mapping import Mapping
from tpforge.shards.padding import plan_padding

FILES = Path(__file__).parent / "runtimes"
LIMITS = ("--max-batch-size", "64", "--max-input-len", "4096", "--max-seq-len", "8192")
FP8 = {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}


@dataclass(frozen=True)
class Case:
    """A model, its division, and what is asked for beside; `fp8` as ModelOpt writes it."""

    name: str
    config: dict[str, Any]
    tp: int
    ep: int = 1
    fp8: bool = False
    build: tuple[str, ...] = ("--optimize-for", "throughput")
    llm: tuple[str, ...] = ("--llm-arg", "enable_chunked_prefill=true")


CASES = (
    Case("llama-3.3-70b-fp8-tp4", LLAMA_70B, tp=4, fp8=True),
    Case("qwen3-32b-tp2", QWEN3_32B, tp=2),
    Case("mixtral-8x7b-tp4-ep2", MIXTRAL_8X7B, tp=4, ep=2),
    Case("gemma-3-27b-tp2", GEMMA3_27B, tp=2, build=("--optimize-for", "latency")),
)
RUNTIMES = ("tensorrt", "pytorch")


def said(*arguments: str) -> str:
    """What a command prints on stdout."""
    text, errors = io.StringIO(), io.StringIO()
    # Whatever GPUs this host has, the output is that of a host with none.
    host = mock.patch("engines.host.find_host", return_value=Host())
    with host, contextlib.redirect_stdout(text), contextlib.redirect_stderr(errors):
        status = main(list(arguments))
    assert status == 0, errors.getvalue()
    return text.getvalue()


def output_of(case: Case, runtime: str, folder: Path) -> str:
    """The dry run of the build, what the repository says of tensorrt_llm, and the dry run of the server."""
    model = write_hollow(folder / "model", case.config)
    source = model
    if case.fp8 and runtime == "pytorch":
        (model / "hf_quant_config.json").write_text(json.dumps({"quantization": FP8}))
    elif case.fp8:
        source = write_checkpoint(folder / "checkpoint", case)
    options = ["--sm", "90", "--out", str(folder / "engine"), "--name", case.name, *LIMITS]
    if runtime == "pytorch" or not case.fp8:
        options += ["--tp", str(case.tp), "--moe-ep", str(case.ep)]
    options += case.build if runtime == "tensorrt" else case.llm
    built = json.loads(said("build", str(source), "--runtime", runtime, *options, "--dry-run", "--json"))
    build = said("build", str(source), "--runtime", runtime, *options, "--dry-run")
    write_engine(folder / "engine", case, runtime, built, folder / "model")
    said("render", str(folder / "engine"))
    repository = folder / "repository"
    config = (repository / "tensorrt_llm" / "config.pbtxt").read_text()
    parts = [build, config[config.index("instance_group") :]]
    if runtime == "pytorch":
        parts.append((repository / "tensorrt_llm" / "1" / "model.yaml").read_text())
    served = said("serve", str(folder / "engine"), "--container", "docker", "--dry-run")
    parts.append(served.partition("\nwould be refused on this host:")[0])
    names = ("build", "tensorrt_llm/config.pbtxt, the end", "tensorrt_llm/1/model.yaml", "serve")
    titles = names if runtime == "pytorch" else (names[0], names[1], names[3])
    text = "".join(f"=== {title} ===\n{part.rstrip()}\n" for title, part in zip(titles, parts, strict=True))
    text = text.replace(str(folder.resolve()), "/srv").replace(str(folder), "/srv")
    return re.sub(rf"(tpforge-{re.escape(case.name)}-8000)-[0-9a-f]{{8}}\b", r"\1-0123abcd", text)


def write_checkpoint(folder: Path, case: Case) -> Path:
    """The config.json of an FP8 checkpoint of TensorRT-LLM, as nvidia-modelopt exports it; no rank files."""
    folder.mkdir()
    config = {
        "architecture": case.config["architectures"][0],
        "dtype": "bfloat16",
        "max_position_embeddings": case.config["max_position_embeddings"],
        "mapping": {"world_size": case.tp, "tp_size": case.tp, "pp_size": 1},
        "quantization": FP8,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_engine(folder: Path, case: Case, runtime: str, built: dict[str, Any], model: Path) -> None:
    """The engine folder that the build would have left, with files that hold nothing."""
    for name in ("engine", "tokenizer", "model"):
        (folder / name).mkdir(parents=True)
    for rank in range(case.tp):
        (folder / "engine" / f"rank{rank}.engine").write_bytes(b"x")
    (folder / "engine" / "config.json").write_text('{"version": "1.2.1"}')
    (folder / "model" / "config.json").write_text("{}")
    (folder / "tokenizer" / "tokenizer.json").write_bytes((model / "tokenizer.json").read_bytes())
    (model / "hf_quant_config.json").unlink(missing_ok=True)
    with open_source(str(model)) as source:
        spec = source.spec
    changes: dict[str, Any] = {
        "name": case.name,
        "runtime": runtime,
        "model": spec,
        "mapping": Mapping(tp_size=case.tp, moe_ep_size=case.ep),
        "padding": plan_padding(spec, tp_size=case.tp, moe_ep_size=case.ep),
        "limits": Limits.model_validate(built["limits"]),
    }
    if runtime == "tensorrt":
        changes["engine_build"] = EngineBuild(
            trtllm="1.2.1",
            tensorrt="10.14.1.48",
            cuda="13.1.0",
            arguments=built["arguments"],
            command=tuple(built["command"]),
            sm=90,
        )
    else:
        changes["llm_api"] = LlmApi(trtllm="1.2.1", arguments=built["arguments"], sm=90)
        (folder / "llm.yaml").write_text(built["llm_yaml"])
    write_manifest(folder, manifest_of().model_copy(update=changes))


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_commands_and_files_are_those_of_the_golden_file(
    case: Case, runtime: str, tmp_path: Path
) -> None:
    expected = (FILES / f"{case.name}.{runtime}.txt").read_text()
    assert output_of(case, runtime, tmp_path / "work") == expected


def write_all() -> None:
    """Write every golden file."""
    for case in CASES:
        for runtime in RUNTIMES:
            with tempfile.TemporaryDirectory() as folder:
                text = output_of(case, runtime, Path(folder) / "work")
            path = FILES / f"{case.name}.{runtime}.txt"
            path.write_text(text)
            print(path, file=sys.stdout)


if __name__ == "__main__":
    write_all()
