"""What the custom kinds of our manifests may hold: closed JSON Schemas of the fields of their APIs.

Only the parts that we use. Pod templates are open here: they are held to Kubernetes' own schema of a Pod.
Sources: kubernetes-sigs/lws, config/crd/bases/leaderworkerset.x-k8s.io_leaderworkersets.yaml, commit 103a98aa
(all but its pod templates was read), and api/leaderworkerset/v1/leaderworkerset_types.go, commit 024af084,
which is newer: what is in only one of the two is left out here, but for RecreateGroupAfterStart, a policy
since release 0.9 (site/content/en/docs/concepts/failure-handling/_index.md).
prometheus-operator/prometheus-operator,
example/prometheus-operator-crd/, both read whole: ServiceMonitor 0.84.1 (commit 01b1a0ea) and PrometheusRule
0.82.2 (commit 01fad0d6).
The package kserve 0.21.0, kserve/models: attribute_map and openapi_types of V1alpha1ServingRuntimeSpec,
V1alpha1SupportedModelFormat, V1beta1PredictorSpec (a pod's spec, and more) and V1beta1ModelSpec.
ai-dynamo/dynamo, deploy/operator/api/v1beta1: dynamographdeployment_types.go (commit 0fddc01b),
dynamocomponentdeployment_types.go (commit 006b6e10), common_types.go (commit 61e5243c), whose markers
controller-gen turns into the CRD; that a pod template holds a container `main` with an image is said there
in words.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
TEXTS: Schema = {"type": "object", "additionalProperties": TEXT}
DURATION: Schema = {
    "type": "string",
    "pattern": r"^(0|([0-9]+y)?([0-9]+w)?([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?)$",
}


def closed(properties: Schema, *required: str) -> Schema:
    """An object with these fields and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def several(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def kind(version: str, name: str, spec: Schema) -> Schema:
    fields = {"apiVersion": {"const": version}, "kind": {"const": name}, "metadata": {"type": "object"}}
    return closed({**fields, "spec": spec}, "apiVersion", "kind", "metadata", "spec")


_ACTIONS = (
    *("Replace", "Keep", "Drop", "HashMod", "LabelMap", "LabelDrop", "LabelKeep"),
    *("Lowercase", "Uppercase", "KeepEqual", "DropEqual"),
)
_RELABELING = closed(
    {
        "action": {"enum": [word for name in _ACTIONS for word in (name, name.lower())]},
        "modulus": {"type": "integer"},
        "regex": TEXT,
        "replacement": TEXT,
        "separator": TEXT,
        "sourceLabels": several({"type": "string", "pattern": "^[a-zA-Z_][a-zA-Z0-9_]*$"}),
        "targetLabel": TEXT,
    }
)
_RULE = closed(
    {
        "alert": TEXT,
        "record": TEXT,
        "expr": {"type": ["string", "integer"]},
        "for": DURATION,
        "keep_firing_for": {**DURATION, "minLength": 1},
        "labels": TEXTS,
        "annotations": TEXTS,
    },
    "expr",
)
_GROUP = closed(
    {
        "name": {"type": "string", "minLength": 1},
        "interval": DURATION,
        "query_offset": DURATION,
        "limit": {"type": "integer"},
        "labels": TEXTS,
        "rules": several(_RULE),
    },
    "name",
)
_GROUP_OF_PODS = closed(
    {
        "leaderTemplate": {"type": "object"},
        "workerTemplate": {"type": "object"},
        "size": COUNT,
        "restartPolicy": {"enum": ["Default", "RecreateGroupOnPodRestart", "RecreateGroupAfterStart"]},
    },
    "workerTemplate",
)
_SERVING_RUNTIME = closed(
    {
        **{name: {"type": "object"} for name in ("affinity", "nodeSelector")},
        **{name: several({"type": "object"}) for name in ("containers", "tolerations", "volumes")},
        "annotations": TEXTS,
        "labels": TEXTS,
        "disabled": {"type": "boolean"},
        "multiModel": {"type": "boolean"},
        "protocolVersions": several(TEXT),
        "supportedModelFormats": several(
            closed(
                {
                    "name": TEXT,
                    "version": TEXT,
                    "autoSelect": {"type": "boolean"},
                    "priority": {"type": "integer"},
                },
                "name",
            )
        ),
    },
    "containers",
)
_PREDICTOR = closed(
    {
        **{name: {"type": "object"} for name in ("affinity", "nodeSelector", "securityContext")},
        **{name: several({"type": "object"}) for name in ("imagePullSecrets", "tolerations")},
        **dict.fromkeys(("priorityClassName", "runtimeClassName", "serviceAccountName"), TEXT),
        **dict.fromkeys(("minReplicas", "maxReplicas", "terminationGracePeriodSeconds"), COUNT),
        "annotations": TEXTS,
        "labels": TEXTS,
        "automountServiceAccountToken": {"type": "boolean"},
        "deploymentStrategy": {"type": "object"},
        "model": closed(
            {
                "modelFormat": closed({"name": TEXT, "version": TEXT}, "name"),
                "protocolVersion": TEXT,
                "runtime": TEXT,
                "storageUri": TEXT,
            },
            "modelFormat",
        ),
    }
)
_NAME = {
    "type": "string",
    "minLength": 1,
    "maxLength": 63,
    "pattern": "^[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?$",
}
_MAIN = {
    "type": "object",
    "properties": {"name": {"const": "main"}, "image": {"type": "string", "minLength": 1}},
    "required": ["name", "image"],
}
_DYNAMO_POD = {
    "type": "object",
    "properties": {
        "spec": {
            "type": "object",
            "properties": {"containers": {"type": "array", "contains": _MAIN}},
            "required": ["containers"],
        }
    },
    "required": ["spec"],
}
_COMPONENT = closed(
    {
        "name": _NAME,
        "type": {"enum": ["frontend", "worker", "prefill", "decode", "planner", "epp"]},
        "runtimeVersionOverride": {"type": "string", "pattern": r"^(0|[1-9]\d{0,3})(\.(0|[1-9]\d{0,3})){2}$"},
        "globalDynamoNamespace": {"type": "boolean"},
        "podTemplate": _DYNAMO_POD,
        "replicas": COUNT,
        "minAvailable": {"type": "integer", "minimum": 1},
        "multinode": closed({"nodeCount": {"type": "integer", "minimum": 2}}, "nodeCount"),
        "sharedMemorySize": {"type": "string", "pattern": "^[0-9]+(Mi|Gi)?$"},
        "scalingAdapter": closed({}),
    },
    "name",
    "podTemplate",
)
SCHEMAS: dict[str, Schema] = {
    "ServingRuntime": kind("serving.kserve.io/v1alpha1", "ServingRuntime", _SERVING_RUNTIME),
    "InferenceService": kind(
        "serving.kserve.io/v1beta1", "InferenceService", closed({"predictor": _PREDICTOR}, "predictor")
    ),
    "LeaderWorkerSet": kind(
        "leaderworkerset.x-k8s.io/v1",
        "LeaderWorkerSet",
        closed(
            {
                "replicas": COUNT,
                "startupPolicy": {"enum": ["LeaderCreated", "LeaderReady"]},
                "leaderWorkerTemplate": _GROUP_OF_PODS,
                "networkConfig": closed(
                    {"subdomainPolicy": {"enum": ["Shared", "UniquePerReplica"]}}, "subdomainPolicy"
                ),
            },
            "leaderWorkerTemplate",
        ),
    ),
    "ServiceMonitor": kind(
        "monitoring.coreos.com/v1",
        "ServiceMonitor",
        closed(
            {
                "jobLabel": TEXT,
                "targetLabels": several(TEXT),
                "selector": closed({"matchLabels": TEXTS}),
                "endpoints": several(
                    closed(
                        {
                            "port": TEXT,
                            "path": TEXT,
                            "interval": DURATION,
                            "scrapeTimeout": DURATION,
                            "relabelings": several(_RELABELING),
                            "metricRelabelings": several(_RELABELING),
                        }
                    )
                ),
            },
            "endpoints",
            "selector",
        ),
    ),
    "DynamoGraphDeployment": kind(
        "nvidia.com/v1beta1",
        "DynamoGraphDeployment",
        closed(
            {
                "annotations": TEXTS,
                "labels": TEXTS,
                "priorityClassName": TEXT,
                "components": {**several(_COMPONENT), "maxItems": 25},
                "env": several({"type": "object"}),
                "backendFramework": {"enum": ["sglang", "vllm", "trtllm"]},
            }
        ),
    ),
    "PrometheusRule": kind("monitoring.coreos.com/v1", "PrometheusRule", closed({"groups": several(_GROUP)})),
}
