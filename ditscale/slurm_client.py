"""What Slurm says: squeue, sacct and scontrol, none of which is sure to be there or to answer."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass

AT_WORK = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "CONFIGURING", "RESIZING", "SIGNALING", "STAGE_OUT")
ANSWER_S = 10.0  # a controller that needs longer has no answer for us


@dataclass(frozen=True)
class Job:
    """One job or array element that Slurm has not finished with."""

    array: str  # number of the array, or of the job itself
    index: int | None  # None for a job without array
    state: str
    reason: str
    nodes: str
    name: str
    directory: str  # where it was submitted
    command: str  # of sbatch: the script and its arguments

    @property
    def id(self) -> str:
        return self.array if self.index is None else f"{self.array}_{self.index}"


def jobs(name: str | None = None) -> list[Job] | None:
    """This user's jobs that wait or run, of one name or all; None when squeue gives no answer."""
    words = ["squeue", "--noheader", "--array", f"--user={os.getuid()}", "--format=%F|%K|%T|%r|%N|%j|%Z|%o"]
    printed = ask(*words, *([f"--name={name}"] if name else []))
    if printed is None:
        return None
    rows = [line.split("|", 7) for line in printed.splitlines() if line.count("|") >= 7]
    return [Job(row[0], int(row[1]) if row[1].isdigit() else None, *row[2:]) for row in rows]


def state(job: str) -> str | None:
    """A job's state, "" for one that Slurm knows no more, None when squeue gives no answer."""
    done = _run("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T")
    if done is None:
        return None
    if done.returncode:
        return "" if "Invalid job id" in done.stderr else None
    return done.stdout.strip().splitlines()[0] if done.stdout.strip() else ""


def out_of_time(job: str) -> bool:
    """Whether a job is being ended because its time limit is reached: unlike a cancelled one, it may be requeued
    still."""
    printed = ask("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T|%r")
    return "COMPLETING|TimeLimit" in (printed or "").split()


def requeue(job: str) -> str:
    """Put a running job, or one at its time limit, this array element alone, back into the queue; returns why not, or
    ""."""
    done = _run("scontrol", "requeue", job)
    if done is None:
        return "scontrol gives no answer"
    return done.stderr.strip() if done.returncode else ""


def is_held(state: str, reason: str) -> bool:
    """Whether Slurm holds a job because it could not start it: after a node's failure, or a controller's own. It waits
    for ever then."""
    return state in ("PENDING", "queued") and reason.replace("_", " ") == "launch failed requeued held"


def release(job: str):
    """Let a held job wait for its turn again, and say so."""
    released = ask("scontrol", "release", job) is not None
    print(
        f"job {job} was held, for Slurm could not start it; "
        f"{'released' if released else '`scontrol release` refuses it'}",
        flush=True,
    )


def ask(*words: str) -> str | None:
    """What a command prints; None when it is missing, fails or does not answer in time."""
    done = _run(*words)
    return None if done is None or done.returncode else done.stdout


def _run(*words: str):
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=ANSWER_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
