"""What there is to say of a surveyed checkpoint: the model, how it divides over ranks, who can serve it.

It reads nothing; `audit.survey` does, and `tpforge.describe` has the words for a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builders.sources.base import each_problem
from tpforge.architectures.declared import Declared
from tpforge.architectures.facts import declared_facts
from tpforge.architectures.spec import declared_spec
from tpforge.describe import describe_config, describe_model
from tpforge.errors import InputRefused, PlanError
from tpforge.shards.mapping import Mapping
from tpforge.shards.padding import HeadLayout
from tpforge.trtllm.architectures import architecture_support, pytorch_only
from tpforge.units import counted

if TYPE_CHECKING:
    from builders.audit.survey import Survey
    from builders.conversion.division import TableLayout
    from builders.sources.quantized.reading import QuantizedWeights

TP_SIZES = (1, 2, 4, 8)
PP_SIZES = (2, 4, 8)


@dataclass(frozen=True)
class Division:
    """What a mapping does to the model, in words; `rank_bytes` is None when it is impossible."""

    tp: int
    pp: int
    moe_ep: int
    division: str
    rank_bytes: tuple[int, ...] | None = None
    padding_bytes: int = 0


@dataclass(frozen=True)
class Serving:
    """Whether a runtime can serve it, which versions of TensorRT-LLM, and why or why not."""

    runtime: str
    serves: bool
    versions: str | None
    reason: str


@dataclass(frozen=True)
class Inspection:
    """A checkpoint, sound or not; `asked` is the division over the ranks that the user asked for."""

    survey: Survey
    facts: list[tuple[str, str]]
    divisions: tuple[Division, ...]
    stages: tuple[Division, ...]
    asked: Division | None
    runtimes: tuple[Serving, ...]
    problems: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        """For --json."""
        found = self.survey
        tokenizer, quantization = found.tokenizer, found.quantization
        return {
            "source": found.kind,
            "location": str(found.path),
            "revision": found.revision,
            "license": found.license,
            "architecture": found.architecture,
            "family": found.family.name if found.family else None,
            "model": found.spec.model_dump(mode="json") if found.spec else None,
            "num_tensors": len(found.shapes),
            "num_parameters": found.num_parameters,
            "stored_types": found.stored,
            "quantization": vars(quantization) if quantization else None,
            "tokenizer": {
                "files": tokenizer.files if tokenizer else (),
                "num_ids": tokenizer.num_ids if tokenizer else None,
                "has_chat_template": bool(tokenizer and tokenizer.has_chat_template),
            },
            "files": [{"name": name, "bytes": size} for name, size in found.files],
            "runtimes": [vars(one) for one in self.runtimes],
            "divisions": [vars(one) for one in self.divisions],
            "stages": [vars(one) for one in self.stages],
            "asked": vars(self.asked) if self.asked else None,
            "dropped": found.dropped,
            "notes": found.notes,
            "warnings": found.warnings,
            "problems": self.problems,
        }


def inspect_survey(found: Survey, *, mapping: Mapping) -> Inspection:
    """What was found of a checkpoint, with how it divides and which runtimes serve it."""
    problems = list(found.problems)
    if found.family is not None and found.family.refusal is not None:
        problems.append(found.family.refusal)
    if found.declared is not None:
        return _inspect_declared(found, found.declared, mapping=mapping, problems=problems)
    layout = _layout(found)
    sizes = {
        *(Mapping(tp_size=tp) for tp in TP_SIZES),
        *(Mapping(pp_size=pp) for pp in PP_SIZES),
        mapping,
    }
    divisions = {one: _divide(layout, one, found.quantized) for one in sizes} if layout else {}
    asked = divisions.get(mapping)
    if asked is not None and asked.rank_bytes is None:
        problems.append(asked.division)
    return Inspection(
        survey=found,
        facts=describe_model(found.spec) if found.spec else describe_config(found.config),
        divisions=tuple(divisions[Mapping(tp_size=tp)] for tp in TP_SIZES if divisions),
        stages=tuple(divisions[Mapping(pp_size=pp)] for pp in PP_SIZES if divisions),
        asked=asked,
        runtimes=_runtimes(found),
        problems=tuple(sorted(problems)),
    )


def _inspect_declared(
    found: Survey, declared: Declared, *, mapping: Mapping, problems: list[str]
) -> Inspection:
    """A model by the table of architectures: what each rank holds of the checkpoint as it is."""
    sizes = [mapping, *(Mapping(tp_size=tp) for tp in TP_SIZES), *(Mapping(pp_size=pp) for pp in PP_SIZES)]
    try:
        divisions = {one: _divide_declared(found, declared, one) for one in sizes}
    except InputRefused as error:
        # The quantization is none that is loaded; the audit says so too.
        problems += [one for one in each_problem(error) if one not in problems]
        divisions = {}
    asked = divisions.get(mapping)
    if asked is not None and asked.rank_bytes is None:
        problems.append(asked.division)
    return Inspection(
        survey=found,
        facts=declared_facts(declared),
        divisions=tuple(divisions[Mapping(tp_size=tp)] for tp in TP_SIZES if divisions),
        stages=tuple(divisions[Mapping(pp_size=pp)] for pp in PP_SIZES if divisions),
        asked=asked,
        runtimes=_runtimes(found),
        problems=tuple(sorted(problems)),
    )


def _divide_declared(found: Survey, declared: Declared, mapping: Mapping) -> Division:
    from builders.declared_bytes import formats_in, rank_bytes

    where = str(found.path / "config.json")
    stored = formats_in(declared, found.config, folder=found.path, where=where)
    sizes = (mapping.tp_size, mapping.pp_size, mapping.moe_ep_size)
    dtype = declared_spec(declared, where=where).dtype
    try:
        held = rank_bytes(declared, stored, mapping=mapping, dtype=dtype, where=where)
    except PlanError as error:
        return Division(*sizes, division=f"impossible: {error}")
    return Division(*sizes, division="the checkpoint as it is; nothing is padded", rank_bytes=held)


def _layout(found: Survey) -> TableLayout | None:
    """What can be divided: a model of a known family, which tpforge has a table for and weights that fit."""
    if found.family is None or found.spec is None or found.family.refusal or _is_unread(found):
        return None
    from builders.conversion.division import TableLayout

    return TableLayout(found.location, found.spec, found.family)


def _is_unread(found: Survey) -> bool:
    """Whether its weights are quantized in a way that is not read."""
    return found.quantization is not None and found.quantized is None


def _divide(layout: TableLayout, mapping: Mapping, stored: QuantizedWeights | None) -> Division:
    from builders.conversion.division import divide

    sizes = (mapping.tp_size, mapping.pp_size, mapping.moe_ep_size)
    try:
        found = divide(layout, mapping=mapping, dtype=layout.spec.dtype, stored=stored)
    except InputRefused as error:
        return Division(*sizes, division=f"impossible: {error}")
    return Division(
        *sizes,
        division="; ".join([_heads(found.padding.heads, mapping.tp_size), *found.padding.notes]),
        rank_bytes=found.rank_bytes,
        padding_bytes=found.padding_bytes,
    )


def _heads(heads: HeadLayout, tp_size: int) -> str:
    own, own_kv = counted(heads.num_heads // tp_size, "head"), max(1, heads.num_kv_heads // tp_size)
    held = f"{own}, {own_kv} KV per rank"
    if tp_size > heads.num_kv_heads:
        held += f", each KV head on {tp_size // heads.num_kv_heads} ranks"
    return held


def _runtimes(found: Survey) -> tuple[Serving, ...]:
    """What each runtime makes of it, were its problems solved that are no matter of the runtime."""
    versions = {one.runtime: one.versions for one in architecture_support(found.architecture or "")}
    converts = found.family is not None and found.family.refusal is None
    reason = "tpforge has no table for it" if found.family is None else found.family.refusal or ""
    if converts and found.quantization is not None and _is_unread(found):
        converts, reason = False, f"the weights are quantized ({found.quantization.title})"
    return (
        Serving("reference", converts, None, reason or "from a converted checkpoint"),
        _tensorrt(versions.get("tensorrt"), converts=converts, reason=reason),
        _pytorch(found, versions.get("pytorch")),
    )


def _tensorrt(versions: str | None, *, converts: bool, reason: str) -> Serving:
    if versions is None:
        return Serving("tensorrt", False, None, "its TensorRT backend does not name the architecture")
    return Serving("tensorrt", converts, versions, reason or "from a converted checkpoint")


def _pytorch(found: Survey, versions: str | None) -> Serving:
    from builders.llm_api.formats import format_name
    from builders.sources.quantization import LLM_API_LOADS
    from tpforge.architectures.table import find_architecture

    if versions is None:
        return Serving("pytorch", False, None, "its PyTorch backend does not name the architecture")
    if found.kind == "gguf":
        return Serving("pytorch", False, versions, "it loads Hugging Face directories, not .gguf files")
    # Of a model by the table of architectures the audit has judged every matrix.
    quantization = found.quantization if found.declared is None else None
    if quantization is not None and (
        quantization.method not in LLM_API_LOADS or format_name(quantization) is None
    ):
        return Serving("pytorch", False, versions, f"it does not load {quantization.title}")
    name = found.architecture or ""
    is_sized = find_architecture(name) is not None or pytorch_only(name) is not None
    if found.family is None and found.declared is None and not is_sized:
        return Serving("pytorch", False, versions, "its sizes are in no table: state them, --describe FILE")
    if found.as_is:
        more = f", and {len(found.as_is) - 1} more" if len(found.as_is) > 1 else ""
        return Serving("pytorch", False, versions, f"not as it is: {found.as_is[0]}{more}")
    return Serving("pytorch", True, versions, "the Hugging Face checkpoint as it is")


def summary(found: Survey) -> list[tuple[str, str]]:
    """Where it comes from and what lies there, a fact a row."""
    tokenizer = found.tokenizer
    parameters = found.num_parameters
    stored = ", ".join(f"{kind} ({count} tensors)" for kind, count in found.stored.items())
    rows: list[tuple[str, Any]] = [
        ("source", f"{found.kind} {found.path}"),
        ("revision", found.revision or "unknown"),
        ("license", found.license or "not declared"),
        ("architecture", found.architecture or "not declared"),
        ("family", _family_words(found)),
        ("parameters", "unknown" if parameters is None else f"{parameters:,}"),
        ("weights", stored or "none found"),
        ("quantization", found.quantization.title if found.quantization else "none declared"),
        ("tokenizer", _tokenizer_words(found)),
        ("chat template", "yes" if tokenizer and tokenizer.has_chat_template else "no"),
    ]
    return rows


def _family_words(found: Survey) -> str:
    if found.family is not None:
        return found.family.name
    if found.declared is not None:
        return f"none; sizes by the table of architectures ({found.declared.row.name})"
    return "unknown"


def _tokenizer_words(found: Survey) -> str:
    tokenizer = found.tokenizer
    if tokenizer is None or not tokenizer.files:
        return "none"
    names = [name for name in tokenizer.files if name != "generation_config.json"]
    ids = "" if tokenizer.num_ids is None else f"; ids below {tokenizer.num_ids}"
    return ", ".join(names) + ids
