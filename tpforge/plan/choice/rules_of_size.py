"""The first rules of a plan: whether one GPU holds the model, with fewer bits, or a smaller one.

Speed and links are the other rules'.
"""

from __future__ import annotations

from tpforge.plan.choice.case import Advice, Case, compared
from tpforge.plan.options.operating import above
from tpforge.plan.options.option import Option

BARELY = 2.0
"""A model misses one GPU barely when it needs less than this many times its memory: 8 bits halve it."""


def one_gpu(case: Case) -> Advice | None:
    """Whether one GPU holds the model with its cache; nothing where one GPU was not to be tried."""
    tried = [one for one in case.options if one.mapping.world_size == 1]
    if not tried:
        return None
    if case.single(16) is not None:
        return _said("one GPU holds the model in 16 bits, with cache: TP is not needed to fit")
    quantized = case.single(8) or case.single(4)
    if quantized is None:
        return _said(
            _why_not_one(tried, which="that was asked for" if case.ask.formats else "that loads there")
        )
    causes = {one.rejection.cause for one in tried if one.weight_format is None and one.rejection}
    wider = "one GPU holds it {}: TP is a choice, not a need"
    if causes <= {"memory", "length"} and causes:
        return _said(wider.format(f"only quantized ({quantized.precision})"))
    if causes & {"latency", "load"}:
        return _said(
            f"one GPU does what is asked only quantized ({quantized.precision}), though it holds 16 bits: "
            "TP is a choice, not a need"
        )
    if case.blueprint.stored_format is not None:
        return _said(wider.format(f"as it is stored ({quantized.precision})"))
    return _said(wider.format(f"quantized ({quantized.precision}); 16 bits were not tried"))


def _said(text: str) -> Advice:
    return Advice("one-gpu", "note", text)


def _why_not_one(tried: list[Option], *, which: str) -> str:
    """The nearest of the options on one GPU, none of which works: too slow, too short, or too large."""
    for cause, text in (
        ("latency", "one GPU holds it, but not within the limits"),
        ("load", "one GPU holds it, but does not serve the load"),
        ("length", "one GPU holds the weights, but not the cache of the longest request"),
        ("memory", f"no precision {which} fits one GPU"),
        ("format", "no precision that was asked for loads on this GPU"),
    ):
        near = [one for one in tried if one.rejection is not None and one.rejection.cause == cause]
        if near and near[-1].rejection is not None:
            return f"{text} ({near[-1].label}: {near[-1].rejection.reason}): more GPUs are needed"
    return "one GPU is no way to divide this model: more GPUs are needed"


def quantize_first(case: Case) -> Advice | None:
    """A model that barely misses one GPU wants quantization before tensor parallelism."""
    need = _times_one_gpu(case)
    smaller = case.single(8) or case.single(4)
    if need is None or not 1 < need <= BARELY or smaller is None:
        return None
    missed = f"in 16 bits it needs {above(need, 1)} x the memory of one GPU"
    if case.chosen.weight_format is not None:
        if case.chosen.mapping.world_size > 1:
            return None
        text = f"{missed}; {case.chosen.precision} saves dividing it: prove its quality first"
        return Advice("quantize-first", "note", text)
    return Advice(
        "quantize-first",
        "warning",
        f"{missed}; {smaller.label} needs no communication and gives {smaller.tokens_per_gpu:.0f} tokens/s "
        f"per GPU against {case.chosen.tokens_per_gpu:.0f}: prove its quality first",
    )


def _times_one_gpu(case: Case) -> float | None:
    """The memory of one GPU that 16 bits need without a cache, as a multiple; None where not tried."""
    for one in case.options:
        if one.mapping.world_size == 1 and one.weight_format is None and one.memory is not None:
            return one.memory.fixed_bytes / one.memory.gpu.memory_bytes
    return None


def smaller_model(case: Case) -> Advice | None:
    """What another model that was named would do, under a name of its own where it is not smaller."""
    working = {one.model: one for one in case.instead}
    said = []
    for model in case.alternatives:
        option = working.get(model.name)
        if option is None:
            said.append(f"{model.name} does not do it on these GPUs")
            continue
        does = f"{option.tokens_per_second:.0f} tokens/s against {case.chosen.tokens_per_second:.0f}"
        if option.serves_rate:
            does = compared(option, case.chosen)
        said.append(f"{model.name} ({option.label}) would give {does}")
    if not said:
        return None
    are_smaller = all(one.num_parameters < case.blueprint.num_parameters for one in case.alternatives)
    compare = "; compare quality, tokenizer and license too" if working else ""
    return Advice("smaller-model" if are_smaller else "other-model", "note", "; ".join(said) + compare)
