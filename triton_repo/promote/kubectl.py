"""A Service of a cluster and the pods behind it, by the program kubectl: read, watched, turned to other pods.

Every command is made here as words, so that a dry run prints what a run does. It decides nothing.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TextIO

from tpforge.errors import EnvironmentUnusable, InputRefused
from tpforge.system.programs import running

INSTANCE = "app.kubernetes.io/instance"
"""The label that every generated target gives the pods of a release, and that its Services select by."""
_FORWARDING = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+) ->")
_COMMAND_S, _FORWARD_S = 60, 30
Words = tuple[str, ...]


@dataclass(frozen=True)
class Service:
    """What a Service selects by, and its port for gRPC."""

    name: str
    selector: dict[str, str]
    grpc_port: int

    @property
    def release(self) -> str | None:
        """The release that it sends requests to."""
        return self.selector.get(INSTANCE)


@dataclass(frozen=True)
class Pod:
    """A pod that is ready, and the port on which it speaks gRPC."""

    name: str
    grpc_port: int


@dataclass(frozen=True)
class Kubectl:
    """kubectl in one namespace, of the current context unless one is named."""

    namespace: str
    context: str | None = None

    def words(self, *words: str) -> Words:
        """A command."""
        context = (f"--context={self.context}",) if self.context else ()
        return ("kubectl", *context, f"--namespace={self.namespace}", *words)

    def get_service(self, name: str) -> Words:
        """Reads a Service."""
        return self.words("get", "service", name, "--output=json")

    def get_pods(self, selector: dict[str, str]) -> Words:
        """Reads the pods that a selector takes."""
        wanted = ",".join(f"{key}={value}" for key, value in sorted(selector.items()))
        return self.words("get", "pods", f"--selector={wanted}", "--output=json")

    def get_endpoints(self, service: str) -> Words:
        """Reads which pods a Service sends requests to."""
        chosen = f"--selector=kubernetes.io/service-name={service}"
        return self.words("get", "endpointslices.discovery.k8s.io", chosen, "--output=json")

    def patch_selector(self, service: str, *, before: str, after: str) -> Words:
        """Turns a Service from one release to another; the server refuses it when `before` holds no more."""
        path = f"/spec/selector/{INSTANCE.replace('~', '~0').replace('/', '~1')}"
        patch = [
            {"op": "test", "path": path, "value": before},
            {"op": "replace", "path": path, "value": after},
        ]
        text = json.dumps(patch, separators=(",", ":"))
        return self.words("patch", "service", service, "--type=json", f"--patch={text}")

    def port_forward(self, target: str, port: int) -> Words:
        """Opens a free port of this machine that leads to one of a pod, or of one pod of a Service."""
        return self.words("port-forward", "--address=127.0.0.1", target, f":{port}")

    def service(self, name: str) -> Service:
        """A Service that has a port for gRPC.

        Raises:
            EnvironmentUnusable: kubectl is not there, or refuses.
            InputRefused: the Service has no port named grpc.
        """
        spec = _json(self.get_service(name))["spec"]
        ports = [port["port"] for port in spec.get("ports", ()) if port.get("name") == "grpc"]
        if not ports:
            raise InputRefused(
                f"service {name}: has no port named grpc, as those of `tpforge deploy` have before Triton; "
                "pods of trtllm-serve have none, and are not promoted: try the new one by `tpforge smoke "
                "--api openai`, then turn the Service or the route to it"
            )
        return Service(name, spec.get("selector") or {}, ports[0])

    def ready_pods(self, selector: dict[str, str]) -> tuple[Pod, ...]:
        """The ready pods that a selector takes, by name, that have a container port named grpc.

        Raises:
            EnvironmentUnusable: kubectl is not there, or refuses.
        """
        found = [
            Pod(item["metadata"]["name"], port)
            for item in _json(self.get_pods(selector))["items"]
            if _is_ready(item) and (port := _grpc_port(item)) is not None
        ]
        return tuple(sorted(found, key=lambda pod: pod.name))

    def endpoints(self, service: str) -> frozenset[str]:
        """The names of the ready pods that a Service sends requests to.

        Raises:
            EnvironmentUnusable: kubectl is not there, or refuses.
        """
        return frozenset(
            endpoint["targetRef"]["name"]
            for item in _json(self.get_endpoints(service))["items"]
            for endpoint in item.get("endpoints") or ()
            # A missing condition is to be read as true (discovery.k8s.io/v1).
            if endpoint.get("conditions", {}).get("ready") in (True, None) and "targetRef" in endpoint
        )

    def turn(self, service: str, *, before: str, after: str) -> None:
        """Patch the Service.

        Raises:
            EnvironmentUnusable: it is at another release than `before`, or kubectl refuses.
        """
        run(self.patch_selector(service, before=before, after=after))

    def wait_endpoints(self, service: str, pods: frozenset[str], *, timeout_s: float) -> None:
        """Wait until a Service sends requests to `pods`, some or all of them, and to no other.

        Raises:
            EnvironmentUnusable: it does not within `timeout_s`.
        """
        end = time.monotonic() + timeout_s
        while not (found := self.endpoints(service)) or not found <= pods:
            if time.monotonic() > end:
                raise EnvironmentUnusable(
                    f"service {service}: after {timeout_s:g} s it sends requests to "
                    f"{', '.join(sorted(found)) or 'no pod'}, expected {', '.join(sorted(pods))}"
                )
            time.sleep(0.5)

    @contextmanager
    def forwarded(self, target: str, port: int) -> Iterator[str]:
        """HOST:PORT of this machine that leads there for as long as the context lasts.

        Raises:
            EnvironmentUnusable: kubectl is not there, refuses, or opens no port within 30 s.
        """
        command = self.port_forward(target, port)
        _require()
        with running(command) as child:
            number, said = _opened_port(child)
            if number is None:
                raise EnvironmentUnusable(f"{_shown(command)}: opened no port: {said}")
            yield f"127.0.0.1:{number}"


def run(command: Words) -> str:
    """What a command writes.

    Raises:
        EnvironmentUnusable: kubectl is not there, takes more than 60 s, or fails.
    """
    _require()
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_COMMAND_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise EnvironmentUnusable(f"{_shown(command)}: no answer within {_COMMAND_S} s") from None
    if done.returncode:
        raise EnvironmentUnusable(f"{_shown(command)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def _opened_port(child: subprocess.Popen[str]) -> tuple[str | None, str]:
    """The port that a port-forward says it has opened, and its words; None when it ends without one."""
    assert child.stdout is not None
    timer = threading.Timer(_FORWARD_S, child.kill)
    timer.start()
    said = []
    try:
        for line in child.stdout:
            said.append(line.strip())
            if opened := _FORWARDING.match(line):
                # It says something for every connection, and would stand still at a full pipe.
                threading.Thread(target=_drain, args=(child.stdout,), daemon=True).start()
                return opened[1], line
    finally:
        timer.cancel()
    return None, " ".join(said) or "no word"


def _drain(stream: TextIO) -> None:
    with stream:
        stream.read()


def _require() -> None:
    if shutil.which("kubectl") is None:
        raise EnvironmentUnusable("kubectl is not on PATH")


def _json(command: Words) -> Any:
    text = run(command)
    try:
        return json.loads(text)
    except ValueError as error:
        raise EnvironmentUnusable(f"{_shown(command)}: wrote no JSON: {error}") from error


def _shown(command: Words) -> str:
    return shlex.join(command)


def _is_ready(item: Any) -> bool:
    conditions = item.get("status", {}).get("conditions", ())
    leaving = "deletionTimestamp" in item["metadata"]
    return not leaving and any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _grpc_port(item: Any) -> int | None:
    ports = [
        int(port["containerPort"])
        for container in item["spec"]["containers"]
        for port in container.get("ports", ())
        if port.get("name") == "grpc"
    ]
    return ports[0] if ports else None
