"""A stand-in for an installed tensorrt_llm: a package of ours with the interfaces that learning asks.

It is no TensorRT-LLM and runs no model. Its arguments are a few of upstream's, by name, and one that nobody
knows.
"""

from __future__ import annotations

import json
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LLM_ARGS = """
import enum
from typing import Annotated, Any, Dict, List, Literal, Optional, Union
from pydantic import BaseModel, ConfigDict, Field, PositiveInt

print("[TensorRT-LLM] a line that an import prints")

class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")

class Policy(str, enum.Enum):
    MAX_UTILIZATION = "MAX_UTILIZATION"
    STATIC_BATCH = "STATIC_BATCH"

class SchedulerConfig(Strict):
    capacity_scheduler_policy: Policy = Policy.STATIC_BATCH

class KvCacheConfig(Strict):
    dtype: str = "auto"
    free_gpu_memory_fraction: Optional[float] = Field(0.9, ge=0, le=1)
    max_attention_window: Optional[List[PositiveInt]] = None
    use_kv_cache_manager_v2: Union[bool, Literal["auto"]] = "auto"

class MTP(Strict):
    decoding_type: Literal["MTP"] = "MTP"
    max_draft_len: Optional[int] = Field(None, ge=0)
    relaxed_topk: int = 1

class NGram(Strict):
    decoding_type: Literal["NGram"] = "NGram"
    max_draft_len: Optional[int] = Field(None, ge=0)
    relaxed_topk: int = 5
    window: PositiveInt

class TorchLlmArgs(Strict):
    model: str
    backend: Literal["pytorch"] = Field("pytorch", json_schema_extra={"status": "deprecated"})
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    moe_expert_parallel_size: Optional[int] = None
    max_batch_size: Optional[int] = 2048
    max_input_len: Optional[int] = 1024
    max_seq_len: Optional[int] = None
    max_num_tokens: Optional[int] = 8192
    max_beam_width: Optional[int] = 1
    dtype: str = "auto"
    enable_chunked_prefill: bool = False
    kv_cache_config: KvCacheConfig = KvCacheConfig()
    scheduler_config: SchedulerConfig = SchedulerConfig()
    speculative_config: Optional[Annotated[Union[MTP, NGram], Field(discriminator="decoding_type")]] = None
    load_balancer: Optional[Union[Dict[str, int], str]] = None
    anything: Any = None
    warp_drive: Literal["off", "slow", "fast"] = Field("off", json_schema_extra={"status": "prototype"})
"""
_BUILD = """
import argparse
import sys

def parse_arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint_dir", type=str)
    parser.add_argument("--max_batch_size", type=int, default=4096)
    parser.add_argument("--gemm_plugin", choices=["auto", "fp8", "fp2"], default="auto")
    parser.add_argument("--fast_build", action="store_true")
    parser.add_argument("--warp_plugin", type=str, default=None, choices=["on", "off"])
    args = parser.parse_args()
    sys.exit("a stand-in builds nothing")
"""
_SERVE = """
import click

@click.command("serve")
@click.argument("model")
@click.option("--port", type=int, default=8000)
@click.option("--tool_parser", type=click.Choice(["auto", "qwen3"]), default=None)
def serve(model, port, tool_parser): ...

@click.command("disaggregated")
@click.option("-c", "--config_file", default=None)
def disaggregated(config_file): ...

main = click.Group(commands={"serve": serve, "disaggregated": disaggregated})
"""
_MODELS = """
import torch_that_is_not_there

def register_auto_model(name):
    return lambda kind: kind

@register_auto_model("WarpForCausalLM")
@register_auto_model("LlamaForCausalLM")
class Warp: ...
"""


@dataclass(frozen=True)
class StandIn:
    """Where the package lies, and a program that starts a Python which has it."""

    folder: Path
    python: Path

    @property
    def package(self) -> Path:
        """The package's own folder."""
        return self.folder / "tensorrt_llm"


def write_standin(
    folder: Path, *, version: str = "1.9.9", schema: bool = True, engines: bool = False
) -> StandIn:
    """An installation: with the JSON schema that ships from 1.4 on, or models alone; with trtllm-build."""
    files = {
        "__init__.py": "raise ImportError('libcuda.so.1: cannot open shared object file')\n"
        if schema
        else "",
        "version.py": f'__version__ = "{version}"\n',
        "llmapi/__init__.py": "",
        "llmapi/llm_args.py": _LLM_ARGS,
        "commands/__init__.py": "",
        "commands/serve.py": _SERVE,
        "_torch/models/modeling_warp.py": _MODELS,
    }
    files |= {"commands/build.py": _BUILD} if engines else {}
    for name, text in files.items():
        path = folder / "tensorrt_llm" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    torch = folder / "torch"
    torch.mkdir()
    (torch / "__init__.py").write_text("raise ImportError('no GPU')\n", encoding="utf-8")
    (torch / "version.py").write_text("cuda: str = '13.2'\n", encoding="utf-8")
    if schema:
        (folder / "tensorrt_llm" / "schemas").mkdir()
        text = json.dumps(standin_schema())
        (folder / "tensorrt_llm" / "schemas" / "trtllm-serve-config.schema.json").write_text(text)
    python = executable(folder / "python", f'PYTHONPATH={folder} exec {sys.executable} "$@"')
    return StandIn(folder, python)


def standin_schema() -> dict[str, Any]:
    """The JSON schema that pydantic writes of the stand-in's arguments."""
    names: dict[str, Any] = {"print": lambda *_: None}
    exec(compile(_LLM_ARGS, "standin", "exec", dont_inherit=True), names)  # our own text, above
    schema: dict[str, Any] = names["TorchLlmArgs"].model_json_schema()
    return schema


def write_docker(folder: Path, standin: StandIn) -> Path:
    """A stand-in for docker that writes down what it is asked, and runs our Python for any image."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "asked"
    text = f'printf "%s\\n" "$@" >> {log}\n[ "$1" = run ] || exit 0\n'
    text += f'while [ "$1" != -c ]; do shift; done\nexec {standin.python} "$@"'
    executable(folder / "docker", text)
    return log


def executable(path: Path, text: str) -> Path:
    """A shell script that may be run."""
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path
