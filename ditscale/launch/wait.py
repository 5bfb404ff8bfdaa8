"""Bringing a study's runs to their end, on whichever cluster: what is missing is started, then all is watched."""

import time
from collections import Counter

from .. import slurm_client
from ..config import Cluster
from ..errors import Interrupted, command
from ..naming import StudyPaths
from .cancel import cancel_needless
from .monitor.job_index import jobs_of
from .monitor.slurm_status import with_slurm
from .monitor.status import DONE, RunStatus, Show, State, awaiting_parent

ENDING_S = 30.0  # The job of a run that is done may take this long to end.
RELEASES = 3  # Slurm may hold a job again; it is released at most this often.
LOOK_S, LONGEST_S = 2.0, 30.0  # between two looks at Slurm's jobs; the interval grows with the time waited


def bring_to_end(paths: StudyPaths, cluster: Cluster, role: str, show: Show) -> list[RunStatus]:
    """Start the missing runs of `role` ("grid" or "probe"), wait until none is pending or running, and return the final
    status; `show` is called meanwhile. On Slurm the same call waits again after an interruption. Raises UserError as
    launching does (backends/)."""
    if cluster.name == "local":
        from .backends.local import launch

        return launch(paths, cluster, role, show)
    from .backends.slurm_array import launch as submit

    while True:
        submitted = submit(paths, cluster, role)
        ended = follow(paths, show)
        nested = awaiting_parent(ended)
        mine = [s for s in ended if s.run.role == role and s.run.run_id not in nested]
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
            for job in held:
                if released[job] <= RELEASES:
                    slurm_client.release(job)
            given_up = {job for job in held if released[job] > RELEASES}
            if any(s.state == State.RUNNING or s.state == State.QUEUED and s.job not in given_up for s in statuses):
                quiet_since = None
            else:
                quiet_since = quiet_since or looked
                done = {s.run.run_id for s in statuses if s.state in DONE}
                if _is_running(paths, done if looked - quiet_since > ENDING_S else set()) is False:
                    cancel_needless(paths, done)
                    return statuses
            time.sleep(min(max(LOOK_S, 5 * took, (looked - began) / 60), LONGEST_S))
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted; the study's jobs keep running ({command('cancel', paths.root)} ends them), and the same "
            "command waits for them again"
        ) from None


def _is_running(paths: StudyPaths, done: set[str]) -> bool | None:
    """Whether a job is running or ending, other than of runs that are `done`; None when squeue gives no answer. A
    controller that was killed may list the job of a finished run as held or running."""
    live = jobs_of(paths)
    if live is None:
        return None
    return any(job.state != "PENDING" for run, jobs in live.items() if run not in done for job in jobs)
