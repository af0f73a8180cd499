"""A stand-in for docker: it runs the real tritonserver here, on another repository, in the container's place.

It is no TensorRT-LLM and no container: it proves the words of a launch, and what is done around it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from triton_repo.deploy.tritonserver import find_tritonserver, prepare_backends, server_environment

_PROGRAM = """#!{python}
import json, os, sys
with open({calls!r}, "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
if sys.argv[1] == "rm":
    print("Error response from daemon: No such container: " + sys.argv[-1], file=sys.stderr)
    sys.exit(1)
dies = {dies!r}
if dies:
    print(dies, flush=True)
    sys.exit(125)
words = sys.argv[sys.argv.index("/opt/tritonserver/bin/tritonserver") + 1 :]
words = words[: words.index(":")] if ":" in words else words
words = [word for word in words if not word.startswith("--model-repository=")]
environment = {{**os.environ, **json.loads({environment!r})}}
environment["TPFORGE_SERVER"] = os.environ["TPFORGE_SERVER"]
command = [{binary!r}, "--model-repository=" + {repository!r}, "--backend-directory=" + {backends!r}]
os.execve({binary!r}, [*command, *words], environment)
"""


def write_docker(folder: Path, *, repository: Path, dies: str = "") -> Path:
    """Write an executable ``docker`` into `folder`/bin; the file that gets the words of every call.

    With `dies` it says that and ends with docker's status 125, and starts nothing.
    """
    server = find_tritonserver(None)
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    backends = prepare_backends(server, folder / "backends")
    environment = server_environment(server, mark="unset", temporary=folder / "tmp")
    kept = {name: environment[name] for name in ("PATH", "LD_LIBRARY_PATH", "TMPDIR") if name in environment}
    calls = folder / "calls.jsonl"
    program = folder / "bin" / "docker"
    program.parent.mkdir(exist_ok=True)
    text = _PROGRAM.format(
        python=sys.executable,
        calls=str(calls),
        dies=dies,
        environment=json.dumps(kept),
        binary=str(server.binary),
        repository=str(repository),
        backends=str(backends),
    )
    program.write_text(text)
    program.chmod(0o755)
    return calls
