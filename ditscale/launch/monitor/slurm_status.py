"""What Slurm adds to the status from a study's files: squeue, when it answers, which runs are pending and why, and on
which node they run; sacct how jobs ended. Progress and loss are always the files'."""

from dataclasses import replace
from pathlib import Path

from ... import slurm_client
from ...errors import command
from ...naming import StudyPaths
from ...slurm_client import Job
from .job_index import jobs_of, last_jobs
from .status import DONE, RunStatus, State, study_status

HELD = ("JobHeldUser", "JobHeldAdmin", "launch failed requeued held")


def with_slurm(paths: StudyPaths, known: dict[str, RunStatus] | None = None) -> list[RunStatus]:
    """`study_status` with Slurm's knowledge. Slurm is asked first: what ends meanwhile counts as its files say."""
    live = jobs_of(paths)
    statuses = study_status(paths, known)
    if live is None:
        return statuses
    merged = [_merge(s, live.get(s.run.run_id, [])) for s in statuses]
    last = last_jobs(paths) if any(s.state == State.PLANNED for s in merged) else {}
    unborn = {s.run.run_id: last[s.run.run_id] for s in merged if s.state == State.PLANNED and s.run.run_id in last}
    interrupted = {s.job for s in merged if s.state == State.INTERRUPTED and s.job}
    ended = _ended(interrupted | {job for job, _ in unborn.values()})
    return [_explain(s, ended, unborn.get(s.run.run_id), paths) for s in merged]


def _explain(s: RunStatus, ended: dict[str, str], unborn: tuple[str, Path] | None, paths: StudyPaths) -> RunStatus:
    """Why a run's job ended, according to sacct; `unborn`: the job, and its log, of a run that never began."""
    if s.state == State.INTERRUPTED and s.job in ended:
        return replace(s, reason=f"job {s.job}: {ended[s.job]}; launch again to resume it")
    if not unborn:
        return s
    job, log = unborn
    how = ended.get(job, "gone")
    if how == "COMPLETED" or how.startswith("CANCELLED"):
        return replace(s, job=job, reason=f"job {job}: {how} before the run began; launch again to submit it")
    doctor = command("doctor", paths.root, "--job")
    see = f"see {log}" if log.exists() else f"its node may not see this directory ({doctor} checks that)"
    state = State.PLANNED if how == "gone" else State.FAILED
    return replace(s, state=state, job=job, reason=f"job {job}: {how} before the run began; {see}")


def _merge(s: RunStatus, jobs: list[Job]) -> RunStatus:
    if s.state in DONE:
        return s
    if jobs:
        job = min(jobs, key=lambda job: (job.state == "PENDING", job.id != s.job))
        if job.state != "PENDING":
            reason = "starting" if job.state == "RUNNING" else job.state.lower()
            reason = s.reason if s.state == State.RUNNING else reason
            return replace(s, state=State.RUNNING, job=job.id, host=job.nodes, reason=reason)
        reason = f"{job.reason}; `scontrol release {job.id}` releases it" if job.reason in HELD else job.reason
        return replace(s, state=State.QUEUED, job=job.id, images_per_s=None, reason=reason)
    if s.state == State.RUNNING and s.job:  # By its heartbeat or lock; Slurm has no such job any more.
        reason = f"job {s.job} is gone; launch again to resume it"
        return replace(s, state=State.INTERRUPTED, images_per_s=None, reason=reason)
    return s


def _ended(jobs: set[str]) -> dict[str, str]:
    """How jobs ended, by sacct, where it answers."""
    if not jobs:
        return {}
    arrays = ",".join(sorted({job.split("_")[0] for job in jobs}))
    words = ("--allocations", "--noheader", "--parsable2", "--format=JobID,State", f"--jobs={arrays}")
    rows = [line.split("|") for line in (slurm_client.ask("sacct", *words) or "").splitlines()]
    found = {name: row[1] for row in rows if len(row) == 2 for name in task_names(row[0])}
    # Tasks that were cancelled before any had started are in the array's own row.
    known = {job: found.get(job) or found.get(job.split("_")[0]) for job in jobs}
    return {job: state for job, state in known.items() if state}


def task_names(job: str) -> list[str]:
    """The job names in one row of sacct: it shows an array whose tasks never started as 123_[0-2,7%4]."""
    array, bracket, listed = job.partition("_[")
    if not bracket:
        return [job]
    spans = [part.partition("-") for part in listed.rstrip("]").split("%")[0].split(",")]
    return [f"{array}_{i}" for first, _, last in spans for i in range(int(first), int(last or first) + 1)]
