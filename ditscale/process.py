"""Who am I among the processes of a run, and in which job? The one place that reads launchers' variables.

A launcher counts only where all that it sets is there: a stray RANK in a shell, or the SLURM_NTASKS of a batch script
that starts one process, make no ranks. Without torch, for launchers and login nodes.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Mapping

from .errors import UserError

# In the environment of a run that is started on this machine, or beside others in one job (launch/): how many runs
# share its GPU, and which GPUs it may use, "" for none.
RUNS_PER_GPU, GPUS = "DITSCALE_PACKED", "DITSCALE_GPUS"
# rank, world size, local rank, and ranks of a node
LAUNCHERS = {
    "torchrun": ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    "submitit": ("SUBMITIT_LOCAL_GLOBALID", "SUBMITIT_LOCAL_NTASKS", "SUBMITIT_LOCAL_LOCALID", "LOCAL_WORLD_SIZE"),
    "srun": ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),
}
# What all ranks of one attempt share and no other attempt has.
ATTEMPT = ("TORCHELASTIC_RUN_ID", "SUBMITIT_LOCAL_JOB_ID", "SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_STEP_ID")


@dataclass(frozen=True)
class Process:
    """This process among those of its run. Ranks fill nodes one by one.

    launcher: torchrun, submitit (on this machine), srun, or "" where nobody has started several. job: Slurm's, as
    "123_4" or "123", and node: Slurm's name for this one; "" where Slurm did not start it. restart: how often Slurm has
    requeued the job. attempt: equal on all ranks of one attempt, and on no other's. gpus: those it was given, as
    CUDA_VISIBLE_DEVICES. packed: whether its job trains other runs too.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    ranks_per_node: int = 1
    launcher: str = ""
    job: str = ""
    node: str = ""
    restart: int = 0
    attempt: str = ""
    gpus: str = ""
    packed: bool = False
    runs_per_gpu: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0


def this_process(environment: Mapping[str, str] | None = None) -> Process:
    """What the environment says now. Raises UserError where it makes no sense."""
    found = os.environ if environment is None else environment
    launcher = next((name for name in LAUNCHERS if _is(name, found)), "")
    rank, world, local, per_node = 0, 1, 0, 1
    if launcher:
        names = LAUNCHERS[launcher]
        rank, world, local = (_whole(found, name) for name in names[:3])
        per_node = min(world, _whole(found, names[3]) if names[3] in found else world)
    elif found.get("WORLD_SIZE", "1") != "1":
        missing = ", ".join(name for name in LAUNCHERS["torchrun"][:3] if name not in found)
        raise UserError(
            f"WORLD_SIZE is {found['WORLD_SIZE']}, but {missing} is not set; use torchrun, or unset WORLD_SIZE"
        )
    return Process(
        rank,
        world,
        local,
        per_node,
        launcher,
        job=_job(found),
        node=found.get("SLURMD_NODENAME", ""),
        restart=_whole(found, "SLURM_RESTART_COUNT") if "SLURM_RESTART_COUNT" in found else 0,
        attempt="-".join(found.get(name, "") for name in ATTEMPT),
        gpus=found.get("CUDA_VISIBLE_DEVICES", ""),
        packed=RUNS_PER_GPU in found,
        runs_per_gpu=_whole(found, RUNS_PER_GPU) if RUNS_PER_GPU in found else 1,
    )


def _is(launcher: str, found: Mapping[str, str]) -> bool:
    """Whether it was this launcher that started the process. A batch script's own process has a rank and a number of
    tasks too, but no step's: it is one process, whatever the job asked for."""
    there = all(name in found for name in LAUNCHERS[launcher][:3])
    return there and (launcher != "srun" or "SLURM_STEP_ID" in found)


def _job(found: Mapping[str, str]) -> str:
    # `ditscale launch` may run inside a job: what it starts on this machine is no part of that
    if "SLURM_JOB_ID" not in found or "SUBMITIT_LOCAL_JOB_ID" in found:
        return ""
    if "SLURM_ARRAY_JOB_ID" in found:
        return f"{found['SLURM_ARRAY_JOB_ID']}_{found['SLURM_ARRAY_TASK_ID']}"
    return found["SLURM_JOB_ID"]


def _whole(found: Mapping[str, str], name: str) -> int:
    """The number that a variable begins with: Slurm writes "8(x2)" for tasks of each of two nodes."""
    number = re.match(r"\d+", found[name])
    if not number:
        raise UserError(f"{name}={found[name]}: is not a number; unset it, or let the launcher set it")
    return int(number[0])
