"""`tpforge setup`: what is installed on demand."""

from __future__ import annotations

import click

from scripts.cli.options.common import DEBUG, JSON
from scripts.cli.output import Output


@click.group("setup")
def command() -> None:
    """Install what only some need, in environments of their own."""


@command.command("openai")
@JSON
@DEBUG
def openai(as_json: bool) -> None:
    """Install NVIDIA Dynamo, whose front speaks OpenAI's and KServe's protocols.

    Pinned packages with their hashes, 750 MB on disk, in a folder of the user's own
    ($XDG_DATA_HOME/tpforge, else ~/.local/share/tpforge); a second run does nothing. Then: `tpforge serve
    --openai`.
    """
    from triton_repo.openai.environment import pinned_version
    from triton_repo.openai.install import install

    output = Output(as_json=as_json)
    folder, is_new = install(progress=output.progress)
    done = "installed in" if is_new else "is there:"
    output.result(f"NVIDIA Dynamo {pinned_version()} {done} {folder}")
    output.record("openai", {"version": pinned_version(), "folder": str(folder), "installed": is_new})
