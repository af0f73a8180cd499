"""The deployments whose files are held in tests/golden/deploy, from manifests of real shapes.

The sizes of files are those of 16-bit weights; nothing is built.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from tests.support.records import manifest_of, model_of
from tpforge.manifest import EngineBuild, FileRecord, Limits, LlmApi, Manifest
from tpforge.model import AttentionSpec, MlpSpec
from tpforge.shards.mapping import Mapping
from tpforge.shards.padding import plan_padding
from triton_repo.deploy.crossing import crossing_warnings
from triton_repo.deploy.deployment import Deployment, plan_deployment
from triton_repo.deploy.options import DeployOptions
from triton_repo.deploy.targets import target_files

GOLDEN = Path(__file__).parents[1] / "golden" / "deploy"
_CHECKSUM = re.compile(r"(checksum(?:/config)?: )[0-9a-f]{64}")
_NO_OBJECTS = ("kustomization", "prometheus", "config/llm.yaml", "endpoint-picker")
_DASHBOARD = re.compile(r"(^|/)tpforge(-[^/]*)?\.json$")
URL, DIGEST = "s3://models/engines/it", "ab" * 32


def llama(
    name: str, *, layers: int, hidden: int, heads: int, mapping: Mapping, num_bytes: int, **fields: Any
) -> Manifest:
    model = model_of(
        vocab_size=128256,
        hidden_size=hidden,
        num_layers=layers,
        max_position_embeddings=131072,
        attention=AttentionSpec(num_heads=heads, num_kv_heads=8, head_size=128),
        mlp=MlpSpec(intermediate_size=28672, activation="silu"),
    )
    return manifest_of(
        name=name,
        model=model,
        mapping=mapping,
        padding=plan_padding(model, tp_size=mapping.tp_size),
        limits=Limits(max_batch_size=64, max_input_len=4096, max_seq_len=8192),
        files=tuple(
            FileRecord(
                path=f"engine/rank{rank}.engine", size=num_bytes // mapping.world_size, sha256="cd" * 32
            )
            for rank in range(mapping.world_size)
        ),
        **fields,
    )


def deepseek() -> Manifest:
    """DeepSeek-V3.2 over two nodes of 8 GPUs; sizes of its config.json, as far as they matter here."""
    model = model_of(
        vocab_size=129280,
        hidden_size=7168,
        num_layers=61,
        max_position_embeddings=163840,
        attention=AttentionSpec(num_heads=128, num_kv_heads=128, head_size=128),
        mlp=MlpSpec(intermediate_size=18432, activation="silu"),
    )
    return manifest_of(
        name="DeepSeek-V3.2-tp16-pytorch",
        model=model,
        mapping=Mapping(tp_size=16),
        padding=plan_padding(model, tp_size=16),
        limits=Limits(max_batch_size=64, max_input_len=16384, max_seq_len=32768),
        files=(FileRecord(path="model/model.safetensors", size=689_500_000_000, sha256="cd" * 32),),
        runtime="pytorch",
        llm_api=LlmApi(trtllm="1.3.0rc29", arguments={}, sm=90),
    )


def build_record(trtllm: str = "1.2.1") -> EngineBuild:
    return EngineBuild(
        trtllm=trtllm,
        tensorrt="10.14.1.48",
        cuda="13.1.0",
        arguments={},
        command=("trtllm-build",),
        sm=90,
        gpu="NVIDIA H100 80GB HBM3",
    )


SMOL = manifest_of(name="SmolLM2-135M-Instruct-tp4", mapping=Mapping(tp_size=4))
LLAMA70: dict[str, Any] = {
    "runtime": "tensorrt",
    "engine_build": build_record(),
}
SIZES_70B: dict[str, Any] = {
    "layers": 80,
    "hidden": 8192,
    "heads": 64,
    "mapping": Mapping(tp_size=4),
    "num_bytes": 141_107_412_992,
}
MANIFESTS: dict[str, Manifest] = {
    "smollm2-reference": SMOL.model_copy(
        update={
            "files": (FileRecord(path="checkpoint/rank0.safetensors", size=270_000_000, sha256="ef" * 32),)
        }
    ),
    "llama70b-tensorrt": llama(
        "Llama-3.3-70B-Instruct-tp4",
        **SIZES_70B,
        **LLAMA70,
    ),
    "llama70b-pytorch": llama(
        "Llama-3.3-70B-Instruct-tp4",
        **SIZES_70B,
        runtime="pytorch",
        llm_api=LlmApi(trtllm="1.2.1", arguments={}, sm=90),
    ),
    "llama405b-tensorrt": llama(
        "Llama-3.1-405B-Instruct-tp8-pp2",
        layers=126,
        hidden=16384,
        heads=128,
        mapping=Mapping(tp_size=8, pp_size=2),
        num_bytes=811_706_155_008,
        **LLAMA70,
    ),
    "llama70b-dynamo": llama(
        "Llama-3.3-70B-Instruct-tp4-pytorch",
        **SIZES_70B,
        runtime="pytorch",
        llm_api=LlmApi(trtllm="1.3.0rc29", arguments={}, sm=90),
    ),
    "llama70b-trtllm-serve": llama(
        "Llama-3.3-70B-Instruct-tp4-pytorch",
        **SIZES_70B,
        runtime="pytorch",
        llm_api=LlmApi(
            trtllm="1.4.0rc4",
            arguments={"tensor_parallel_size": 4, "max_batch_size": 64, "kv_cache_config.dtype": "fp8"},
            sm=90,
        ),
    ),
    "deepseek-v32-dynamo": deepseek(),
    "llama8b-dynamo": llama(
        "Llama-3.1-8B-Instruct-tp1-trt",
        layers=32,
        hidden=4096,
        heads=32,
        mapping=Mapping(),
        num_bytes=16_060_522_496,
        **LLAMA70,
    ),
}
DYNAMO_IMAGE = "nvcr.io/nvidia/ai-dynamo/tensorrtllm-runtime:1.6.1"
DYNAMO_OPTIONS: dict[str, dict[str, Any]] = {
    "llama70b-dynamo": {"image": DYNAMO_IMAGE, "replicas": 2, "router_mode": "kv"},
    "deepseek-v32-dynamo": {"image": DYNAMO_IMAGE, "prefill_workers": 2, "decode_workers": 1},
    "llama8b-dynamo": {"image": "registry.example/dynamo-triton:26.08"},
}
"""What the golden files of target dynamo are asked for, by case."""
ONE_HOST: dict[str, dict[str, Any]] = {
    "llama70b-dynamo": DYNAMO_OPTIONS["llama70b-dynamo"],
    "llama70b-apart": {"image": DYNAMO_IMAGE, "prefill_workers": 1, "decode_workers": 1},
    "llama8b-dynamo": {**DYNAMO_OPTIONS["llama8b-dynamo"], "replicas": 2},
}
"""And those of target dynamo-compose."""
MANIFESTS["llama70b-apart"] = MANIFESTS["llama70b-dynamo"]
MANIFESTS["deepseek-v32-trtllm-serve"] = MANIFESTS["deepseek-v32-dynamo"]
CASES: tuple[tuple[str, str], ...] = (
    ("smollm2-reference", "kserve"),
    ("llama70b-tensorrt", "kserve"),
    ("llama70b-pytorch", "kserve"),
    ("smollm2-reference", "compose"),
    ("smollm2-reference", "kubernetes"),
    ("smollm2-reference", "helm"),
    ("smollm2-reference", "slurm"),
    ("llama70b-tensorrt", "compose"),
    ("llama70b-tensorrt", "kubernetes"),
    ("llama70b-tensorrt", "helm"),
    ("llama70b-tensorrt", "slurm"),
    ("llama70b-pytorch", "compose"),
    ("llama70b-pytorch", "kubernetes"),
    ("llama70b-pytorch", "helm"),
    ("llama70b-pytorch", "slurm"),
    *(("llama70b-trtllm-serve", target) for target in ("compose", "kubernetes", "helm", "kserve", "slurm")),
    ("llama405b-tensorrt", "multi-node"),
    ("llama405b-tensorrt", "slurm"),
    ("deepseek-v32-trtllm-serve", "multi-node"),
    ("llama70b-dynamo", "slurm"),
    ("deepseek-v32-dynamo", "slurm"),
    *((case, "dynamo") for case in DYNAMO_OPTIONS),
    *((case, "dynamo-compose") for case in ONE_HOST),
)


def options_for(target: str) -> DeployOptions:
    """The options of the golden files: an engine at a URL wherever it is pulled."""
    if target in ("compose", "dynamo-compose", "slurm"):
        return DeployOptions(partition="gpu" if target == "slurm" else None)
    if target == "kserve":
        return DeployOptions(storage_uri=URL, namespace="llm")
    return DeployOptions(engine_url=URL, digest=DIGEST, namespace="llm")


def deployment_of(case: str, target: str, **changes: Any) -> Deployment:
    manifest = MANIFESTS[case]
    of_case = {"dynamo": DYNAMO_OPTIONS, "dynamo-compose": ONE_HOST}.get(target, {}).get(case, {})
    if (case, target) == ("llama70b-trtllm-serve", "kubernetes"):
        of_case = {"gateway": "gateways/inference"}
    options = options_for(target).model_copy(update={**of_case, **changes})
    folder = Path("/data/out") / manifest.name / "engine"
    found = plan_deployment(folder, manifest, options)
    warnings = (*found.warnings, *crossing_warnings(found, manifest))
    return found.model_copy(update={"warnings": warnings})


def golden_files(case: str, target: str) -> dict[str, str]:
    """The files of a case; those that are the same in all cases are left to the tests of their source.

    So are the checksums over them: tests/unit/triton_repo/deploy/test_rollout.py.
    """
    same = ("rules.yml", "Dockerfile", "canary.py", "canary_openai.py", "launch.py", "prove.py", "ready.py")
    files = target_files(target, deployment_of(case, target))
    return {
        path: _CHECKSUM.sub(r"\1CHECKSUM", text)
        for path, text in files.items()
        if not path.endswith(same) and not _DASHBOARD.search(path)
    }


def record() -> None:
    """Write all golden files again: python -m tests.support.deployments."""
    import shutil

    shutil.rmtree(GOLDEN, ignore_errors=True)
    for case, target in CASES:
        for path, text in golden_files(case, target).items():
            file = GOLDEN / case / target / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    record()


def documents(files: dict[str, str]) -> list[Any]:
    """All Kubernetes objects of a target."""
    return [
        document
        for path, text in files.items()
        if path.endswith(".yaml") and not any(word in path for word in _NO_OBJECTS)
        for document in yaml.safe_load_all(text)
    ]
