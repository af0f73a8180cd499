"""Prefill and decode apart, in words and as JSON, beside the plan that does both in one engine.

It computes nothing; see `tpforge.plan.choice.disaggregated`.
"""

from __future__ import annotations

from scripts.reports.columns import table
from tpforge.plan.choice.choose import Plan
from tpforge.plan.choice.disaggregated import MOST_BUSY, Disaggregation, Worker
from tpforge.units import counted

HEADER = ("way", "GPUs", "requests/s", "tokens/s", "per GPU", "TTFT", "TPOT")


def apart_text(plan: Plan, found: Disaggregation | None) -> str:
    """Both ways in one table; what the second rests on."""
    chosen, speed = plan.chosen, plan.chosen.speed
    assert speed is not None
    if found is None:
        return (
            f"disaggregated: no prefill and decode workers of {chosen.precision}, KV {chosen.kv_dtype} on "
            f"{counted(plan.cluster.num_gpus, 'GPU')} are as fast for a user as the plan; give more --gpus"
        )
    tokens = plan.ask.load.output_tokens
    together = (chosen.label, chosen.num_gpus, chosen.tokens_per_second / tokens)
    apart = (found.label, found.num_gpus, found.requests_per_second)
    rows = [
        _cells(
            *together, tokens=tokens, ttft=speed.ttft_ms / chosen.scale, tpot=speed.tpot_ms / chosen.scale
        ),
        _cells(*apart, tokens=tokens, ttft=found.ttft_ms, tpot=found.decode.milliseconds),
    ]
    return (
        "disaggregated prefill and decode, each user at least as fast as in the plan\n"
        f"{table(rows, header=HEADER)}\n"
        f"modelled, compared with no measurement: prefill workers are at most {100 * MOST_BUSY:.0f} % busy, "
        f"decode workers run {counted(found.decode.batch, 'request')} at once, and the cache of a prompt "
        f"moves in {found.transfer_ms:.1f} ms"
    )


def apart_fields(found: Disaggregation) -> dict[str, object]:
    """For --json."""
    return {
        "label": found.label,
        "prefill": _group(found.prefill, found.num_prefill),
        "decode": {**_group(found.decode, found.num_decode), "batch": found.decode.batch},
        "gpus": found.num_gpus,
        "requests_per_second": round(found.requests_per_second, 3),
        "ttft_ms": round(found.ttft_ms, 1),
        "tpot_ms": round(found.decode.milliseconds, 2),
        "transfer_ms": round(found.transfer_ms, 2),
    }


def _group(worker: Worker, count: int) -> dict[str, object]:
    mapping = worker.option.mapping
    return {
        "workers": count,
        "option": worker.option.label,
        "tp": mapping.tp_size,
        "pp": mapping.pp_size,
    }


def _cells(way: str, gpus: int, rate: float, *, tokens: int, ttft: float, tpot: float) -> tuple[str, ...]:
    rates = (f"{rate:.2f}", f"{rate * tokens:.0f}", f"{rate * tokens / gpus:.0f}")
    return (way, f"{gpus}", *rates, f"{ttft:.0f} ms", f"{tpot:.1f} ms")
