"""The GPUs of this machine, for runs that are started on it. Without torch, so that launching is quick."""

import os
import subprocess
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from typing import Iterable

from ...config import Cluster
from ...errors import UserError
from ...process import this_process


def gpus(cluster: Cluster) -> list[str]:
    """Names of the GPUs that the cluster's runs use here. Raises UserError where it asks for more than there are."""
    if cluster.gpus == 0:
        return []
    found = visible()
    if cluster.gpus is not None and cluster.gpus > len(found):
        can = f"torch can use {len(found)} on this machine; leave it out to use all of them"
        raise UserError(f"cluster.gpus: {cluster.gpus} requested, and {can}")
    return found[: cluster.gpus]


def visible() -> list[str]:
    """Names of all GPUs that a process started here would use; none where torch is built for CPUs."""
    try:
        if version("torch").endswith("+cpu"):
            return []
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired, PackageNotFoundError):
        return []
    present = sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
    allowed = this_process().gpus
    if allowed is None or not present:
        return [str(i) for i in range(present)]
    names = [name.strip() for name in allowed.split(",")]
    return names[: names.index("-1")] if "-1" in names else [name for name in names if name]


def least_used(names: list[str], n: int, used: Iterable[str]) -> list[str]:
    """n of the GPUs, those that appear least often in `used`."""
    return sorted(names, key=Counter(used).__getitem__)[:n]


def take():
    """In a process that `launch` has started: restrict it to the GPUs that it was assigned. Before torch is loaded."""
    assigned = this_process().assigned_gpus
    if assigned is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = assigned
