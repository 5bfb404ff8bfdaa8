"""The shell lines that every Slurm job of a study begins with, whoever submits it: `ditscale launch`, Hydra, or plain
sbatch with slurm/train_array.sbatch. And the environment that submissions and processes started here inherit."""

from __future__ import annotations

import os
import shlex
from contextlib import contextmanager
from pathlib import Path
from typing import Iterable, Iterator

# Variables that would make a job believe it is a rank of somebody else's.
FOREIGN = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


def preamble(code: str | Path, cpus: int, setup: Iterable[str] = ()) -> list[str]:
    """Lines for a job whose runs import ditscale from `code`, on `cpus` cores per task; `setup` is the user's."""
    return [
        # The run itself stops: it saves first, then asks for its requeue. srun would end it at once.
        "trap '' USR2 TERM",
        # One rank that dies ends the step: the others would wait for it.
        f"export PYTHONSAFEPATH=1 SLURM_KILL_BAD_EXIT=1 SRUN_CPUS_PER_TASK={cpus}",
        f"export PYTHONPATH={shlex.quote(import_path(code))}",
        *setup,
    ]


def import_path(code: str | Path) -> str:
    """PYTHONPATH with `code` before what it holds now."""
    return os.pathsep.join(filter(None, [str(Path(code).resolve()), os.environ.get("PYTHONPATH")]))


@contextmanager
def clean_environment() -> Iterator[None]:
    """In here the environment says nothing of a job that we may be in ourselves, so that jobs submitted in here inherit
    nothing of it. SLURM_CONF stays, since it names the cluster."""
    before = dict(os.environ)
    for name in before:
        if name.startswith(("SLURM_", "SUBMITIT_")) and name != "SLURM_CONF" or name in FOREIGN:
            del os.environ[name]
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def importing_from(code: Path, environment: dict[str, str]) -> Iterator[None]:
    """Processes started in here have `environment` and import ditscale from `code`, never from their own directory."""
    before = dict(os.environ)
    os.environ.update({"PYTHONPATH": import_path(code), "PYTHONSAFEPATH": "1"} | environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
