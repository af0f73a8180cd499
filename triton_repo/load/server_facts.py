"""What a run records of the server, from the server's own word.

It measures nothing; `machine` has the machine's facts, `tpforge.measure.runs.engine_facts` the engine's.
"""

from __future__ import annotations

import json
import urllib.error
from typing import TYPE_CHECKING, Any

from tpforge.errors import EnvironmentUnusable
from tpforge.measure.runs.run import Fact
from tpforge.system.opener import read_url

if TYPE_CHECKING:
    from triton_repo.client.client import Client
    from triton_repo.client.smg import SmgClient

BATCH_PARAMETERS = (
    "batching_strategy", "gpt_model_type", "batch_scheduler_policy", "max_queue_size", "executor", "device",
    "compute_dtype", "num_threads", "max_beam_width", "kv_cache_free_gpu_mem_fraction",
    "max_tokens_in_paged_kv_cache", "enable_kv_cache_reuse", "enable_chunked_context", "decoding_mode",
)  # fmt: skip
"""The parameters of tensorrt_llm's config that change how requests are batched and computed."""


def triton_facts(client: Client, model: str) -> dict[str, Fact]:
    """Server, version and batch settings of a Triton server."""
    generating = "tensorrt_llm" if model in ("ensemble", "tensorrt_llm_bls") else model
    return {
        "server": Fact(value="tritonserver"),
        "server_version": Fact(value=client.server_version()),
        "batch_settings": _batch_settings(client, generating),
    }


def smg_facts(client: SmgClient) -> dict[str, Fact]:
    """What trtllm-serve says of itself over its gRPC.

    Raises:
        ServerUnreachable, DeadlineExceeded: nothing answers.
    """
    from triton_repo.client.channel import RequestRefused

    version: Fact
    try:
        version = Fact(value=client.version())
    except RequestRefused as error:
        version = Fact(unavailable_because=str(error))
    return {
        "server": Fact(value="trtllm-serve --grpc"),
        "server_version": version,
        "batch_settings": Fact(unavailable_because="trtllm-serve does not tell them over gRPC"),
    }


def openai_facts(url: str) -> dict[str, Fact]:
    """What an OpenAI-compatible server says of itself at /version.

    Raises:
        EnvironmentUnusable: nothing listens at `url`.
    """
    base = (url if "//" in url else f"http://{url}").rstrip("/").removesuffix("/v1")
    version: Fact
    try:
        value = json.loads(read_url(f"{base}/version", timeout_s=5))
        version = Fact(value=str(value["version"]))
    except urllib.error.HTTPError as error:
        version = Fact(unavailable_because=f"{base}/version: HTTP {error.code}")
    except (ValueError, KeyError, TypeError) as error:
        version = Fact(unavailable_because=f"{base}/version: {type(error).__name__}: {error}")
    except OSError as error:
        raise EnvironmentUnusable(
            f"{url}: nothing answers there ({error}); start the server first"
        ) from error
    because = "an OpenAI-compatible server does not tell"
    return {
        "server": Fact(value="OpenAI-compatible"),
        "server_version": version,
        "batch_settings": Fact(unavailable_because=because),
    }


def _batch_settings(client: Client, model: str) -> Fact:
    from tpforge.errors import TpforgeError

    try:
        config: Any = client.config(model)
    except TpforgeError as error:
        return Fact(unavailable_because=f"{model}: {error}")
    settings: dict[str, Any] = {
        "max_batch_size": config.max_batch_size,
        "decoupled": config.model_transaction_policy.decoupled,
        "dynamic_batching": config.HasField("dynamic_batching"),
        "instances": sum(group.count for group in config.instance_group),
    }
    for name in BATCH_PARAMETERS:
        if name in config.parameters and (value := config.parameters[name].string_value):
            settings[name] = value
    return Fact(value=settings)
