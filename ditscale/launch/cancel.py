"""Ending a study's Slurm jobs, and no others."""

from __future__ import annotations

import subprocess

from .. import slurm_client
from ..errors import UserError
from ..naming import StudyPaths
from .monitor.job_index import drivers, jobs_of

AT_ONCE = 500  # names on one command line


def cancel(paths: StudyPaths) -> str:
    """Cancel every waiting or running job of the study; says what it did. Runs save within the cluster's KillWait and
    stay resumable. Raises UserError when Slurm gives no answer."""
    live = jobs_of(paths)
    if live is None:
        raise UserError(
            "squeue gives no answer, so the study's jobs are not known; is this a login node, and the controller up?"
        )
    first = sorted(job.id for job in drivers(paths))  # else they would launch again what is cancelled
    names = first + sorted({job.id for jobs in live.values() for job in jobs})
    _scancel(names)
    arrays = sorted({name.split("_")[0] for name in names})
    return f"cancelled {len(names)} jobs ({', '.join(arrays)})" if names else "no job of this study waits or runs"


def cancel_needless(paths: StudyPaths, done: set[str]):
    """Cancel the study's jobs that have only runs which are `done`, and say so: a controller that was killed, or a node
    that was lost, may have put the job of a run that ended meanwhile back into the queue, or go on listing it as
    running. Where Slurm gives no answer they stay: each would start, find its run done, and end."""
    live = jobs_of(paths) or {}
    needed = {job.id for run, jobs in live.items() if run not in done for job in jobs}
    names = sorted({job.id for jobs in live.values() for job in jobs} - needed)
    try:
        _scancel(names)
    except UserError:
        return
    if names:
        print(
            f"cancelled {len(names)} jobs ({', '.join(names)}) that Slurm still had, though their runs are done",
            flush=True,
        )


def _scancel(names: list[str]):
    """Raises UserError when Slurm refuses or gives no answer."""
    for start in range(0, len(names), AT_ONCE):
        some = names[start : start + AT_ONCE]
        try:
            done = subprocess.run(
                ["scancel", *some], capture_output=True, text=True, timeout=60 * slurm_client.ANSWER_S
            )
        except (OSError, subprocess.TimeoutExpired):
            raise UserError("scancel gives no answer; call it again") from None
        if done.returncode:
            raise UserError(f"scancel: {done.stderr.strip() or 'failed'}")
