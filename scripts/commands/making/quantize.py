"""`tpforge quantize`: a quantized Hugging Face checkpoint, by calibration."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from scripts.cli.options.common import DEBUG, FORCE, JSON, MODEL, SIZE
from scripts.cli.output import Output
from tpforge.units import format_bytes


@click.command("quantize")
@MODEL
@click.option("--format", "format_name", required=True, metavar="FORMAT", help="int4_awq, int8_sq or fp8.")
@click.option("--group-size", type=SIZE, help="Inputs that share a scale, for int4_awq.  [default: 128]")
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Text to calibrate with, paragraphs divided by empty lines.  [default: the passages that ship]",
)
@click.option("--samples", type=SIZE, default=32, show_default=True, help="Paragraphs to use.")
@click.option("--seq-len", type=SIZE, default=512, show_default=True, help="Tokens of each.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Where to write.")
@FORCE
@JSON
@DEBUG
def command(model: str, out: Path, force: bool, as_json: bool, **values: Any) -> None:
    """Quantize a model by calibration with nvidia-modelopt.

    The result is a Hugging Face checkpoint to build from. MODEL is a Hugging Face directory, a hub id (with
    @revision), a .gguf file of a llama, or `demo`.
    nvidia-modelopt is installed on first use, in an environment of its own. Formats that need no calibration
    are made by `tpforge build --quantize`; `tpforge formats` lists them all.
    """
    from scripts.flows.calibrate import Calibration, Wish, quantize_model

    output = Output(as_json=as_json)
    wish = Wish(values["format_name"], values["group_size"], values["device"])
    calibration = Calibration(values["calibration"], values["samples"], values["seq_len"])
    made = quantize_model(model, wish, calibration, out=out, force=force, progress=output.progress)
    size = sum(path.stat().st_size for path in out.iterdir())
    seconds, peak = made["quantize_s"], format_bytes(int(made["peak_rss_bytes"]))
    output.result(f"{out}: {wish.format}, {format_bytes(size)}; quantized in {seconds} s, peak memory {peak}")
    output.result(f"perplexity of modelopt's own model: {made['own_perplexity']:.3f}")
    quoted = shlex.quote(str(out)), shlex.quote(model)
    output.result("next: tpforge build {} --tp N; then tpforge verify --baseline {}".format(*quoted))
    output.record("quantization", {"path": str(out), **made})
