"""Attempts: which execution of a run is its writer, and when to stop trying.

Each attempt takes the run's lock and the next number, by creating attempts/NNNN.json, which only one process can; the
highest number is the writer. An older attempt that still lives (its node was lost to Slurm, not to power) sees the
newer file at its next heartbeat, or before it saves or deletes a checkpoint, and ends (rundir/fencing.py). What it may
still write until then is harmless: its record has lost its name (rundir/record.py), and checkpoints are equal, being
functions of (seed, position).
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from .. import slurm_client
from ..errors import UserError
from ..files import make_directory, write_once, write_text
from ..naming import RunPaths
from ..plan.run import read_run
from ..process import this_process
from . import checkpoints
from .lock import LockHeld, RunLock, is_locked

LIVE_S = 120.0  # a heartbeat younger than this is a sign of life where nothing better is known
IDLE_ATTEMPTS = 5  # so many attempts of one job from the same checkpoint are a crash loop


@dataclass(frozen=True)
class Attempt:
    """Content of attempts/NNNN.json, by the attempt itself. `job` is the Slurm job ("123_4"), "" without Slurm."""

    number: int
    job: str
    restart: int
    host: str
    node: str  # Slurm's name for the host, "" without Slurm
    pid: int
    ranks: int
    started_unix: float
    checkpoint: str  # the newest when it started, "" for none
    gpus: str = ""  # those that Slurm, or a launch on this machine (gpus.py), has given it: CUDA_VISIBLE_DEVICES
    ended: str = ""  # how it ended; "" while it lives, and for ever if it was killed


class Busy(UserError):
    """Another process is at this run."""


class CrashLoop(UserError):
    """The run's attempts make no progress."""


def claim(at: RunPaths) -> tuple[Attempt, RunLock]:
    """Become the run's writer; returns the attempt and the run's lock.

    Raises Busy while another attempt lives, CrashLoop at the end of a crash loop.
    """
    make_directory(_file(at, 0).parent)
    patience = time.monotonic() + LIVE_S
    while True:
        history = read_attempts(at)
        last = history[-1] if history else None
        if last and _alive(at, last):
            if last.job and slurm_client.state(last.job) == "COMPLETING" and time.monotonic() < patience:
                time.sleep(1)  # cancelled or requeued a moment ago: it is saving
                continue
            raise Busy(f"{at.root}: {_who(last)} is running it; nothing to do")
        me = _me((last.number if last else 0) + 1, _newest_checkpoint(at))
        _check_progress(at, history, me)
        try:
            lock = RunLock(at.lock)
        except LockHeld as holder:
            if last_attempt(at) != last:
                continue  # another was faster; look at it
            if not (last and last.job and not last.ended):
                raise Busy(str(holder)) from None
            # of an attempt that is gone to Slurm: it keeps the file it has open, the name is ours
            at.lock.unlink(missing_ok=True)
            continue
        try:
            write_once(_file(at, me.number), json.dumps(asdict(me)))
        except FileExistsError:
            lock.release()
            continue
        except OSError as error:
            raise UserError(f"{_file(at, me.number)}: cannot be written ({error.strerror})") from None
        return me, lock


def _check_progress(at: RunPaths, history: list[Attempt], me: Attempt):
    """Raise CrashLoop when this job's attempts up to now all began where `me` would."""
    idle = 0
    while idle < len(history) and (history[-1 - idle].job, history[-1 - idle].checkpoint) == (me.job, me.checkpoint):
        idle += 1
    if me.job and idle >= IDLE_ATTEMPTS:
        reached = f"checkpoint {me.checkpoint}" if me.checkpoint else "its first checkpoint"
        raise CrashLoop(
            f"{at.root}: {idle} attempts of job {me.job} got no further than {reached}; see its log, then launch again"
        )


def end(at: RunPaths, attempt: Attempt, state: str):
    """Note how an attempt ended."""
    try:
        write_text(_file(at, attempt.number), json.dumps(asdict(replace(attempt, ended=state))))
    except UserError:
        pass  # a full disk: the run has said so itself


def read_attempts(at: RunPaths) -> list[Attempt]:
    """All attempts of a run that can be read, oldest first."""
    return [_read(at.attempts / name) for name in sorted(_names(at))]


def last_attempt(at: RunPaths) -> Attempt | None:
    """The newest attempt, or None."""
    names = _names(at)
    return _read(at.attempts / max(names)) if names else None


def _names(at: RunPaths) -> list[str]:
    """Of the attempts' files."""
    try:
        return [name for name in os.listdir(at.attempts) if re.fullmatch(r"\d+\.json", name)]
    except OSError:
        return []


def _read(path: Path) -> Attempt:
    try:
        return Attempt(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return Attempt(int(path.stem), "", 0, "", "", 0, 1, 0.0, "")  # made, and cut short by a kill or a full disk


def _file(at: RunPaths, number: int) -> Path:
    return at.attempts / f"{number:04d}.json"


def _me(number: int, checkpoint: str) -> Attempt:
    me = this_process()
    host, pid, now = socket.gethostname(), os.getpid(), time.time()
    return Attempt(number, me.job, me.restart, host, me.node, pid, me.world, now, checkpoint, me.gpus)


def _newest_checkpoint(at: RunPaths) -> str:
    """Where an attempt begins, and what it has of runs that are read from this one: they are trained and measured while
    this one stands still."""
    try:
        readings = read_run(at.run).readings
    except UserError:  # rehearsed by hand, or damaged: the run itself will say
        readings = ()
    return " ".join(filter(None, map(_reached, [at, *(RunPaths(at.root.parent / run_id) for run_id in readings)])))


def _reached(at: RunPaths) -> str:
    """The newest checkpoint of a run; of one that is trained, how much of it is measured, which grows too."""
    if (at.checkpoint / "final.pt").exists():
        measured = at.evaluation.stat().st_size if at.evaluation.exists() else 0
        return f"final-{measured}-{len(list(at.evaluation_parts.glob('*/*.npz')))}"
    return max((path.name for path in checkpoints.resumable(at.checkpoint)), default="")


def _alive(at: RunPaths, other: Attempt) -> bool:
    """Whether another attempt may still be at work, by the best witness there is."""
    if other.ended:
        return False
    me = this_process()
    if other.job and other.job == me.job and other.restart < me.restart:
        return False  # Slurm has restarted this very job, so to Slurm the other is gone
    if other.job and other.job != me.job:
        state = slurm_client.state(other.job)
        if state is not None:
            return state in slurm_client.AT_WORK
    return is_locked(at.lock) or (other.host != socket.gethostname() and heartbeat_age(at) < LIVE_S)


def heartbeat_age(at: RunPaths) -> float:
    """Seconds since the last sign of life, by the file system's clock; infinite without one."""
    try:
        return time.time() - at.heartbeat.stat().st_mtime
    except OSError:
        return float("inf")


def _who(other: Attempt) -> str:
    return f"job {other.job} on {other.node}" if other.job else f"process {other.pid} on {other.host}"
