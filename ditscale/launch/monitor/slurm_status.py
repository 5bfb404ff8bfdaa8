"""What Slurm adds to what a study's files tell: which runs wait and why, on which node, and how jobs ended.

Files come first: progress and loss are always theirs. squeue, when it answers, knows which jobs live; sacct why one
ended. Without either, the status is what the files say.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ... import slurm_client
from ...naming import StudyPaths
from ...slurm_client import Job
from .job_index import jobs_of, last_jobs
from .status import DONE, RunStatus, study_status

HELD = ("JobHeldUser", "JobHeldAdmin", "launch failed requeued held")


def with_slurm(paths: StudyPaths, known: dict[str, RunStatus] | None = None) -> list[RunStatus]:
    """`study_status` (status.py, `known` as there) with Slurm's knowledge. Slurm is asked first: a job that ends
    between the two looks is then seen as what its files say, not as one that never was."""
    live = jobs_of(paths)
    statuses = study_status(paths, known)
    if live is None:
        return statuses
    merged = [_merge(s, live.get(s.run.run_id, [])) for s in statuses]
    last = last_jobs(paths) if any(s.state == "planned" for s in merged) else {}
    unborn = {s.run.run_id: last[s.run.run_id] for s in merged if s.state == "planned" and s.run.run_id in last}
    ended = _ended({s.job for s in merged if s.state == "interrupted" and s.job} | {job for job, _ in unborn.values()})
    return [_explain(s, ended, unborn.get(s.run.run_id)) for s in merged]


def _explain(s: RunStatus, ended: dict[str, str], unborn: tuple[str, Path] | None) -> RunStatus:
    """Why a run's job ended, as sacct has it; `unborn`: the job, and its log, of a run that never began."""
    if s.state == "interrupted" and s.job in ended:
        return replace(s, reason=f"job {s.job}: {ended[s.job]}; launching again resumes it")
    if not unborn:
        return s
    job, log = unborn
    how = ended.get(job, "gone")
    if how == "COMPLETED" or how.startswith("CANCELLED"):
        return replace(s, job=job, reason=f"job {job}: {how} before the run began; launching again submits it")
    see = f"see {log}" if log.exists() else "its node may not see this directory (`ditscale doctor DIR --job` tries)"
    return replace(
        s,
        state="planned" if how == "gone" else "failed",
        job=job,
        reason=f"job {job}: {how} before the run began; {see}",
    )


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
    printed = slurm_client.ask(
        "sacct",
        "--allocations",
        "--noheader",
        "--parsable2",
        "--format=JobID,State",
        f"--jobs={','.join(sorted({job.split('_')[0] for job in jobs}))}",
    )
    rows = [line.split("|") for line in (printed or "").splitlines()]
    found = {name: row[1] for row in rows if len(row) == 2 for name in elements(row[0])}
    # elements that were cancelled before any had started are in the array's own row
    return {
        job: found.get(job) or found[job.split("_")[0]] for job in jobs if job in found or job.split("_")[0] in found
    }


def elements(job: str) -> list[str]:
    """The names of what sacct has in one row: an array whose elements never started is 123_[0-2,7%4]."""
    array, bracket, listed = job.partition("_[")
    if not bracket:
        return [job]
    spans = [part.partition("-") for part in listed.rstrip("]").split("%")[0].split(",")]
    return [f"{array}_{i}" for first, _, last in spans for i in range(int(first), int(last or first) + 1)]
