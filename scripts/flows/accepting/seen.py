"""What an answer of a command must show for a claim to hold, and what of it is written down.

Each raises AssertionError with what was found instead, or KeyError where the answer has no such part.
"""

from __future__ import annotations

from typing import Any

from scripts.flows.accepting.records import BESIDE
from tpforge.units import counted


def chosen(value: dict[str, Any]) -> str:
    """What --runtime auto takes."""
    return f"{value['auto']['runtime']}: {value['auto']['because']}"


def learned(value: dict[str, Any]) -> str:
    """What an installation said of itself."""
    arguments = value["llm_arguments"]
    assert arguments, "it told no argument of the LLM API"
    return f"TensorRT-LLM {value['trtllm']}: {len(arguments)} arguments of its LLM API"


def built(runtime: str, size: int, value: dict[str, Any]) -> str:
    """An engine of the runtime and size that were asked for."""
    engine = value["engine"]
    found = (engine["runtime"], engine["mapping"]["tp_size"])
    assert found == (runtime, size), f"an engine of {found[0]} with tp={found[1]}"
    return f"{engine['runtime']}, tp={size}, {len(engine['files'])} files"


def verified(value: dict[str, Any], *, on_cuda: bool) -> str:
    """A proof that passed, computed where it was claimed."""
    parity, place = value["parity"], value["computed_on"]
    assert parity["passed"], "; ".join(parity["problems"])
    assert not on_cuda or place.startswith("cuda"), f"computed on {place}, expected CUDA"
    equal = parity["num_tensors"] - parity["num_unequal_tensors"]
    greedy = f"{parity['num_greedy_equal']} of {parity['num_greedy_tokens']} greedy tokens"
    return f"{equal} of {parity['num_tensors']} tensors equal, {greedy}, on {place}"


def quantized(value: dict[str, Any]) -> str:
    """A checkpoint of modelopt's."""
    assert value["format"] == "fp8", f"it made {value['format']}"
    return f"{value['tool']} in {value['quantize_s']} s, its perplexity {value['own_perplexity']:.3f}"


def rendered(value: dict[str, Any]) -> str:
    """A repository."""
    return f"{len(value['models'])} models"


def ready(value: dict[str, Any]) -> str:
    """A server that has answered."""
    return f"{value['api']}, ready after {value['seconds_to_ready']} s"


def smoked(value: dict[str, Any]) -> str:
    """A smoke test without a failure."""
    assert value["passed"], f"{value['num_failed']} checks failed"
    return f"{value['num_passed']} passed, {value['num_skipped']} skipped"


def measured(value: dict[str, Any]) -> str:
    """A load of which every request was answered, with the tokens/s of its last level."""
    levels = value["run"]["levels"]
    failed = sum(sum(level["errors"].values()) for level in levels)
    assert levels and not failed, f"{counted(failed, 'request')} got no whole answer"
    count = sum(repeat["num_requests"] for level in levels for repeat in level["repeats"])
    rate = levels[-1]["metrics"]["output_token_throughput"]["avg"]
    asked = f"{counted(count, 'request')} at {counted(len(levels), 'level')}"
    return f"{asked}, none failed; {rate:.4g} tokens/s at {levels[-1]['name']}"


def as_planned(value: dict[str, Any]) -> str:
    """A measured rate within the band of the plan that was made for its load."""
    from tpforge.measure.comparison.expected import with_predictions
    from tpforge.measure.runs.run import Run
    from tpforge.plan.record import plan_of

    run = Run.model_validate(value[BESIDE]["run"])
    found, note = with_predictions(run, plan_of({name: value[name] for name in value if name != BESIDE}))
    level = next((one for one in found.levels if one.predicted), None)
    assert level is not None, note or "the plan has no estimate of what was measured"
    expected = level.predicted["output_token_throughput"]
    rate = level.metrics["output_token_throughput"].avg
    assert expected.low is not None and expected.high is not None, "the plan has no band"
    band = f"[{expected.low:.4g}, {expected.high:.4g}]"
    said = f"measured {rate:.4g} tokens/s, planned {expected.value:.4g} {band}"
    assert expected.low <= rate <= expected.high, f"{said}: outside of the band"
    return said


def stopped(value: dict[str, Any]) -> str:
    """A server that was ready until it was told to end."""
    assert [one["was"] for one in value["stopped"]] == ["ready"], f"it was {value['stopped']}"
    return "was ready, ended"


def none_runs(value: dict[str, Any]) -> str:
    """Nothing runs."""
    assert value["servers"] == [], f"{len(value['servers'])} servers are left"
    return "none"
