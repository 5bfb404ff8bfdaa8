"""The GPUs of this machine, for runs that are started here. Without torch: to launch is to be quick."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from typing import Iterable

from ...config import Cluster
from ...errors import UserError
from ...process import GPUS


def gpus(cluster: Cluster) -> list[str]:
    """Names of the GPUs that the cluster's runs use here, as CUDA_VISIBLE_DEVICES has them. Raises UserError where it
    asks for more than there are."""
    if cluster.gpus == 0:
        return []
    found = visible()
    if cluster.gpus is not None and cluster.gpus > len(found):
        raise UserError(
            f"cluster.gpus: {cluster.gpus} are asked for, and this machine has {len(found)} for torch to use; leave it "
            "out to take what there is"
        )
    return found[: cluster.gpus]


def visible() -> list[str]:
    """Names of all GPUs that a process started here would use; none where torch is built for CPUs."""
    try:
        if version("torch").endswith("+cpu"):
            return []
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired, PackageNotFoundError):
        return []
    there = sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
    if "CUDA_VISIBLE_DEVICES" not in os.environ or not there:
        return [str(i) for i in range(there)]
    names = [name.strip() for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",")]
    return names[: names.index("-1")] if "-1" in names else [name for name in names if name]


def least_used(names: list[str], n: int, used: Iterable[str]) -> list[str]:
    """n of the GPUs, those that the fewest of `used` name."""
    counts = Counter(used)
    return sorted(names, key=lambda name: counts[name])[:n]


def take():
    """Of a process that `launch` has started: see the GPUs that it was given and no others. Before torch is loaded."""
    if GPUS in os.environ:
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ[GPUS]
