"""From an engine to the files of a deployment, and their application: composes engines and triton_repo.

It prints nothing; the targets are `triton_repo.deploy.targets`.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tpforge.errors import EnvironmentUnusable, UsageError
from tpforge.outputs.atomic import atomic_folder, refuse_existing
from tpforge.outputs.places import Places
from tpforge.units import counted

if TYPE_CHECKING:
    from tpforge.manifest import Manifest
    from triton_repo.deploy.deployment import Deployment
    from triton_repo.deploy.options import DeployOptions

_DYNAMO = ("dynamo", "dynamo-compose")
_BY_COMPOSE = ("compose", "dynamo-compose")
"""Containers mount folders of this host there, and are other users than the one who wrote them."""


@dataclass(frozen=True)
class Written:
    """A deployment's files; `apply` is the command to run in their folder."""

    folder: Path
    files: tuple[str, ...]
    apply: tuple[str, ...]
    deployment: Deployment


def deploy_folder(places: Places, target: str) -> Path:
    """Where a target's files go unless it is said otherwise: beside the engine."""
    return places.repository.with_name(f"{places.repository.name.replace('repository', 'deploy')}-{target}")


def write_deployment(
    places: Places,
    target: str,
    options: DeployOptions,
    *,
    plan: Path | None = None,
    out: Path | None = None,
    force: bool = False,
) -> Written:
    """Write the files of a target, whole or not at all; `plan` is a file that says how many workers.

    Raises:
        InputRefused: the engine is not sound, or the folder exists and `force` is not given.
        UsageError: the target does not fit the engine, or an option is missing.
    """
    from engines.store import read_manifest
    from triton_repo.deploy.crossing import crossing_warnings
    from triton_repo.deploy.deployment import plan_deployment
    from triton_repo.deploy.dynamo import dynamo_options
    from triton_repo.deploy.targets import apply_words, served, target_files

    manifest = read_manifest(places.engine)
    folder = out if out is not None else deploy_folder(places, target)
    refuse_existing(folder, force=force)
    if plan is not None:
        options = _counted_by(plan, manifest, target, options)
    if target in _DYNAMO:
        options = dynamo_options(options, manifest)
    deployment = plan_deployment(places.engine.resolve(), manifest, options)
    # Dynamo's workers tell their load by metrics of its own.
    own = () if target in _DYNAMO else deployment.warnings
    warnings = (*own, *crossing_warnings(deployment, manifest))
    if target in _BY_COMPOSE and options.engine_url is None:
        warnings += _closed_to_others(places.engine, manifest)
    deployment = deployment.model_copy(update={"warnings": warnings})
    texts = target_files(target, deployment)
    if target == "slurm" and deployment.server == "triton":
        _render(places)
    with atomic_folder(folder, force=force) as temporary:
        for name, text in texts.items():
            path = temporary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            if name.endswith(".sh"):
                path.chmod(0o755)
        if target in _BY_COMPOSE:
            _open_to_others(temporary)
    words = tuple(apply_words(target, deployment))
    return Written(folder, tuple(sorted(texts)), words, served(target, deployment))


def _counted_by(plan: Path, manifest: Manifest, target: str, options: DeployOptions) -> DeployOptions:
    """The options with the plan's counts of workers.

    Raises:
        InputRefused: the plan is not of this engine.
        UsageError: the target has no workers of two kinds, or they are counted by options too.
    """
    from tpforge.plan.worker_counts import read_worker_counts

    if options.replicas != 1 or options.prefill_workers is not None or options.decode_workers is not None:
        raise UsageError(
            "--plan: counts the workers; leave out --replicas, --prefill-workers, --decode-workers"
        )
    counts = read_worker_counts(plan, manifest)
    if counts.together:
        return options.model_copy(update={"replicas": counts.together})
    if target not in _DYNAMO:
        raise UsageError(
            f"--plan: has prefill and decode workers, which {' and '.join(_DYNAMO)} run and "
            f"{target} does not; plan without --disaggregated"
        )
    apart = {"prefill_workers": counts.prefill, "decode_workers": counts.decode}
    return options.model_copy(update=apart)


def _open_to_others(folder: Path) -> None:
    """Let containers read what they mount, the folders in `folder`; nothing in them is secret."""
    for top in folder.iterdir():
        if top.is_dir():
            for path in (top, *top.rglob("*")):
                path.chmod(path.stat().st_mode | (0o055 if path.is_dir() else 0o044))


def _closed_to_others(engine: Path, manifest: Manifest) -> tuple[str, ...]:
    """A warning where containers, which mount the engine, could not read it."""
    files = {engine / "engine.json", *(engine / file.path for file in manifest.files)}
    folders = {parent for path in files for parent in path.parents if parent.is_relative_to(engine)}
    closed = [path for path in files if path.exists() and not path.stat().st_mode & 0o004]
    closed += [path for path in folders if path.exists() and path.stat().st_mode & 0o005 != 0o005]
    if not closed:
        return ()
    return (
        f"{engine}: containers are other users, who cannot read {counted(len(closed), 'path')} of it, "
        f"such as {min(closed).relative_to(engine)}; chmod -R a+rX {shlex.quote(str(engine))}",
    )


def apply(written: Written) -> None:
    """Run the target's own program on the files.

    Raises:
        EnvironmentUnusable: the program is not there, or it failed.
    """
    program = written.apply[0]
    if shutil.which(program) is None:
        raise EnvironmentUnusable(
            f"{program} is not on PATH; the files are in {written.folder}, "
            f"run there: {shlex.join(written.apply)}"
        )
    if written.apply[:2] == ("docker", "compose"):
        _require_compose(written)
    done = subprocess.run(written.apply, cwd=written.folder, check=False)
    if done.returncode:
        raise EnvironmentUnusable(
            f"{shlex.join(written.apply)} (in {written.folder}): exit status {done.returncode}"
        )


def _require_compose(written: Written) -> None:
    """Without its plugin docker takes the options of compose for its own, and says that they are unknown.

    Raises:
        EnvironmentUnusable: docker has no `compose`.
    """
    asked = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    if asked.returncode:
        raise EnvironmentUnusable(
            "docker has no compose plugin (the package docker-compose-plugin); the files are in "
            f"{written.folder}, run there: {shlex.join(written.apply)}"
        )


def _render(places: Places) -> None:
    """The batch job mounts the repository where it lies."""
    from scripts.flows.render import fresh_repository

    fresh_repository(places)
