"""What a run records of an engine, from its manifest, and of its environment, from who read a part of it.

It measures nothing and reads no file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib import metadata
from typing import TYPE_CHECKING

from tpforge.manifest import Manifest
from tpforge.measure.runs.run import ENGINE_FIELDS, ENVIRONMENT_FIELDS, Fact, unavailable_facts

if TYPE_CHECKING:
    from tpforge.quantization import Quantization

_WEIGHTS = (".safetensors", ".gguf", ".bin", ".pt")
_AS_THEY_ARE, _KV = "weights as they are", "KV cache "
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


def environment_facts(*parts: Mapping[str, Fact]) -> dict[str, Fact]:
    """Every fact of an environment; what no part knows is said to be unread."""
    found = unavailable_facts(ENVIRONMENT_FIELDS, "not read")
    for part in parts:
        found |= part
    return found


def _hash_source(manifest: Manifest) -> str:
    """SHA-256 over the source's weight files: the file's own where there is one.

    The source's, not the engine's, so that it is the same at every tensor-parallel size.
    """
    files = manifest.source.files
    weights = [file for file in files if file.path.endswith(_WEIGHTS)] or files
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
    parts = [found.format or _AS_THEY_ARE]
    parts += [f"groups of {found.group_size}"] if found.group_size else []
    parts += [f"{_KV}{found.kv_cache}"] if found.kv_cache else []
    return ", ".join(parts)


def _runtime_version(manifest: Manifest) -> Fact:
    if manifest.runtime != "reference":
        return Fact(unavailable_because=f"the version of {manifest.runtime} on the server is not told")
    return Fact(value=f"tpforge {manifest.tpforge_version}, torch {metadata.version('torch')}")


def formats_of(engine: Mapping[str, Fact]) -> tuple[str | None, str]:
    """The formats of weights and of the cache in an engine's facts, as `engine_facts` spells them.

    None and the engine's own type where they are not quantized.
    """
    found, own = engine["quantization"].value, str(engine["precision"].value)
    if isinstance(found, dict):
        return str(found["format"]) if found.get("format") else None, str(found.get("kv_cache") or own)
    parts = str(found or "none").split(", ")
    weights = None if parts[0] in ("none", _AS_THEY_ARE) else parts[0]
    kv = next((part.removeprefix(_KV) for part in parts if part.startswith(_KV)), own)
    return weights, kv


def _known(value: str | None, otherwise: str) -> Fact:
    return Fact(value=value) if value else Fact(unavailable_because=otherwise)
