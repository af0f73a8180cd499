"""From a compiled engine's settings to the LLM API's: every setting mapped, changed or dropped.

It reads engines and build configs of upstream's too, and writes a recipe. What becomes of which setting is
settings.toml; how a changed one is computed is here. It runs and converts nothing.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from tpforge.errors import InputRefused
from tpforge.outputs.places import known_names
from tpforge.quantization import formats
from tpforge.quantization_gate import Question, judge
from tpforge.records import Record
from tpforge.suggestions import did_you_mean

Verdict = Literal["mapped", "changed", "dropped", "unknown"]
_LIMITS = ("max_batch_size", "max_input_len", "max_seq_len")
_NOTHING: tuple[Any, ...] = (None, False, "", "none", "NONE", {}, [])
_SPECULATION = {
    "DRAFT_TOKENS_EXTERNAL": ("Draft_Target", "the draft model's folder goes to speculative_model_dir"),
    "LOOKAHEAD_DECODING": (
        "NGram",
        "there is no lookahead; n-grams of the prompt need no draft model",
    ),
    "EAGLE": ("Eagle", "Eagle 3 checkpoints; the folder goes to speculative_model_dir"),
}


class Setting(Record):
    """One row of the table; `to` is the LLM API's name of a mapped one."""

    name: str
    verdict: Literal["mapped", "changed", "dropped"]
    to: str | None = None
    why: str


@dataclass(frozen=True)
class Move:
    """What becomes of one setting; `new` are the LLM API's arguments that it turns into, or an option."""

    setting: str
    value: Any
    verdict: Verdict
    new: dict[str, Any]
    why: str


@dataclass(frozen=True)
class OldEngine:
    """What was found: the three parts of an engine's config.json; parts that are not there are empty."""

    version: str | None
    pretrained: dict[str, Any]
    build: dict[str, Any]

    @property
    def mapping(self) -> dict[str, int]:
        """The sizes of the grid of ranks."""
        found = self.pretrained.get("mapping") or {}
        return {name: int(found.get(name, 1)) for name in ("tp_size", "pp_size", "moe_ep_size")}


@dataclass(frozen=True)
class Migration:
    """All moves, and the arguments of the LLM API that they add up to."""

    engine: OldEngine
    moves: tuple[Move, ...]

    @property
    def arguments(self) -> dict[str, Any]:
        """The LLM API's arguments by dotted names, without the limits."""
        merged: dict[str, Any] = {}
        for move in self.moves:
            merged |= move.new
        return {name: value for name, value in merged.items() if name not in _LIMITS}

    @property
    def limits(self) -> dict[str, int]:
        """The limits of the recipe."""
        merged = {name: value for move in self.moves for name, value in move.new.items()}
        return {name: merged[name] for name in _LIMITS if merged.get(name)}


def read_old_engine(path: Path) -> OldEngine:
    """The settings in an engine folder (ours or upstream's), its config.json, or a build config.

    Raises:
        InputRefused: it is none of these.
    """
    file = next(
        (one for one in (path / "engine" / "config.json", path / "config.json", path) if one.is_file()), None
    )
    if file is None and path.is_dir():
        raise InputRefused(
            f"{path}: holds no config.json of trtllm-build; expected a compiled engine, or a build config"
        )
    if file is None:
        raise InputRefused(
            f"{path}: no such engine folder or config.json{did_you_mean(str(path), known_names())}"
        )
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise InputRefused(f"{file}: cannot be read as JSON: {error}") from error
    if isinstance(config, dict) and isinstance(config.get("build_config"), dict):
        pretrained = config.get("pretrained_config")
        return OldEngine(
            config.get("version"), pretrained if isinstance(pretrained, dict) else {}, config["build_config"]
        )
    if isinstance(config, dict) and {"max_batch_size", "plugin_config"} & config.keys():
        return OldEngine(None, {}, config)
    raise InputRefused(
        f"{file}: holds no build_config; expected config.json of an engine that trtllm-build made, or a "
        "build config of its own"
    )


def plan_migration(
    engine: OldEngine, *, parameters: Mapping[str, str], trtllm: str, sm: int | None
) -> Migration:
    """What becomes of every setting; `parameters` are those of tensorrt_llm's config.pbtxt."""
    build = dict(engine.build)
    plugins = build.pop("plugin_config", None) or {}
    moves = [
        *_mapping_moves(engine),
        *_quantization_moves(engine, trtllm=trtllm, sm=sm),
        *_moves("build_config", build, context=build),
        *_moves("plugin_config", plugins, context=build),
        *_moves("triton", {key: _typed(value) for key, value in parameters.items()}, context=build),
    ]
    return Migration(engine, (*moves, *_chunking(moves)))


def _chunking(moves: list[Move]) -> Iterator[Move]:
    """Prompts above max_num_tokens, which a compiled engine took in chunks, need that in the LLM API too."""
    new = {name: value for move in moves for name, value in move.new.items()}
    length, tokens = new.get("max_input_len"), new.get("max_num_tokens", 8192)
    if length is not None and length > tokens and not new.get("enable_chunked_prefill"):
        why = f"prompts of {length} tokens are above max_num_tokens {tokens}, and would be refused"
        yield Move("(prompts)", length, "changed", {"enable_chunked_prefill": True}, why)


