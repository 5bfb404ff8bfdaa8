"""Which of this user's Slurm jobs train which runs of a study, however they were submitted."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from ..naming import StudyPaths
from . import queue
from .queue import Job
from .submission import read_all

TEMPLATE = "train_array.sbatch"


def jobs_of(paths: StudyPaths) -> dict[str, list[Job]] | None:
    """Jobs that wait or run, by the run id they train; None when squeue gives no answer.

    A plain array counts from its submission on, though none of its elements has started: its command names the study.
    """
    everything = queue.jobs()
    if everything is None:
        return None
    submissions = read_all(paths)
    named, numbered = {s.name: s for s in submissions}, {s.job: s for s in submissions}
    planned = tuple(at.name for at in paths.run_dirs())
    found = defaultdict(list)
    for job in everything:
        submission, first = named.get(job.name), _first(job, paths)
        if submission:  # the name holds the token, and is known before the number is
            runs, index = submission.runs, job.index or 0
        elif first is not None:
            submission = numbered.get(job.array)
            runs, index = submission.runs if submission else planned, first + (job.index or 0)
        else:
            continue
        if index < len(runs):
            found[runs[index]].append(job)
    return dict(found)


def _first(job: Job, paths: StudyPaths) -> int | None:
    """The FIRST of a plain array of this study (slurm/train_array.sbatch DIR [FIRST]); None when the job is not one."""
    script, _, rest = job.command.partition(f"{TEMPLATE} ")
    if not rest or (script and not script.endswith("/")):
        return None
    directory, _, first = rest.rpartition(" ")
    for name, number in ((rest, "0"), (directory, first)):
        if name and number.isdigit() and Path(job.directory, name).resolve() == paths.root.resolve():
            return int(number)
    return None
