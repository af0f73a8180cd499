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
from tpforge.manifest import Manifest
from tpforge.trtllm.versions import find_release
from triton_repo.deploy import files
from triton_repo.deploy.deployment import Deployment, DeployOptions
from triton_repo.deploy.shell import join_lines
from triton_repo.trtllm_serve.command import TrtllmServe, trtllm_serve_command

RANK_VARIABLE = "${SLURM_PROCID}"
CPUS_PER_RANK, CPUS_OF_REFERENCE = 4, 2
"""As the pods of target kubernetes ask for."""
_UNSAFE = re.compile(r"[^A-Za-z0-9_.,:@=+-]")


def needs_repository(manifest: Manifest) -> bool:
    """Whether Triton serves the engine; else trtllm-serve, which takes the engine itself.

    As for `tpforge serve`: from release 1.3 on no container of Triton holds TensorRT-LLM.
    """
    return manifest.llm_api is None or bool(find_release(manifest.llm_api.trtllm).triton)


def slurm_options(options: DeployOptions, manifest: Manifest) -> DeployOptions:
    """The options with TensorRT-LLM's own container where trtllm-serve serves."""
    if needs_repository(manifest) or manifest.llm_api is None or options.image is not None:
        return options
    image = find_release(manifest.llm_api.trtllm).release_image
    return options.model_copy(update={"image": image})


def slurm_files(deployment: Deployment) -> dict[str, str]:
    """job.sh for sbatch, rank.sh for srun, the canary."""
    options = deployment.options
    by_modules = options.container == "modules"
    repository = PurePosixPath(_repository(deployment.engine_dir))
    served = _trtllm_serve(deployment)
    first, others = rank_commands(deployment, repository)
    mounted = (deployment.engine_dir, repository) if served is None else (deployment.engine_dir,)
    mounts = [f"{path}:{path}" for path in mounted]
    name = "canary.py" if served is None else "canary_openai.py"
    script = PurePosixPath(name)
    canary = _canary(deployment, served, script=script, alive=False)
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
        alive=_canary(deployment, served, script=script, alive=True),
        alive_every_s=files.ALIVE_EVERY_S,
        alive_failures=files.ALIVE_FAILURES,
        grpc=deployment.ports.grpc if served is None else None,
        http=deployment.ports.http,
    )
    end = deployment.process_1(folder=PurePosixPath()) if deployment.needs_gpus else ()
    rank = files.template(
        "slurm/rank.sh.j2",
        environment=[f"{name}={shlex.quote(value)}" for name, value in _environment(deployment, served)],
        # srun signals every rank at once: the first answers what it has, the others wait for it.
        first=" ".join(filter(None, (shlex.join(end), first))),
        others=others and f"{shlex.join(end)} --follow {others}",
    )
    return {"job.sh": job, "rank.sh": rank, name: files.canary(name), "launch.py": files.launch()}


def _trtllm_serve(deployment: Deployment) -> TrtllmServe | None:
    """What trtllm-serve serves; None where it is Triton that does."""
    release = deployment.trtllm
    if deployment.runtime != "pytorch" or release is None or find_release(release).triton:
        return None
    return TrtllmServe(
        engine=deployment.engine_dir,
        name=deployment.engine_key,
        version=release,
        port=deployment.ports.http,
        address="0.0.0.0",
        backend=deployment.llm_backend,
    )


def _environment(deployment: Deployment, served: TrtllmServe | None) -> list[tuple[str, str]]:
    own = {} if served is None else trtllm_serve_command(served).environment
    return [*own.items(), *deployment.options.environment]


def _canary(deployment: Deployment, served: TrtllmServe | None, *, script: PurePosixPath, alive: bool) -> str:
    if served is None:
        words = files.alive_words if alive else files.canary_words
        return shlex.join(words(deployment, script=script))
    timeout_s = files.alive_timeout_s(deployment) if alive else files.CANARY_TIMEOUT_S
    url = f"http://127.0.0.1:{deployment.ports.http}"
    found = ["python3", str(script), "--url", url, "--model", served.model_name, "--timeout", str(timeout_s)]
    return shlex.join([*found, "--alive"] if alive else found)


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
    """What rank 0 runs and what the others run; the second is empty when they run the same."""
    if not deployment.needs_gpus:
        command = (
            *("tpforge", "serve", str(deployment.engine_dir), "--host", "0.0.0.0"),
            *("--port-base", str(deployment.ports.http), "--load-timeout", str(deployment.start_s)),
            *("--drain", str(deployment.grace_s)),
        )
        return join_lines(command), ""
    served = _trtllm_serve(deployment)
    if served is not None:
        launcher = ("trtllm-llmapi-launch",) if deployment.world_size > 1 else ()
        return join_lines((*launcher, *trtllm_serve_command(served).words)), ""
    words = list(deployment.launch(repository))
    if deployment.runtime == "pytorch":
        # srun starts the ranks instead of mpirun; trtllm-llmapi-launch tells them apart.
        start = words.index("trtllm-llmapi-launch") if deployment.world_size > 1 else 0
        return join_lines(words[start:]), ""
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
