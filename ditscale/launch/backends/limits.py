"""What a Slurm cluster allows: tasks of an array, hours of a partition, jobs of an account."""

import re
import shutil

from ... import slurm_client
from ...config import Cluster
from ...errors import UserError
from ...logs import log
from ...plan.run import Run
from ...price.resources import Resources


def array_limit() -> int:
    """The most tasks that one array may have. Raises UserError without a Slurm that answers."""
    if shutil.which("sbatch") is None:
        raise UserError("sbatch is not on the PATH; run on a login node of the cluster, or use cluster=local")
    limit = slurm_client.array_limit()
    if limit is None:
        remedy = "check `scontrol ping`, and that SLURM_CONF names this cluster"
        raise UserError(f"`scontrol show config` gives no answer; {remedy}")
    return limit


def partitions() -> dict[str, float]:
    """Hours that each partition allows, the default one also under ""."""
    printed = slurm_client.ask("sinfo", "--noheader", "--format=%P|%l") or ""
    rows = {name: _hours(limit) for name, _, limit in (line.partition("|") for line in printed.splitlines())}
    return {name.rstrip("*"): h for name, h in rows.items()} | {"": h for name, h in rows.items() if name.endswith("*")}


def _hours(limit: str) -> float:
    """Slurm's [days-]hours:minutes:seconds."""
    if not re.match(r"[\d:-]+$", limit):
        return float("inf")
    days, _, clock = limit.rpartition("-")
    seconds = sum(int(part) * 60**i for i, part in enumerate(reversed(clock.split(":"))))
    return 24 * int(days or 0) + seconds / 3600


def check_time(what: Resources, cluster: Cluster, partitions: dict[str, float]):
    """Raise UserError where the cluster's partition is unknown, or does not allow the time of a resource class."""
    names = ", ".join(sorted(filter(None, partitions)))
    if not partitions or "," in cluster.partition or "partition" in cluster.sbatch:
        return  # sbatch itself will say
    if cluster.partition not in partitions:
        unknown = f"{cluster.partition!r} is not known"
        wrong = unknown if cluster.partition else "missing, and this cluster has no default"
        raise UserError(f"cluster.partition: {wrong}; choose one of: {names}")
    allowed = partitions[cluster.partition]
    if what.minutes > 60 * allowed:
        where = f"partition {cluster.partition}" if cluster.partition else "the default partition"
        asks = f"runs of this study ask for {what.minutes / 60:g} h, and {where} allows {allowed:g} h"
        shorter = f"cluster.max_time_h={allowed:g} (longer runs are requeued and resume)"
        raise UserError(f"{asks}; set {shorter} or choose another of: {names}")


def within_queue_limit(missing: list[Run], cluster: Cluster) -> list[Run]:
    """As many of the runs as cluster.max_queued allows, the longest first. Raises UserError when squeue is silent."""
    if not cluster.max_queued:
        return missing
    queued = slurm_client.answered(slurm_client.jobs(), "the room under cluster.max_queued")
    room = max(0, cluster.max_queued - len(queued))
    if len(missing) > room:
        why = f"cluster.max_queued is {cluster.max_queued}, {len(queued)} jobs are queued"
        log.info(f"{len(missing) - room} runs are left for the next launch: {why}")
    return sorted(missing, key=lambda run: -run.n_images * run.flops_per_image)[:room]
