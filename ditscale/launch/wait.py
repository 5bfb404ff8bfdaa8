"""Bringing a study's runs to their end, on whichever cluster: what is missing is started, then all is watched, or its
Slurm jobs, and no others, are cancelled."""

import time
from collections import Counter
from contextlib import suppress

from .. import slurm_client
from ..config import Cluster
from ..errors import Interrupted, UserError, command
from ..logs import log
from ..naming import StudyPaths
from .backends import local, slurm_array
from .monitor.job_index import drivers, jobs_of
from .monitor.slurm_status import with_slurm
from .monitor.status import DONE, RunStatus, Show, State, awaiting_parent

ENDING_S = 30.0  # The job of a run that is done may take this long to end.
RELEASES = 3  # Slurm may hold a job again; it is released at most this often.
AT_ONCE = 500  # job numbers on one command line
CANCEL_S = 600.0  # A busy controller needs long for thousands of jobs.
LOOK_S, LONGEST_S = 2.0, 30.0  # between two looks at Slurm's jobs; the interval grows with the time waited


def bring_to_end(paths: StudyPaths, cluster: Cluster, stage: str, show: Show) -> list[RunStatus]:
    """Start the missing runs of `stage` ("grid", with its levers, "rate" or "probe"), wait until none is pending or
    running, and return the final status; `show` is called meanwhile. Raises UserError as launching does (backends/)."""
    if cluster.name == "local":
        return local.launch(paths, cluster, stage, show)
    while True:
        submitted = slurm_array.launch(paths, cluster, stage)
        ended = follow(paths, show)
        nested = awaiting_parent(ended)
        mine = [s for s in ended if s.run.stage == stage and s.run.run_id not in nested]
        if not any(s.state == State.PLANNED and not s.job for s in mine):
            return ended
        if not submitted:  # There was no room: the jobs of other studies take all of it.
            time.sleep(LONGEST_S)


def follow(paths: StudyPaths, show: Show) -> list[RunStatus]:
    """Watch a study until no job is pending or running; returns its final status. Raises Interrupted on Ctrl-C."""
    known: dict[str, RunStatus] = {}
    released: Counter[str] = Counter()
    began, quiet_since = time.monotonic(), None
    try:
        while True:
            looked = time.monotonic()
            statuses = with_slurm(paths, known)
            took = time.monotonic() - looked
            show(statuses, took)
            held = {s.job for s in statuses if slurm_client.is_held(s.state, s.reason)}
            released.update(held)
            given_up = {job for job in held if released[job] > RELEASES}
            for job in held - given_up:
                slurm_client.release(job)
            if any(s.state == State.RUNNING or s.state == State.QUEUED and s.job not in given_up for s in statuses):
                quiet_since = None
            else:
                quiet_since = quiet_since or looked
                done = {s.run.run_id for s in statuses if s.state in DONE}
                ending, live = done if looked - quiet_since > ENDING_S else set(), jobs_of(paths)
                jobs = [job for run, jobs in (live or {}).items() if run not in ending for job in jobs]
                if live is not None and all(job.state == "PENDING" for job in jobs):
                    cancel_needless(paths, done)
                    return statuses
            time.sleep(min(max(LOOK_S, 5 * took, (looked - began) / 60), LONGEST_S))
    except KeyboardInterrupt:
        ends = f"{command('cancel', paths.root)} ends them"
        text = f"interrupted; the study's jobs keep running ({ends}), and the same command waits for them again"
        raise Interrupted(text) from None


def cancel(paths: StudyPaths) -> str:
    """Cancel all jobs of the study; returns what it did. Raises UserError when Slurm gives no answer."""
    live = slurm_client.answered(jobs_of(paths), "which jobs the study has")
    first = sorted(job.id for job in drivers(paths))  # Otherwise they would submit again what is cancelled.
    names = first + sorted({job.id for jobs in live.values() for job in jobs})
    _scancel(names)
    arrays = sorted({name.split("_")[0] for name in names})
    return f"cancelled {len(names)} jobs ({', '.join(arrays)})" if names else "no job of this study is queued"


def cancel_needless(paths: StudyPaths, done: set[str]):
    """Cancel jobs whose runs are all `done`, which Slurm may list after the loss of a node or its controller."""
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
