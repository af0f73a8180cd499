"""A plan in words and tables: what `tpforge plan` prints, and what the page shares with it.

It computes nothing of a plan; see `tpforge.plan`.
"""

from __future__ import annotations

from collections.abc import Sequence

from scripts.reports.columns import table
from tpforge.plan.choice.choose import Plan
from tpforge.plan.memory.rank import RankMemory
from tpforge.plan.options.frontier import at_user_speeds
from tpforge.plan.options.option import Option
from tpforge.plan.speed.calibration import Band, TimeBand
from tpforge.plan.speed.load import Load
from tpforge.units import GIB, counted, format_bytes

BAR_WIDTH = 48
_MARKS = {"weights": "W", "activations": "a", "buffers": "b", "KV cache": "K", "free": ".", "other": "o"}
_SHOWN = 10
OPTION_HEADER = ("option", "GPUs", "tokens/s", "8 of 10 within", "per GPU", "batch", "TTFT", "TPOT", "comm.")
ORDERS = {
    "throughput": "tokens/s",
    "latency": "time per token",
    "cost": "tokens/s per GPU",
    "gpus": "fewest GPUs",
}
FRONTIER_HEADER = ("tokens/s per user, at least", "is", "tokens/s per GPU", "option", "batch", "TTFT")


def plan_text(plan: Plan, *, show_all: bool) -> str:
    """The whole plan for a terminal; estimates are called so."""
    memory = plan.chosen.memory
    assert memory is not None
    parts = [
        headline(plan),
        summary_table(plan),
        frontier_text(plan),
        memory_text(memory),
        options_text(plan, limit=None if show_all else _SHOWN),
        rejected_text(plan, show_all=show_all),
        advice_text(plan),
        "All speeds are estimates; docs/planning.md says how far they are off. Nothing was run.",
    ]
    return "\n\n".join(part for part in parts if part)


def headline(plan: Plan) -> str:
    """``llama-3.3-70b on 8 x H100 SXM (NVLink): TP2 x 4 fp8, KV fp8``."""
    cluster = plan.cluster
    link = {"nvlink": "NVLink", "pcie": "PCIe"}[cluster.link]
    joined = f" ({link})" if cluster.num_gpus > 1 else ""
    return f"{plan.blueprint.name} on {cluster.num_gpus} x {cluster.gpu.title}{joined}: {plan.chosen.label}"


def summary_table(plan: Plan) -> str:
    """What the chosen option gives."""
    return table(summary_rows(plan), header=("what", "estimate"))


def summary_rows(plan: Plan) -> list[tuple[str, str]]:
    """Name and value; for load, length and speed."""
    option, load = plan.chosen, plan.ask.load
    memory, speed = option.memory, option.speed
    assert memory is not None and speed is not None
    rows = [
        ("load", f"{load.input_tokens} tokens in, {load.output_tokens} out; {load_text(plan)}"),
        *modelled_rows(load),
        *capacity_rows(option),
        ("throughput", f"{option.tokens_per_second:.0f} output tokens/s ({band_text(option)})"),
        ("per GPU", f"{option.tokens_per_gpu:.0f} output tokens/s"),
        ("per user", f"{1e3 * option.scale / speed.tpot_ms:.0f} output tokens/s"),
        ("time to first token", time_text(speed.ttft_ms / option.scale, option.ttft_band)),
        (
            "time per token",
            f"{time_text(speed.tpot_ms / option.scale, option.tpot_band)}, "
            f"{counted(speed.batch, 'request')} per replica",
        ),
        ("simulated", simulated_text(plan)),
        ("batch is limited by", speed.limit),
        ("communication", f"{100 * speed.communication_share:.0f} % of a step"),
        ("KV cache", f"{memory.kv_tokens} tokens per replica, {format_bytes(memory.kv_bytes)} per rank"),
        ("requests that fit", f"{memory.max_requests(load.request_tokens)} per replica"),
        ("longest request", f"{memory.longest_request(plan.blueprint.model.max_position_embeddings)} tokens"),
    ]
    needs = plan.needs
    streamed = (
        "streamed" if needs.memory_bytes is None else f"{format_bytes(needs.memory_bytes)} of host memory"
    )
    rows.append(
        (
            "to make it",
            f"disk: model {format_bytes(needs.source_bytes)}, rank files "
            f"{format_bytes(needs.rank_files_bytes)}, engine about as much; {streamed}",
        )
    )
    if option.cost_per_million is not None:
        money = f"{option.cost_per_million:.2f} {plan.ask.currency or '(of the currency of the price)'}"
        rows.append(("price of a million output tokens", money))
    return rows


