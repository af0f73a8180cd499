"""`tpforge versions`: the releases of TensorRT-LLM and what belongs to each."""

from __future__ import annotations

import click

from scripts.cli.options.common import DEBUG, JSON
from scripts.cli.output import Output
from scripts.reports.columns import table
from tpforge.trtllm.versions import Release, find_release, releases


@click.command("versions")
@click.option("--trtllm", metavar="VERSION", help="Show one release with its arguments.")
@JSON
@DEBUG
def command(trtllm: str | None, as_json: bool) -> None:
    """Show which TensorRT-LLM goes with which TensorRT, CUDA, driver, container.

    With --trtllm everything that is known of one release, the arguments of trtllm-build and of the LLM API
    included. It is a table, compared with upstream's documents; it does not look at this machine, which
    `tpforge doctor` does.
    """
    output = Output(as_json=as_json)
    if trtllm is None:
        _print_all(output)
        return
    release = find_release(trtllm)
    _print_one(output, release)


def _print_all(output: Output) -> None:
    rows = [
        (
            release.trtllm,
            release.tensorrt or "-",
            release.cuda,
            release.driver or "-",
            release.torch or "-",
            release.triton[-1] if release.triton else "-",
            "yes" if release.engines else "no",
            ", ".join(release.runtimes) or "-",
        )
        for release in releases()
    ]
    header = (
        "TensorRT-LLM",
        "TensorRT",
        "CUDA",
        "driver",
        "torch",
        "Triton",
        "trtllm-build",
        "tpforge prepares",
    )
    output.result(table(rows, header=header))
    output.record("versions", {"releases": [_fields(release) for release in releases()]})


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
            rows = [(one.name, _shortened(one.type_text), one.default_text, one.meaning) for one in arguments]
            output.result(f"\n{title}: {len(rows)} arguments")
            output.result(table(rows, header=("argument", "type", "default", "meaning")))
    output.record(
        "release",
        {
            **fields,
            "build_arguments": [one.model_dump(mode="json") for one in build],
            "llm_arguments": [one.model_dump(mode="json") for one in llm],
        },
    )


def _shortened(text: str, *, limit: int = 50) -> str:
    """A list of choices that is too long for its column is cut; --json has it whole."""
    return text if len(text) <= limit else f"{text[: text.rindex('|', 0, limit)]}|..."


def _fields(release: Release) -> dict[str, object]:
    hidden = {"build_arguments", "llm_arguments"}
    known = release.model_dump(mode="json", exclude=hidden)
    return {**known, "image": release.image, "runtimes": list(release.runtimes)}
