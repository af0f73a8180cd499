"""The settings of a trtllm-serve that is watched: the engine's llm.yaml, and what makes it tell of itself.

It starts nothing; the command is `command`'s. Sources: NVIDIA/TensorRT-LLM,
tensorrt_llm/serve/openai_server.py @00057725d9a6 (what return_perf_metrics and enable_iter_perf_stats turn
on, and where); pull request 12545 (the gauges of requests and of the KV cache, first in 1.3.0rc12).
"""

from __future__ import annotations

from tpforge.manifest import LlmApi
from tpforge.trtllm.dotted import nest
from tpforge.trtllm.versions import version_key
from tpforge.yaml_text import to_yaml

METRICS_PATH = "/prometheus/metrics"
"""Beside the API, on its port; /metrics is JSON there."""
TELLING = ("return_perf_metrics", "enable_iter_perf_stats")
"""The arguments that turn on the metrics of requests, and those of iterations among them; both are off."""
_GAUGES_SINCE = "1.3.0rc12"


def serving_yaml(api: LlmApi) -> str:
    """llm.yaml with both turned on where the engine does not say otherwise."""
    values = {**dict.fromkeys(TELLING, True), **api.arguments}
    comment = f"The LLM API of TensorRT-LLM {api.trtllm}: the engine's llm.yaml, and the server's metrics."
    return to_yaml(nest(values), comment=comment)


def missing_metrics(api: LlmApi) -> str | None:
    """What the server will not tell, and why; None where it tells all that is scaled and watched by."""
    off = [name for name in TELLING if api.arguments.get(name, True) is False]
    if off:
        return (
            f"{', '.join(off)}: false in the engine's llm.yaml, so the server tells of no waiting requests "
            "and used KV blocks: nothing scales by them, and alerts and panels that need them stay empty"
        )
    if version_key(api.trtllm) < version_key(_GAUGES_SINCE):
        return (
            f"TensorRT-LLM {api.trtllm} tells of no waiting requests and used KV blocks, {_GAUGES_SINCE} and "
            "later do: nothing scales by them, and alerts and panels that need them stay empty"
        )
    return None
