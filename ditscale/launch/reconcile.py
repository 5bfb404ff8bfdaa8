"""What a study still has to submit to Slurm: its runs, compared with its jobs and with what earlier launches left."""

import shutil
import time
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any, Callable, Iterator

from .. import slurm_client
from ..errors import UserError
from ..files import make_directory
from ..logs import log
from ..naming import StudyPaths
from ..plan.run import Run
from ..rundir.lock import LockHeld, RunLock
from ..slurm_client import Job
from .backends.submission import Submission, read_all, write
from .job.execute import execute
from .job.packed import run_packed
from .monitor.job_index import jobs_of
from .monitor.status import DONE, State, awaiting_parent, study_status

SETTLE_S = 10  # An sbatch whose launcher was killed has reached the controller after this time.


@contextmanager
def only_launcher(paths: StudyPaths) -> Iterator[None]:
    """Admit one launcher at a time to a study. Raises UserError for the second."""
    make_directory(paths.jobs)
    try:
        lock = RunLock(paths.jobs / "lock")
    except LockHeld:
        raise UserError(f"{paths.root}: another launch is submitting this study; wait for it") from None
    with closing(lock.file):
        yield


def missing_runs(paths: StudyPaths, among: Callable[[Run], bool]) -> list[Run]:
    """The requested runs that are neither done, nor pending, nor running; logs how many, and orphaned jobs. Call it
    under `only_launcher`. Raises UserError when squeue gives no answer."""
    _recover(paths)
    # Before the files are read: a run that ends meanwhile then counts as ended.
    live = slurm_client.answered(jobs_of(paths), "which runs are pending or running")
    statuses = study_status(paths)
    states = {s.run.run_id: s.state for s in statuses}
    open_jobs = [job for run_id, jobs in live.items() if states.get(run_id) not in DONE for job in jobs]
    for job_id in {job.id for job in open_jobs if slurm_client.is_held(job.state, job.reason)}:
        slurm_client.release(job_id)
    _report_orphans(states, live)
    # A job that completes was cancelled, for example, and saves; the next attempt waits for it (rundir/attempts.py).
    taken = {run_id for run_id, jobs in live.items() if any(job.state != "COMPLETING" for job in jobs)}
    taken |= {run_id for run_id, state in states.items() if state == State.RUNNING and run_id not in live}
    taken |= awaiting_parent(statuses)
    mine = [s for s in statuses if among(s.run)]
    done = sum(s.state in DONE for s in mine)
    missing = [s.run for s in mine if s.state not in DONE and s.run.run_id not in taken]
    log.info(f"{len(missing)} runs to submit, {len(mine) - len(missing) - done} pending or running, {done} done")
    return missing


def task_calls(paths: StudyPaths, submission: Submission) -> tuple[Callable[[Any], Any], list[Any]]:
    """The function that each task of an array executes, and its argument by the task's index."""
    tasks = [[str(paths.run(run_id).root.resolve()) for run_id in task] for task in submission.tasks]
    return (run_packed, tasks) if submission.pack > 1 else (execute, [run_dir for (run_dir,) in tasks])


def _recover(paths: StudyPaths):
    """Settle submissions whose launcher died between sbatch and the record: adopt the job, or forget the token."""
    from submitit.core.utils import DelayedSubmission, JobPaths

    for submission in read_all(paths):
        if submission.job:
            continue
        time.sleep(max(0.0, min(SETTLE_S, submission.unix + SETTLE_S - time.time())))
        found = slurm_client.answered(slurm_client.jobs(submission.name), "what an interrupted launch has submitted")
        at = paths.jobs / submission.token
        if not found:
            shutil.rmtree(at, ignore_errors=True)
            continue
        number = found[0].array
        call, arguments = task_calls(paths, submission)
        for index, argument in enumerate(arguments):  # submitit names its pickles by the job's number, after sbatch.
            name = number if found[0].index is None else f"{number}_{index}"
            pickle = JobPaths(at.resolve(), name).submitted_pickle
            if not pickle.exists():
                delayed = DelayedSubmission(call, argument)
                delayed.set_timeout(60, 10**6)
                delayed.dump(pickle)
        write(paths, replace(submission, job=number))
        log.info(f"job {number}: adopted from an interrupted launch, {len(submission.runs)} runs")


def _report_orphans(states: dict[str, State], live: dict[str, list[Job]]):
    """Log which jobs have nothing to do: their run left the study or is done, or has another job too."""
    needed = {job.id for run_id, jobs in live.items() if states.get(run_id, DONE[0]) not in DONE for job in jobs}
    for run_id, jobs in live.items():
        if states.get(run_id, DONE[0]) not in DONE:
            jobs, why = jobs[1:], f"which already has job {jobs[0].id}"
        else:
            # A packed job may have other runs left; one that runs, though its run is done, is about to end.
            jobs = [j for j in jobs if j.id not in needed and (run_id not in states or j.state == "PENDING")]
            why = f"which is {states[run_id]}" if run_id in states else "which is no longer in this study"
        for job in jobs:
            log.info(f"orphaned: job {job.id} is for run {run_id}, {why}; `scancel {job.id}` removes it")
