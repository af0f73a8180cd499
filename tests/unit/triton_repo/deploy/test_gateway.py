"""The overlay of the Gateway API inference extension: its objects name each other and are valid ones.

The schemas are upstream's CRDs', the names upstream's chart's; no gateway runs here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.deployments import deployment_of
from tpforge.errors import UsageError
from triton_repo.deploy.targets import apply_words, target_files

CASE, NAME = "llama70b-trtllm-serve", "llama-3-3-70b-instruct-tp4-pytorch"
UPSTREAM = Path(__file__).parents[3] / "contract" / "upstream"
CRDS = json.loads((UPSTREAM / "gateway_crds.json").read_text())["schemas"]
PICKER = json.loads((UPSTREAM / "endpoint_picker.json").read_text())
METRICS = json.loads((UPSTREAM / "trtllm_metrics.json").read_text())["with"]


def overlay(**changes: Any) -> dict[str, Any]:
    """The files of the overlay and the picker's values, read."""
    deployment = deployment_of(CASE, "kubernetes", **{"gateway": "gateways/inference", **changes})
    files = target_files("kubernetes", deployment)
    own = {path: text for path, text in files.items() if "/gateway/" in path or "endpoint" in path}
    return {path.rpartition("/")[2]: yaml.safe_load(text) for path, text in own.items()}


