"""`tpforge engines`: the engine folders that are kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from scripts.cli.headers import parse_headers
from scripts.cli.options.common import DEBUG, DRY_RUN, ENGINE, FORCE, JSON, Amount, out_option
from scripts.cli.output import Output
from scripts.reports.columns import table
from tpforge.errors import VerificationFailed
from tpforge.units import counted, format_bytes

if TYPE_CHECKING:
    from engines.transfer.transport import Transfer


@click.group("engines")
@DEBUG
def command() -> None:
    """List, show, check, remove, push or pull engine folders."""


ROOT = click.option(
    "--out",
    "root",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The folder that holds the engines.  [default: out]",
)


@command.command("list")
@ROOT
@JSON
@DEBUG
def list_(root: Path | None, as_json: bool) -> None:
    """List the engines under out/."""
    from engines.store import list_engines
    from tpforge.outputs.places import OUT

    output = Output(as_json=as_json)
    root = root if root is not None else OUT
    found = list_engines(root)
    if not found:
        output.note(f"no engines under {root}/")
    rows = [
        (
            path.parent.name,
            f"tp={manifest.mapping.tp_size} pp={manifest.mapping.pp_size}",
            manifest.dtype.value,
            format_bytes(sum(file.size for file in manifest.files)),
            "no" if manifest.parity is None else ("yes" if manifest.parity.passed else "FAILED"),
            str(path),
        )
        for path, manifest in found
    ]
    if rows:
        output.result(table(rows, header=("name", "ranks", "dtype", "size", "verified", "path")))
    output.record(
        "engines",
        {
            "engines": [
                {"path": str(path), "engine": manifest.model_dump(mode="json")} for path, manifest in found
            ]
        },
    )


@command.command("show")
@ENGINE
@JSON
@DEBUG
def show(engine: str | None, as_json: bool) -> None:
    """Show what an engine is made of and what was proven of it."""
    from engines.store import read_manifest
    from scripts.cli.show_proof import parity_rows
    from tpforge.outputs.places import find_engine

    output = Output(as_json=as_json)
    places = find_engine(engine)
    manifest = read_manifest(places.engine)
    rows = [
        ("path", str(places.engine)),
        ("name", manifest.name),
        ("made by", f"tpforge {manifest.tpforge_version}: {' '.join(manifest.command)}"),
        ("source", f"{manifest.source.kind} {manifest.source.location}"),
        ("revision", manifest.source.revision or "unknown"),
        ("license", manifest.source.license or "not declared"),
        ("architecture", manifest.model.architecture),
        ("ranks", f"tp={manifest.mapping.tp_size} pp={manifest.mapping.pp_size}"),
        ("dtype", manifest.dtype.value),
        ("runtime", manifest.runtime),
        *((name, str(value)) for name, value in manifest.limits.model_dump().items()),
        *(("padding", note) for note in manifest.padding.notes),
        *(("file", f"{file.path}  {format_bytes(file.size)}") for file in manifest.files),
    ]
    rows += parity_rows(manifest.parity) if manifest.parity else [("verdict", "not verified yet")]
    output.result(table(rows, header=("what", "value")))
    output.record("engine", {"path": str(places.engine), "engine": manifest.model_dump(mode="json")})


@command.command("verify", short_help="Check that the files are still those that were built.")
@ENGINE
@JSON
@DEBUG
def verify(engine: str | None, as_json: bool) -> None:
    """Check that the files of an engine are still those that were built: size and SHA-256."""
    from engines.store import check_files, read_manifest
    from tpforge.outputs.places import find_engine

    output = Output(as_json=as_json)
    places = find_engine(engine)
    manifest = read_manifest(places.engine)
    problems = check_files(places.engine, manifest)
    output.record(
        "file_check",
        {"path": str(places.engine), "num_files": len(manifest.files), "problems": problems},
    )
    if problems:
        raise VerificationFailed(
            "\n  ".join([f"{places.engine}: the files are not those that were built:", *problems])
        )
    later = ", and parity.json of its proof" if (places.engine / "parity.json").is_file() else ""
    held = f"engine.json and {counted(len(manifest.files), 'file')}, all as built{later}"
    output.result(f"{places.engine}: {held}")


@command.command("rm", short_help="Remove engines and what was derived from them.")
@click.argument("engines", metavar="ENGINE...", nargs=-1, required=True)
@DRY_RUN
@JSON
@DEBUG
def rm(engines: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Remove engines, with the repository and the logs that were derived from them."""
    from scripts.flows.folders.remove import removable, remove

    output = Output(as_json=as_json)
    found = removable(engines)
    removed = [] if dry_run else [path for places in found for path in remove(places)]
    for path in [places.engine for places in found] if dry_run else removed:
        output.result(f"{'would remove' if dry_run else 'removed'} {path}")
    output.record("removal", {"dry_run": dry_run, "removed": [str(path) for path in removed]})


