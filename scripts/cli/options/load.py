"""The load that a plan is made for: lengths, rate and limits of its requests, as several commands take them.

Loads that are run against a server are `tpforge bench`'s own.
"""

from __future__ import annotations

import click

from scripts.cli.options.common import SIZE, Amount

ABOVE_ZERO = Amount(min=0, min_open=True)

ISL = click.option("--isl", type=SIZE, default=1000, show_default=True, help="Tokens of a prompt.")
OSL = click.option("--osl", type=SIZE, default=1000, show_default=True, help="Tokens of an answer.")
RATE = click.option(
    "--rate", type=ABOVE_ZERO, help="Requests a second that must be served, instead of --concurrency."
)
SATURATED = click.option(
    "--saturated", is_flag=True, help="Run as many requests at once as fit, however slow each is."
)
MAX_LEN = click.option("--max-len", type=SIZE, help="Longest request that must fit.  [default: isl + osl]")
TTFT_MS = click.option("--ttft-ms", type=ABOVE_ZERO, help="Most milliseconds to the first token.")
TPOT_MS = click.option("--tpot-ms", type=ABOVE_ZERO, help="Most milliseconds per token after it.")