def closed(schema: Any) -> Any:
    """A CRD's schema for a server that refuses fields which it does not know, as kubectl asks it to."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        found.setdefault("additionalProperties", False)
    return found


def problems(value: Any) -> list[str]:
    jsonschema = pytest.importorskip("jsonschema", reason="pip install jsonschema")
    validator = jsonschema.Draft202012Validator(closed(CRDS[value["kind"]]))
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]


@pytest.mark.manifests
@pytest.mark.parametrize(
    ("path", "api"), [("inferencepool.yaml", "inference"), ("httproute.yaml", "gateway")]
)
def test_pool_and_route_hold_what_upstreams_crds_say(path: str, api: str) -> None:
    found = overlay()[path]
    assert found["apiVersion"] == f"{api}.networking.k8s.io/v1"
    assert problems(found) == []
    if found["kind"] == "InferencePool":  # The CRD's rule: a Service is named with its port.
        assert found["spec"]["endpointPickerRef"]["port"]


@pytest.mark.manifests
@pytest.mark.parametrize(
    ("path", "place", "value", "words"),
    [
        ("inferencepool.yaml", ("spec", "targetPorts"), [], "should be non-empty"),
        ("inferencepool.yaml", ("spec", "extensionRef"), {"name": "x"}, "was unexpected"),
        ("inferencepool.yaml", ("spec", "endpointPickerRef", "failureMode"), "Open", "is not one of"),
        ("httproute.yaml", ("spec", "rules", 0, "timeouts", "request"), "0", "does not match"),
        ("httproute.yaml", ("spec", "rules", 0, "matches", 0, "path", "type"), "Prefix", "is not one of"),
        ("httproute.yaml", ("spec", "rules", 0, "backendRefs", 0, "nme"), "x", "was unexpected"),
    ],
)
def test_a_mistake_in_pool_or_route_is_found(
    path: str, place: tuple[Any, ...], value: Any, words: str
) -> None:
    broken = deepcopy(overlay()[path])
    at = broken
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    assert any(words in line for line in problems(broken))


@pytest.mark.manifests
def test_the_gateways_policy_is_a_valid_object() -> None:
    validator = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    validator.validate(overlay()["network.yaml"], "1.35", strict=True)


def test_route_pool_picker_and_pods_name_each_other() -> None:
    found = overlay()
    route, pool = found["httproute.yaml"]["spec"], found["inferencepool.yaml"]
    (backend,) = route["rules"][0]["backendRefs"]
    assert (backend["kind"], backend["name"]) == (pool["kind"], pool["metadata"]["name"])
    assert backend["group"] == pool["apiVersion"].partition("/")[0]
    assert route["parentRefs"][0]["namespace"] == "gateways" and route["parentRefs"][0]["name"] == "inference"
    files = target_files("kubernetes", deployment_of(CASE, "kubernetes"))
    pods = yaml.safe_load(files["base/deployment.yaml"])["spec"]["template"]
    selected = pool["spec"]["selector"]["matchLabels"]
    assert selected == pods["metadata"]["labels"]
    ports = [port["containerPort"] for port in pods["spec"]["containers"][0]["ports"]]
    assert [one["number"] for one in pool["spec"]["targetPorts"]] == ports
    servers = found["endpoint-picker.yaml"]["router"]["modelServers"]
    assert servers["matchLabels"] == selected and [one["number"] for one in servers["targetPorts"]] == ports
    policy = found["network.yaml"]["spec"]
    assert policy["podSelector"]["matchLabels"] == selected
    (source,) = policy["ingress"][0]["from"]
    assert source["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "gateways"}


def dotted(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and name != "router.modelServers.matchLabels":
            yield from dotted(value, f"{name}.")
        else:
            yield name


def test_the_picker_is_upstreams_and_reads_what_trtllm_serve_tells_where_it_tells_it() -> None:
    values = overlay()["endpoint-picker.yaml"]
    assert set(dotted(values)) <= set(PICKER["values"]), "the chart does not know the value"
    router = values["router"]
    assert router["modelServers"]["type"] in PICKER["types"]
    assert router["epp"]["metricsDataSource"]["path"] == "/prometheus/metrics", "/metrics is no Prometheus"
    assert router["epp"]["image"]["tag"] != "main"
    told = {name for metrics in METRICS.values() for name in metrics}
    assert set(PICKER["metrics"]["trtllm-serve"].values()) <= told
    reference = overlay()["inferencepool.yaml"]["spec"]["endpointPickerRef"]
    service = PICKER["service"]
    assert len(NAME) <= service["longest_release"], "the chart would cut the release's name"
    assert reference["name"] == NAME + service["suffix"]
    assert reference["port"]["number"] == service["extProcPort"] == router["epp"]["extProcPort"]
    assert router["inferencePool"] == {"create": False}, "two would have one name"


def test_a_gateway_without_a_namespace_is_of_the_engines() -> None:
    (parent,) = overlay(gateway="inference")["httproute.yaml"]["spec"]["parentRefs"]
    assert (parent["namespace"], parent["name"]) == ("llm", "inference")


def test_what_was_asked_for_is_what_is_applied() -> None:
    for gateway, expected in (("inference", "overlays/gateway"), (None, "overlays/trial")):
        words = apply_words("kubernetes", deployment_of(CASE, "kubernetes", gateway=gateway))
        assert words == ["kubectl", "apply", "--kustomize", expected]


def test_without_a_gateway_nothing_of_it_is_written() -> None:
    assert overlay(gateway=None) == {}


@pytest.mark.parametrize(
    ("case", "target", "words"),
    [
        ("llama70b-tensorrt", "kubernetes", "which Triton does not take"),
        ("smollm2-reference", "kubernetes", "which Triton does not take"),
        ("llama70b-tensorrt", "helm", "which Triton does not take"),
        (CASE, "compose", "is of targets kubernetes and helm, not of compose"),
        (CASE, "kserve", "is of targets kubernetes and helm, not of kserve"),
    ],
)
def test_a_gateway_that_nothing_would_ask_is_refused(case: str, target: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        target_files(target, deployment_of(case, target, gateway="inference"))


def charted(
    name: str, *, release: str, folder: Path, **changes: Any
) -> tuple[dict[str, Any], dict[str, str]]:
    """The objects of a chart's gateway as Helm renders them for a release, and the chart's files."""
    helm = pytest.importorskip("helm_python", reason="pip install helm-python-sdk")
    found = deployment_of(CASE, "helm", **{"gateway": "gateways/inference", **changes})
    files = target_files("helm", found.model_copy(update={"name": name}))
    for path, text in files.items():
        place = folder / name / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")
    with helm.Chart.load(str(folder / name)) as opened:
        rendered = opened.render({}, name=release, namespace="llm")
    texts = [text for path, text in rendered.items() if path.endswith("/gateway.yaml")]
    return {one["kind"]: one for text in texts for one in yaml.safe_load_all(text) if one}, files


@pytest.mark.manifests
def test_a_chart_has_the_gateway_of_target_kubernetes(tmp_path: Path) -> None:
    chart, files = charted(NAME, release=NAME, folder=tmp_path)
    expected = {one["kind"]: one for one in overlay().values() if one.get("kind") in chart}
    # The picker cannot have the release's own name, which is the engine's; its chart cuts long names.
    own = chart["InferencePool"]["spec"]["endpointPickerRef"]
    service = PICKER["service"]
    release = own["name"].removesuffix(service["suffix"])
    assert release != NAME and release.endswith("-picker") and len(release) <= service["longest_release"]
    assert f"helm upgrade --install {release} oci://" in files["endpoint-picker.yaml"]
    assert yaml.safe_load(files["endpoint-picker.yaml"]) == overlay()["endpoint-picker.yaml"]
    own["name"] = NAME + service["suffix"]
    assert chart == expected and len(chart) == 3
    assert "endpoint-picker.yaml" in files[".helmignore"].splitlines()


@pytest.mark.manifests
@pytest.mark.parametrize("release", ["a", "b" * 40, f"{'c' * 32}-{'d' * 7}"])
def test_a_release_of_any_name_names_a_picker_that_its_chart_does_not_cut(
    release: str, tmp_path: Path
) -> None:
    chart, files = charted(release, release=release, folder=tmp_path)
    picker = chart["InferencePool"]["spec"]["endpointPickerRef"]["name"].removesuffix("-epp")
    assert len(picker) <= PICKER["service"]["longest_release"] and "--" not in picker
    assert f"helm upgrade --install {picker} oci://" in files["endpoint-picker.yaml"]
    assert chart["HTTPRoute"]["spec"]["rules"][0]["backendRefs"][0]["name"] == release
    assert chart["InferencePool"]["metadata"]["name"] == release


@pytest.mark.manifests
def test_a_chart_without_a_gateway_has_nothing_of_it(tmp_path: Path) -> None:
    chart, files = charted(NAME, release=NAME, folder=tmp_path, gateway=None)
    assert chart == {} and not any("gateway" in path or "picker" in path for path in files)