HEADERS = click.option(
    "--header",
    "headers",
    multiple=True,
    metavar="NAME=VALUE",
    help="http(s): a header of every request to the URL's own server; NAME=@FILE reads the value "
    "from a file.",
)
PARALLEL = click.option(
    "--parallel",
    "num_parallel",
    type=click.IntRange(1, 64),
    default=4,
    show_default=True,
    help="How many files are moved at a time.",
)


@command.command("push", short_help="Put an engine at a URL.")
@click.argument("engine", metavar="ENGINE")
@click.argument("url", metavar="URL")
@HEADERS
@PARALLEL
@JSON
@DEBUG
def push(engine: str, url: str, headers: tuple[str, ...], num_parallel: int, as_json: bool) -> None:
    """Put an engine at a URL: file:///DIR, http(s):// by PUT, s3://, gs://, az:// by fsspec's drivers.

    Files that an earlier push put there are not sent again. The digest that it prints names every byte of
    the engine; `tpforge engines pull --digest` takes no other.
    """
    from engines.transfer.push_and_pull import push_engine

    output = Output(as_json=as_json)
    places, moved = push_engine(
        engine, url, headers=parse_headers(headers), num_parallel=num_parallel, progress=output.progress
    )
    output.result(f"{places.engine} is at {url}: {_content(moved)}")
    output.result(f"sent    {format_bytes(moved.num_moved_bytes)}")
    output.result(f"digest  sha256:{moved.digest}")
    output.record("push", {"path": str(places.engine), "url": url, **_transfer_fields(moved)})


@command.command("pull", short_help="Get an engine from a URL, and prove it.")
@click.argument("url", metavar="URL")
@out_option("The folder to make.  [default: out/NAME/engine, NAME being the end of the URL]")
@click.option("--digest", metavar="SHA256", help="Take no other engine than the one of this digest.")
@HEADERS
@PARALLEL
@click.option(
    "--time-limit",
    "time_limit_s",
    type=Amount(min=1, max=1e8),
    default=86_400,
    show_default=True,
    help="Seconds after which the pull is given up; run again, it goes on.",
)
@FORCE
@JSON
@DEBUG
def pull(
    url: str,
    out: Path | None,
    digest: str | None,
    headers: tuple[str, ...],
    num_parallel: int,
    time_limit_s: float,
    force: bool,
    as_json: bool,
) -> None:
    """Get an engine that `push` put at a URL; a truncated or altered one is refused, and what engine.json
    does not list is left out.

    The folder appears when every file has its size and SHA-256. Run again, a pull that broke off goes on.
    """
    from engines.transfer.push_and_pull import pull_engine

    output = Output(as_json=as_json)
    folder, moved = pull_engine(
        url,
        out,
        headers=parse_headers(headers),
        digest=digest,
        force=force,
        num_parallel=num_parallel,
        time_limit_s=time_limit_s,
        progress=output.progress,
    )
    output.result(f"{folder}: {_content(moved)}, all as pushed")
    output.result(f"received  {format_bytes(moved.num_moved_bytes)}")
    output.result(f"digest    sha256:{moved.digest}")
    output.record("pull", {"path": str(folder), "url": url, **_transfer_fields(moved)})


def _content(moved: Transfer) -> str:
    """What was moved: engine.json, the files that it lists, and the proof's parity.json if there is one."""
    files = counted(moved.num_files - 1, "file")
    return f"engine.json and {files}, {format_bytes(moved.num_bytes)}"


def _transfer_fields(moved: Transfer) -> dict[str, object]:
    return {
        "digest": f"sha256:{moved.digest}",
        "num_files": moved.num_files,
        "num_bytes": moved.num_bytes,
        "num_moved_bytes": moved.num_moved_bytes,
    }
