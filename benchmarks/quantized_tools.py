"""Quantizes a Hugging Face directory with the tools that others use, each in an environment of its own.

`ENV/bin/python benchmarks/quantized_tools.py MODEL OUT --tool TOOL --text FILE` on the CPU, where ENV is a
new environment with torch 2.13.0 and what PACKAGES says of the tool. It imports nothing of this project, and
proves nothing: `tpforge build OUT` and `tpforge verify ENGINE --baseline MODEL` do.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.machinery
import re
import sys
import time
import types
from pathlib import Path
from typing import Any

PACKAGES = {
    "llmcompressor": "llmcompressor==0.14.0.1",
    "gptqmodel": "setuptools wheel; then --no-build-isolation gptqmodel==7.0.0 transformers==5.4.0 requests",
    "autoawq": "transformers==4.51.3 accelerate datasets zstandard; then --no-deps autoawq==0.2.9",
}
FP8 = {"fp8-dynamic": "FP8_DYNAMIC", "fp8-block": "FP8_BLOCK", "fp8-static": "FP8"}
SCHEMES = ("gptq", "gptq-static", "rtn", "rtn-zeros", "w8a8", "w8a8-rtn", *FP8)


def main() -> None:
    epilog = "packages: " + " | ".join(f"{tool}: {packages}" for tool, packages in PACKAGES.items())
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], epilog=epilog)
    parser.add_argument("model", type=Path, help="an unquantized Hugging Face directory, with tokenizer.json")
    parser.add_argument("out", type=Path, help="a new folder")
    parser.add_argument("--tool", choices=PACKAGES, required=True)
    parser.add_argument("--scheme", choices=SCHEMES, default="gptq", help="of llmcompressor")
    parser.add_argument("--desc-act", action="store_true", help="of gptqmodel")
    parser.add_argument("--text", type=Path, required=True, help="what is calibrated with")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--group-size", type=int, default=64)
    given = parser.parse_args()
    start = time.monotonic()
    {"llmcompressor": _llmcompressor, "gptqmodel": _gptqmodel, "autoawq": _autoawq}[given.tool](given)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (given.model / name).is_file():
            (given.out / name).write_bytes((given.model / name).read_bytes())
    print(f"{given.out}: {time.monotonic() - start:.0f} s", file=sys.stderr)


def _samples(given: argparse.Namespace) -> list[list[int]]:
    """The first tokens of the text, `seq_len` to a sample."""
    tokenizer = importlib.import_module("tokenizers").Tokenizer.from_file(str(given.model / "tokenizer.json"))
    text = re.sub(" +", " ", given.text.read_text(encoding="utf-8"))
    ids: list[int] = tokenizer.encode(text).ids
    size = given.seq_len
    return [ids[first * size : (first + 1) * size] for first in range(given.samples)]


def _llmcompressor(given: argparse.Namespace) -> None:
    torch = importlib.import_module("torch")
    schemes = importlib.import_module("compressed_tensors.quantization")
    made_by = importlib.import_module("llmcompressor.modifiers.quantization")
    has_zeros = given.scheme == "rtn-zeros"
    weights = {"num_bits": 4, "type": "int", "symmetric": not has_zeros, "strategy": "group"}
    arguments = schemes.QuantizationArgs(group_size=given.group_size, **weights)
    groups = {"group_0": schemes.QuantizationScheme(targets=["Linear"], weights=arguments)}
    kept: dict[str, Any] = {"ignore": ["lm_head"]}
    named = {"targets": "Linear", **kept}
    match given.scheme:
        case "gptq" | "gptq-static":
            order = "static" if given.scheme == "gptq-static" else None
            recipe = made_by.GPTQModifier(config_groups=groups, actorder=order, **kept)
        case "rtn" | "rtn-zeros":
            recipe = made_by.QuantizationModifier(config_groups=groups, **kept)
        case "w8a8":
            recipe = made_by.GPTQModifier(scheme="W8A8", **named)
        case "w8a8-rtn":
            recipe = made_by.QuantizationModifier(scheme="W8A8", **named)
        case other:
            recipe = made_by.QuantizationModifier(scheme=FP8[other], **named)
    rows = _samples(given)
    data = importlib.import_module("datasets").Dataset.from_dict(
        {"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]}
    )
    model = importlib.import_module("transformers").AutoModelForCausalLM.from_pretrained(
        given.model, dtype=torch.bfloat16
    )
    importlib.import_module("llmcompressor").oneshot(
        model=model,
        recipe=recipe,
        dataset=data,
        num_calibration_samples=given.samples,
        max_seq_length=given.seq_len,
    )
    model.save_pretrained(given.out, save_compressed=True)


def _gptqmodel(given: argparse.Namespace) -> None:
    # Its table of models imports torchvision, which is not needed for text; transformers must not see this.
    importlib.import_module("transformers").LlamaForCausalLM  # noqa: B018
    for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional"):
        sys.modules[name] = _Nothing(name)
    tool = importlib.import_module("gptqmodel")
    config = tool.QuantizeConfig(
        bits=4, group_size=given.group_size, desc_act=given.desc_act, sym=True, device="cpu"
    )
    model = tool.GPTQModel.load(str(given.model), config)
    rows = [{"input_ids": row, "attention_mask": [1] * len(row)} for row in _samples(given)]
    model.quantize(rows, batch_size=1, backend=tool.BACKEND.TORCH)
    model.save(str(given.out))


class _Nothing(types.ModuleType):
    """A module that has every name."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = importlib.machinery.ModuleSpec(name, None)
        self.__path__: list[str] = []

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return object


def _autoawq(given: argparse.Namespace) -> None:
    """It takes lines no longer than `seq_len` tokens; its slow search for clipping is left out."""
    torch = importlib.import_module("torch")
    # It scales weights in place and restores them from `.cpu()`, which is no copy of what is there already.
    torch.Tensor.cpu = lambda tensor: tensor.detach().to("cpu", copy=True)
    tool = importlib.import_module("awq").AutoAWQForCausalLM
    fast = importlib.import_module("transformers").PreTrainedTokenizerFast
    tokenizer = fast(tokenizer_file=str(given.model / "tokenizer.json"))
    model = tool.from_pretrained(str(given.model), device_map="cpu", torch_dtype=torch.float32)
    model.quantize(
        tokenizer,
        quant_config={"zero_point": True, "q_group_size": given.group_size, "w_bit": 4, "version": "GEMM"},
        calib_data=[tokenizer.decode(row[: given.seq_len // 2]) for row in _samples(given)],
        max_calib_samples=given.samples,
        max_calib_seq_len=given.seq_len,
        apply_clip=False,
    )
    model.save_quantized(str(given.out))


if __name__ == "__main__":
    main()
