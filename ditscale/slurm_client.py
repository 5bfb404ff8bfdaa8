"""What Slurm answers: squeue, sacct and scontrol. Any of them may be missing or silent."""

import os
import pwd
import re
import subprocess
from dataclasses import dataclass
from typing import TypeVar

from .errors import UserError
from .logs import log

T = TypeVar("T")

AT_WORK = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "CONFIGURING", "RESIZING", "SIGNALING", "STAGE_OUT")
ANSWER_S = 10.0  # A controller that needs longer counts as silent.


@dataclass(frozen=True)
class Job:
    """One pending or running job, or task of an array."""

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
    """This user's pending and running jobs, of one name or all; None when squeue does not answer."""
    words = ["squeue", "--noheader", "--array", f"--user={os.getuid()}", "--format=%F|%K|%T|%r|%N|%j|%Z|%o"]
    printed = ask(*words, *([f"--name={name}"] if name else []))
    if printed is None:
        return None
    rows = [line.split("|", 7) for line in printed.splitlines() if line.count("|") >= 7]
    return [Job(row[0], int(row[1]) if row[1].isdigit() else None, *row[2:]) for row in rows]


def answered(found: T | None, what: str) -> T:
    """What squeue was asked for. Raises UserError where it was silent, so that `what` is not known."""
    if found is None:
        raise UserError(f"squeue gives no answer, so {what} is not known; try again on a login node when it answers")
    return found


def state(job: str) -> str | None:
    """A job's state, "" for one that Slurm has forgotten, None when squeue does not answer."""
    answer = _state_and_reason(job)
    return None if answer is None else answer.split("|")[0]


def out_of_time(job: str) -> bool:
    """Whether Slurm is ending a job at its time limit: unlike a cancelled one, it can still be requeued."""
    return _state_and_reason(job) == "COMPLETING|TimeLimit"


def _state_and_reason(job: str) -> str | None:
    done = run("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T|%r")
    if done is None or done.returncode:
        return "" if done and "Invalid job id" in done.stderr else None
    return (done.stdout.split() or [""])[0]


def requeue(job: str) -> str:
    """Requeue a running job, or one at its time limit; of an array this task alone. Returns why that failed, or ""."""
    done = run("scontrol", "requeue", job)
    if done is None:
        return "scontrol does not answer"
    return done.stderr.strip() if done.returncode else ""


def is_held(state: str, reason: str) -> bool:
    """Whether Slurm holds a job for ever, since it could not start it: after a failure of a node or the controller."""
    return state in ("PENDING", "queued") and reason.replace("_", " ") == "launch failed requeued held"


def release(job: str):
    done = "released it" if ask("scontrol", "release", job) is not None else "`scontrol release` was refused"
    log.info(f"job {job} was held because Slurm could not start it; {done}")


def array_limit(timeout_s: float | None = None) -> int | None:
    """The most tasks that one array may have; None when scontrol does not answer in time (ANSWER_S)."""
    settings = ask("scontrol", "show", "config", timeout_s=timeout_s)
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", settings or "", re.M)
    return None if settings is None else int(found.group(1)) if found else 1000


def submit_limits(timeout_s: float | None = None) -> dict[str, int]:
    """{account: the most jobs that this user may have pending or running in it}, of accounts that have a limit. Empty
    when sacctmgr does not answer in time (ANSWER_S)."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # A container may have no name for its user.
        return {}
    words = ("sacctmgr", "--noheader", "--parsable2", "show", "assoc", "where", f"user={user}")
    printed = ask(*words, "format=account,maxsubmitjobs", timeout_s=timeout_s) or ""
    rows = [line.split("|") for line in printed.splitlines()]
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}


def ask(*words: str, timeout_s: float | None = None) -> str | None:
    """What a command prints; None when it is missing, fails or does not answer in time (ANSWER_S)."""
    done = run(*words, timeout_s=timeout_s)
    return None if done is None or done.returncode else done.stdout


def run(*words: str, timeout_s: float | None = None) -> subprocess.CompletedProcess[str] | None:
    """A finished command; None when it is missing or does not answer in time (ANSWER_S)."""
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=timeout_s or ANSWER_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
