"""The batch scripts of slurm/, the shell lines that all Slurm jobs begin with, and the environment of processes."""

import os
import shlex
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Iterable, Iterator

from ...errors import one_of
from ..snapshot import PACKAGE

SCRIPTS = {"array": "train_array", "study": "study", "aggregate": "aggregate", "bench": "bench"}
SCRIPTS = {name: f"{file}.sbatch" for name, file in SCRIPTS.items()}
# Variables that would make a job believe it is a rank of somebody else's.
FOREIGN = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


def script(name: str) -> str:
    """The text of a batch script, by a name of SCRIPTS; from a checkout or an installed package."""
    file = SCRIPTS[one_of(name, SCRIPTS, "script")]
    places = (PACKAGE / "slurm", PACKAGE.parent / "slurm")
    return next(at / file for at in places if (at / file).is_file()).read_text()


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


def clean_environment() -> AbstractContextManager[None]:
    """In here the environment has nothing of a job that we may be in. SLURM_CONF names the cluster and stays."""
    ours = lambda name: not name.startswith(("SLURM_", "SUBMITIT_")) and name not in FOREIGN or name == "SLURM_CONF"
    return _environment({name: value for name, value in os.environ.items() if ours(name)})


def importing_from(code: Path, variables: dict[str, str]) -> AbstractContextManager[None]:
    """Processes started in here have `variables` and import ditscale from `code`, never from their own directory."""
    return _environment({**os.environ, "PYTHONPATH": import_path(code), "PYTHONSAFEPATH": "1"} | variables)


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    try:
        os.environ.clear()
        os.environ.update(variables)
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
