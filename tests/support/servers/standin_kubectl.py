"""A stand-in for kubectl: a JSON file in a cluster's place, with one Service and pods that are servers here.

It is no Kubernetes. It proves the words of the commands, and what is done around them. It answers
`get service`, `get pods`, `get endpointslices`, `patch service --type=json` and `port-forward`, and refuses
all other words.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PROGRAM = """#!{python}
import json, os, re, socket, sys, threading
FOLDER = {folder!r}
STATE = os.path.join(FOLDER, "cluster.json")
def fail(text):
    print("error: " + text, file=sys.stderr)
    sys.exit(1)
def load():
    with open(STATE) as file:
        return json.load(file)
def chosen(state, selector):
    return [pod for pod in state["pods"] if all(pod["labels"].get(k) == v for k, v in selector.items())]
def served(state):
    return chosen(state, state["service"]["spec"]["selector"])
def pod_json(pod):
    ready = "True" if pod["ready"] else "False"
    return {{
        "metadata": {{"name": pod["name"], "labels": pod["labels"]}},
        "spec": {{"containers": [{{"ports": [{{"name": "grpc", "containerPort": 8001}}]}}]}},
        "status": {{"conditions": [{{"type": "Ready", "status": ready}}]}},
    }}
def slices(state):
    endpoints = [
        {{"conditions": {{"ready": pod["ready"]}}, "targetRef": {{"kind": "Pod", "name": pod["name"]}}}}
        for pod in served(state)
    ]
    return {{"items": [{{"endpoints": endpoints}}]}}
def patch(state, text):
    selector = state["service"]["spec"]["selector"]
    for step in json.loads(text):
        parts = [part.replace("~1", "/").replace("~0", "~") for part in step["path"].split("/")[1:]]
        if parts[:2] != ["spec", "selector"] or set(step) != {{"op", "path", "value"}}:
            fail("unknown step " + json.dumps(step))
        if step["op"] == "test":
            if selector.get(parts[2]) != step["value"]:
                fail("the server rejected our request: testing value " + step["path"] + " failed")
        elif step["op"] == "replace" and parts[2] in selector:
            selector[parts[2]] = step["value"]
        else:
            fail("unknown step " + json.dumps(step))
    with open(STATE + ".new", "w") as file:
        json.dump(state, file)
    os.replace(STATE + ".new", STATE)
def pump(source, sink):
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        pass
    for end in (source, sink):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
def forward(address):
    host, port = address.rsplit(":", 1)
    listener = socket.create_server(("127.0.0.1", 0))
    print("Forwarding from 127.0.0.1:%d -> 8001" % listener.getsockname()[1], flush=True)
    while True:
        near, _ = listener.accept()
        print("Handling connection for 8001", flush=True)
        try:
            far = socket.create_connection((host, int(port)))
        except OSError as error:
            near.close()
            continue
        for pair in ((near, far), (far, near)):
            threading.Thread(target=pump, args=pair, daemon=True).start()
words = sys.argv[1:]
with open(os.path.join(FOLDER, "calls.jsonl"), "a") as file:
    file.write(json.dumps(words) + "\\n")
state = load()
if not words or words.pop(0) != "--namespace=" + state["namespace"]:
    fail("expected --namespace=" + state["namespace"] + " first")
name = state["service"]["metadata"]["name"]
match words:
    case ["get", "service", found, "--output=json"] if found == name:
        print(json.dumps(state["service"]))
    case ["get", "pods", selector, "--output=json"] if selector.startswith("--selector="):
        wanted = dict(pair.split("=", 1) for pair in selector.removeprefix("--selector=").split(","))
        print(json.dumps({{"items": [pod_json(pod) for pod in chosen(state, wanted)]}}))
    case ["get", "endpointslices.discovery.k8s.io", selector, "--output=json"]:
        if selector != "--selector=kubernetes.io/service-name=" + name:
            fail("unknown selector " + selector)
        print(json.dumps(slices(state)))
    case ["patch", "service", found, "--type=json", text] if found == name and text.startswith("--patch="):
        patch(state, text.removeprefix("--patch="))
        print("service/" + name + " patched")
    case ["port-forward", "--address=127.0.0.1", target, ":8001"]:
        pods = served(state) if target == "service/" + name else state["pods"]
        known = ["service/" + name]
        fitting = [pod for pod in pods if pod["ready"] and target in [*known, "pod/" + pod["name"]]]
        if not fitting:
            fail("nothing to forward to at " + target)
        forward(fitting[0]["address"])
    case _:
        fail("unknown words " + json.dumps(words))
"""


@dataclass(frozen=True)
class Cluster:
    """The stand-in's folder."""

    folder: Path

    @property
    def selector(self) -> dict[str, str]:
        """What the Service selects by now."""
        state = json.loads((self.folder / "cluster.json").read_text())
        found: dict[str, str] = state["service"]["spec"]["selector"]
        return found

    def calls(self, kind: str) -> list[list[str]]:
        """The words of every call of a kind (get, patch, port-forward)."""
        lines = (self.folder / "calls.jsonl").read_text().splitlines()
        return [words for line in lines if kind in (words := json.loads(line))]


def write_kubectl(
    folder: Path, *, namespace: str, service: dict[str, Any], pods: dict[str, tuple[dict[str, str], str]]
) -> Cluster:
    """Write an executable ``kubectl`` into `folder`/bin; `pods` has each pod's labels and HOST:PORT."""
    state = {
        "namespace": namespace,
        "service": service,
        "pods": [
            {
                "name": name,
                "labels": labels,
                "address": address.replace("localhost", "127.0.0.1"),
                "ready": True,
            }
            for name, (labels, address) in pods.items()
        ],
    }
    program = folder / "bin" / "kubectl"
    program.parent.mkdir(parents=True)
    (folder / "cluster.json").write_text(json.dumps(state))
    (folder / "calls.jsonl").touch()
    program.write_text(_PROGRAM.format(python=sys.executable, folder=str(folder)))
    program.chmod(0o755)
    return Cluster(folder)
