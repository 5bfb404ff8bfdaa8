"""What a job executes: one run directory, and nothing else. submitit pickles only this function's name and the path.

    python -m ditscale.launch.job RUN_DIR

Under Slurm, SIGUSR2 (the time limit is near, or a preemption) and SIGTERM (also: the limit is reached) let the run
finish its step and save; then this array task alone is requeued, unless Slurm has done so or the job is cancelled."""

import os
import signal
import tempfile
import time
from typing import Callable

from ... import logs, slurm_client
from ...distributed.liveness import GRACE_S
from ...errors import UserError
from ...files import make_directory
from ...logs import log
from ...naming import RunPaths
from ...plan.run import Run, read_run
from ...process import this_process
from ...rundir import attempts, fencing
from ...rundir.lock import is_locked
from ...rundir.outcomes import Closed, Diverged, Stopped, note_failure
from ...rundir.record import read_state
from . import gpus

STOPS = {signal.SIGTERM, signal.SIGUSR2}  # They are blocked until the loop listens (rundir/signals.py).
TURN_S = 2.0  # A rank asks for the requeue this long after the one before it, if that has not.
TRY_AGAIN = 75  # exit status of a run of a packed job that was told to stop
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "WANDB_MODE": "offline"}


def execute(run_dir: str) -> str:
    """Train the run, or rehearse it, as a job; returns how it ended. Errors of the user or the run are one line in the
    log. Under Slurm a failed run is a failed job too; a diverged run is not, since that is its result."""
    logs.show()
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    gpus.take()
    at = RunPaths(run_dir)
    try:
        planned = read_run(at.run)  # Before anything is written: the run may have left the study while its job waited.
        _link_log(at)
        state = read_state(at.metrics)
        if state in ("finished", "diverged"):  # Without torch: an array may be submitted again over all runs.
            log.info(f"{at.name}: {state} already")
            return state
        parent = RunPaths(at.root.parent / planned.within)
        ended = not planned.within or not parent.run.is_file() or read_state(parent.metrics) in ("finished", "diverged")
        if not ended:  # Otherwise it is trained alone, whatever became of its parent.
            log.info(f"{at.name}: trained as part of {planned.within}; nothing to do")
            return "nested"
        state = run(at)
    except attempts.Busy as reason:
        log.info(reason)
        if this_process().world > 1:
            from ...distributed.ranks import close

            close(at.rendezvous)
        return "busy"
    except Closed:
        return "busy"
    except (Stopped, Diverged) as reason:
        log.info(reason)
        state = reason.state
    except UserError as error:
        log.error(f"ditscale: error: {error}")
        if isinstance(error, attempts.CrashLoop):
            note_failure(at, str(error))
        state = "failed"
    me = this_process()
    if me.first:
        log.info(f"{at.name}: {state}")
    if me.job and state == "stopped" and me.packed:
        raise SystemExit(TRY_AGAIN)
    if me.job and state in ("stopped", "lost") and (me.first or state == "lost" and _is_my_turn(me.rank, at)):
        requeue()
    if me.job and state == "failed":
        raise SystemExit(1)
    return state


def run(at: RunPaths) -> str:
    """One attempt at a run, from its claim until its end is written down; returns "finished". Raises UserError, Busy,
    CrashLoop, and what may end an attempt early (rundir/outcomes.py)."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    planned = read_run(at.run)
    if read_state(at.metrics) == "finished":
        return "finished"
    # Compiled kernels stay on the node's own disk, and libraries that a user adds away from the network.
    cache = os.path.join(tempfile.gettempdir(), f"ditscale-{os.getuid()}")
    kernels = {"TRITON_CACHE_DIR": f"{cache}/triton", "TORCHINDUCTOR_CACHE_DIR": f"{cache}/inductor"}
    for name, value in (OFFLINE | kernels).items():
        os.environ.setdefault(name, value)
    if not this_process().first:
        return "rehearsed by rank 0" if planned.rehearsal else _loop(planned)(at.root)
    mine, lock = attempts.claim(at)
    state = "failed"
    try:
        with fencing.holding_token(at.root, mine.number):
            state = _loop(planned)(at.root, lock)
    except BaseException as error:
        state = getattr(error, "state", "failed")
        raise
    finally:
        lock.release()
        attempts.end(at, mine, state)
    return state


def _loop(run: Run) -> Callable[..., str]:
    """The function that trains or rehearses the run. Only training loads torch, after the claim: it takes seconds."""
    if run.rehearsal:
        from ...train.rehearsed import rehearse as loop
    else:
        from ...train.loop import train as loop
    return loop


def _is_my_turn(rank: int, at: RunPaths) -> bool:
    """After a rank has died: whether this rank asks for the requeue. The lowest alive does; each waits its turn."""
    began = time.monotonic()
    turn = began + TURN_S * rank
    while (now := time.monotonic()) < turn:
        last = attempts.last_attempt(at)
        if last is None or last.ended or last.restart != this_process().restart:
            return False
        if is_locked(at.lock) and now < began + GRACE_S:  # Rank 0 is about to end by itself.
            turn = max(turn, now + TURN_S)
        time.sleep(0.1)
    return True


def _link_log(at: RunPaths):
    """Put a link to submitit's log, a file of the array, into the run's directory, where all its logs are."""
    me = this_process()
    if me.submitit == "slurm" and not me.packed:
        link = at.log / f"job-{me.job}.{me.rank}.log"
        make_directory(at.log)
        if not link.is_symlink():
            link.symlink_to(os.path.join(me.submitit_folder, f"{me.job}_{me.rank}_log.out"))


def requeue():
    """Requeue this job, unless Slurm has done so or it is cancelled."""
    job = this_process().job
    state = slurm_client.state(job)
    # A cancelled job is to end; Slurm has requeued a pending one already.
    if state != "RUNNING" and not slurm_client.out_of_time(job):
        log.info(f"job {job} is {state or 'not known to squeue'}; it is not requeued from here")
        return
    log.info(f"requeueing job {job}")
    if problem := slurm_client.requeue(job):
        log.error(f"ditscale: error: job {job} cannot be requeued ({problem}); launch again to resume")
