"""This host's GPUs as the cluster that a plan is made for.

It looks at nothing itself; `host` does, and `tpforge.plan.hardware.gpus` knows the kinds.
"""

from __future__ import annotations

from engines.host import Host
from tpforge.errors import EnvironmentUnusable, InputRefused
from tpforge.plan.hardware.gpus import Cluster, Gpu, gpus, make_cluster

HOST = "host"
"""The name for --gpu that stands for the GPUs of this host."""


def host_cluster(host: Host, *, own: tuple[Gpu, ...] = ()) -> Cluster:
    """The GPUs of this host as a cluster; joined by NVLink where every pair is.

    Raises:
        EnvironmentUnusable: it has no GPU, or GPUs of several kinds.
        InputRefused: its GPU is not in the table.
    """
    names = sorted({gpu.name for gpu in host.gpus})
    if len(names) != 1:
        found = f"found {', '.join(names)}" if names else "; ".join(host.notes) or "found none"
        raise EnvironmentUnusable(f"--gpu {HOST} needs GPUs of one kind: {found}; name a kind instead")
    known = {gpu.driver_name: gpu for gpu in (*gpus(), *own)}
    gpu = known.get(names[0])
    if gpu is None:
        raise InputRefused(
            f"--gpu {HOST}: {names[0]} is not in the table; describe it with --gpu-file (driver_name), "
            "or name a kind"
        )
    joined = bool(host.links) and all(link.startswith("NV") for _, _, link in host.links)
    num_gpus = len(host.gpus)
    return make_cluster(
        gpu,
        num_gpus=num_gpus,
        link="nvlink" if joined and gpu.nvlink_gb_s else "pcie",
        gpus_per_host=num_gpus,
    )
