"""What this host can do: composes the host, its containers, its Triton server and the table of releases.

It prints nothing and changes nothing; the verdicts are `engines.host_verdicts`'s.
"""

from __future__ import annotations

from dataclasses import dataclass

from engines.host import Host, container_problem, find_host
from engines.host_verdicts import Finding, Verdicts, judge_host
from engines.runtime_choice import RuntimeChoice, choose_runtime
from tpforge.errors import EnvironmentUnusable
from tpforge.trtllm.versions import DEFAULT_RELEASE, Release, find_release
from triton_repo.serve.tritonserver import find_tritonserver


@dataclass(frozen=True)
class Doctored:
    """This host, the release that it was judged for, and the verdicts."""

    host: Host
    release: Release
    verdicts: Verdicts
    auto: RuntimeChoice
    """What `--runtime auto` builds here."""


def look_at_host(trtllm: str | None = None) -> Doctored:
    """The verdicts on this host for a release of TensorRT-LLM, by default the newest that is known.

    Raises:
        UsageError: there is no such release.
    """
    release = find_release(trtllm or DEFAULT_RELEASE)
    host = find_host()
    engines = [name for name, _ in host.programs if name in ("docker", "podman")]
    silent = {name: problem for name in engines if (problem := container_problem(name))}
    verdicts = judge_host(host, release=release, silent=silent, server=_server())
    return Doctored(host, release, verdicts, choose_runtime(host, silent=silent))


def _server() -> Finding:
    try:
        server = find_tritonserver()
    except EnvironmentUnusable as error:
        return Finding("tritonserver", "not found", "missing", str(error).split("; ")[-1])
    kind = "Python backend only: runtime reference" if server.is_wheel else "from " + server.origin
    return Finding("tritonserver", f"{server.binary} ({kind})", "ok")
