"""Target slurm: a batch job with one rank per GPU, by pyxis and enroot or by modules of the site.

The engine and its repository lie on a file system that all nodes see, under the paths that they have here.
It writes no file and submits nothing.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from pathlib import Path, PurePosixPath

from tpforge.errors import UsageError
from triton_repo.deploy import files
from triton_repo.deploy.deployment import LLM_YAML, Deployment
from triton_repo.deploy.options import DeployOptions
from triton_repo.deploy.shell import join_lines
from triton_repo.trtllm_serve.command import trtllm_serve_command

RANK_VARIABLE = "${SLURM_PROCID}"
CPUS_PER_RANK, CPUS_OF_REFERENCE = 4, 2
"""As the pods of target kubernetes ask for."""
_UNSAFE = re.compile(r"[^A-Za-z0-9_.,:@=+-]")


def slurm_files(deployment: Deployment) -> dict[str, str]:
    """job.sh for sbatch, rank.sh for srun, the canary."""
    options = deployment.options
    by_modules = options.container == "modules"
    repository = PurePosixPath(_repository(deployment.engine_dir))
    is_triton = deployment.server == "triton"
    first, others = rank_commands(deployment, repository)
    mounted = (deployment.engine_dir, repository) if is_triton else (deployment.engine_dir,)
    mounts = [f"{path}:{path}" for path in mounted]
    name = files.canary_name(deployment)
    here = PurePosixPath()
    canary = shlex.join(files.canary_words(deployment, folder=here))
    job = files.template(
        "slurm/job.sh.j2",
        name=deployment.name,
        num_nodes=deployment.num_nodes,
        tasks_per_node=deployment.ranks_per_node if deployment.needs_gpus else 1,
        gpus_per_node=deployment.ranks_per_node if deployment.needs_gpus else 0,
        cpus_per_task=CPUS_PER_RANK if deployment.needs_gpus else CPUS_OF_REFERENCE,
        # A node of its own is used whole; ranks on the CPU share one with other jobs.
        memory="0" if deployment.needs_gpus else f"{deployment.memory_gib}G",
        exclusive=deployment.needs_gpus and deployment.ranks_per_node == deployment.gpus_per_node,
        directives=_directives(options),
        time_limit=options.time_limit,
        modules=options.modules if by_modules else None,
        image=shlex.quote(deployment.image) if deployment.image.endswith(".sqsh") else None,
        # enroot writes a registry as HOST#IMAGE.
        imported=shlex.quote(f"docker://{_enroot(deployment.image)}"),
        squashed=f"{deployment.name}-{hashlib.sha256(deployment.image.encode()).hexdigest()[:12]}.sqsh",
        mounts=_double_quoted(",".join(mounts) + ",") + '"$PWD":"$PWD"',
        start_s=deployment.start_s,
        stop_s=deployment.stop_s,
        canary=canary,
        alive=shlex.join(files.alive_words(deployment, folder=here)),
        alive_every_s=files.ALIVE_EVERY_S,
        alive_failures=files.ALIVE_FAILURES,
        grpc=deployment.ports.grpc if is_triton else None,
        http=deployment.ports.http,
    )
    end = deployment.process_1(folder=here) if deployment.needs_gpus else ()
    rank = files.template(
        "slurm/rank.sh.j2",
        environment=[f"{name}={shlex.quote(value)}" for name, value in _environment(deployment)],
        # srun signals every rank at once: the first answers what it has, the others wait for it.
        first=" ".join(filter(None, (shlex.join(end), first))),
        others=others and f"{shlex.join(end)} --follow {others}",
    )
    told = {} if is_triton else {LLM_YAML: deployment.llm_yaml}
    return {"job.sh": job, "rank.sh": rank, name: files.canary(name), "launch.py": files.launch(), **told}


def _environment(deployment: Deployment) -> list[tuple[str, str]]:
    """Hosts have names of their own, other than pods."""
    own = {name: value for name, value in deployment.own_environment.items() if name != "PMIX_HOSTNAME"}
    return [*own.items(), *deployment.options.environment]


def _directives(options: DeployOptions) -> dict[str, str]:
    """What a site wants to be told of a job.

    Raises:
        UsageError: a value that would end its line of the script.
    """
    given = {"partition": options.partition, "account": options.account, "qos": options.qos}
    found = {name: value for name, value in given.items() if value}
    for name, value in (*found.items(), ("time-limit", options.time_limit)):
        if _UNSAFE.search(value):
            raise UsageError(f"--{name} {value!r}: expected a name of the site, without blanks and quotes")
    return found


def rank_commands(deployment: Deployment, repository: PurePosixPath) -> tuple[str, str]:
    """What rank 0 runs and what the others run; the second is empty where there are no others.

    Ranks of the LLM API run the same: srun starts them instead of mpirun, and the launcher tells them apart.
    """
    if not deployment.needs_gpus:
        command = (
            *("tpforge", "serve", str(deployment.engine_dir), "--host", "0.0.0.0"),
            *("--port-base", str(deployment.ports.http), "--load-timeout", str(deployment.start_s)),
            *("--drain", str(deployment.grace_s)),
        )
        return join_lines(command), ""
    several = deployment.world_size > 1
    if deployment.server == "trtllm-serve":
        launcher = ("trtllm-llmapi-launch",) if several else ()
        served = deployment.trtllm_serve(deployment.engine_dir, config=Path(LLM_YAML))
        text = join_lines((*launcher, *trtllm_serve_command(served).words))
        return text, text if several else ""
    words = list(deployment.launch(repository))
    if deployment.runtime == "pytorch":
        text = join_lines(words[words.index("trtllm-llmapi-launch") if several else 0 :])
        return text, text if several else ""
    first = words[words.index("1") + 1 :]
    if ":" not in first:
        return join_lines(first), ""
    rest = first[first.index(":") + 1 :]
    other = rest[rest.index("1") + 1 :]
    other = other[: other.index(":")] if ":" in other else other
    numbered = [word.replace("prefix1_", f"prefix{RANK_VARIABLE}_") for word in other]
    text = join_lines(numbered).replace(f"'{numbered[-1]}'", f'"{numbered[-1]}"')
    return join_lines(first[: first.index(":")]), text


def _repository(engine_dir: Path) -> Path:
    """Where `tpforge render` writes it beside an engine."""
    name = "repository" if engine_dir.name == "engine" else f"{engine_dir.name}-repository"
    return engine_dir.parent / name


def _enroot(image: str) -> str:
    host, slash, rest = image.partition("/")
    return f"{host}#{rest}" if slash and "." in host else image


def _double_quoted(text: str) -> str:
    """A word for a shell in which another, quoted likewise, may follow."""
    escapes = {ord(sign): f"\\{sign}" for sign in '$`"\\'}
    return f'"{text.translate(escapes)}"'
