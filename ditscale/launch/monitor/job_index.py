"""The job index: which of this user's Slurm jobs train which runs of a study, however they were submitted."""

from collections import defaultdict
from pathlib import Path
from typing import Iterator

from ... import slurm_client
from ...naming import StudyPaths
from ...slurm_client import Job
from ..backends.submission import read_all

TEMPLATE, DRIVER = "train_array.sbatch", "study.sbatch"


def jobs_of(paths: StudyPaths) -> dict[str, list[Job]] | None:
    """Pending and running jobs by the run id they train, plain arrays too; None when squeue gives no answer."""
    everything = slurm_client.jobs()
    if everything is None:
        return None
    submissions = read_all(paths)
    by_name, by_number = {s.name: s for s in submissions}, {s.job: s for s in submissions}
    planned: list[tuple[str, ...]] = [(at.name,) for at in paths.run_dirs()]
    found = defaultdict(list)
    for job in everything:
        # By its name, which has the token and is known before the number.
        submission, index = by_name.get(job.name), job.index or 0
        if submission is None:
            first = _first(job, paths)
            if first is None:
                continue
            submission, index = by_number.get(job.array), first + index
        tasks = submission.tasks if submission else planned
        for run_id in tasks[index] if index < len(tasks) else ():
            found[run_id].append(job)
    return dict(found)


def last_jobs(paths: StudyPaths) -> dict[str, tuple[str, Path]]:
    """The job in which each run was submitted last, as "123_4", and the file of its output."""
    found = {}
    for s in read_all(paths):
        plain = s.token == s.job
        single = len(s.tasks) == 1 and not plain  # submitit makes no array of one task.
        for index, task in enumerate(s.tasks):
            name = s.job if single else f"{s.job}_{index}"
            for run_id in task:
                own = paths.run(run_id).log / f"job-{name}.0.log"
                found[run_id] = (name, own if plain else paths.jobs / s.token / f"{name}_0_log.out")
    return found


def drivers(paths: StudyPaths) -> list[Job]:
    """Jobs that do the whole study (slurm/study.sbatch DIR [KEY=VALUE ...]) and submit the others."""
    return [job for job in slurm_client.jobs() or [] if any(True for _ in _arguments(job, DRIVER, paths))]


def _first(job: Job, paths: StudyPaths) -> int | None:
    """The FIRST of a plain array of this study (slurm/train_array.sbatch DIR [FIRST]); None when the job is not one."""
    return next((int(n or 0) for n in _arguments(job, TEMPLATE, paths) if not n or n.isdigit()), None)


def _arguments(job: Job, script: str, paths: StudyPaths) -> Iterator[str]:
    """What may follow the study's directory, which may contain spaces, in a job's command `script DIR ...`."""
    before, _, rest = job.command.partition(f"{script} ")
    if not rest or (before and not before.endswith("/")):
        return
    words = rest.split(" ")
    for n in range(len(words), 0, -1):
        if Path(job.directory, " ".join(words[:n])).resolve() == paths.root.resolve():
            yield " ".join(words[n:])