def capacity_rows(option: Option) -> list[tuple[str, str]]:
    """What a rate is of the most that is borne."""
    most, load = option.most_per_second, option.load
    if most is None or load is None or load.requests_per_second is None:
        return []
    share = 100 * load.requests_per_second / most
    return [("bears at most", f"{most:.3g} requests/s, however slowly: {share:.0f} % of it is asked for")]


def modelled_rows(load: Load) -> list[tuple[str, str]]:
    """What of the load no published row was compared with: reuse of prefixes, drafts."""
    rows = []
    if load.prefix_hit:
        read = f"{load.read_tokens} of {load.input_tokens} tokens of a prompt are read"
        rows.append(("prefix reuse", f"{read}; the cache is counted in full (modelled)"))
    if load.drafts.num_tokens:
        gained = f"{load.drafts.tokens_per_step:.2f} tokens a step from {load.drafts.num_tokens} drafted"
        rows.append(("speculation", f"{gained}, {100 * load.drafts.acceptance:.0f} % accepted (modelled)"))
    return rows


def load_text(plan: Plan) -> str:
    """How many requests at once the estimates are for, and why that many."""
    load, ask = plan.ask.load, plan.ask
    assert plan.chosen.speed is not None
    if load.requests_per_second is not None:
        return f"{load.requests_per_second:g} requests/s"
    if load.concurrency is not None:
        return f"{counted(load.concurrency, 'request')} at once"
    count = plan.chosen.num_running
    running = "one request at once" if count == 1 else f"{count} requests at once"
    if ask.states_load:
        return f"{running}: the most within the limits, or that fit"
    if ask.wished_tpot_ms is None:
        return f"{running}: as many as fit"
    if plan.chosen.speed.limit == "operating point":
        return (
            f"{running}: no load was stated, and more would give each user less than "
            f"{1e3 / ask.wished_tpot_ms:.0f} tokens/s (MLPerf's interactive limit)"
        )
    return f"{running}: no load was stated, and as many fit"


def frontier_rows(plan: Plan) -> list[tuple[str, ...]]:
    """What each speed of a user leaves for a GPU, under FRONTIER_HEADER; none where the load was stated."""
    rows: list[tuple[str, ...]] = []
    for wanted, point in at_user_speeds(plan.frontier):
        rows.append(
            (
                f"{wanted}",
                f"{point.user:.0f}",
                f"{point.gpu:.0f}",
                point.option.label,
                f"{point.batch}",
                f"{point.ttft_ms:.0f} ms",
            )
        )
    return rows


def frontier_text(plan: Plan) -> str:
    """The frontier, and where on it the plan stands."""
    rows = frontier_rows(plan)
    if not rows:
        return ""
    speed, option = plan.chosen.speed, plan.chosen
    assert speed is not None
    here = (
        f"taken: {1e3 * option.scale / speed.tpot_ms:.0f} tokens/s per user, "
        f"{option.tokens_per_gpu:.0f} per GPU ({option.label}, {speed.batch} per replica); "
        "another point: --tpot-ms, --concurrency, --rate or --saturated"
    )
    return f"what a user's speed costs (Pareto front)\n{table(rows, header=FRONTIER_HEADER)}\n{here}"


def band_text(option: Option) -> str:
    """The error band in tokens a second, and what it rests on."""
    band = option.band
    if band is None:
        return "no band"
    low, high = option.tokens_between
    return f"{low:.0f} to {high:.0f}: {basis_text(band)}"


def basis_text(band: Band) -> str:
    """What a band rests on: how many rows of which kind."""
    if not band.rows:
        return f"assumed, {band.kind}"
    why = ", ".join((band.kind, *band.also))
    return f"8 of 10 of {band.rows} measured rows held out, {why}"


def time_text(milliseconds: float, band: TimeBand | None) -> str:
    """A time with its band, and what that rests on."""
    assert band is not None
    rests = f"8 of 10 of {band.rows} measured rows held out" if band.rows else "assumed"
    digits = 0 if milliseconds >= 100 else 1
    low, high = milliseconds * band.low, milliseconds * band.high
    return f"{milliseconds:.{digits}f} ms ({low:.{digits}f} to {high:.{digits}f}: {rests})"


def simulated_text(plan: Plan) -> str:
    """Percentiles of the chosen option's requests, and how they came."""
    found, load = plan.simulated, plan.ask.load
    came = "as others ended"
    if load.requests_per_second is not None:
        came = "as in the trace" if plan.ask.requests else "at random times"
    return (
        f"p50 {found.ttft.p50_ms:.0f} ms, p95 {found.ttft.p95_ms:.0f} ms to the first token; "
        f"p50 {found.tpot.p50_ms:.1f} ms, p95 {found.tpot.p95_ms:.1f} ms per token "
        f"({counted(found.num_requests, 'request')} that came {came})"
    )


