"""`tpforge completion`: what a shell reads to complete commands, options and names."""

from __future__ import annotations

import click

from scripts.cli.options.common import DEBUG, JSON
from scripts.cli.output import Output


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@JSON
@DEBUG
def command(shell: str, as_json: bool) -> None:
    """Print the script that completes tpforge in a shell: bash, zsh or fish.

    bash, in ~/.bashrc: eval "$(tpforge completion bash)". zsh, in ~/.zshrc: eval "$(tpforge completion zsh)".
    fish: tpforge completion fish > ~/.config/fish/completions/tpforge.fish. Engines under out/, models, GPUs,
    formats and releases are completed by their names.
    """
    from click.shell_completion import get_completion_class

    from scripts.cli.completion import VARIABLE

    output = Output(as_json=as_json)
    found = get_completion_class(shell)
    assert found is not None
    script = found(click.Command("tpforge"), {}, "tpforge", VARIABLE).source()
    output.result(script)
    output.record("completion", {"shell": shell, "script": script})
