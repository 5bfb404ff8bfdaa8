"""Packed jobs: several small runs in one job, each in a process of its own, which share a GPU or cores."""

import os
import signal
import subprocess
import sys

from ... import logs
from ...files import make_directory
from ...logs import log
from ...naming import RunPaths
from ...process import RUNS_PER_GPU, this_process
from .execute import STOPS, TRY_AGAIN, requeue


def run_packed(run_dirs: list[str]) -> list[int]:
    """Train the runs, or rehearse them, as one job; returns the exit statuses of their processes. A run that fails does
    not disturb the others. A job that was told to stop is requeued once, for its unfinished runs."""
    logs.show()
    # Signals wait until the children exist, to which they are passed on; a child unblocks its own.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    children = [_start(RunPaths(run_dir), len(run_dirs)) for run_dir in run_dirs]

    def pass_on(number: int, _):
        for child in children:
            child.send_signal(number)

    for number in STOPS:
        signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    ends = [child.wait() for child in children]
    for run_dir, end in zip(run_dirs, ends, strict=True):
        log.info(f"{RunPaths(run_dir).name}: ended with {end}")
    if TRY_AGAIN in ends:
        requeue()
    elif any(ends):
        raise SystemExit(1)
    return ends


def _start(at: RunPaths, n: int) -> subprocess.Popen:
    """The run's process, one of n; its output goes to a log of its own."""
    make_directory(at.log)
    command = [sys.executable, "-m", "ditscale.launch.job", str(at.root)]
    environment = os.environ | {RUNS_PER_GPU: str(n)}
    with open(at.log / f"job-{this_process().job}.0.log", "ab") as output:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment)
