"""Features of the LLM API that do not go together, or that upstream has not tried together, as a table.

Relations of sizes, and of an argument to its own table, are `builders.llm_api.arguments`. Sources:
NVIDIA/TensorRT-LLM, docs/source/features/feature-combination-matrix.md @01edceae1757 and
docs/source/features/quantization.md (both main, 2026), for the tables 1.3 and 1.4;
tensorrt_llm/llmapi/llm_args.py @0004396720 for graphs of prefill.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tpforge.shards.mapping import Mapping as RankMapping

TABLES = ("1.3", "1.4")
"""For which the matrix was read; that of 1.2 has other columns."""
KV_DTYPES = {"nvfp4": (100, 103), "fp8_ds_mla": (90, 120, 121)}
"""On which compute capabilities a type of the KV cache works."""


@dataclass(frozen=True)
class Asked:
    """What is asked for: arguments with their defaults behind them, ranks, the GPUs when they are known."""

    value: Callable[[str], Any]
    given: Mapping[str, Any]
    mapping: RankMapping
    sm: int | None

    def has(self, table: str) -> bool:
        """Whether a table, or something of it, is given and not null."""
        names = (name for name, value in self.given.items() if value is not None)
        return any(name == table or name.startswith(f"{table}.") for name in names)


Feature = Callable[[Asked], bool]


@dataclass(frozen=True)
class Pair:
    """Two features by the argument that turns each on; what upstream says of them together."""

    one: str
    other: str
    verdict: Literal["refused", "untested"]


FEATURES: dict[str, Feature] = {
    "speculative_config": lambda asked: asked.value("speculative_config.decoding_type") is not None,
    "--pp": lambda asked: asked.mapping.pp_size > 1,
    "--moe-ep": lambda asked: asked.mapping.moe_ep_size > 1,
    "cp_config.cp_type HELIX": lambda asked: (
        asked.has("cp_config") and asked.value("cp_config.cp_type") == "HELIX"
    ),
    "enable_lora": lambda asked: bool(asked.value("enable_lora")) or asked.has("lora_config"),
    "enable_attention_dp": lambda asked: bool(asked.value("enable_attention_dp")),
    "cache_transceiver_config": lambda asked: asked.has("cache_transceiver_config"),
    "guided_decoding_backend": lambda asked: asked.value("guided_decoding_backend") is not None,
    "torch_compile_config": lambda asked: asked.has("torch_compile_config"),
    "prefill_cuda_graph_backend breakable": lambda asked: (
        asked.value("prefill_cuda_graph_backend") == "breakable"
    ),
}

PAIRS = (
    Pair("speculative_config", "--pp", "refused"),
    Pair("speculative_config", "cp_config.cp_type HELIX", "refused"),
    Pair("prefill_cuda_graph_backend breakable", "torch_compile_config", "refused"),
    Pair("prefill_cuda_graph_backend breakable", "enable_lora", "refused"),
    Pair("enable_lora", "--moe-ep", "untested"),
    Pair("enable_lora", "enable_attention_dp", "untested"),
    Pair("enable_lora", "cache_transceiver_config", "untested"),
    Pair("enable_lora", "speculative_config", "untested"),
    Pair("enable_lora", "guided_decoding_backend", "untested"),
)


def refused(asked: Asked, *, table: str) -> Iterator[str]:
    """What upstream refuses, or would not do, of what is asked for together."""
    if table not in TABLES:
        return
    for pair in _found(asked, "refused"):
        yield f"{pair.one}: does not go with {pair.other}; leave one of them out"
    dtype = asked.value("kv_cache_config.dtype")
    works = KV_DTYPES.get(str(dtype), ())
    if works and asked.sm is not None and asked.sm not in works:
        yield (
            f"kv_cache_config.dtype {dtype}: works on SM {', '.join(map(str, works))}; the target is SM "
            f"{asked.sm}; use fp8, or leave it out"
        )


def untested(asked: Asked, *, table: str) -> Iterator[str]:
    """What may work, and upstream has not tried."""
    if table not in TABLES:
        return
    for pair in _found(asked, "untested"):
        yield f"{pair.one} with {pair.other}: upstream's matrix of features calls it untested"


def _found(asked: Asked, verdict: str) -> Iterator[Pair]:
    on = {name for name, is_on in FEATURES.items() if is_on(asked)}
    return (pair for pair in PAIRS if pair.verdict == verdict and {pair.one, pair.other} <= on)


def check_table() -> None:
    """Every pair is of features that are known, and stands once."""
    names = [frozenset((pair.one, pair.other)) for pair in PAIRS]
    assert len(set(names)) == len(names), "a pair stands twice"
    assert all(name <= FEATURES.keys() for name in names), "a pair names no feature"


check_table()
