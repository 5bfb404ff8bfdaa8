"""What Slurm adds to what a study's files tell: which runs wait and why, on which node, and how jobs ended.

Files come first: progress and loss are always theirs. squeue, when it answers, knows which jobs live; sacct why one
ended. Without either, the status is what the files say.
"""

from __future__ import annotations

from dataclasses import replace

from ..naming import StudyPaths
from . import queue
from .jobs import jobs_of
from .queue import Job
from .status import DONE, RunStatus, study_status

HELD = ("JobHeldUser", "JobHeldAdmin", "launch failed requeued held")


def with_slurm(paths: StudyPaths, known: dict[str, RunStatus] | None = None) -> list[RunStatus]:
    """`study_status` (status.py, `known` as there) with Slurm's knowledge. Slurm is asked first: a job that ends between
    the two looks is then seen as what its files say, not as one that never was."""
    live = jobs_of(paths)
    statuses = study_status(paths, known)
    if live is None:
        return statuses
    merged = [_merge(s, live.get(s.run.run_id, [])) for s in statuses]
    ended = _ended({s.job for s in merged if s.state == "interrupted" and s.job})
    explain = lambda s: replace(s, reason=f"job {s.job}: {ended[s.job]}; launching again resumes it")  # noqa: E731
    return [explain(s) if s.state == "interrupted" and s.job in ended else s for s in merged]


def _merge(s: RunStatus, jobs: list[Job]) -> RunStatus:
    if s.state in DONE:
        return s
    if jobs:
        job = min(jobs, key=lambda job: (job.state == "PENDING", job.id != s.job))
        if job.state != "PENDING":
            note = s.reason if s.state == "running" else job.state.lower() if job.state != "RUNNING" else "starting"
            return replace(s, state="running", job=job.id, host=job.nodes, reason=note)
        reason = f"{job.reason}; `scontrol release {job.id}` lets it go" if job.reason in HELD else job.reason
        return replace(s, state="queued", job=job.id, images_per_s=None, reason=reason)
    if s.state == "running" and s.job:  # by its heartbeat or lock, but Slurm has no such job any more
        return replace(
            s, state="interrupted", images_per_s=None, reason=f"job {s.job} is gone; launching again resumes it"
        )
    return s


def _ended(jobs: set[str]) -> dict[str, str]:
    """How jobs ended, by sacct, where it answers."""
    if not jobs:
        return {}
    printed = queue.ask(
        "sacct",
        "--allocations",
        "--noheader",
        "--parsable2",
        "--format=JobID,State",
        f"--jobs={','.join(sorted(jobs))}",
    )
    rows = [line.split("|") for line in (printed or "").splitlines()]
    return {row[0]: row[1] for row in rows if len(row) == 2 and row[0] in jobs}
