"""Cancelling a study's Slurm jobs, and no others."""

from contextlib import suppress

from .. import slurm_client
from ..errors import UserError
from ..logs import log
from ..naming import StudyPaths
from .monitor.job_index import drivers, jobs_of

AT_ONCE = 500  # job numbers on one command line
CANCEL_S = 600.0  # A busy controller needs long for thousands of jobs.


def cancel(paths: StudyPaths) -> str:
    """Cancel every pending or running job of the study, whose runs save within the cluster's KillWait; returns what it
    did. Raises UserError when Slurm gives no answer."""
    live = slurm_client.answered(jobs_of(paths), "which jobs the study has")
    first = sorted(job.id for job in drivers(paths))  # Otherwise they would submit again what is cancelled.
    names = first + sorted({job.id for jobs in live.values() for job in jobs})
    _scancel(names)
    arrays = sorted({name.split("_")[0] for name in names})
    return f"cancelled {len(names)} jobs ({', '.join(arrays)})" if names else "no job of this study is queued"


def cancel_needless(paths: StudyPaths, done: set[str]):
    """Cancel the study's jobs whose runs are all `done`: Slurm may list one after the loss of a node or its controller.
    Without an answer it stays: it would start, find its run done, and end."""
    live = jobs_of(paths) or {}
    needed = {job.id for run, jobs in live.items() if run not in done for job in jobs}
    names = sorted({job.id for jobs in live.values() for job in jobs} - needed)
    with suppress(UserError):
        _scancel(names)
        if names:
            log.info(f"cancelled {len(names)} jobs ({', '.join(names)}) that Slurm still listed, whose runs are done")


def _scancel(names: list[str]):
    """Raises UserError when Slurm refuses or gives no answer."""
    for start in range(0, len(names), AT_ONCE):
        done = slurm_client.run("scancel", *names[start : start + AT_ONCE], timeout_s=CANCEL_S)
        if done is None:
            raise UserError("scancel gives no answer; try again")
        if done.returncode:
            raise UserError(f"scancel: {done.stderr.strip() or 'failed'}")
