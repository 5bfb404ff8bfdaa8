"""The batch scripts of `slurm/`, from a checkout or an installed package."""

from pathlib import Path

from ...errors import one_of

PACKAGE = Path(__file__).resolve().parents[2]
SCRIPTS = ("array", "study", "aggregate")


def script(name: str) -> str:
    """The text of train_array.sbatch, study.sbatch or aggregate.sbatch, by a name of SCRIPTS."""
    one_of(name, SCRIPTS, "script")
    file = {"array": "train_array"}.get(name, name) + ".sbatch"
    places = (PACKAGE / "slurm", PACKAGE.parent / "slurm")
    return next(at / file for at in places if (at / file).is_file()).read_text()
