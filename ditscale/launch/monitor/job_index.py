"""Which of this user's Slurm jobs train which runs of a study, however they were submitted."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from ... import slurm_client
from ...naming import StudyPaths
from ...slurm_client import Job
from ..backends.submission import folder, read_all

TEMPLATE, DRIVER = "train_array.sbatch", "study.sbatch"


def jobs_of(paths: StudyPaths) -> dict[str, list[Job]] | None:
    """Jobs that wait or run, by the run id they train; None when squeue gives no answer.

    A plain array counts from its submission on, though none of its elements has started: its command names the study.
    """
    everything = slurm_client.jobs()
    if everything is None:
        return None
    submissions = read_all(paths)
    named, numbered = {s.name: s for s in submissions}, {s.job: s for s in submissions}
    planned = [(at.name,) for at in paths.run_dirs()]
    found = defaultdict(list)
    for job in everything:
        submission, first = named.get(job.name), _first(job, paths)
        if submission:  # the name holds the token, and is known before the number is
            elements, index = submission.elements, job.index or 0
        elif first is not None:
            submission = numbered.get(job.array)
            elements, index = submission.elements if submission else planned, first + (job.index or 0)
        else:
            continue
        for run_id in elements[index] if index < len(elements) else ():
            found[run_id].append(job)
    return dict(found)


def last_jobs(paths: StudyPaths) -> dict[str, tuple[str, Path]]:
    """The job that each run was submitted in last, as "123_4", and the file that it printed to."""
    found = {}
    for s in read_all(paths):
        alone = len(s.elements) == 1 and s.token != s.job  # to submitit one element is no array
        for index, run_id in [(index, run_id) for index, runs in enumerate(s.elements) for run_id in runs]:
            name = s.job if alone else f"{s.job}_{index}"
            log = (
                paths.run(run_id).log / f"job-{name}.0.log"
                if s.token == s.job
                else folder(paths, s.token) / f"{name}_0_log.out"
            )
            found[run_id] = (name, log)
    return found


def drivers(paths: StudyPaths) -> list[Job]:
    """Jobs that do the whole study (slurm/study.sbatch DIR [KEY=VALUE ...]) and launch the others."""
    return [job for job in slurm_client.jobs() or [] if any(True for _ in _arguments(job, DRIVER, paths))]


def _first(job: Job, paths: StudyPaths) -> int | None:
    """The FIRST of a plain array of this study (slurm/train_array.sbatch DIR [FIRST]); None when the job is not one."""
    for further in _arguments(job, TEMPLATE, paths):
        if not further or further.isdigit():
            return int(further or 0)
    return None


def _arguments(job: Job, script: str, paths: StudyPaths):
    """What may follow the study's directory in a job's command `script DIR ...`; nothing where it is another command,
    or of another study. squeue shows the words with a space between them, and a directory may have spaces too."""
    before, _, rest = job.command.partition(f"{script} ")
    if not rest or (before and not before.endswith("/")):
        return
    words = rest.split(" ")
    for n in range(len(words), 0, -1):
        if Path(job.directory, " ".join(words[:n])).resolve() == paths.root.resolve():
            yield " ".join(words[n:])
