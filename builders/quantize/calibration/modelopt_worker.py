"""Runs nvidia-modelopt on a Hugging Face directory: a script for the environment of `modelopt`, not imported.

It needs torch, transformers 4.57 and nvidia-modelopt 0.47, and nothing of tpforge. Its one argument is a JSON
file: model, out, config (a name in modelopt.torch.quantization), group_size, tokens and windows (lists of ids
to calibrate with, and to score).
"""

from __future__ import annotations

import copy
import json
import math
import resource
import sys
import time
from pathlib import Path
from typing import Any


def main(task: dict[str, Any]) -> None:
    """Quantize, export, and record seconds and peak memory."""
    import modelopt.torch.quantization as quantization
    import torch
    from modelopt.torch.export import export_hf_checkpoint
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(task["model"], torch_dtype="auto", local_files_only=True)
    model.to(task["device"]).eval()
    config = copy.deepcopy(getattr(quantization, task["config"]))
    if task["group_size"]:
        _set_group(config, task["group_size"])
    start = time.monotonic()

    def calibrate(model: Any) -> None:
        with torch.no_grad():
            for number, ids in enumerate(task["tokens"], start=1):
                model(torch.tensor([ids], device=task["device"]))
                print(f"modelopt: {number} of {len(task['tokens'])} samples", flush=True)

    model = quantization.quantize(model, config, calibrate)
    quantized_s = time.monotonic() - start
    print("modelopt: perplexity of its own model", flush=True)
    perplexity = _perplexity(model, task["windows"], device=task["device"])
    print("modelopt: exporting", flush=True)
    with torch.inference_mode():
        export_hf_checkpoint(model, export_dir=task["out"])
    record = {
        "quantize_s": round(quantized_s, 1),
        "own_perplexity": perplexity,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    Path(task["record"]).write_text(json.dumps(record), encoding="utf-8")


def _perplexity(model: Any, windows: list[list[int]], *, device: str) -> float:
    """Of the model that modelopt computes with, so that a loss of the format can be told from one of ours."""
    import torch

    total, count = 0.0, 0
    for ids in windows:
        with torch.inference_mode():
            logits = model(torch.tensor([ids], device=device)).logits[0, :-1].float().cpu()
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum")
        total += float(loss)
        count += len(ids) - 1
    return math.exp(total / count)


def _set_group(config: Any, size: int) -> None:
    """Put the group size of weights into a configuration, whose form changed between releases."""
    parts = config["quant_cfg"]
    found = parts if isinstance(parts, list) else [{"quantizer_name": k, "cfg": v} for k, v in parts.items()]
    for part in found:
        blocks = (part.get("cfg") or {}).get("block_sizes") if isinstance(part.get("cfg"), dict) else None
        if "weight_quantizer" in str(part["quantizer_name"]) and blocks and -1 in blocks:
            blocks[-1] = size


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
