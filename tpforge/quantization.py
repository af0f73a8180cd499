"""The formats of quantized weights and KV caches: names, bits, groups, and who loads them; from a table.

It quantizes nothing. Whether a format works somewhere is `quantization_gate`, how a quantized matrix lies in
a rank file is `packing`.
"""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field

from tpforge.errors import UsageError
from tpforge.records import Record
from tpforge.runtime import Runtime
from tpforge.suggestions import did_you_mean

Form = Literal["packed", "portable"]
"""packed: integers and scales in the rank files; portable: float weights, the algorithm only declared."""
Order = Literal["plain", "sm80", "sm90", "modelopt"]
"""plain: two in a byte, [in, out / 2]. sm80, sm90: interleaved for the kernels of SM75 to SM89, and of SM90,
in the bytes of a 16-bit float matrix [in, out / 4]. modelopt: two in a byte, [out / 2, in], as
nvidia-modelopt writes it for trtllm-build."""


EXCLUDED_MODULES = (
    "*lm_head",
    "*router",
    "*vocab_embedding",
    "*position_embedding",
    "*block_embedding",
    "*shared_expert_gate",
    "*fused_a",
)
"""The modules that stay as they are, as patterns of their full dotted names.

A list of ours replaces that of TensorRT-LLM, so it names all of them.
Source: TensorRT-LLM 1.2, quantization/quantize.py, quantize_layers.
"""
EXCLUDED_MODULES_ROWWISE = ("*ln_f", "*ln_embed")
"""As above for FP8 by rows, which replaces norms, attention and MLPs whole; fp8_rowwise_quantize."""


class Support(Record):
    """Where a runtime loads a format: compute capabilities that are listed, and those left open.

    `since` gives the first version for a capability that came later than the format, `refused` why one is
    refused though upstream may list it. `in_multiple` is what this runtime asks of in_features beyond the
    format itself, `group_sizes` the groups that its kernels take, where not all.
    """

    sms: tuple[int, ...] = ()
    unlisted: tuple[int, ...] = ()
    since: dict[int, str] = Field(default_factory=dict)
    refused: dict[int, str] = Field(default_factory=dict)
    architectures: tuple[str, ...] = ()
    in_multiple: int = 1
    group_sizes: tuple[int, ...] = ()


class Loadable(Record):
    """What weights and KV caches have in common."""

    name: str
    title: str
    algo: str
    tensorrt: Support | None = None
    pytorch: Support | None = None
    refusal: dict[str, str] = Field(default_factory=dict)

    def support(self, runtime: Runtime) -> Support | None:
        """Where `runtime` loads it; None: nowhere. The reference runtime is not asked."""
        return self.tensorrt if runtime == "tensorrt" else self.pytorch


Activations = Literal["float", "int8", "fp8", "fp4"]
"""What matrix products run on."""


class NewerActivations(Record):
    """What products run on from a compute capability on."""

    sm: int
    kind: Activations


class Format(Loadable):
    """A format of weights; `group_size` 0 is one scale for a whole row or matrix.

    in_features and out_features of every matrix of a rank must be multiples of `in_multiple` and
    `out_multiple`.
    """

    weight_bits: int
    activations: Activations
    newer_activations: NewerActivations | None = None
    group_size: int
    in_multiple: int = 1
    out_multiple: int = 1
    made_by: Literal["convert", "modelopt", "checkpoint"]

    def activations_on(self, sm: int) -> Activations:
        """What products run on, on a GPU of that compute capability."""
        newer = self.newer_activations
        return newer.kind if newer is not None and sm >= newer.sm else self.activations


class KvFormat(Loadable):
    """A format of the KV cache."""

    bits: int


class Quantization(Record):
    """How the rank files of an engine are quantized; part of its plan and of engine.json.

    `group_size` is 0 where a format has none. `order` is that of the integers of INT4 in groups; an engine
    that does not name one was written in plain order. `kv_cache` names the format of the KV cache, or is
    None; `kv_scales` are the steps of its numbers, one per layer, 1 where they are not given.
    """

    format: str | None = None
    form: Form = "packed"
    group_size: int = 0
    order: Order = "plain"
    kv_cache: str | None = None
    kv_scales: tuple[float, ...] = ()

    @property
    def weights(self) -> Format | None:
        """The row of the weights' format."""
        return None if self.format is None else find_format(self.format)


@cache
def formats() -> tuple[Format, ...]:
    """All formats of weights, in the order of the table."""
    return _rows(Format, "format")


@cache
def kv_formats() -> tuple[KvFormat, ...]:
    """All formats of the KV cache, in the order of the table."""
    return _rows(KvFormat, "kv_cache")


def find_format(name: str) -> Format:
    """The format of that name.

    Raises:
        UsageError: there is none.
    """
    return _find(formats(), name, what="quantization format")


def find_kv_format(name: str) -> KvFormat:
    """The KV cache format of that name.

    Raises:
        UsageError: there is none.
    """
    return _find(kv_formats(), name, what="KV cache format")


def config_field(quantization: Quantization | None) -> dict[str, Any]:
    """`quantization` of TensorRT-LLM's config.json; empty when there is none to declare.

    Source: TensorRT-LLM 1.2, models/modeling_utils.py, QuantConfig.
    """
    if quantization is None:
        return {}
    weights, kv = quantization.weights, quantization.kv_cache
    return {
        "quantization": {
            "quant_algo": weights.algo if weights else None,
            "kv_cache_quant_algo": find_kv_format(kv).algo if kv else None,
            "group_size": quantization.group_size or 128,
            "smoothquant_val": 0.5,
            "clamp_val": None,
            "use_meta_recipe": False,
            "has_zero_point": quantization.format in ("gptq", "awq"),
            "pre_quant_scale": quantization.format in ("int4_awq", "w4a8_awq"),
            "exclude_modules": list(_excluded_modules(weights)) if weights else None,
        }
    }


def _excluded_modules(weights: Format) -> tuple[str, ...]:
    return EXCLUDED_MODULES_ROWWISE if weights.name == "fp8_rowwise" else EXCLUDED_MODULES


_Row = TypeVar("_Row", bound=Loadable)


def _find(rows: tuple[_Row, ...], name: str, *, what: str) -> _Row:
    for row in rows:
        if row.name == name:
            return row
    names = [row.name for row in rows]
    hint = did_you_mean(name, names)
    raise UsageError(
        f"{what} {name!r} is unknown{f'{hint} Known' if hint else '; known'} are {', '.join(names)}"
    )


def _rows(kind: type[_Row], key: str) -> tuple[_Row, ...]:
    table = tomllib.loads(Path(__file__).with_name("quantization.toml").read_text(encoding="utf-8"))
    rows = tuple(kind.model_validate(row) for row in table[key])
    names = [row.name for row in rows]
    assert len(set(names)) == len(names), f"two rows of quantization.toml have one name: {names}"
    for row in rows:
        for runtime in ("tensorrt", "pytorch"):
            missing = getattr(row, runtime) is None
            assert missing is (runtime in row.refusal), f"{row.name}: {runtime} needs a table or a refusal"
    return rows
