"""Every command: the stage of the work it belongs to, and its short help.

It imports no command: `tpforge --help` prints this table, and a command's module is loaded when it is run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """Commands of one stage, in the order of the work; each is `scripts.commands.FOLDER.NAME`."""

    folder: str
    title: str
    commands: Mapping[str, str]


STAGES = (
    Stage(
        "planning",
        "Plan",
        {
            "inspect": "Show what a checkpoint holds and how it divides over ranks.",
            "plan": "Plan a deployment from a config.json: memory, speed, options, a verdict.",
            "gpus": "List the known GPUs, or how few of each kind a model and a load need.",
            "formats": "List the quantization formats and whether a runtime loads them on a GPU.",
            "versions": "Show which TensorRT-LLM goes with which TensorRT, CUDA, driver, container.",
        },
    ),
    Stage(
        "making",
        "Make an engine",
        {
            "convert": "Write a TensorRT-LLM checkpoint: config.json and one file per rank.",
            "build": "Make an engine folder; converts first when needed.",
            "quantize": "Quantize a model by calibration with nvidia-modelopt.",
            "verify": "Prove an engine against its source and against transformers.",
            "migrate": "Map an engine's or llm.yaml's settings to a release of the LLM API, as a table.",
            "engines": "List, show, check, remove, push or pull engine folders.",
        },
    ),
    Stage(
        "serving",
        "Serve it",
        {
            "render": "Write the Triton model repository of an engine.",
            "serve": "Start Triton on an engine and wait until it answers.",
            "deploy": "Write what runs an engine on a host, a cluster or a Slurm partition.",
            "disaggregate": "Write what serves prompts and answers on GPUs of their own, by trtllm-serve.",
            "promote": "Make an engine the active one, and go back if it does not keep its limits.",
            "stop": "Stop a server that `serve --detach` started.",
            "status": "Show the servers that run, and whether they answer.",
            "logs": "Show the log of a server, running or not.",
            "smoke": "Prove over gRPC, or OpenAI's HTTP, that a server keeps its contract.",
            "generate": "Ask a server one prompt or one chat message.",
        },
    ),
    Stage(
        "measuring",
        "Measure and decide",
        {
            "bench": "Measure a server under load and record it.",
            "evaluate": "Measure the quality of answers, and compare it with a baseline.",
            "compare": "Show runs side by side, with a verdict per metric.",
            "decide": "Write a decision record from measured runs.",
            "diagnose": "Look for the known failure modes, with evidence, cause and what to do.",
        },
    ),
    Stage(
        "whole_way",
        "The whole way",
        {
            "up": "Do all of a recipe: build, verify, render, serve, smoke.",
            "demo": "Take the demo model the whole way, ask it a question, stop.",
            "demo-model": "Fetch the demo model and print its path.",
        },
    ),
    Stage(
        "host",
        "This host",
        {
            "doctor": "Show what this host can do: GPUs, links, driver, containers, TensorRT-LLM, Triton.",
            "accept": "Try every claim about this host, and write what was claimed and what was seen.",
            "setup": "Install what only some need, in environments of their own.",
            "config": "Show the defaults that can be set once, and where each value came from.",
            "completion": "Print the script that completes tpforge in a shell: bash, zsh or fish.",
        },
    ),
)

COMMANDS: Mapping[str, str] = {name: text for stage in STAGES for name, text in stage.commands.items()}
"""Every command with its short help, which is the first sentence of its own."""


def module_of(name: str) -> str:
    """The module whose attribute `command` is the command `name`."""
    (folder,) = (stage.folder for stage in STAGES if name in stage.commands)
    return f"scripts.commands.{folder}.{name.replace('-', '_')}"
