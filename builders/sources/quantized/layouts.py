"""Which layout a quantized checkpoint declares, out of its configuration; what cannot be read is refused.

It reads no weights; `gptq`, `awq` and `compressed` do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from builders.sources.quantized import awq, compressed, gptq, nvfp4_reading
from builders.sources.quantized.companions import (
    BYTES,
    E4M3,
    INT8,
    ONE,
    ROWS,
    WORDS,
    Companion,
    companion,
)
from builders.sources.quantized.components import Components
from builders.sources.quantized.declaration import awq_format, declaration_problems, gptq_format
from builders.sources.quantized.gptq import Read
from tpforge.errors import InputRefused
from tpforge.shards.packing import STORED

Shape = tuple[int, ...]
_INSTEAD = "give the unquantized checkpoint, with --quantize int8_wo or int4_wo where it is to be smaller"


@dataclass(frozen=True)
class Layout:
    """How the matrix of a module lies in a checkpoint.

    `format` is a row of quantization.toml. `weight` is the suffix of the packed matrix, `packed` its types;
    `beside` are the tensors that must lie beside it, `optional` those that may. `shape` gives [out, in] from
    the shape of the weight. `kv_cache` is the format of the KV cache whose scales the checkpoint holds.
    `even_zero` is the zero point of matrices that are declared symmetric, as it is stored; None without.
    """

    format: str
    group: int
    weight: str
    packed: tuple[str, ...]
    beside: dict[str, Companion]
    shape: Callable[[Shape], Shape]
    components: Callable[[Read, str], Components]
    optional: dict[str, Companion] = field(default_factory=dict)
    kv_cache: str | None = None
    even_zero: int | None = None

    @property
    def row_group(self) -> int:
        """Rows that share a scale, so that no cut may go through them; 0: all rows."""
        return STORED[self.format].row_group


def find_layout(method: str, values: dict[str, Any]) -> Layout:
    """The layout of a checkpoint whose quantization is `method`, declared by `values`.

    Raises:
        InputRefused: it is not read; with the reason, and what to give instead.
    """
    if problem := next(declaration_problems(method, values), None):
        raise InputRefused(f"{problem}; {_INSTEAD}")
    match method:
        case "gptq":
            return _gptq(values)
        case "awq":
            return _awq(values)
        case "compressed-tensors":
            return _compressed(values)
        case "fp8":
            return _block_fp8(values)
        case "modelopt":
            return _modelopt(values)
        case "bitsandbytes":
            raise InputRefused(
                "bitsandbytes packs a matrix as one run of blocks, without rows to cut, and no runtime of "
                f"TensorRT-LLM loads it; {_INSTEAD}"
            )
    raise InputRefused(f"quantization method {method!r} is not read; {_INSTEAD}")


def _gptq(values: dict[str, Any]) -> Layout:
    if values.get("desc_act"):
        raise InputRefused(
            "desc_act (act-order) stores the inputs of a matrix in another order, so that its groups "
            "cannot be cut, and TensorRT-LLM refuses it too; give a checkpoint made with desc_act=false, "
            f"or {_INSTEAD}"
        )
    _expect_bits(values)
    _refuse_dynamic(values)
    version = gptq_format(values)
    if version not in ("gptq", "gptq_v2"):
        raise InputRefused(f"GPTQ checkpoint_format {version!r} is not read; expected gptq or gptq_v2")
    group, offset = _group(values), 1 if version == "gptq" else 0
    return Layout(
        format="gptq",
        group=group,
        weight="qweight",
        packed=WORDS,
        beside={
            "qzeros": companion("in/group", "out/8", dtypes=WORDS),
            "scales": companion("in/group", "out"),
        },
        optional={"g_idx": companion("in", dtypes=("I32", "I64"))},
        shape=lambda shape: (shape[1], shape[0] * 8),
        components=partial(gptq.read_gptq, group=group, zero_offset=offset),
        even_zero=8 - offset if values.get("sym") is True else None,
    )


def _refuse_dynamic(values: dict[str, Any]) -> None:
    """GPTQModel's rules for single modules: patterns that begin with "-:" leave modules as they are.

    Source: GPTQModel, quantization/config.py (dynamic).
    """
    rules = values.get("dynamic") or {}
    if not isinstance(rules, dict):
        raise InputRefused(f"dynamic: found {str(rules)[:60]}, expected an object of patterns and settings")
    for pattern, settings in sorted(rules.items()):
        if pattern.startswith("-:"):
            continue
        held = settings if isinstance(settings, dict) else {}
        other = {key: value for key, value in held.items() if value != values.get(key)}
        if other or not isinstance(settings, dict):
            found = ", ".join(f"{key} {value}" for key, value in other.items()) or str(settings)[:60]
            raise InputRefused(
                f"dynamic: the rule {pattern!r} gives some modules {found}, unlike the rest, and the format "
                f"of TensorRT-LLM has one setting for all; {_INSTEAD}"
            )


def _awq(values: dict[str, Any]) -> Layout:
    _expect_bits(values)
    version = awq_format(values)
    if version != "gemm":
        raise InputRefused(f"AWQ version {version!r} is not read; expected gemm")
    group = _group(values)
    return Layout(
        format="awq",
        group=group,
        weight="qweight",
        packed=WORDS,
        beside={
            "qzeros": companion("in/group", "out/8", dtypes=WORDS),
            "scales": companion("in/group", "out"),
        },
        shape=lambda shape: (shape[1] * 8, shape[0]),
        components=partial(awq.read_awq, group=group),
    )


def _compressed(values: dict[str, Any]) -> Layout:
    groups = _object(values, "config_groups")
    if len(groups) != 1:
        raise InputRefused(f"compressed-tensors with {len(groups)} config_groups is not read; expected one")
    scheme = _object(groups, next(iter(groups)))
    if values.get("kv_cache_scheme"):
        raise InputRefused("compressed-tensors with a kv_cache_scheme is not read; give --kv-cache instead")
    weights = _object(scheme, "weights")
    bits, kind, strategy = weights.get("num_bits"), weights.get("type"), weights.get("strategy")
    if weights.get("actorder") not in (None, False, "static", "weight"):
        raise InputRefused(
            f"compressed-tensors with actorder {weights['actorder']}: its groups cannot be cut"
        )
    symmetric = weights.get("symmetric", True) is not False
    if not symmetric and (bits, kind, strategy) != (4, "int", "group"):
        raise InputRefused(
            f"compressed-tensors {kind}{bits} by {strategy} with zero points is not read; "
            "expected symmetric weights, or INT4 in groups"
        )
    match bits, kind, strategy:
        case 4, "int", "group":
            group = _group(weights)
            zero_points = {"weight_zero_point": companion("out/8", "in/group", dtypes=WORDS)}
            return Layout(
                format="gptq",
                group=group,
                weight="weight_packed",
                packed=WORDS,
                beside={
                    "weight_scale": companion("out", "in/group"),
                    "weight_shape": companion("2", dtypes=("I32", "I64")),
                    **({} if symmetric else zero_points),
                },
                shape=lambda shape: (shape[0], shape[1] * 8),
                components=partial(compressed.read_packed, group=group, symmetric=symmetric),
            )
        case 4, "float", "tensor_group":
            inputs = {"input_global_scale": ONE} if scheme.get("input_activations") else {}
            return Layout(
                format="nvfp4",
                group=_group_of_16(weights),
                weight="weight_packed",
                packed=BYTES,
                beside={
                    "weight_scale": companion("out", "in/16", dtypes=E4M3),
                    "weight_global_scale": ONE,
                    **inputs,
                },
                shape=lambda shape: (shape[0], shape[1] * 2),
                components=partial(nvfp4_reading.read_compressed, has_inputs=bool(inputs)),
            )
        case 8, "int", "channel":
            return _rows("int8_w8a8")
        case 8, "float", "channel":
            return _rows("fp8_rowwise")
        case 8, "float", "block":
            return _blocks(weights.get("block_structure"), suffix="weight_scale")
        case 8, "float", "tensor":
            return _tensor_fp8()
    raise InputRefused(f"compressed-tensors {kind}{bits} by {strategy} is not read; {_INSTEAD}")


def _block_fp8(values: dict[str, Any]) -> Layout:
    if values.get("activation_scheme") == "static":
        raise InputRefused(
            "FP8 with activation_scheme static (one scale a matrix and one for its inputs, as Mistral saves "
            f"it) is not read; {_INSTEAD}"
        )
    return _blocks(values.get("weight_block_size"), suffix="weight_scale_inv")


def _modelopt(values: dict[str, Any]) -> Layout:
    inner = values.get("quantization")
    held = inner if isinstance(inner, dict) else values
    kv_cache = held.get("kv_cache_quant_algo")
    if kv_cache not in (None, "FP8"):
        raise InputRefused(
            f"a ModelOpt checkpoint with kv_cache_quant_algo {kv_cache} is not read, expected FP8; "
            "--runtime pytorch loads it as it is; for rank files quantize the original without a KV cache "
            "(`tpforge quantize`), and give --kv-cache here"
        )
    return replace(_modelopt_weights(held), kv_cache="fp8" if kv_cache else None)


def _modelopt_weights(held: dict[str, Any]) -> Layout:
    match held.get("quant_algo"):
        case "FP8":
            return _tensor_fp8()
        case "FP8_PER_CHANNEL_PER_TOKEN":
            return _rows("fp8_rowwise")
        case "W8A8_SQ_PER_CHANNEL":
            return Layout(
                format="int8_sq",
                group=0,
                weight="weight",
                packed=INT8,
                beside={"weight_scale": ROWS, "input_scale": ONE, "pre_quant_scale": companion("in")},
                shape=lambda shape: shape,
                components=compressed.read_smooth,
            )
        case "NVFP4":
            return Layout(
                format="nvfp4",
                group=_group_of_16(held),
                weight="weight",
                packed=BYTES,
                beside={
                    "weight_scale": companion("out", "in/16", dtypes=E4M3),
                    "weight_scale_2": ONE,
                    "input_scale": ONE,
                },
                shape=lambda shape: (shape[0], shape[1] * 2),
                components=nvfp4_reading.read_modelopt,
            )
        case "W4A16_AWQ":
            group = _group(held)
            return Layout(
                format="int4_awq",
                group=group,
                weight="weight",
                packed=BYTES,
                beside={"weight_scale": companion("out", "in/group")},
                optional={"pre_quant_scale": companion("in")},
                shape=lambda shape: (shape[0] * 2, shape[1]),
                components=partial(compressed.read_modelopt_awq, group=group),
            )
    raise InputRefused(f"ModelOpt's {held.get('quant_algo')} is not read; {_INSTEAD}")


def _rows(name: str) -> Layout:
    return Layout(
        format=name,
        group=0,
        weight="weight",
        packed=INT8 if name.startswith("int8") else E4M3,
        beside={"weight_scale": ROWS},
        shape=lambda shape: shape,
        components=compressed.read_rows,
        optional={"input_scale": ONE},
    )


def _blocks(size: object, *, suffix: str) -> Layout:
    if size != [128, 128]:
        raise InputRefused(f"FP8 in blocks of {size} is not read; expected [128, 128]")
    return Layout(
        format="fp8_block",
        group=128,
        weight="weight",
        packed=E4M3,
        beside={suffix: companion("out/128", "in/128")},
        shape=lambda shape: shape,
        components=partial(compressed.read_blocks, suffix=suffix, block=128),
    )


def _tensor_fp8() -> Layout:
    return Layout(
        format="fp8",
        group=0,
        weight="weight",
        packed=E4M3,
        beside={"weight_scale": ONE, "input_scale": ONE},
        shape=lambda shape: shape,
        components=compressed.read_tensor_fp8,
    )


def _group_of_16(values: dict[str, Any]) -> int:
    group = values.get("group_size", 16)
    if group != 16:
        raise InputRefused(f"NVFP4 with group_size {group} is not read; expected 16")
    return 16


def _object(values: dict[str, Any], key: str) -> dict[str, Any]:
    """The object under `key`; empty when there is none."""
    found = values.get(key) or {}
    if not isinstance(found, dict):
        raise InputRefused(f"compressed-tensors' {key}: found {str(found)[:60]}, expected an object")
    return found


def _expect_bits(values: dict[str, Any]) -> None:
    bits = values.get("bits", values.get("w_bit"))
    if bits != 4:
        raise InputRefused(f"found {bits} bits; only 4 are read")


def _group(values: dict[str, Any]) -> int:
    group = values.get("group_size", values.get("q_group_size"))
    if not isinstance(group, int) or group < 8 or group % 8:
        raise InputRefused(f"found group_size {group}; expected a multiple of 8")
    return group
