"""Which run a task of a plain array trains, for slurm/train_array.sbatch:

    python -m ditscale.launch.job.array_task STUDY INDEX     prints shell lines: the preamble, and $run and $log

The first task of an array that starts writes down the runs in order and takes the snapshot, for all attempts."""

import shlex
import sys
import time
from pathlib import Path

from ... import units
from ...errors import UserError
from ...files import make_directory
from ...naming import RunPaths, StudyPaths
from ...plan.study import read_study
from ...process import this_process
from ..afford import check_budget
from ..backends.preamble import preamble
from ..backends.submission import Submission, read_all, write
from ..snapshot import snapshot


def array_task(root: Path | str, index: int) -> tuple[RunPaths, str]:
    """The run, and the directory to import ditscale from. Raises UserError when the study has no run of this index,
    or its budget does not suffice for it."""
    study, paths = read_study(root), StudyPaths(Path(root).resolve())
    number = this_process().job.split("_")[0]
    if not number:
        raise UserError(f"{root}: this is no Slurm job; submit it: sbatch --array=0-N slurm/train_array.sbatch DIR")
    if not (paths.jobs / number / "submission.json").exists():
        check_budget(paths, study)
        runs = tuple(at.name for at in paths.run_dirs())
        write(paths, Submission(number, number, runs, str(snapshot(paths.code)), time.time()), first=True)
    mine = next(s for s in read_all(paths) if s.token == number)
    if index >= len(mine.runs):
        n = len(mine.runs)
        raise UserError(f"{root}: there is no run {index}; the study has {n}: sbatch --array=0-{n - 1}")
    at = paths.run(mine.runs[index])
    if not at.run.is_file():
        raise UserError(f"{root}: run {at.name} is no longer in this study; `scancel` this job, or plan the run again")
    return at, mine.code


def shell_lines(root: Path | str, index: int) -> list[str]:
    """The lines before srun: the preamble, $run, the run's directory, and $log, where the output of its ranks goes."""
    at, code = array_task(root, index)
    make_directory(at.log)
    me = this_process()
    log = at.log / f"job-{me.job if '_' in me.job else f'{me.job}_0'}"
    return [*preamble(code, me.cpus), f"run={shlex.quote(str(at.root))} log={shlex.quote(str(log))}"]


if __name__ == "__main__":
    try:
        print(*shell_lines(sys.argv[1], units.whole(sys.argv[2], "INDEX", low=0)), sep="\n")
    except UserError as error:
        sys.exit(f"ditscale: error: {error}")
