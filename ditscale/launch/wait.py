"""Bringing a study's runs to their end, wherever its cluster is: what is missing is started, then all is watched."""

from __future__ import annotations

import time
from collections import Counter
from typing import Callable

from .. import slurm_client
from ..config import Cluster
from ..errors import Interrupted
from ..naming import StudyPaths
from .cancel import cancel_needless
from .monitor.job_index import jobs_of
from .monitor.slurm_status import with_slurm
from .monitor.status import DONE, RunStatus, left_to_hosts

Show = Callable[[list[RunStatus], float], None]  # a study's status, and the seconds that it took to find
ENDING_S = 30.0  # that the job of a run that is done may take to end
RELEASES = 3  # of a job that Slurm holds again and again
LOOK_S, LONGEST_S = 2.0, 30.0  # between two looks at Slurm's jobs: the longer, the longer one waits already


def bring_to_end(paths: StudyPaths, cluster: Cluster, role: str, show: Show) -> list[RunStatus]:
    """Start what is missing of the runs of `role` ("grid" or "probe") and wait until none waits or runs; `show` is
    called meanwhile. Returns the final status.

    On Slurm the runs need nobody who waits: whoever is interrupted calls again and takes up the waiting. Raises
    UserError as launching does (backends/).
    """
    if cluster.name == "local":
        from .backends.local import launch

        return launch(paths, cluster, role, show)
    from .backends.slurm_array import launch as submit

    while True:
        submitted = submit(paths, cluster, role)
        ended = follow(paths, show)
        hosted = left_to_hosts(ended)
        left = [
            s for s in ended if s.run.role == role and s.state == "planned" and not s.job and s.run.run_id not in hosted
        ]
        if not left:  # else there was no room for those
            return ended
        if not submitted:  # jobs of other studies take all the room
            time.sleep(LONGEST_S)


def follow(paths: StudyPaths, show: Show) -> list[RunStatus]:
    """Watch a study until none of its Slurm jobs waits or runs; returns its final status. Raises Interrupted on
    Ctrl-C."""
    try:
        return _follow(paths, show)
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted; the study's jobs go on by themselves (`ditscale cancel {paths.root}` ends them), and the "
            "same command waits for them again"
        ) from None


def _follow(paths: StudyPaths, show: Show) -> list[RunStatus]:
    began, known, quiet_since, released = time.monotonic(), {}, None, Counter()
    while True:
        looked = time.monotonic()
        found = with_slurm(paths, known)
        took = time.monotonic() - looked
        show(found, took)
        held = {s.job for s in found if slurm_client.is_held(s.state, s.reason)}
        for job in held:
            released[job] += 1
            if released[job] <= RELEASES:
                slurm_client.release(job)
        lost = {job for job in held if released[job] > RELEASES}
        if any(s.state == "running" or s.state == "queued" and s.job not in lost for s in found):
            quiet_since = None
        else:
            quiet_since = quiet_since or looked
            done = {s.run.run_id for s in found if s.state in DONE} if looked - quiet_since > ENDING_S else set()
            if _at_work(paths, done) is False:
                cancel_needless(paths, {s.run.run_id for s in found if s.state in DONE})
                return found
        time.sleep(min(max(LOOK_S, 5 * took, (looked - began) / 60), LONGEST_S))


def _at_work(paths: StudyPaths, done: set[str]) -> bool | None:
    """Whether a job of the study runs, or is about to end, leaving out those of runs that are `done`; None when squeue
    gives no answer. One that waits is nobody's business here. A controller that was killed may start the job of a
    finished run again and hold it, or go on listing one that ended meanwhile as running, until its time limit."""
    live = jobs_of(paths)
    return (
        None
        if live is None
        else any(job.state != "PENDING" for run, jobs in live.items() if run not in done for job in jobs)
    )
