"""What a job executes: one run directory, and nothing else. submitit pickles only this function's name and the path.

    python -m ditscale.launch.job RUN_DIR

Under Slurm, SIGUSR2 (the time limit is near, or a preemption) and SIGTERM let the run finish its step and save; then this
array element alone is put back into the queue, unless Slurm has done so or the job is cancelled.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time

from ..errors import UserError
from ..files import make_directory, write_text
from ..naming import RunPaths
from ..plan.run import read_run
from ..store.record import read_state
from ..train.heartbeat import Fenced
from . import attempt as attempts
from . import queue

STOPS = {signal.SIGTERM, signal.SIGUSR2}


def execute(run_dir: str) -> str:
    """Train the run, or rehearse it; returns how it ended. Errors of the user or the run go to the log in one line: the
    run's own record, never the job's exit, says whether it succeeded; under Slurm a failed run is a failed job too."""
    # A request to stop that comes before the loop listens waits for it (train/signals.py unblocks) and does not kill us.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    at, mine = RunPaths(run_dir), None
    try:
        _link_log(at)
        if read_state(at.metrics) == "finished":  # without torch: an array may be submitted again over all runs
            print(f"{at.name}: finished already", flush=True)
            return "finished"
        if _first():
            mine = attempts.claim(at)
            os.environ["DITSCALE_ATTEMPT"] = str(mine.number)
        state = _rehearse(at) if read_run(at.run).rehearsal else _train(at)
    except attempts.Busy as reason:
        print(reason, flush=True)
        if attempts.world() > 1:
            from ..train.ranks import close

            close(at.rendezvous)
        return "busy"
    except Fenced:
        if mine:
            attempts.end(at, mine, "fenced")
        raise
    except UserError as error:
        print(f"ditscale: error: {error}", file=sys.stderr, flush=True)
        if isinstance(error, attempts.Exhausted):
            _note_failure(at, error)
        state = "failed"
    if mine:
        attempts.end(at, mine, state)
        print(f"{at.name}: {state}", flush=True)
    if queue.this_job():
        if state == "stopped" and mine:
            _requeue()
        if state == "failed":
            raise SystemExit(1)
    return state


def _train(at: RunPaths) -> str:
    _caches_on_this_node()
    from ..train.loop import Stopped, train
    from ..train.ranks import Closed

    try:
        return train(at.root)
    except Closed:
        return "busy"
    except Stopped as reason:
        print(reason, flush=True)
        return "stopped"


def _rehearse(at: RunPaths) -> str:
    if not _first():
        return "rehearsed by rank 0"
    from ..train.rehearsed import rehearse
    from ..train.writer import Stopped

    try:
        return rehearse(at.root)
    except Stopped as reason:
        print(reason, flush=True)
        return "stopped"


def _first() -> bool:
    """Whether this is rank 0, without torch."""
    rank = os.environ.get("RANK") or os.environ.get("SUBMITIT_LOCAL_GLOBALID") or os.environ.get("SLURM_PROCID") or "0"
    return int(rank) == 0


def _link_log(at: RunPaths):
    """A run's log is found in its directory, whatever wrote it: submitit's is a file of the array."""
    if os.environ.get("SUBMITIT_EXECUTOR") == "slurm":
        name, rank = queue.this_job(), os.environ["SLURM_PROCID"]
        log = at.log / f"job-{name}.{rank}.log"
        make_directory(at.log)
        if not log.is_symlink():
            log.symlink_to(os.path.join(os.environ["SUBMITIT_FOLDER"], f"{name}_{rank}_log.out"))


def _requeue():
    job = queue.this_job()
    state = queue.state(job)
    if state != "RUNNING":  # cancelled: it is to end; pending: Slurm has requeued it already
        print(f"job {job} is {state or 'not known to squeue'}; it is not requeued from here", flush=True)
        return
    print(f"requeueing job {job}", flush=True)
    if problem := queue.requeue(job):
        print(
            f"ditscale: error: job {job} cannot be requeued ({problem}); launch again to go on",
            file=sys.stderr,
            flush=True,
        )


def _caches_on_this_node():
    """Compiled kernels go to the node's own disk: on a shared one, jobs trip over each other's."""
    cache = os.path.join(tempfile.gettempdir(), f"ditscale-{os.getuid()}")
    os.environ.setdefault("TRITON_CACHE_DIR", os.path.join(cache, "triton"))
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.join(cache, "inductor"))


def _note_failure(at: RunPaths, error: UserError):
    write_text(at.failure, json.dumps({"reason": str(error), "unix": time.time(), "host": os.uname().nodename}))


if __name__ == "__main__":
    # The module submitit and others import is not __main__: classes must be the same ones.
    from ditscale.launch.job import execute as run

    run(sys.argv[1])
