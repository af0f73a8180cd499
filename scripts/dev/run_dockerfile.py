"""Runs the steps of a Dockerfile in a root directory by chroot, where there is no container engine.

It knows COPY (from another image out of a folder that is given), RUN, ENV, WORKDIR, USER and CMD; FROM is the
root that is given (debootstrap makes one). It is how the image of `tpforge deploy` was proven on a machine
without Docker; it isolates nothing but the files.

    python -m scripts.dev.run_dockerfile DOCKERFILE ROOT [--context DIR] [--from IMAGE=DIR]...
        [--env NAME=VALUE]... [-- COMMAND...]
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from tpforge.errors import InputRefused, VerificationFailed

_FROM = "--from="
_KNOWN = ("FROM", "COPY", "RUN", "ENV", "WORKDIR", "USER", "EXPOSE", "CMD")


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """Each instruction with its arguments; comments are left out and continued lines joined.

    Raises:
        InputRefused: one that is not known here.
    """
    joined = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    for line in joined.replace("\\\n", " ").splitlines():
        name, _, rest = line.strip().partition(" ")
        if not name:
            continue
        if name not in _KNOWN:
            raise InputRefused(
                f"{name}: is not an instruction that can be run here; known: {', '.join(_KNOWN)}"
            )
        yield name, rest.strip()


def run(
    dockerfile: Path,
    root: Path,
    *,
    context: Path,
    environment: Mapping[str, str],
    command: tuple[str, ...],
    images: Mapping[str, Path] | None = None,
) -> None:
    """Do every step; then the command, as the image's user. `images` are the files of other images, by name.

    Raises:
        InputRefused: a step copies from an image of which no files are given.
        VerificationFailed: a step failed.
    """
    variables = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", **environment}
    folder, user = "/", "0"
    steps = list(instructions(dockerfile.read_text(encoding="utf-8")))
    for number, (name, rest) in enumerate(steps, start=1):
        begun = time.monotonic()
        match name:
            case "COPY":
                *sources, target = rest.split()
                folder_of_sources = _sources(sources, context=context, images=images or {})
                for source in sources:
                    if not source.startswith(_FROM):
                        _copy(folder_of_sources / source.lstrip("/"), root, target)
            case "ENV":
                key, _, value = rest.partition("=")
                variables[key] = value.strip('"')
            case "WORKDIR":
                folder = rest
            case "USER":
                user = rest
            case "RUN":
                _chroot(root, ["/bin/sh", "-c", rest], variables, folder=folder, user=user)
        click.echo(
            f"step {number}/{len(steps)} {name} {rest[:70]} ({time.monotonic() - begun:.1f} s)", err=True
        )
    if command:
        _chroot(root, list(command), variables, folder=folder, user=user)


def _sources(words: list[str], *, context: Path, images: Mapping[str, Path]) -> Path:
    """Where COPY copies from: the context, or the files of another image, whatever its release."""
    other = next((word.removeprefix(_FROM) for word in words if word.startswith(_FROM)), None)
    if other is None:
        return context
    name = re.sub(r"(:[^/@]+)?(@.+)?$", "", other)
    if name not in images:
        raise InputRefused(f"COPY {_FROM}{other}: give its files by --from {name}=FOLDER")
    return images[name]


def _copy(source: Path, root: Path, target: str) -> None:
    place = root / target.lstrip("/")
    if source.is_dir():
        shutil.copytree(source, place, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        return
    if target.endswith("/"):
        place = place / source.name
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, place)


def _chroot(root: Path, words: list[str], variables: Mapping[str, str], *, folder: str, user: str) -> None:
    inside = f"cd {shlex.quote(folder)} && exec {shlex.join(words)}"
    command = ["chroot", f"--userspec={user}:{user}", str(root), "/bin/sh", "-c", inside]
    done = subprocess.run(command, env=dict(variables), stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise VerificationFailed(f"{shlex.join(words)}: exit status {done.returncode}")


@click.command()
@click.argument("dockerfile", type=click.Path(path_type=Path, exists=True))
@click.argument("root", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--context", type=click.Path(path_type=Path), default=Path(), help="What COPY copies from.")
@click.option("--from", "others", multiple=True, metavar="IMAGE=FOLDER", help="For COPY --from=IMAGE.")
@click.option("--env", "pairs", multiple=True, metavar="NAME=VALUE", help="Given to every step.")
@click.argument("command", nargs=-1)
def main(
    dockerfile: Path,
    root: Path,
    context: Path,
    others: tuple[str, ...],
    pairs: tuple[str, ...],
    command: tuple[str, ...],
) -> None:
    """Run DOCKERFILE's steps in ROOT, then COMMAND."""
    environment = dict(pair.split("=", 1) for pair in pairs)
    images = {name: Path(folder) for name, folder in (pair.split("=", 1) for pair in others)}
    run(dockerfile, root, context=context, environment=environment, command=command, images=images)


if __name__ == "__main__":
    sys.exit(main())
