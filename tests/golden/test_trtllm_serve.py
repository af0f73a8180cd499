"""What is printed and written for today's models served by trtllm-serve of 1.4.0rc1, byte for byte.

The weights are holes, and nothing of TensorRT-LLM was run. After a change that is meant, write them again:

    python -m tests.golden.test_trtllm_serve
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from builders.llm_api.model import open_llm_model
from engines.store import write_manifest
from tests.golden.test_runtimes import said
from tests.support.checkpoints.hollow import write_hollow_checkpoint
from tests.support.records import manifest_of
from tests.support.upstream.schema import misfits
from tpforge.architectures.weights import unpadded
from tpforge.manifest import Limits, LlmApi
from tpforge.shards.mapping import Mapping
from tpforge.trtllm.versions import find_release

RELEASE = "1.4.0rc1"
FILES = Path(__file__).parent / "trtllm_serve"
LIMITS = ("--max-batch-size", "128", "--max-input-len", "8192", "--max-seq-len", "16384")
PUBLISHED = Path(__file__).parents[1] / "contract" / "upstream" / "model_configs.json"


@cache
def published() -> dict[str, dict[str, Any]]:
    """Published config.json files by their names on the hub, and hf_quant_config.json beside some."""
    found: dict[str, dict[str, Any]] = json.loads(PUBLISHED.read_text())["models"]
    return found


@dataclass(frozen=True)
class Case:
    """A model by its name on the hub, its division, and arguments of the LLM API."""

    name: str
    model: str
    tp: int
    ep: int = 1
    sm: int = 100
    llm: tuple[str, ...] = ()


CHUNKED = ("max_num_tokens=16384", "enable_chunked_prefill=true")
CASES = (
    Case(
        "qwen3-235b-a22b-fp8-tp8-ep8",
        "Qwen/Qwen3-235B-A22B-FP8",
        tp=8,
        ep=8,
        llm=(
            *CHUNKED,
            "kv_cache_config.dtype=fp8",
            "kv_cache_config.host_cache_size=68719476736",
            "moe_config.backend=TRTLLM",
            "cuda_graph_config.enable_padding=true",
            "guided_decoding_backend=xgrammar",
        ),
    ),
    Case(
        "deepseek-v3.2-tp8-attention-dp",
        "deepseek-ai/DeepSeek-V3.2",
        tp=8,
        ep=8,
        llm=(
            *CHUNKED,
            "enable_attention_dp=true",
            "attention_dp_config.enable_balance=true",
            "kv_cache_config.dtype=fp8",
            "moe_config.backend=DEEPGEMM",
            "speculative_config.decoding_type=MTP",
            "speculative_config.max_draft_len=1",
        ),
    ),
    Case(
        "gpt-oss-120b-mxfp4-tp2",
        "openai/gpt-oss-120b",
        tp=2,
        llm=(
            *CHUNKED,
            "moe_config.backend=TRTLLM",
            "guided_decoding_backend=xgrammar",
            "speculative_config.decoding_type=Eagle3",
            "speculative_config.max_draft_len=3",
            "speculative_config.speculative_model=/srv/gpt-oss-120b-eagle3",
        ),
    ),
    Case("llama-4-scout-tp4", "meta-llama/Llama-4-Scout-17B-16E-Instruct", tp=4, sm=90, llm=CHUNKED),
    Case(
        "nemotron-h-120b-fp8-tp2",
        "nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-FP8",
        tp=2,
        ep=2,
        llm=(
            *CHUNKED,
            "kv_cache_config.mamba_ssm_cache_dtype=float32",
            "kv_cache_config.enable_block_reuse=false",
        ),
    ),
    Case(
        "llama-3.1-70b-fp8-tp4",
        "nvidia/Llama-3.1-70B-Instruct-FP8",
        tp=4,
        sm=90,
        llm=(*CHUNKED, "speculative_config.decoding_type=NGram", "speculative_config.max_draft_len=4"),
    ),
)
DIVIDED = Case("qwen3-32b-tp2", "Qwen/Qwen3-32B", tp=2, sm=90, llm=("max_num_tokens=16384",))
DISAGGREGATED = "qwen3-32b-tp2-2-context-1-generation"


def engine_of(case: Case, folder: Path) -> str:
    """The dry run of the build, and the engine folder that it would have left, its files empty."""
    found = published()[case.model]
    model = write_hollow_checkpoint(folder / "model", found["config"], modelopt=found.get("hf_quant_config"))
    words = ["build", str(model), "--runtime", "pytorch", "--trtllm", RELEASE, "--sm", str(case.sm)]
    words += ["--tp", str(case.tp), "--moe-ep", str(case.ep), "--name", case.name, *LIMITS]
    words += ["--out", str(folder / "engine")]
    words += [word for argument in case.llm for word in ("--llm-arg", argument)]
    built = json.loads(said(*words, "--dry-run", "--json"))
    text = said(*words, "--dry-run")
    spec = open_llm_model(str(model), release=find_release(RELEASE)).spec
    engine = folder / "engine"
    for name in ("model", "tokenizer"):
        (engine / name).mkdir(parents=True)
    (engine / "tokenizer" / "tokenizer.json").write_bytes((model / "tokenizer.json").read_bytes())
    (engine / "llm.yaml").write_text(built["llm_yaml"])
    manifest = manifest_of(
        name=case.name,
        runtime="pytorch",
        model=spec,
        mapping=Mapping(tp_size=case.tp, moe_ep_size=case.ep),
        padding=unpadded(spec),
        limits=Limits.model_validate(built["limits"]),
        llm_api=LlmApi(trtllm=RELEASE, arguments=built["arguments"], sm=case.sm),
    )
    write_manifest(engine, manifest)
    return text


def output_of(case: Case, folder: Path) -> str:
    """The dry runs of the build and of the server, and llm.yaml."""
    build = engine_of(case, folder)
    engine = folder / "engine"
    served = said("serve", str(engine), "--container", "docker", "--dry-run")
    served = served.partition("\nwould be refused on this host:")[0]
    parts = {"build": build, "llm.yaml": (engine / "llm.yaml").read_text(), "serve": served}
    return together(parts, folder)


def disaggregated(folder: Path) -> str:
    """The files of two context servers and one generation server."""
    engine_of(DIVIDED, folder)
    out = folder / "disaggregated"
    words = ["--context-instances", "2", "--transceiver", "NIXL", "--out", str(out)]
    said("disaggregate", str(folder / "engine"), *words)
    return together({path.name: path.read_text() for path in sorted(out.glob("[!.]*"))}, folder)


def together(parts: dict[str, str], folder: Path) -> str:
    text = "".join(f"=== {title} ===\n{part.rstrip()}\n" for title, part in parts.items())
    text = text.replace(str(folder.resolve()), "/srv").replace(str(folder), "/srv")
    return re.sub(r"(tpforge-[\w.-]+-8000)-[0-9a-f]{8}\b", r"\1-0123abcd", text)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_command_and_its_yaml_are_those_of_the_golden_file(case: Case, tmp_path: Path) -> None:
    assert output_of(case, tmp_path / "work") == (FILES / f"{case.name}.txt").read_text()


@pytest.mark.parametrize("name", [*(case.name for case in CASES), DISAGGREGATED])
def test_every_yaml_of_a_golden_file_is_one_that_upstreams_schema_takes(name: str) -> None:
    parts = re.split(r"^=== (.*) ===\n", (FILES / f"{name}.txt").read_text(), flags=re.M)
    held = dict(zip(parts[1::2], parts[2::2], strict=True))
    yamls = [held[title] for title in ("llm.yaml", "context.yaml", "generation.yaml") if title in held]
    assert len(yamls) == (2 if name == DISAGGREGATED else 1)
    for text in yamls:
        # trtllm-serve puts the model in from its command line.
        assert misfits({"model": "x", **yaml.safe_load(text)}) == []


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"quant_config": {}}, "quant_config is unknown"),
        ({"kv_cache_config": {"onboard_blocks": True}}, "onboard_blocks is unknown"),
        ({"tensor_parallel_size": "4"}, "'4' is no integer"),
        ({"moe_config": {"backend": "WIDEEP"}}, "'WIDEEP' is none of"),
        ({"speculative_config": {"max_draft_len": 1}}, "no decoding_type of"),
        ({"speculative_config": {"decoding_type": "MTP", "max_matching_ngram_size": 2}}, "is unknown"),
    ],
)
def test_the_schema_takes_no_yaml_of_another_release(values: dict[str, Any], said: str) -> None:
    assert any(said in one for one in misfits({"model": "x", **values}))


def test_the_files_of_disaggregated_serving_are_those_of_the_golden_file(tmp_path: Path) -> None:
    assert disaggregated(tmp_path / "work") == (FILES / f"{DISAGGREGATED}.txt").read_text()


def test_the_front_knows_every_server_that_the_script_starts_each_on_gpus_of_its_own(tmp_path: Path) -> None:
    disaggregated(tmp_path / "work")
    out = tmp_path / "work" / "disaggregated"
    front = yaml.safe_load((out / "disaggregated.yaml").read_text())
    script = (out / "start.sh").read_text()
    started = re.findall(
        r"^CUDA_VISIBLE_DEVICES=(\S+) trtllm-serve serve .* --port (\d+) ", script, flags=re.M
    )
    urls = [*front["context_servers"]["urls"], *front["generation_servers"]["urls"]]
    assert urls == [f"localhost:{port}" for _, port in started]
    assert [front[f"{kind}_servers"]["num_instances"] for kind in ("context", "generation")] == [2, 1]
    gpus = [int(gpu) for group, _ in started for gpu in group.split(",")]
    assert gpus == list(range(6))
    settings = {
        kind: yaml.safe_load((out / f"{kind}.yaml").read_text()) for kind in ("context", "generation")
    }
    transceiver = {"backend": "NIXL", "max_tokens_in_buffer": 8192}
    assert [one["cache_transceiver_config"] for one in settings.values()] == [transceiver, transceiver]
    assert settings["context"].pop("disable_overlap_scheduler") is True
    assert settings["context"] == settings["generation"]


def write_all() -> None:
    """Write every golden file."""
    FILES.mkdir(exist_ok=True)
    makers = {case.name: (lambda folder, case=case: output_of(case, folder)) for case in CASES}
    makers[DISAGGREGATED] = disaggregated
    for name, make in makers.items():
        with tempfile.TemporaryDirectory() as folder:
            (FILES / f"{name}.txt").write_text(make(Path(folder) / "work"))
        print(FILES / f"{name}.txt", file=sys.stdout)


if __name__ == "__main__":
    write_all()
