"""Several small runs in one job, each in a process of its own: what one leaves idle of a GPU or of cores, the others
use."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from ...files import make_directory
from ...naming import RunPaths
from ...process import RUNS_PER_GPU, this_process
from .execute import STOPS, TRY_AGAIN, requeue


def together(run_dirs: list[str]) -> list[int]:
    """Train the runs, or rehearse them, as one job; returns the exit statuses of their processes. What one run ends by,
    its neighbours do not notice. A job that was told to stop is put back into the queue once, and goes on with those
    that are not done; one of a failed run is a failed job, when the others have ended."""
    # until there is somebody to pass them on to; a child unblocks its own
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    children = [_start(RunPaths(run_dir), len(run_dirs)) for run_dir in run_dirs]

    def pass_on(number, _):
        for child in children:
            child.send_signal(number)

    for number in STOPS:
        signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    ends = [child.wait() for child in children]
    for run_dir, end in zip(run_dirs, ends, strict=True):
        print(f"{RunPaths(run_dir).name}: ended with {end}", flush=True)
    if TRY_AGAIN in ends:
        requeue()
    elif any(ends):
        raise SystemExit(1)
    return ends


def _start(at: RunPaths, n: int) -> subprocess.Popen:
    """The run's process, one of n; what it prints goes to a log of its own."""
    make_directory(at.log)
    with open(at.log / f"job-{this_process().job}.0.log", "ab") as log:
        command = [sys.executable, "-m", "ditscale.launch.job", str(at.root)]
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ | {RUNS_PER_GPU: str(n)}
        )
