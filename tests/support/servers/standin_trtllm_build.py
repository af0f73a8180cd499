"""A stand-in for trtllm-build, generated from the table of a release: it parses, and writes empty engines.

It is no TensorRT-LLM: it proves that our command lines are those that the table's parser takes, and gives the
steps after a build something to check. The parser of the release itself is the judge later.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tpforge.trtllm.argument_tables import build_arguments
from tpforge.trtllm.versions import find_release

_PROGRAM = """#!{python}
import argparse, json, os, pathlib, sys
TABLE = json.loads({table!r})
BEHAVIOUR = json.loads({behaviour!r})
parser = argparse.ArgumentParser(prog="trtllm-build", allow_abbrev=False)
for one in TABLE:
    names = ["--" + name for name in (one["name"], *one["aliases"])]
    if one["type"] == "flag":
        parser.add_argument(*names, dest=one["name"], action="store_true")
    elif one["type"] == "list":
        parser.add_argument(*names, dest=one["name"], nargs="+", choices=one["choices"] or None)
    elif one["type"] == "switch":
        parser.add_argument(*names, dest=one["name"], choices=["enable", "disable"], default=one["default"])
    else:
        kind = int if one["type"] == "int" else str
        parser.add_argument(
            *names, dest=one["name"], type=kind, choices=one["choices"] or None, default=one["default"]
        )
arguments = vars(parser.parse_args())
for line in BEHAVIOUR.get("log", []):
    print(line)
if BEHAVIOUR.get("status"):
    sys.exit(BEHAVIOUR["status"])
config = json.loads((pathlib.Path(arguments["checkpoint_dir"]) / "config.json").read_text())
out = pathlib.Path(arguments["output_dir"])
out.mkdir()
plain = {{"enable": True, "disable": None}}
build = {{
    name: plain.get(value, value) if isinstance(value, str) else value for name, value in arguments.items()
}}
plugins = {{name: build.pop(name) for name in list(build) if name in BEHAVIOUR["plugins"]}}
build |= BEHAVIOUR.get("build_config", {{}})
(out / "config.json").write_text(
    json.dumps(
        {{
            "version": BEHAVIOUR["version"],
            "pretrained_config": config,
            "build_config": {{**build, "plugin_config": plugins}},
        }}
    )
)
for rank in range(config["mapping"]["world_size"] - BEHAVIOUR.get("missing_ranks", 0)):
    (out / f"rank{{rank}}.engine").write_bytes(b"stand-in")
"""
LOG = (
    "[TensorRT-LLM] TensorRT-LLM version: 1.2.1",
    "[11/24/2026-02:00:00] [TRT-LLM] [W] Provided max_seq_len is small",
    "[11/24/2026-02:00:01] [TRT] [I] Total Weights Memory: 1048576 bytes",
    "[11/24/2026-02:00:02] [TRT-LLM] [I] Build phase peak memory: 31245.09 MB, children: 18.50 MB",
    "[11/24/2026-02:01:37] [TRT-LLM] [I] Total time of building all engines: 00:01:35",
)


def write_standin(folder: Path, *, trtllm: str = "1.2.1", **behaviour: object) -> Path:
    """Write an executable ``trtllm-build`` into `folder`, which goes on PATH; the program's path."""
    table = build_arguments(find_release(trtllm))
    rows = [one.model_dump(mode="json") for one in table]
    plugins = [one.name for one in table if one.group in ("plugins", "features")]
    behaviour = {"version": trtllm, "log": LOG, "plugins": plugins, **behaviour}
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "trtllm-build"
    program.write_text(
        _PROGRAM.format(python=sys.executable, table=json.dumps(rows), behaviour=json.dumps(behaviour))
    )
    program.chmod(0o755)
    return program