def _moves(group: str, values: Mapping[str, Any], *, context: Mapping[str, Any]) -> Iterator[Move]:
    table = settings_of(group)
    for name, value in values.items():
        row = table.get(name)
        label = f"{group}.{name}"
        if row is None:
            yield Move(label, value, "unknown", {}, "not in the table: look at it by hand")
        elif row.verdict == "mapped" and row.to is not None:
            new = {} if value is None or value == "" else {row.to: value}
            yield Move(label, value, "mapped", new, row.why)
        elif row.verdict == "changed":
            new, why = _changed(name, value, context=context)
            yield Move(label, value, "changed" if new else "dropped", new, why or row.why)
        else:
            yield Move(label, value, "dropped", {}, row.why)


def _changed(name: str, value: Any, *, context: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    """The new arguments of a setting that is not simply renamed, and a reason that says more."""
    off: tuple[dict[str, Any], str | None] = ({}, "it was off")
    is_on = value not in _NOTHING and str(value).lower() != "disable"
    match name:
        case "use_paged_context_fmha":
            return {"kv_cache_config.enable_block_reuse": is_on}, None
        case "multiple_profiles":
            return ({"cuda_graph_config.enable_padding": True}, None) if is_on else off
        case "reduce_fusion" | "user_buffer":
            return ({"allreduce_strategy": "AUTO"}, None) if is_on else off
        case "lora_plugin":
            return ({"enable_lora": True}, None) if is_on else off
        case "batch_scheduler_policy":
            return {"scheduler_config.capacity_scheduler_policy": str(value).upper()}, None
        case "lora_config":
            return _lora(value)
        case "speculative_decoding_mode":
            return _speculation(value, context)
    return {}, None


def _lora(value: Any) -> tuple[dict[str, Any], str | None]:
    fields = ("lora_dir", "lora_ckpt_source", "max_lora_rank", "lora_target_modules")
    found = value if isinstance(value, Mapping) else {}
    if not found.get("lora_dir") and not found.get("lora_target_modules"):
        return {}, "no adapters were built in"
    new = {f"lora_config.{name}": found[name] for name in fields if found.get(name) not in _NOTHING}
    return {"enable_lora": True, **new}, None


def _speculation(value: Any, context: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    mode = str(value).rsplit(".", 1)[-1].upper()
    if mode in ("1", "NONE", "NULL") or value in _NOTHING:
        return {}, "there was none"
    if mode not in _SPECULATION:
        return {}, f"the PyTorch backend has no {mode.lower()}: Eagle 3, MTP or n-grams in its place"
    kind, why = _SPECULATION[mode]
    table = "speculative_config"
    new = {f"{table}.decoding_type": kind, f"{table}.max_draft_len": int(context.get("max_draft_len") or 1)}
    if kind != "NGram":
        new[f"{table}.speculative_model_dir"] = "DRAFT_MODEL"
    return new, why


def _mapping_moves(engine: OldEngine) -> Iterator[Move]:
    options = {"tp_size": "tp", "pp_size": "pp", "moe_ep_size": "moe_ep"}
    for name, size in engine.mapping.items() if engine.pretrained else ():
        yield Move(f"mapping.{name}", size, "mapped", {}, f"{options[name]} = {size} of the recipe")


def _quantization_moves(engine: OldEngine, *, trtllm: str, sm: int | None) -> Iterator[Move]:
    """The weights must come as a Hugging Face checkpoint of the format, if the LLM API has it at all."""
    found = engine.pretrained.get("quantization") or {}
    algo, kv = found.get("quant_algo"), found.get("kv_cache_quant_algo")
    if algo is not None:
        yield Move("quantization.quant_algo", algo, *_weights(str(algo), trtllm=trtllm, sm=sm))
    if kv == "FP8":
        new = {"kv_cache_config.dtype": "fp8"}
        yield Move("quantization.kv_cache_quant_algo", kv, "mapped", new, "FP8 KV cache")
    elif kv is not None:
        yield Move(
            "quantization.kv_cache_quant_algo",
            kv,
            "changed",
            {"kv_cache_config.dtype": "fp8"},
            f"the LLM API has no {kv} KV cache; FP8 takes as little memory: measure the quality again",
        )


def _weights(algo: str, *, trtllm: str, sm: int | None) -> tuple[Verdict, dict[str, Any], str]:
    rows = [row for row in formats() if row.algo == algo]
    for row in rows:
        verdict = judge(Question(format=row.name, runtime="pytorch", version=trtllm, sm=sm))
        if verdict.works:
            return "changed", {}, f"MODEL must be a Hugging Face checkpoint in {row.title} ({row.name})"
    if not rows:
        return "unknown", {}, "not in the table of formats: look at it by hand"
    verdict = judge(Question(format=rows[0].name, runtime="pytorch", version=trtllm, sm=sm))
    instead = f"; nearest that it loads: {verdict.nearest}" if verdict.nearest else ""
    return "dropped", {}, f"{verdict.problems[0]}{instead}"


def _typed(text: str) -> Any:
    """A parameter of config.pbtxt as what it says."""
    lowered = text.lower()
    if lowered in ("true", "false"):
        return lowered == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


@cache
def settings_of(group: str) -> dict[str, Setting]:
    """The table of a group by name."""
    text = files("builders.migration").joinpath("settings.toml").read_text(encoding="utf-8")
    for value in tomllib.loads(text)["group"]:
        if value["name"] == group:
            rows = [Setting.model_validate(row) for row in value["settings"]]
            assert len({row.name for row in rows}) == len(rows), f"{group}: a setting is given twice"
            return {row.name: row for row in rows}
    raise AssertionError(f"settings.toml has no group {group}")
