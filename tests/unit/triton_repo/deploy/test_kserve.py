"""Target kserve: the pod that KServe makes of the two objects, and the proof of what it mounts.

No KServe runs here; the fields of the objects are held by test_custom_kinds.py.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from tests.support.deployments import MANIFESTS, deployment_of, documents
from tests.support.stores import write_engine
from tpforge.errors import UsageError
from tpforge.manifest import Manifest
from triton_repo.deploy.deployment import plan_deployment
from triton_repo.deploy.files import TEMPLATES
from triton_repo.deploy.options import DeployOptions
from triton_repo.deploy.targets import target_files

CASES = ["smollm2-reference", "llama70b-tensorrt", "llama70b-pytorch", "llama70b-trtllm-serve"]


def rendered(case: str, **changes: Any) -> tuple[dict[str, str], Any, Any]:
    files = target_files("kserve", deployment_of(case, "kserve", **changes))
    by_kind = {one["kind"]: one["spec"] for one in documents(files)}
    return files, by_kind["ServingRuntime"], by_kind["InferenceService"]["predictor"]


@pytest.mark.parametrize("case", CASES)
def test_the_service_names_its_runtime_and_every_mount_has_its_volume(case: str) -> None:
    files, runtime, predictor = rendered(case)
    (container,) = runtime["containers"]
    assert container["name"] == "kserve-container", "the container into which KServe mounts the model"
    assert {one["name"] for one in container["volumeMounts"]} == {one["name"] for one in runtime["volumes"]}
    assert predictor["model"]["storageUri"] == "s3://models/engines/it"
    assert predictor["model"]["runtime"] == deployment_of(case, "kserve").name
    (wanted,) = runtime["supportedModelFormats"]
    assert predictor["model"]["modelFormat"].items() <= wanted.items()
    assert predictor["model"]["protocolVersion"] in runtime["protocolVersions"]
    mounted = {path.removeprefix("config/") for path in files if path.startswith("config/")}
    words = shlex.split(files["config/start.sh"], comments=True)
    assert {word.removeprefix("/etc/tpforge/") for word in words if "/etc/tpforge/" in word} <= mounted


@pytest.mark.manifests
@pytest.mark.parametrize("case", CASES)
def test_the_pod_that_kserve_makes_is_a_valid_one(case: str) -> None:
    validator = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    _, runtime, predictor = rendered(case, priority_class="high", pull_secrets=("own",))
    own = ("minReplicas", "maxReplicas", "deploymentStrategy", "model", "labels", "annotations")
    spec = {key: deepcopy(value) for key, value in predictor.items() if key not in own}
    spec |= {"containers": runtime["containers"], "volumes": runtime["volumes"]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "it"}, "spec": spec}
    validator.validate(pod, "1.35", strict=True)


def test_tensorrt_serves_the_repository_that_was_rendered_for_the_mount() -> None:
    files, _, _ = rendered("llama70b-tensorrt")
    assert "--model-repository=/mnt/models/repository" in files["config/start.sh"]
    assert "tpforge render /mnt/models/engine --out /out/repository" in files["storage.sh"]
    assert "/srv/engines" not in files["config/start.sh"] + files["servingruntime.yaml"]


def test_another_engine_at_the_same_uri_replaces_the_pods() -> None:
    manifest = MANIFESTS["llama70b-tensorrt"]
    changed = tuple(file.model_copy(update={"sha256": "12" * 32}) for file in manifest.files)
    first, second = (
        annotations_of(one) for one in (manifest, manifest.model_copy(update={"files": changed}))
    )
    assert first != second


def annotations_of(manifest: Manifest) -> Any:
    options = DeployOptions(storage_uri="pvc://engines/it")
    files = target_files("kserve", plan_deployment(Path("/data/engine"), manifest, options))
    (found,) = [one for one in documents(files) if one["kind"] == "InferenceService"]
    return found["spec"]["predictor"]["annotations"]


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        (None, "--storage-uri is missing"),
        ("/mnt/engines", "expected s3://, gs://, pvc://, oci://"),
        ("https://a.example/it.tar", "expected s3://"),
        ("s3:///it", "and a place"),
        ("s3://user:secret@models/it", "holds a password"),
        ("s3://models/it?X-Amz-Signature=12", "holds a password or a signature"),
    ],
)
def test_a_storage_uri_that_kserve_cannot_mount_is_refused(uri: str | None, words: str) -> None:
    with pytest.raises(UsageError, match=words) as refused:
        rendered("llama70b-tensorrt", storage_uri=uri)
    assert "secret" not in str(refused.value).replace("by a secret", "")


def test_ranks_of_several_nodes_are_another_target() -> None:
    with pytest.raises(UsageError, match="use --target multi-node"):
        target_files("kserve", deployment_of("llama405b-tensorrt", "kserve"))


def prove(folder: Path, sha256: str) -> subprocess.CompletedProcess[str]:
    script = TEMPLATES / "kserve" / "prove.py"
    command = [sys.executable, str(script), str(folder), sha256]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_an_engine_with_another_byte_or_of_another_digest_does_not_start(tmp_path: Path) -> None:
    engine = write_engine(tmp_path / "tiny" / "engine")
    manifest = Manifest.model_validate_json((engine / "engine.json").read_text())
    options = DeployOptions(storage_uri="s3://models/it")
    sha256 = plan_deployment(engine, manifest, options).engine_sha256
    assert prove(engine, sha256).returncode == 0
    assert (other := prove(engine, "12" * 32)).returncode == 6 and "of another engine" in other.stderr
    file = engine / manifest.files[0].path
    file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:])
    assert (altered := prove(engine, sha256)).returncode == 6 and manifest.files[0].path in altered.stderr
    file.unlink()
    assert (missing := prove(engine, sha256)).returncode == 6 and "No such file" in missing.stderr
