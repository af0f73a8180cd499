"""A stand-in for docker, podman or mpirun: it runs the real tritonserver here, on another repository.

Or on a copy of the launch's own repository, with the stand-in for TensorRT-LLM laid beside its model.

It is no TensorRT-LLM and no container: it proves the words of a launch, and what is done around it. Names are
unique, `ps` finds by label, `rm` by id; the processes of a container are those of its client.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from triton_repo.serve.tritonserver import find_tritonserver, prepare_backends, server_environment

_PROGRAM = """#!{python}
import json, os, pathlib, shutil, signal, subprocess, sys
if sys.argv[1] in ("version", "image"):
    sys.exit(sys.argv[1] == "image" and {lacks_image!r})
with open({calls!r}, "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
known = pathlib.Path({known!r})
alive = {{}}
for path in known.iterdir():
    if pathlib.Path("/proc", path.name).exists():
        alive[f"{{int(path.name):064x}}"] = json.loads(path.read_text())
    else:
        path.unlink(missing_ok=True)
if sys.argv[1] == "ps":
    wanted = sys.argv[sys.argv.index("--filter") + 1]
    print(*(one for one, value in alive.items() if wanted == "label=" + value["label"]), sep="\\n")
    sys.exit(0)
if sys.argv[1] == "rm":
    if sys.argv[-1] not in alive:
        print("Error response from daemon: No such container: " + sys.argv[-1], file=sys.stderr)
        sys.exit(1)
    os.kill(int(sys.argv[-1], 16), signal.SIGKILL)
    sys.exit(0)
dies = {dies!r}
if dies:
    print(dies, flush=True)
    sys.exit(125)
if {program!r} != "mpirun":
    name, label = (sys.argv[sys.argv.index(word) + 1] for word in ("--name", "--label"))
    if name in [value["name"] for value in alive.values()]:
        print("Error response from daemon: Conflict. The container name is in use: " + name, flush=True)
        sys.exit(125)
    (known / str(os.getpid())).write_text(json.dumps({{"name": name, "label": label}}))
published = [sys.argv[place + 1] for place, word in enumerate(sys.argv) if word == "--publish"]
words = sys.argv[sys.argv.index("/opt/tritonserver/bin/tritonserver") + 1 :]
words = words[: words.index(":")] if ":" in words else words
option = "--model-repository="
(asked,) = [word.removeprefix(option) for word in words if word.startswith(option)]
words = [word for word in words if not word.startswith(option)]
repository, beside = {repository!r}, {beside!r}
if beside:
    repository = {copy!r}
    shutil.rmtree(repository, ignore_errors=True)
    shutil.copytree(asked, repository)
    shutil.copytree(beside, repository + "/tensorrt_llm/1", dirs_exist_ok=True)
for protocol, value in zip(("http", "grpc", "metrics"), published):
    words += [f"--{{protocol}}-address={{value.rsplit(':', 2)[0]}}"]
environment = {{**os.environ, **json.loads({environment!r})}}
environment["TPFORGE_SERVER"] = os.environ["TPFORGE_SERVER"]
command = [{binary!r}, option + repository, "--backend-directory=" + {backends!r}]
if {program!r} != "mpirun":
    os.execve({binary!r}, [*command, *words], environment)
# A process for every rank, as mpirun has: the first one serves, the others wait. They end with mpirun.
others = [subprocess.Popen(["sleep", "600"], env=environment) for _ in range(sys.argv.count(":"))]
first = subprocess.Popen([*command, *words], env=environment)
signal.signal(signal.SIGTERM, lambda *_: first.terminate())
signal.signal(signal.SIGINT, lambda *_: first.terminate())
status = first.wait()
for other in others:
    other.terminate()
    other.wait()
sys.exit(status)
"""


def write_docker(
    folder: Path,
    *,
    repository: Path | None = None,
    beside: Path | None = None,
    dies: str = "",
    lacks_image: bool = False,
    program: str = "docker",
) -> Path:
    """Write an executable `program` into `folder`/bin; the file that gets the words of every call.

    It serves `repository`, or with `beside` a copy of what it is told to, with the files of that folder
    beside tensorrt_llm's own.
    With `dies` it says that and ends with docker's status 125, and starts nothing.
    """
    server = find_tritonserver(None)
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    backends = prepare_backends(server, folder / "backends")
    environment = server_environment(server, mark="unset", temporary=folder / "tmp")
    kept = {name: environment[name] for name in ("PATH", "LD_LIBRARY_PATH", "TMPDIR") if name in environment}
    calls = folder / "calls.jsonl"
    path = folder / "bin" / program
    path.parent.mkdir(exist_ok=True)
    known = folder / "containers"
    known.mkdir(exist_ok=True)
    text = _PROGRAM.format(
        python=sys.executable,
        calls=str(calls),
        program=program,
        known=str(known),
        lacks_image=lacks_image,
        dies=dies,
        environment=json.dumps(kept),
        binary=str(server.binary),
        repository=str(repository),
        beside=str(beside) if beside else "",
        copy=str(folder / "served"),
        backends=str(backends),
    )
    path.write_text(text)
    path.chmod(0o755)
    return calls
