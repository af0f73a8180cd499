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
from pathlib import Path
from typing import Any

import pytest
import yaml

from builders.sources import open_source
from engines.store import write_manifest
from tests.golden.models import LLAMA_70B, QWEN3_32B, write_hollow
from tests.golden.test_runtimes import FP8, said
from tests.support.records import manifest_of
from tpforge.manifest import Limits, LlmApi
from tpforge.shards.mapping import Mapping
from tpforge.shards.padding import plan_padding

RELEASE = "1.4.0rc1"
FILES = Path(__file__).parent / "trtllm_serve"
LIMITS = ("--max-batch-size", "128", "--max-input-len", "8192", "--max-seq-len", "16384")
QWEN3_235B: dict[str, Any] = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "attention_bias": False,
    "bos_token_id": 151643,
    "decoder_sparse_step": 1,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "max_position_embeddings": 40960,
    "max_window_layers": 94,
    "mlp_only_layers": [],
    "model_type": "qwen3_moe",
    "moe_intermediate_size": 1536,
    "norm_topk_prob": True,
    "num_attention_heads": 64,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 94,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_sliding_window": False,
    "vocab_size": 151936,
}
"""Qwen/Qwen3-235B-A22B, config.json as published."""


@dataclass(frozen=True)
class Case:
    """A model, its division, and arguments of the LLM API; `fp8` as ModelOpt writes it."""

    name: str
    config: dict[str, Any]
    tp: int
    ep: int = 1
    fp8: bool = False
    sm: int = 100
    llm: tuple[str, ...] = ()


CASES = (
    Case(
        "qwen3-235b-a22b-fp8-tp8-ep8",
        QWEN3_235B,
        tp=8,
        ep=8,
        fp8=True,
        llm=(
            "max_num_tokens=16384",
            "enable_chunked_prefill=true",
            "kv_cache_config.dtype=fp8",
            "kv_cache_config.host_cache_size=68719476736",
            "moe_config.backend=TRTLLM",
            "cuda_graph_config.enable_padding=true",
            "guided_decoding_backend=xgrammar",
        ),
    ),
    Case(
        "llama-3.3-70b-fp8-tp4",
        LLAMA_70B,
        tp=4,
        fp8=True,
        sm=90,
        llm=(
            "max_num_tokens=16384",
            "enable_chunked_prefill=true",
            "speculative_config.decoding_type=NGram",
            "speculative_config.max_draft_len=4",
        ),
    ),
)
DIVIDED = Case("qwen3-32b-tp2", QWEN3_32B, tp=2, sm=90, llm=("max_num_tokens=16384",))
DISAGGREGATED = "qwen3-32b-tp2-2-context-1-generation"


def engine_of(case: Case, folder: Path) -> str:
    """The dry run of the build, and the engine folder that it would have left, its files empty."""
    model = write_hollow(folder / "model", case.config)
    if case.fp8:
        (model / "hf_quant_config.json").write_text(json.dumps({"quantization": FP8}))
    words = ["build", str(model), "--runtime", "pytorch", "--trtllm", RELEASE, "--sm", str(case.sm)]
    words += ["--tp", str(case.tp), "--moe-ep", str(case.ep), "--name", case.name, *LIMITS]
    words += ["--out", str(folder / "engine")]
    words += [word for argument in case.llm for word in ("--llm-arg", argument)]
    built = json.loads(said(*words, "--dry-run", "--json"))
    text = said(*words, "--dry-run")
    (model / "hf_quant_config.json").unlink(missing_ok=True)
    with open_source(str(model)) as source:
        spec = source.spec
    mapping = Mapping(tp_size=case.tp, moe_ep_size=case.ep)
    engine = folder / "engine"
    for name in ("model", "tokenizer"):
        (engine / name).mkdir(parents=True)
    (engine / "tokenizer" / "tokenizer.json").write_bytes((model / "tokenizer.json").read_bytes())
    (engine / "llm.yaml").write_text(built["llm_yaml"])
    manifest = manifest_of(
        name=case.name,
        runtime="pytorch",
        model=spec,
        mapping=mapping,
        padding=plan_padding(spec, tp_size=case.tp, moe_ep_size=case.ep),
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
