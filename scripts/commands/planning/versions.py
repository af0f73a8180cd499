"""`tpforge versions`: the releases of TensorRT-LLM, what belongs to each, and what an installed one says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scripts.cli.options.common import DEBUG, FORCE, JSON, VERSION
from scripts.cli.output import Output
from scripts.reports.columns import table
from tpforge.errors import UsageError
from tpforge.trtllm.versions import Release, find_release
from tpforge.units import counted

if TYPE_CHECKING:
    from scripts.flows.versions import Known, Learning

_PATH = click.Path(path_type=Path)


@click.command("versions")
@click.option(
    "--trtllm",
    type=VERSION,
    metavar="VERSION",
    help="Show one release with its arguments; with --learn, ask it.",
)
@click.option("--learn", is_flag=True, help="Ask an installed TensorRT-LLM, and keep what it says.")
@click.option(
    "--container", type=click.Choice(["docker", "podman"]), help="--learn: ask the release's container."
)
@click.option("--image", help="--learn: another container than the release's.")
@click.option("--python", metavar="PATH", help="--learn: the Python that has it.  [default: this one]")
@click.option(
    "--learned", "source", type=_PATH, metavar="FILE", help="--learn: take what another host's --out wrote."
)
@click.option("--out", type=_PATH, metavar="FILE", help="--learn: write it here too, for other hosts.")
@FORCE
@JSON
@DEBUG
def command(trtllm: str | None, learn: bool, as_json: bool, **values: Any) -> None:
    """Show which TensorRT-LLM goes with which TensorRT, CUDA, driver, container.

    With --trtllm everything that is known of one release, the arguments of trtllm-build and of the LLM API
    included. It is a table, compared with upstream's documents; it does not look at this machine, which
    `tpforge doctor` does.

    With --learn an installed TensorRT-LLM is asked instead, here or in a container: version, arguments,
    options of its programs, architectures. What it says is kept in the user's data folder, and goes before
    the tables from then on; so a release that no table knows works too. Nothing is sent anywhere.
    """
    from scripts.flows import versions

    output = Output(as_json=as_json)
    if learn:
        _print_learned(output, versions.learn(trtllm=trtllm, **values))
        return
    if foreign := [name for name, value in values.items() if value]:
        names = sorted(f"--{'from' if name == 'source' else name}" for name in foreign)
        raise UsageError(f"{', '.join(names)}: only with --learn")
    if trtllm is None:
        _print_all(output, versions.known())
        return
    _print_one(output, find_release(trtllm))


def _print_all(output: Output, known: Known) -> None:
    rows = [
        (
            release.trtllm,
            "candidate" if release.is_candidate else "stable",
            release.tensorrt or "-",
            release.cuda or "-",
            release.driver or "-",
            release.torch or "-",
            release.triton[-1] if release.triton else "-",
            "yes" if release.engines else "no",
            ", ".join(release.runtimes) or "-",
            _sure(release),
        )
        for release in known.releases
    ]
    header = (
        "TensorRT-LLM",
        "kind",
        "TensorRT",
        "CUDA",
        "driver",
        "torch",
        "Triton",
        "trtllm-build",
        "tpforge prepares",
        "arguments",
    )
    output.result(table(rows, header=header))
    for line in _age(known):
        output.note(line)
    output.record(
        "versions",
        {
            "releases": [_fields(release) for release in known.releases],
            "read": known.read.isoformat(),
            "days_old": known.days,
            "newest_stable": known.stable.trtllm,
            "newest_candidate": known.candidate.trtllm if known.candidate else None,
        },
    )


def _age(known: Known) -> list[str]:
    """What a reader of the table should know of it."""
    stable, candidate = known.stable, known.candidate
    lines = [
        f"the tables were compared with upstream on {known.read}, {counted(known.days, 'day')} ago; "
        "`tpforge versions --learn` asks an installed release itself",
        f"newest stable: {stable.trtllm}, in {_images(stable)}",
    ]
    if candidate is not None:
        lines.append(f"newest candidate: {candidate.trtllm}, in {_images(candidate)}")
    return lines


def _images(release: Release) -> str:
    return f"{release.image or 'no Triton container'}, and {release.release_image}"


def _sure(release: Release) -> str:
    if release.learned is not None:
        return "learned"
    return release.arguments_sure if release.llm_arguments else "-"


def _print_one(output: Output, release: Release) -> None:
    from tpforge.trtllm.argument_tables import build_arguments, llm_arguments

    build = build_arguments(release) if release.build_arguments else ()
    llm = llm_arguments(release) if release.llm_arguments else ()
    fields = _fields(release)
    shown = {key: value for key, value in fields.items() if value not in (None, "", [])}
    lines = [
        (key, ", ".join(value) if isinstance(value, list) else str(value)) for key, value in shown.items()
    ]
    output.result(table(lines, header=("what", "value")))
    for title, arguments in (("trtllm-build", build), ("LLM API", llm)):
        if arguments:
            rows = [
                (
                    one.name,
                    _shortened(one.type_text),
                    one.default_text,
                    one.status or "stable",
                    "" if one.sure else "not sure",
                    one.meaning,
                )
                for one in arguments
            ]
            output.result(f"\n{title}: {len(rows)} arguments")
            header = ("argument", "type", "default", "status", "sure", "meaning")
            output.result(table(rows, header=header))
    output.record(
        "release",
        {
            **fields,
            "build_arguments": [one.model_dump(mode="json") for one in build],
            "llm_arguments": [one.model_dump(mode="json") for one in llm],
        },
    )


def _print_learned(output: Output, learning: Learning) -> None:
    learned = learning.learned
    build, serve = learned.build_options, learned.serve_options
    rows = [
        ("TensorRT-LLM", learned.trtllm),
        ("asked", learned.where),
        (
            "packages",
            ", ".join(f"{name} {version}" for name, version in sorted(learned.packages.items())) or "-",
        ),
        ("LLM API", f"{len(learned.llm_arguments)} arguments, from {learned.schema_from}"),
        ("trtllm-build", "none" if build is None else f"{len(build)} options"),
        (
            "trtllm-serve",
            "none" if serve is None else ", ".join(f"{k}: {len(v)} options" for k, v in serve.items()),
        ),
        ("architectures", str(len(learned.architectures))),
        ("SHA-256", learned.sha256),
        ("kept in", str(learning.kept)),
        *([("written to", str(learning.out))] if learning.out else []),
    ]
    output.result(table(rows, header=("what", "learned")))
    for problem in learned.problems:
        output.note(f"not learned: {problem}")
    output.record(
        "learned",
        {
            **learned.model_dump(
                mode="json",
                exclude={"schema_version", "llm_arguments", "build_options", "serve_options", "tags"},
            ),
            "llm_arguments": [one.name for one in learned.llm_arguments],
            "build_options": None if build is None else [one.name for one in build],
            "serve_options": None
            if serve is None
            else {k: [one.name for one in v] for k, v in serve.items()},
            "kept": str(learning.kept),
            "out": str(learning.out) if learning.out else None,
        },
    )


def _shortened(text: str, *, limit: int = 50) -> str:
    """A list of choices that is too long for its column is cut; --json has it whole."""
    return text if len(text) <= limit else f"{text[: text.rindex('|', 0, limit)]}|..."


def _fields(release: Release) -> dict[str, object]:
    hidden = {"build_arguments", "llm_arguments"}
    known = release.model_dump(mode="json", exclude=hidden)
    containers = {"image": release.image, "release_image": release.release_image}
    return {**known, **containers, "runtimes": list(release.runtimes)}
