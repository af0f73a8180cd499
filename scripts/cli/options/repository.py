"""How an engine is served: the options of its Triton model repository. It renders nothing."""

from __future__ import annotations

import click

from scripts.cli.options.common import COUNT, SIZE, Decorator, together


def repository_options() -> Decorator:
    """How an engine is served: the options of its Triton model repository."""
    return together(
        click.option(
            "--embed-engine", is_flag=True, help="Put the engine inside, so that the repository can be moved."
        ),
        _switch("decoupled", "Allow streaming.", default=True),
        click.option(
            "--executor",
            type=click.Choice(["auto", "lockstep", "processes"]),
            default="auto",
            show_default=True,
            help="All ranks in one process, or one process per rank.",
        ),
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:0, ..."),
        click.option(
            "--compute-dtype",
            type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
            default="auto",
            show_default=True,
            help="Type of the arithmetic.",
        ),
        click.option("--num-threads", type=SIZE, help="Threads of a rank on the CPU.  [default: torch's]"),
        click.option(
            "--max-batch-size", type=SIZE, help="Requests in flight at once.  [default: the engine's]"
        ),
        click.option(
            "--max-queue-size",
            type=COUNT,
            help="Requests that may wait; 0 is no limit.  [default: 16 for each of the batch]",
        ),
        click.option(
            "--preprocessing-instances", type=SIZE, default=2, show_default=True, help="Tokenizing processes."
        ),
        _switch("add-special-tokens", "Add the tokenizer's special tokens to prompts.", default=True),
        _switch("skip-special-tokens", "Leave special tokens out of answers.", default=True),
        _switch("exclude-input-in-output", "Leave the prompt out of answers unless asked.", default=False),
        _switch("accumulate-tokens", "Make tensorrt_llm_bls stream the text so far.", default=False),
        click.option(
            "--cancellation-check-period-ms",
            type=SIZE,
            default=100,
            show_default=True,
            help="How often to look for cancelled requests.",
        ),
        click.option(
            "--stats-check-period-ms",
            type=SIZE,
            default=100,
            show_default=True,
            help="How often metrics are updated.",
        ),
        click.option(
            "--max-queue-delay-microseconds",
            type=COUNT,
            default=0,
            show_default=True,
            help="tensorrt: how long Triton waits for a fuller batch.",
        ),
        click.option(
            "--parameter",
            "parameters",
            multiple=True,
            metavar="KEY=VALUE",
            help="tensorrt: a parameter of upstream's config.pbtxt; may be repeated.",
        ),
        click.option(
            "--stand-in",
            is_flag=True,
            help="tensorrt: serve tensorrt_llm by the reference runtime, to try it without a GPU.",
        ),
        click.option(
            "--front",
            type=click.Choice(["llmapi", "inflight"]),
            default="llmapi",
            show_default=True,
            help="pytorch: tensors that clients see, upstream's llmapi or those of compiled engines.",
        ),
    )


def _switch(name: str, help_text: str, *, default: bool) -> Decorator:
    return click.option(f"--{name}/--no-{name}", default=default, show_default=True, help=help_text)
