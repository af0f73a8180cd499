"""What a run records of the engine and of the server, from the manifest and the server's own word.

It measures nothing; the machine's facts are `triton_repo.load.machine`.
"""

from __future__ import annotations

import hashlib
import json
import urllib.request
from collections.abc import Mapping
from importlib import metadata
from typing import TYPE_CHECKING, Any

from tpforge.errors import EnvironmentUnusable
from tpforge.manifest import Manifest
from tpforge.measure.run import ENGINE_FIELDS, ENVIRONMENT_FIELDS, Fact, unavailable_facts

if TYPE_CHECKING:
    from tpforge.quantization import Quantization
    from triton_repo.client.client import Client

BATCH_PARAMETERS = (
    "batching_strategy", "gpt_model_type", "batch_scheduler_policy", "max_queue_size", "executor", "device",
    "compute_dtype", "num_threads", "max_beam_width", "kv_cache_free_gpu_mem_fraction",
    "max_tokens_in_paged_kv_cache", "enable_kv_cache_reuse", "enable_chunked_context", "decoding_mode",
)  # fmt: skip
"""The parameters of tensorrt_llm's config that change how requests are batched and computed."""

_WEIGHTS = (".safetensors", ".gguf", ".bin", ".pt")
_UNKNOWN_ENGINE = "the server was not started here; name its engine with --engine"


def engine_facts(manifest: Manifest | None) -> dict[str, Fact]:
    """The facts of an engine by its manifest; of an unknown one, that it is unknown."""
    if manifest is None:
        return unavailable_facts(ENGINE_FIELDS, _UNKNOWN_ENGINE)
    source, limits, mapping = manifest.source, manifest.limits, manifest.mapping
    return {
        "name": Fact(value=manifest.name),
        "model": Fact(value=source.location),
        "revision": _known(source.revision, f"a {source.kind} source has no revision; see weights_sha256"),
        "license": _known(source.license, "the source names none"),
        "weights_sha256": Fact(value=_hash_source(manifest)),
        "precision": Fact(value=manifest.dtype.value),
        "quantization": Fact(value=_quantization(manifest.quantization)),
        "tp": Fact(value=mapping.tp_size),
        "pp": Fact(value=mapping.pp_size),
        "moe_ep": Fact(value=mapping.moe_ep_size),
        "runtime": Fact(value=manifest.runtime),
        "runtime_version": _runtime_version(manifest),
        "max_batch_size": Fact(value=limits.max_batch_size),
        "max_input_len": Fact(value=limits.max_input_len),
        "max_seq_len": Fact(value=limits.max_seq_len),
    }


def triton_facts(client: Client, model: str) -> dict[str, Fact]:
    """Server, version and batch settings of a Triton server."""
    generating = "tensorrt_llm" if model in ("ensemble", "tensorrt_llm_bls") else model
    return {
        "server": Fact(value="tritonserver"),
        "server_version": Fact(value=client.server_version()),
        "batch_settings": _batch_settings(client, generating),
    }


def openai_facts(url: str) -> dict[str, Fact]:
    """What an OpenAI-compatible server says of itself at /version.

    Raises:
        EnvironmentUnusable: nothing listens at `url`.
    """
    base = (url if "//" in url else f"http://{url}").rstrip("/").removesuffix("/v1")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    version: Fact
    try:
        with opener.open(f"{base}/version", timeout=5) as answer:
            value = json.loads(answer.read())
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


def environment_facts(*parts: Mapping[str, Fact]) -> dict[str, Fact]:
    """Every fact of an environment; what no part knows is said to be unread."""
    found = unavailable_facts(ENVIRONMENT_FIELDS, "not read")
    for part in parts:
        found |= part
    return found


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


def _hash_source(manifest: Manifest) -> str:
    """SHA-256 over the source's weight files: the file's own where there is one.

    The source's, not the engine's, so that it is the same at every tensor-parallel size.
    """
    files = manifest.source.files
    weights = [
        file for file in files if file.path.endswith((".safetensors", ".gguf", ".bin", ".pt"))
    ] or files
    if len(weights) == 1:
        return weights[0].sha256
    digest = hashlib.sha256()
    for file in sorted(weights, key=lambda file: file.path):
        digest.update(f"{file.sha256}  {file.path}\n".encode())
    return digest.hexdigest()


def _quantization(found: Quantization | None) -> str:
    """``none``, ``int8_wo``, ``int4_wo, groups of 128, KV cache fp8``."""
    if found is None:
        return "none"
    parts = [found.format or "weights as they are"]
    parts += [f"groups of {found.group_size}"] if found.group_size else []
    parts += [f"KV cache {found.kv_cache}"] if found.kv_cache else []
    return ", ".join(parts)


def _runtime_version(manifest: Manifest) -> Fact:
    if manifest.runtime != "reference":
        return Fact(unavailable_because=f"the version of {manifest.runtime} on the server is not told")
    return Fact(value=f"tpforge {manifest.tpforge_version}, torch {metadata.version('torch')}")


def _known(value: str | None, otherwise: str) -> Fact:
    return Fact(value=value) if value else Fact(unavailable_because=otherwise)
