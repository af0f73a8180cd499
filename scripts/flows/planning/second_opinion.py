"""A second opinion on a plan: aiconfigurator 0.12.0 in an environment of its own, asked as a program.

It is never imported: its dependencies would be ours. Only what it prints is read. The package is deprecated,
and aisimulate succeeds it: that is experimental by its own page, and its package on PyPI fetches the real one
from pypi.nvidia.com, so that it was not tried.
Source: aiconfigurator 0.12.0 (NVIDIA, Apache-2.0), `aiconfigurator cli estimate --help`.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tpforge.errors import EnvironmentUnusable
from tpforge.plan.choice.choose import Plan
from tpforge.plan.options.option import Option

_SYSTEMS = {
    "a30": "a30",
    "a100-pcie-80gb": "a100_pcie",
    "a100-sxm-80gb": "a100_sxm",
    "b200": "b200_sxm",
    "b300": "b300_sxm",
    "gb200": "gb200",
    "gb300": "gb300",
    "h100-pcie": "h100_pcie",
    "h100-sxm": "h100_sxm",
    "h200-sxm": "h200_sxm",
    "l4": "l4",
    "l40s": "l40s",
    "rtx-pro-6000": "rtx_pro_6000_server",
}
_MODES = {None: "bfloat16", "fp8": "fp8", "int8_wo": "int8_wo", "int4_awq": "int4_wo", "nvfp4": "nvfp4"}
_TIMEOUT_S = 120
_INSTALL = (
    "make an environment of its own and `pip install aiconfigurator==0.12.0` in it (deprecated; aisimulate, "
    "which succeeds it, was not tried)"
)


@dataclass(frozen=True)
class Opinion:
    """What it estimates of one replica of the chosen option."""

    version: str
    tokens_per_second_per_gpu: float
    ttft_ms: float
    tpot_ms: float


def ask(program: str, plan: Plan, *, config: dict[str, Any]) -> Opinion | str:
    """Its estimate of the chosen option with the same batch; or why it has none.

    Raises:
        EnvironmentUnusable: the program is not there, or does not end.
    """
    found = shutil.which(program)
    if found is None:
        raise EnvironmentUnusable(f"--estimator {program}: no such program; {_INSTALL}")
    if (system := _SYSTEMS.get(plan.cluster.gpu.name)) is None:
        return f"it has no system for {plan.cluster.gpu.title}"
    if plan.chosen.weight_format not in _modes(plan):
        return f"it has no mode for {plan.chosen.weight_format}"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config), encoding="utf-8")
        words = [found, *arguments(plan.chosen, plan, system=system, model=folder)]
        try:
            ended = subprocess.run(words, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise EnvironmentUnusable(f"--estimator {program}: gave no answer in {_TIMEOUT_S} s") from error
    opinion = parse(ended.stdout)
    if opinion is None:
        last = (ended.stderr or ended.stdout).strip().splitlines()[-1:] or ["no output"]
        return f"it gave no estimate (exit status {ended.returncode}): {last[0]}"
    return opinion


def _modes(plan: Plan) -> set[str | None]:
    """The formats it knows; not INT8 for experts."""
    return set(_MODES) - ({"int8_wo"} if plan.blueprint.model.moe is not None else set())


def arguments(option: Option, plan: Plan, *, system: str, model: str) -> list[str]:
    """The words after the program's name."""
    assert option.speed is not None
    load, mapping = plan.ask.load, option.mapping
    kv = "bfloat16" if option.kv_dtype == option.dtype.value else option.kv_dtype
    values = {
        "model-path": model,
        "system": system,
        "backend": "trtllm",
        "isl": load.input_tokens,
        "osl": load.output_tokens,
        "batch-size": option.speed.batch,
        "tp-size": mapping.tp_size,
        "pp-size": mapping.pp_size,
        "gemm-quant-mode": _MODES[option.weight_format],
        "kvcache-quant-mode": kv,
    }
    if plan.blueprint.model.moe is not None:
        values |= {
            "moe-tp-size": mapping.moe_tp_size,
            "moe-ep-size": mapping.moe_ep_size,
            "moe-quant-mode": _MODES[option.weight_format],
        }
    words = [word for name, value in values.items() for word in (f"--{name}", str(value))]
    return ["cli", "estimate", *words, "--no-color", "--log-level", "ERROR"]


def parse(text: str) -> Opinion | None:
    """The estimate in what it printed; None when there is none."""
    wanted = {"ttft": r"TTFT", "tpot": r"TPOT", "per_gpu": r"tokens/s/gpu"}
    found = {
        name: re.search(rf"^\s*{label}:\s+([\d,.]+)", text, re.MULTILINE) for name, label in wanted.items()
    }
    backend = re.search(r"^\s*Backend:\s+(.+)$", text, re.MULTILINE)
    if any(match is None for match in found.values()):
        return None
    values = {name: float(match[1].replace(",", "")) for name, match in found.items() if match is not None}
    return Opinion(
        version=backend[1].strip() if backend else "unknown",
        tokens_per_second_per_gpu=values["per_gpu"],
        ttft_ms=values["ttft"],
        tpot_ms=values["tpot"],
    )


def said(opinion: Opinion | str, option: Option) -> str:
    """One line that sets it beside ours."""
    if isinstance(opinion, str):
        return f"aiconfigurator: {opinion}"
    assert option.speed is not None
    return (
        f"aiconfigurator ({opinion.version}): {opinion.tokens_per_second_per_gpu:.0f} tokens/s per GPU, "
        f"{opinion.tpot_ms:.1f} ms per token, {opinion.ttft_ms:.0f} ms to the first; "
        f"here {option.tokens_per_gpu:.0f}, {option.speed.tpot_ms / option.scale:.1f}, "
        f"{option.speed.ttft_ms / option.scale:.0f}"
    )
