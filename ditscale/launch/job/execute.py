"""What a job executes: one run directory, and nothing else. submitit pickles only this function's name and the path.

    python -m ditscale.launch.job RUN_DIR

Under Slurm, SIGUSR2 (the time limit is near, or a preemption) and SIGTERM (also: the limit is reached) let the run
finish its step and save; then this array element alone is put back into the queue, unless Slurm has done so or the job
is cancelled.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time

from ... import slurm_client
from ...distributed.liveness import GRACE_S
from ...errors import UserError
from ...files import make_directory, write_text
from ...naming import RunPaths
from ...plan.run import Run, read_run
from ...process import this_process
from ...rundir import attempts
from ...rundir.lock import is_locked
from ...rundir.outcomes import Closed, Diverged, Stopped
from ...rundir.record import read_state
from . import gpus

STOPS = {signal.SIGTERM, signal.SIGUSR2}
TURN_S = 2.0  # after which the next rank asks for the requeue, if those before it have not
TRY_AGAIN = 75  # exit status of a run that shares its job (packed.py) and was told to stop
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "WANDB_MODE": "offline"}


def execute(run_dir: str) -> str:
    """Train the run, or rehearse it, as a job; returns how it ended. Errors of the user or the run go to the log in one
    line: the run's own record, never the job's exit, says whether it succeeded; under Slurm a failed run is a failed
    job too. A diverged run is none: that is its result."""
    _hold_stops()
    gpus.take()
    at = RunPaths(run_dir)
    try:
        run_here = read_run(at.run)  # before anything is written: the run may have left the study while its job waited
        _link_log(at)
        state = read_state(at.metrics)
        if state in ("finished", "diverged"):  # without torch: an array may be submitted again over all runs
            print(f"{at.name}: {state} already", flush=True)
            return state
        if _is_hosted(at, run_here):
            print(f"{at.name}: is read from {run_here.within}", flush=True)
            return "hosted"
        state = run(at)
    except attempts.Busy as reason:
        print(reason, flush=True)
        if this_process().world > 1:
            from ...distributed.ranks import close

            close(at.rendezvous)
        return "busy"
    except Closed:
        return "busy"
    except (Stopped, Diverged) as reason:
        print(reason, flush=True)
        state = reason.state
    except UserError as error:
        print(f"ditscale: error: {error}", file=sys.stderr, flush=True)
        if isinstance(error, attempts.CrashLoop):
            _note_failure(at, error)
        state = "failed"
    me = this_process()
    if me.first:
        print(f"{at.name}: {state}", flush=True)
    if me.job:
        if state == "stopped" and me.packed:
            raise SystemExit(TRY_AGAIN)
        if state in ("stopped", "lost") and (me.first or state == "lost" and _is_left_to(me.rank, at)):
            requeue()
        if state == "failed":
            raise SystemExit(1)
    return state


def run(at: RunPaths) -> str:
    """One attempt at a run, from its claim to the note of how it ended; returns "finished".

    Raises UserError on a user's mistake, Busy while another process is at the run, CrashLoop at the end of a crash
    loop, and what may end an attempt early (rundir/outcomes.py).
    """
    _hold_stops()
    read_run(at.run)
    if read_state(at.metrics) == "finished":
        return "finished"
    _environment()
    if not this_process().first:
        return "rehearsed by rank 0" if read_run(at.run).rehearsal else _loop(at)(at.root)
    mine, lock = attempts.claim(at)
    os.environ |= {"DITSCALE_ATTEMPT": str(mine.number), "DITSCALE_RUN": str(at.root.absolute())}
    try:
        state = _loop(at)(at.root, lock)
    except BaseException as error:
        state = getattr(error, "state", "failed")
        raise
    finally:
        lock.release()
        attempts.end(at, mine, state)
        del os.environ["DITSCALE_ATTEMPT"], os.environ["DITSCALE_RUN"]
    return state


def _is_hosted(at: RunPaths, mine: Run) -> bool:
    """Whether another run is still to be read for this one; else this one is trained, whatever became of the other."""
    host = RunPaths(at.root.parent / mine.within)
    return bool(mine.within) and host.run.is_file() and read_state(host.metrics) not in ("finished", "diverged")


def _hold_stops():
    """A request to stop that comes before the loop listens waits for it (rundir/signals.py unblocks) and does not kill
    us."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)


def _loop(at: RunPaths):
    """What the run asks for, to be trained or to be rehearsed. Only training loads torch: seconds, after the claim."""
    if read_run(at.run).rehearsal:
        from ...train.rehearsed import rehearse

        return rehearse
    from ...train.loop import train

    return train


def _is_left_to(rank: int, at: RunPaths) -> bool:
    """Whether to ask for the requeue is left to this rank, when one is lost. Rank 0 notes how the attempt has ended, if
    it lives, and asks itself where that is the thing to do; else the lowest that lives does, since each waits for its
    turn. Should two ask, Slurm refuses the second."""
    began = time.monotonic()
    turn = began + TURN_S * rank
    while (now := time.monotonic()) < turn:
        last = attempts.last_attempt(at)
        if last is None or last.ended or last.restart != this_process().restart:
            return False
        if is_locked(at.lock) and now < began + GRACE_S:  # it is about to end by itself
            turn = max(turn, now + TURN_S)
        time.sleep(0.1)
    return True


def _link_log(at: RunPaths):
    """A run's log is found in its directory, whatever wrote it: submitit's is a file of the array."""
    me = this_process()
    if os.environ.get("SUBMITIT_EXECUTOR") == "slurm" and not me.packed:
        name, rank = me.job, me.rank
        log = at.log / f"job-{name}.{rank}.log"
        make_directory(at.log)
        if not log.is_symlink():
            log.symlink_to(os.path.join(os.environ["SUBMITIT_FOLDER"], f"{name}_{rank}_log.out"))


def requeue():
    """Put this job back into the queue, unless Slurm has done so or it is cancelled."""
    job = this_process().job
    state = slurm_client.state(job)
    # cancelled: it is to end; pending: Slurm has requeued it already
    if state != "RUNNING" and not slurm_client.out_of_time(job):
        print(f"job {job} is {state or 'not known to squeue'}; it is not requeued from here", flush=True)
        return
    print(f"requeueing job {job}", flush=True)
    if problem := slurm_client.requeue(job):
        print(
            f"ditscale: error: job {job} cannot be requeued ({problem}); launch again to go on",
            file=sys.stderr,
            flush=True,
        )


def _environment():
    """Compiled kernels go to the node's own disk: on a shared one, jobs trip over each other's. And no library that a
    user adds looks for weights or data on the network: nodes often have none, and runs would depend on it."""
    for name, value in OFFLINE.items():
        os.environ.setdefault(name, value)
    cache = os.path.join(tempfile.gettempdir(), f"ditscale-{os.getuid()}")
    os.environ.setdefault("TRITON_CACHE_DIR", os.path.join(cache, "triton"))
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.join(cache, "inductor"))


def _note_failure(at: RunPaths, error: UserError):
    write_text(at.failure, json.dumps({"reason": str(error), "unix": time.time(), "host": os.uname().nodename}))
