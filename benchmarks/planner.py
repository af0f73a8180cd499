"""How far the planner is from published measurements: fits, bands, tables, figures of docs/planning.md.

``python -m benchmarks.planner`` prints the tables of errors. ``--fit`` fits the free values to the
calibration data (with scipy) and writes the planner's calibration.toml; ``--bands`` takes its bands again.
``--docs`` writes tables and sentences into docs/planning.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import tomli_w

from benchmarks.bands import throughput_bands, time_bands
from benchmarks.fitting import fit_exchange, fit_pipeline, fit_values
from benchmarks.latency import fit_first_token, latency_rows
from benchmarks.measured import Measured
from benchmarks.planner_tables import tables
from benchmarks.published import rows
from benchmarks.sentences import blocks, with_blocks
from scripts.reports.columns import table
from tpforge.outputs.atomic import write_atomic
from tpforge.plan.speed.calibration import Band, Fit, calibration

ROOT = Path(__file__).resolve().parent.parent
TOML = ROOT / "tpforge/plan/speed/calibration.toml"
PAGE = ROOT / "docs/planning.md"
ASSUMED_BAND = (0.6, 1.4)
ASSUMED_BAND_HOSTS = (0.4, 1.4)


def calibration_text(fit: Fit) -> str:
    """calibration.toml."""
    head = [
        "# Written by `python -m benchmarks.planner --fit` from rows in benchmarks/data. Values are fitted",
        "# to planner_calibration.csv, planner_experts_calibration.csv, planner_pipeline_calibration.csv and",
        "# one model of planner_latency.csv.",
        "# Bands are of all others, held out by release, GPU and model (see benchmarks/bands.py); those",
        "# without rows are assumed.",
    ]
    assumed = (
        Band(kind="unmeasured GPU", low=ASSUMED_BAND[0], high=ASSUMED_BAND[1], rows=0),
        Band(kind="modelled load", low=ASSUMED_BAND[0], high=ASSUMED_BAND[1], rows=0),
        Band(kind="several hosts", low=ASSUMED_BAND_HOSTS[0], high=ASSUMED_BAND_HOSTS[1], rows=0),
    )
    found = {
        "measured_gpus": sorted({row.gpu for row in rows("check")}),
        "fit": fit.model_dump(),
        "bands": [band.model_dump(exclude_defaults=True) for band in (*throughput_bands(fit), *assumed)],
        "time_bands": {name: band.model_dump() for name, band in time_bands(fit).items()},
    }
    return "\n".join(head) + "\n" + tomli_w.dumps(found)


def fit_again() -> Fit:
    """All free values."""
    times = [row for row in latency_rows() if row.is_fitted]
    fit = fit_pipeline(fit_exchange(fit_values(rows("calibration"), times)))
    return fit.model_copy(update={"first_token": fit_first_token(fit)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fit", action="store_true", help="fit again and write calibration.toml")
    parser.add_argument("--bands", action="store_true", help="take the bands of the fit again")
    parser.add_argument("--docs", action="store_true", help="write the figures of docs/planning.md")
    given = parser.parse_args()
    fit = fit_again() if given.fit else calibration().fit
    if given.fit or given.bands:
        write_atomic(TOML, calibration_text(fit))
        calibration.cache_clear()
    found = Measured(fit)
    for title, header, cells in tables(found):
        print(f"\n{title}\n{table(cells, header=header) if cells else 'none'}")
    if given.docs:
        write_atomic(PAGE, with_blocks(PAGE.read_text(encoding="utf-8"), blocks(found)))


if __name__ == "__main__":
    main()
