"""`tpforge deploy`: an engine past one process."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from scripts.cli.options.common import DEBUG, FORCE, JSON, SIZE, out_option
from scripts.cli.options.targets import (
    dynamo_options,
    kubernetes_options,
    multi_node_options,
    pod_options,
    slurm_options,
    targets_of,
)
from scripts.cli.output import Output
from tpforge.errors import UsageError

TARGET_NAMES = ("compose", "kubernetes", "helm", "multi-node", "dynamo", "dynamo-compose", "kserve", "slurm")


@click.command("deploy")
@click.argument("engine", metavar="ENGINE")
@click.option("--target", type=click.Choice(TARGET_NAMES), required=True, help="Where it is to run.")
@out_option("Where to write the files.  [default: deploy-TARGET beside the engine]")
@click.option("--engine-url", metavar="URL", help="Where `tpforge engines push` put the engine.")
@click.option("--digest", metavar="SHA256", help="What it printed: no other engine is started.")
@click.option("--any-digest", is_flag=True, help="Start whatever engine lies at the URL.")
@click.option("--storage-uri", metavar="URI", help="kserve: where storage.sh's folder lies.")
@click.option("--image", help="The server's image.  [default: the container of the engine's release]")
@click.option("--tools-image", help="The image with tpforge.  [default: tpforge:VERSION]")
@click.option(
    "--replicas", type=SIZE, default=1, show_default=True, help="Servers of the engine; Dynamo: workers."
)
@click.option(
    "--plan",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Take the number of replicas, or of Dynamo's workers, from what `tpforge plan --json` printed.",
)
@click.option("--gpus-per-node", type=SIZE, default=8, show_default=True, help="GPUs of a node.")
@click.option(
    "--port-base",
    type=click.IntRange(1024, 65533),
    default=8000,
    show_default=True,
    help="HTTP port; gRPC is the next one, metrics the one after.",
)
@click.option(
    "--env",
    "environment",
    multiple=True,
    metavar="NAME=VALUE",
    help="Environment variable of the ranks, such as NCCL_DEBUG=INFO; may be repeated.",
)
@click.option(
    "--load-timeout",
    type=SIZE,
    metavar="SECONDS",
    help="Seconds that a start may take.  [default: 120, 1 for each 250 MB, and 300 for TensorRT-LLM]",
)
@click.option(
    "--grace",
    type=click.IntRange(0, 86400),
    metavar="SECONDS",
    help="Seconds that requests in flight may go on at the end.  "
    "[default: the longest request at 25 tokens/s, 30 to 600]",
)
@kubernetes_options()
@pod_options()
@multi_node_options()
@dynamo_options()
@slurm_options()
@click.option(
    "--apply", "apply_now", is_flag=True, help="Run docker compose, kubectl, helm or sbatch on them."
)
@FORCE
@JSON
@DEBUG
def command(
    engine: str,
    target: str,
    plan: Path | None,
    out: Path | None,
    apply_now: bool,
    force: bool,
    as_json: bool,
    **values: Any,
) -> None:
    """Write what runs an engine on a host, a cluster or a Slurm partition.

    With --apply it is run too. compose and slurm take the engine from where it lies; kserve mounts what is
    at --storage-uri; the others pull it from --engine-url. Triton serves it, or trtllm-serve where no
    container of Triton holds its release of TensorRT-LLM (1.3 and later): multi-node, slurm and dynamo are
    for more ranks than a node has GPUs. Every target proves the engine's files before the server starts, and
    asks for a token before it calls it healthy.
    """
    from pydantic import ValidationError

    from scripts.flows.deploy import apply, write_deployment
    from tpforge.outputs.places import find_engine
    from triton_repo.deploy.options import DeployOptions

    _refuse_other_targets(target)
    output = Output(as_json=as_json)
    given = {key: value for key, value in values.items() if value is not None}
    given["environment"] = tuple(_setting(word, option="--env") for word in values["environment"])
    given["annotations"] = tuple(_setting(word, option="--annotation") for word in values["annotations"])
    given["monitor_labels"] = tuple(
        _setting(word, option="--monitor-label") for word in values["monitor_labels"]
    )
    try:
        options = DeployOptions.model_validate(given)
    except ValidationError as error:
        raise UsageError("; ".join(_problem(dict(one)) for one in error.errors())) from error
    written = write_deployment(find_engine(engine), target, options, plan=plan, out=out, force=force)
    for warning in written.deployment.warnings:
        output.note(f"warning: {warning}")
    for name in written.files:
        output.result(str(written.folder / name))
    output.record(
        "deployment",
        {
            "target": target,
            "folder": str(written.folder),
            "files": list(written.files),
            "apply": list(written.apply),
            "deployment": written.deployment.model_dump(mode="json"),
        },
    )
    if apply_now:
        output.progress(f"running {shlex.join(written.apply)} in {written.folder}")
        apply(written)
    else:
        output.note(f"start it: cd {shlex.quote(str(written.folder))} && {shlex.join(written.apply)}")


def _refuse_other_targets(target: str) -> None:
    """Refuse what was said for another target, and would be passed over here.

    Raises:
        UsageError: names every such option with its targets; or an autoscaler whose most is below its least.
    """
    context = click.get_current_context()
    said = {
        param.name: param.opts[0]
        for param in context.command.params
        if param.name and context.get_parameter_source(param.name) is ParameterSource.COMMANDLINE
    }
    problems = [
        f"{said[name]}: is for {' and '.join(targets)}, and changes nothing for {target}; leave it out"
        for name, targets in targets_of().items()
        if name in said and target not in targets
    ]
    least, most = context.params.get("replicas", 1), context.params.get("max_replicas", 1)
    if "max_replicas" in said and most < least:
        problems.append(f"--max-replicas {most}: is less than --replicas {least}")
    if problems:
        raise UsageError("; ".join(sorted(problems)))


def _problem(found: dict[str, Any]) -> str:
    """What is wrong with which option, in its own spelling."""
    field = found["loc"][0]
    params = click.get_current_context().command.params
    option = next((param.opts[0] for param in params if param.name == field), f"--{field}")
    return f"{option} {found['input']}: {found['msg'].removeprefix('Value error, ')}"


def _setting(word: str, *, option: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals:
        raise UsageError(f"{option} {word}: expected NAME=VALUE")
    return name, value
