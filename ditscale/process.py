"""Who am I among the processes of a run, and in which job? The one place that reads launchers' variables. A launcher
counts only where all that it sets is there: a stray RANK in a shell makes no ranks. Without torch."""

import os
import re
from dataclasses import dataclass
from typing import Mapping

from .errors import UserError

# `launch` sets these for a run that it starts on this machine or packs with others into one job: how many runs share
# its GPU, and which GPUs it may use, "" for none.
RUNS_PER_GPU, GPUS = "DITSCALE_PACKED", "DITSCALE_GPUS"
LAUNCHERS = {  # Variables of each: rank, world size, local rank, and ranks of a node.
    "torchrun": ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    "submitit": ("SUBMITIT_LOCAL_GLOBALID", "SUBMITIT_LOCAL_NTASKS", "SUBMITIT_LOCAL_LOCALID", "LOCAL_WORLD_SIZE"),
    "srun": ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),
}
# Together these are equal on all ranks of one attempt, and on no other attempt's.
ATTEMPT = ("TORCHELASTIC_RUN_ID", "SUBMITIT_LOCAL_JOB_ID", "SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_STEP_ID")


@dataclass(frozen=True)
class Process:
    """This process among those of its run. Ranks fill nodes one by one."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    ranks_per_node: int = 1
    launcher: str = ""  # torchrun, submitit (on this machine), srun; "" for a single process
    job: str = ""  # Slurm's, as "123_4" or "123"; "" where Slurm did not start the process
    node: str = ""  # Slurm's name of this node
    restart: int = 0  # how often Slurm has requeued the job
    attempt: str = ""  # equal on all ranks of one attempt, and on no other's
    address: str = ""  # of rank 0's node, where torchrun names it
    gpus: str | None = None  # CUDA_VISIBLE_DEVICES, None where it is not set
    assigned_gpus: str | None = None  # what `launch` assigned to the run on this machine
    packed: bool = False  # whether the job trains other runs too
    runs_per_gpu: int = 1
    cpus: int = 1  # of each task, by Slurm
    submitit: str = ""  # the executor that started the process: "slurm", "local", or "" for none
    submitit_folder: str = ""  # of that one's log

    @property
    def first(self) -> bool:
        return self.rank == 0


def this_process(environment: Mapping[str, str] | None = None) -> Process:
    """The process that the environment describes now. Raises UserError where it contradicts itself."""
    found = os.environ if environment is None else environment
    # A batch script's own process has a rank and a number of tasks too, but no step: it is one process.
    known = [name for name in LAUNCHERS if name != "srun" or "SLURM_STEP_ID" in found]
    launcher = next((name for name in known if all(each in found for each in LAUNCHERS[name][:3])), "")
    rank, world, local, per_node = 0, 1, 0, 1
    if launcher:
        names = LAUNCHERS[launcher]
        rank, world, local = (_whole(found, name) for name in names[:3])
        per_node = min(world, _whole(found, names[3], world))
    elif found.get("WORLD_SIZE", "1") != "1":
        missing = ", ".join(name for name in LAUNCHERS["torchrun"][:3] if name not in found)
        world_size = f"WORLD_SIZE is {found['WORLD_SIZE']}"
        raise UserError(f"{world_size}, but {missing} is not set; use torchrun, or unset WORLD_SIZE")
    return Process(
        rank, world, local, per_node, launcher, job=_job(found), node=found.get("SLURMD_NODENAME", ""),
        restart=_whole(found, "SLURM_RESTART_COUNT", 0), attempt="-".join(found.get(name, "") for name in ATTEMPT),
        address=found.get("MASTER_ADDR", "") if launcher == "torchrun" else "", gpus=found.get("CUDA_VISIBLE_DEVICES"),
        assigned_gpus=found.get(GPUS), packed=RUNS_PER_GPU in found, runs_per_gpu=_whole(found, RUNS_PER_GPU, 1),
        cpus=_whole(found, "SLURM_CPUS_PER_TASK", 1), submitit=found.get("SUBMITIT_EXECUTOR", ""),
        submitit_folder=found.get("SUBMITIT_FOLDER", ""),
    )  # fmt: skip


def _job(found: Mapping[str, str]) -> str:
    # `ditscale launch` may run inside a job; what it starts on this machine is not part of that job.
    if "SLURM_JOB_ID" not in found or "SUBMITIT_LOCAL_JOB_ID" in found:
        return ""
    if "SLURM_ARRAY_JOB_ID" in found:
        return f"{found['SLURM_ARRAY_JOB_ID']}_{found['SLURM_ARRAY_TASK_ID']}"
    return found["SLURM_JOB_ID"]


def _whole(found: Mapping[str, str], name: str, default: int | None = None) -> int:
    """The number at the start of a variable: Slurm writes "8(x2)" for 8 tasks on each of two nodes."""
    if default is not None and name not in found:
        return default
    number = re.match(r"\d+", found[name])
    if not number:
        raise UserError(f"{name}={found[name]}: is not a number; unset it, or let the launcher set it")
    return int(number[0])
