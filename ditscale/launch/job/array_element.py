"""Which run an element of a plain array trains, for slurm/train_array.sbatch:

    python -m ditscale.launch.job.array_element STUDY INDEX     prints the run's directory, then the source to import

The first element of an array that starts writes down the runs in their order, and takes the snapshot of the source; all
elements and attempts of the array go by that, whatever is planned or edited later.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from ... import units
from ...errors import UserError
from ...naming import StudyPaths
from ...plan.study import read_study
from ..backends.submission import Submission, folder, read_all, write_once
from ..snapshot import snapshot


def element(root: Path | str, index: int) -> tuple[Path, Path]:
    """(run directory, source). Raises UserError when the study has no run of this index."""
    read_study(root)
    paths = StudyPaths(Path(root).resolve())
    number = os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ["SLURM_JOB_ID"]
    if not (folder(paths, number) / "submission.json").exists():
        runs = tuple(at.name for at in paths.run_dirs())
        write_once(paths, Submission(number, number, runs, str(snapshot(paths.code)), time.time()))
    mine = next(s for s in read_all(paths) if s.token == number)
    if index >= len(mine.runs):
        raise UserError(
            f"{root}: there is no run {index}; the study has {len(mine.runs)}: sbatch --array=0-{len(mine.runs) - 1}"
        )
    at = paths.run(mine.runs[index])
    if not at.run.is_file():
        raise UserError(
            f"{root}: run {at.name} is not in this study any more; `scancel` this job, or plan the run again"
        )
    return at.root, Path(mine.code)


if __name__ == "__main__":
    try:
        run_dir, code = element(sys.argv[1], units.whole(sys.argv[2], "INDEX", low=0))
    except UserError as error:
        sys.exit(f"ditscale: error: {error}")
    print(run_dir, code, sep="\n")