def memory_parts(memory: RankMemory) -> list[tuple[str, int]]:
    """The stack of a rank: its lines, the cache, what stays free; the small ones together."""
    lines = {line.name: line.num_bytes for line in memory.lines}
    shown = [(name, lines.pop(name)) for name in ("weights", "activations")]
    shown.append(("buffers", sum(lines.pop(name, 0) for name in ("logits", "runtime buffers", "decoder"))))
    kv = min(memory.kv_bytes, max(0, memory.free_bytes))
    return [
        *shown,
        ("other", sum(lines.values())),
        ("KV cache", kv),
        ("free", max(0, memory.free_bytes - kv)),
    ]


def memory_text(memory: RankMemory) -> str:
    """A bar of the fullest rank, and its lines with their formulas."""
    total = memory.gpu.memory_bytes
    bar, used = "", 0
    for name, size in memory_parts(memory):
        used += size
        bar += _MARKS[name] * (round(used / total * BAR_WIDTH) - len(bar))
    legend = "  ".join(f"{_MARKS[name]} {name} {format_bytes(size)}" for name, size in memory_parts(memory))
    rows = [(line.name, f"{line.num_bytes / GIB:.2f}", line.basis, line.formula) for line in memory.lines]
    published = "" if memory.gpu.memory_is_published else " (assumed)"
    return "\n".join(
        [
            f"memory of the fullest rank, {format_bytes(total)}{published}",
            f"[{bar}]",
            legend,
            "",
            table(rows, header=("line", "GiB", "basis", "formula")),
        ]
    )


def options_text(plan: Plan, *, limit: int | None) -> str:
    """The options that work, the best first."""
    working = plan.working
    rows = [option_cells(one) for one in working[:limit]]
    rows += [(f"instead: {one.model}, {one.label}", *option_cells(one)[1:]) for one in plan.instead]
    more = f"\n{len(working) - limit} more: --all" if limit is not None and len(working) > limit else ""
    title = f"options that work, the best first by {ORDERS[plan.goal]}; of those within 10 % the simplest"
    doubt = undecided_text(plan)
    return f"{title}\n{table(rows, header=OPTION_HEADER)}{more}" + (f"\n{doubt}" if doubt else "")


def undecided_text(plan: Plan) -> str:
    """Which other options lie within the band of the chosen one, so that only a measurement decides."""
    labels = [one.label for one in plan.undecided]
    if not labels:
        return ""
    return (
        f"undecided: also within the band of {plan.chosen.label}: "
        f"{_joined(labels, limit=3)}; measure them (tpforge bench --sweep)"
    )


def option_cells(option: Option) -> tuple[str, ...]:
    """An option as the texts under OPTION_HEADER."""
    speed, (low, high) = option.speed, option.tokens_between
    assert speed is not None
    return (
        option.label,
        str(option.num_gpus),
        f"{option.tokens_per_second:.0f}",
        f"{low:.0f}-{high:.0f}",
        f"{option.tokens_per_gpu:.0f}",
        f"{speed.batch}",
        f"{speed.ttft_ms / option.scale:.0f} ms",
        f"{speed.tpot_ms / option.scale:.1f} ms",
        f"{100 * speed.communication_share:.0f} %",
    )


def rejected_rows(options: Sequence[Option]) -> list[tuple[str, str, str]]:
    """Rejected options with the same reason in one row: cause, options, reason."""
    found: dict[tuple[str, str], list[str]] = {}
    for one in options:
        assert one.rejection is not None
        found.setdefault((one.rejection.cause, one.rejection.reason), []).append(one.label)
    return [(cause, _joined(labels), reason) for (cause, reason), labels in found.items()]


def rejected_text(plan: Plan, *, show_all: bool) -> str:
    """The rejected options with their reasons."""
    rows = rejected_rows(plan.rejected)
    if not rows:
        return ""
    shown = rows if show_all else rows[:_SHOWN]
    more = f"\n{len(rows) - len(shown)} more reasons: --all" if len(rows) > len(shown) else ""
    title = f"rejected: {len(plan.rejected)} options"
    return f"{title}\n{table(shown, header=('for', 'options', 'reason'))}{more}"


def advice_text(plan: Plan) -> str:
    """What the rules say, a line each."""
    return "\n".join(f"{one.level}: {one.text} [{one.rule}]" for one in plan.advice)


def _joined(labels: Sequence[str], *, limit: int = 2) -> str:
    named = "; ".join(labels[:limit])
    return named if len(labels) <= limit else f"{named}; {len(labels) - limit} more"
