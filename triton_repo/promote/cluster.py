"""Promotion on a cluster: two releases, and a Service whose selector goes from one to the other.

The measuring is `promotion`'s, the commands are `kubectl`'s. It prints nothing.
"""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tpforge.errors import EnvironmentUnusable, InputRefused, UsageError
from tpforge.progress import Progress
from triton_repo.promote.promotion import Backend, PromoteOptions, Promotion, promote

if TYPE_CHECKING:
    from tpforge.manifest import Manifest
    from triton_repo.client.channel import Tls
    from triton_repo.promote.kubectl import Kubectl, Pod, Service

_ENDPOINTS_S = 60.0


@dataclass(frozen=True)
class Releases:
    """What is promoted where; without a URL a pod, or the Service, is reached by a port-forward.

    `watch_url` is where clients meet the Service. `manifest` is the candidate's, and the rest is how all of
    them are reached.
    """

    service: str
    active: str
    candidate: str
    candidate_url: str | None = None
    active_url: str | None = None
    watch_url: str | None = None
    manifest: Manifest | None = None
    tls: Tls | None = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """The Service as it is, and the ready pods of both releases."""

    service: Service
    active: tuple[Pod, ...]
    candidate: tuple[Pod, ...]


def look(kubectl: Kubectl, releases: Releases) -> Found:
    """The Service and the pods, once nothing speaks against a promotion.

    Raises:
        UsageError: the candidate is the active release.
        InputRefused: the Service is not at the active release, or a release has no ready pod.
        EnvironmentUnusable: kubectl is not there, or refuses.
    """
    if releases.active == releases.candidate:
        raise UsageError(f"--candidate {releases.candidate}: is the active release")
    service = kubectl.service(releases.service)
    active = _pods(kubectl, service, releases.active)
    candidate = _pods(kubectl, service, releases.candidate)
    problems = []
    if service.release != releases.active:
        problems.append(f"its selector has {_instance()}={service.release}, --active says {releases.active}")
    for release, pods in ((releases.active, active), (releases.candidate, candidate)):
        if not pods:
            problems.append(f"release {release} has no ready pod with a port named grpc that it could select")
    if problems:
        raise InputRefused.listing(f"service {releases.service} of {kubectl.namespace}:", problems)
    return Found(service, active, candidate)


def commands(kubectl: Kubectl, releases: Releases, found: Found) -> tuple[str, ...]:
    """The lines of a dry run: every command that a promotion runs, in order."""
    name, active, candidate = releases.service, releases.active, releases.candidate
    said = [
        kubectl.get_service(name),
        kubectl.get_pods(_selector(found.service, active)),
        kubectl.get_pods(_selector(found.service, candidate)),
    ]
    if releases.candidate_url is None:
        said.append(_forward(kubectl, found.candidate))
    if releases.active_url is None:
        said.append(_forward(kubectl, found.active))
    shift = [
        kubectl.patch_selector(name, before=active, after=candidate),
        kubectl.get_endpoints(name),
    ]
    if releases.watch_url is None:
        shift.append(kubectl.port_forward(f"service/{name}", found.service.grpc_port))
    back = [
        kubectl.get_service(name),
        kubectl.patch_selector(name, before=candidate, after=active),
        kubectl.get_endpoints(name),
    ]
    return (
        *map(shlex.join, said),
        f"# smoke test of {candidate}; canary: {candidate} and {active} in turn",
        *map(shlex.join, shift),
        f"# watch through {releases.watch_url or 'the Service'}; when that fails:",
        *map(shlex.join, back),
    )


def promote_release(
    kubectl: Kubectl, releases: Releases, *, options: PromoteOptions, progress: Progress
) -> Promotion:
    """Promote the candidate by the Service's selector, and put the selector back when it fails.

    Raises:
        TpforgeError: as `look` and `promote`.
    """
    found = look(kubectl, releases)
    progress(
        f"{len(found.active)} ready pods of {releases.active}, {len(found.candidate)} of {releases.candidate}"
    )
    with ExitStack() as open_ports:
        urls = {
            release: given
            or open_ports.enter_context(kubectl.forwarded(f"pod/{pods[0].name}", pods[0].grpc_port))
            for release, given, pods in (
                (releases.candidate, releases.candidate_url, found.candidate),
                (releases.active, releases.active_url, found.active),
            )
        }
        active, candidate = (
            Backend(release, urls[release], tls=releases.tls, headers=releases.headers)
            for release in (releases.active, releases.candidate)
        )
        switch = _ServiceSwitch(kubectl, releases, found, open_ports)
        return promote(
            switch, replace(candidate, manifest=releases.manifest), active, options=options, progress=progress
        )


@dataclass(frozen=True)
class _ServiceSwitch:
    """The Service's selector; its port-forwards end with the promotion."""

    kubectl: Kubectl
    releases: Releases
    found: Found
    open_ports: ExitStack

    def shift(self, to: Backend) -> Backend:
        """Patch the selector, unless it is there already, and wait until the Service has the release's pods.

        Raises:
            EnvironmentUnusable: somebody else turned it, kubectl refuses, or the pods do not come.
        """
        releases, name = self.releases, self.releases.service
        now = self.kubectl.service(name).release
        if now not in (releases.active, releases.candidate):
            raise EnvironmentUnusable(f"service {name}: somebody has turned it to {now}; it is left there")
        if now != to.engine:
            self.kubectl.turn(name, before=now, after=to.engine)
        pods = self.kubectl.ready_pods(_selector(self.found.service, to.engine))
        self.kubectl.wait_endpoints(name, frozenset(pod.name for pod in pods), timeout_s=_ENDPOINTS_S)
        if to.engine == releases.active or releases.watch_url is not None:
            return replace(to, url=releases.watch_url or to.url)
        forward = self.kubectl.forwarded(f"service/{name}", self.found.service.grpc_port)
        return replace(to, url=self.open_ports.enter_context(forward))


def _pods(kubectl: Kubectl, service: Service, release: str) -> tuple[Pod, ...]:
    return kubectl.ready_pods(_selector(service, release))


def _selector(service: Service, release: str) -> dict[str, str]:
    """What the Service would select by if it were at `release`."""
    return {**service.selector, _instance(): release}


def _instance() -> str:
    from triton_repo.promote.kubectl import INSTANCE

    return INSTANCE


def _forward(kubectl: Kubectl, pods: tuple[Pod, ...]) -> tuple[str, ...]:
    return kubectl.port_forward(f"pod/{pods[0].name}", pods[0].grpc_port)
