"""The page of an acceptance: every claim with what was seen. It tries nothing."""

from __future__ import annotations

from typing import Any

from scripts.reports.texts import cell


def acceptance_page(record: dict[str, Any]) -> str:
    """Markdown of the record of `tpforge accept`."""
    host, claims = record["host"], record["claims"]
    held, failed, skipped = (
        sum(claim["verdict"] == verdict for claim in claims) for verdict in ("held", "failed", "skipped")
    )
    minutes = sum(claim["seconds"] for claim in claims) / 60
    over = "" if record["is_over"] else " The time was over before all was tried: the same command goes on."
    rows = [
        f"| {claim['name']} | {cell(claim['claimed'])} | **{claim['verdict']}**: {cell(claim['seen'])} "
        f"| {claim['seconds']:g} s | {claim['log'] or ''} |"
        for claim in claims
    ]
    lines = [
        f"# tpforge {record['tpforge']} on {cell(', '.join(host['gpus']) or 'a host without a GPU')}",
        "",
        f"{held} of {len(claims)} claims held, {failed} failed, {skipped} not tried; {minutes:.1f} min of at "
        f"most {record['budget_min']:g}.{over} Model: {cell(record['model'])}. "
        f"Driver {cell(host['driver'] or 'none')}, CUDA {cell(host['cuda'] or 'none')}; "
        + ", ".join(f"{cell(name)} {cell(version)}" for name, version in host["packages"].items())
        + f". Runtime {host['auto']['runtime']}: {cell(host['auto']['because'])}.",
        "",
        "| claim | what was claimed | what was seen | time | log |",
        "|---|---|---|---|---|",
        *rows,
    ]
    return "\n".join(lines) + "\n"
