"""Attempts: which execution of a run is its writer, and when to stop trying.

Each attempt takes the run's lock and the next number, by creating attempts/NNNN.json, which only one process can; the
highest number is the writer. What an older attempt writes before it sees that (fencing.py) is harmless: its record has
lost its name (record.py), and checkpoints are equal, being functions of (seed, position)."""

import json
import os
import re
import socket
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import takewhile
from pathlib import Path

from .. import slurm_client
from ..errors import UserError
from ..files import make_directory, read_mapping, write_once, write_text
from ..naming import RunPaths
from ..plan.run import read_run
from ..process import this_process
from . import checkpoints
from .lock import LockHeld, RunLock, is_locked

LIVE_S = 120.0  # A heartbeat younger than this is a sign of life, where nothing better is known.
IDLE_ATTEMPTS = 5  # This number of attempts of one job from the same checkpoint is a crash loop.


@dataclass(frozen=True)
class Attempt:
    """Content of attempts/NNNN.json, written by the attempt itself."""

    number: int
    job: str  # Slurm's, as "123_4"; "" without Slurm
    restart: int
    host: str
    node: str  # Slurm's name of the host; "" without Slurm
    pid: int
    ranks: int
    started_unix: float
    checkpoint: str  # the newest when it started; "" for none
    gpus: str = ""  # CUDA_VISIBLE_DEVICES, as Slurm or a launch on this machine (launch/job/gpus.py) has set it
    # The last sign of life of the attempt before, and images past the checkpoint that it had trained by then: they are
    # trained again.
    before_unix: float = 0.0
    lost_images: int = 0
    runs_per_gpu: int = 1
    ended: str = ""  # how it ended; "" while it lives, and for ever if it was killed


class Busy(UserError):
    """Another process is running this run."""


class CrashLoop(UserError):
    """The run's attempts make no progress."""


def claim(at: RunPaths) -> tuple[Attempt, RunLock]:
    """Become the run's writer. Raises Busy while another attempt lives, CrashLoop when attempts make no progress."""
    make_directory(at.attempts)
    patience = time.monotonic() + LIVE_S
    while True:
        history = read_attempts(at)
        last = history[-1] if history else None
        if last and _alive(at, last):
            if last.job and slurm_client.state(last.job) == "COMPLETING" and time.monotonic() < patience:
                time.sleep(1)  # It was cancelled or requeued a moment ago, and is saving.
                continue
            who = f"job {last.job} on {last.node}" if last.job else f"process {last.pid} on {last.host}"
            raise Busy(f"{at.root}: {who} is running it; nothing to do")
        process, number = this_process(), last.number + 1 if last else 1
        place = (process.job, process.restart, socket.gethostname(), process.node, os.getpid(), process.world)
        before = _before(at) if last else (0.0, 0)
        me = Attempt(
            number, *place, time.time(), _newest_checkpoint(at), process.gpus or "", *before, process.runs_per_gpu
        )
        idle = len(list(takewhile(lambda a: (a.job, a.checkpoint) == (me.job, me.checkpoint), reversed(history))))
        if me.job and idle >= IDLE_ATTEMPTS:
            reached = f"checkpoint {me.checkpoint}" if me.checkpoint else "its first checkpoint"
            stuck = f"{idle} attempts of job {me.job} got no further than {reached}"
            raise CrashLoop(f"{at.root}: {stuck}; see its log, fix the cause, then launch again")
        try:
            lock = RunLock(at.lock)
        except LockHeld as holder:
            if last_attempt(at) != last:
                continue  # Another process was faster; look at its attempt.
            if not (last and last.job and not last.ended):
                raise Busy(str(holder)) from None
            # The holder is an attempt that Slurm has given up: it keeps the file that it has open, we take the name.
            at.lock.unlink(missing_ok=True)
            continue
        try:
            write_once(at.attempt(me.number), json.dumps(asdict(me)))
            return me, lock
        except FileExistsError:
            lock.release()


def end(at: RunPaths, attempt: Attempt, state: str):
    with suppress(UserError):  # The disk is full, and the run itself has said so.
        write_text(at.attempt(attempt.number), json.dumps(asdict(replace(attempt, ended=state))))


def read_attempts(at: RunPaths) -> list[Attempt]:
    """All attempts at a run, oldest first."""
    return [_read(at.attempts / name) for name in sorted(_names(at))]


def last_attempt(at: RunPaths) -> Attempt | None:
    names = _names(at)
    return _read(at.attempts / max(names)) if names else None


def _names(at: RunPaths) -> list[str]:
    try:
        return [name for name in os.listdir(at.attempts) if re.fullmatch(r"\d+\.json", name)]
    except OSError:
        return []


def _read(path: Path) -> Attempt:
    try:
        return Attempt(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return Attempt(int(path.stem), "", 0, "", "", 0, 1, 0.0, "")  # A kill or a full disk has cut it short.


def _newest_checkpoint(at: RunPaths) -> str:
    """Where an attempt begins: the newest checkpoint of the run and of its nested runs, which it waits for."""
    nested: tuple[str, ...] = ()
    with suppress(UserError):  # The file is damaged; the run itself will say so.
        nested = read_run(at.run).readings
    return " ".join(filter(None, map(_reached, [at, *(RunPaths(at.root.parent / run_id) for run_id in nested)])))


def _before(at: RunPaths) -> tuple[float, int]:
    """When the attempt before this one gave its last sign of life, and how many images it lost."""
    beat = read_mapping(at.heartbeat, {"unix": float, "images": int})
    saved = [int(path.name.removeprefix("images-")) for path in checkpoints.resumable(at.checkpoint)]
    trained = (at.checkpoint / "final.pt").exists()
    return beat.get("unix", 0.0), 0 if trained else max(0, beat.get("images", 0) - max(saved, default=0))


def _reached(at: RunPaths) -> str:
    """The newest checkpoint of a run; of a trained one, how much of it is measured, which is progress too."""
    if (at.checkpoint / "final.pt").exists():
        measured = at.evaluation.stat().st_size if at.evaluation.exists() else 0
        return f"final-{measured}-{len(list(at.evaluation_parts.glob('*/*.npz')))}"
    return max((path.name for path in checkpoints.resumable(at.checkpoint)), default="")


def _alive(at: RunPaths, other: Attempt) -> bool:
    """Whether another attempt may still be running, by the best evidence there is."""
    if other.ended:
        return False
    me = this_process()
    if other.job and other.job == me.job and other.restart < me.restart:
        return False  # Slurm has restarted this very job, so for Slurm the other attempt is gone.
    if other.job and other.job != me.job and (state := slurm_client.state(other.job)) is not None:
        return state in slurm_client.AT_WORK
    return is_locked(at.lock) or (other.host != socket.gethostname() and heartbeat_age(at) < LIVE_S)


def heartbeat_age(at: RunPaths) -> float:
    """Seconds since the last sign of life, by the file system's clock; infinite without one."""
    try:
        return time.time() - at.heartbeat.stat().st_mtime
    except OSError:
        return float("inf")
