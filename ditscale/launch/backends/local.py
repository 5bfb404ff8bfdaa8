"""Runs as processes of this machine, through submitit's local executor: as many at once as there are workers."""

import os
import signal
import time
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from ...config import Cluster
from ...errors import Interrupted
from ...files import unwritable
from ...naming import StudyPaths
from ...plan.run import Run
from ...plan.study import settle
from ...price.resources import Machine, place_here
from ...process import GPUS, RUNS_PER_GPU
from ...rundir.attempts import last_attempt, read_attempts
from ...rundir.outcomes import read_limit
from ..job import gpus
from ..job.execute import execute
from ..monitor.status import DONE, RunStatus, Show, State, awaiting_parent, study_status
from ..snapshot import snapshot
from .preamble import importing_from

POLL_S = 0.5
MAX_LOST_RANKS = 3  # This often a run is resumed in one call after it has lost a rank.
STOP_S = 60  # A run gets this time to finish its step and save when we are interrupted.


def workers(cluster: Cluster, given: list[str]) -> int:
    """Runs at once: as configured, or one per GPU given, or without GPUs one per core that this process may use."""
    return cluster.workers or len(given) or max(1, len(os.sched_getaffinity(0)) // cluster.threads)


def launch(paths: StudyPaths, cluster: Cluster, stage: str, show: Show) -> list[RunStatus]:
    """Bring every run of `stage` (Run.stage) to its end; returns the final status, `show` is called meanwhile.
    The longest runs start first. A run that fails is not tried again in this call; one that ran out of memory or lost a
    rank resumes. Raises Interrupted on Ctrl-C or SIGTERM, after the runs have stopped at a checkpoint."""
    pool = _Pool(paths, cluster, stage)
    known: dict[str, RunStatus] = {}
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGTERM does what Ctrl-C does.
    try:
        while True:
            began = time.monotonic()
            statuses = study_status(paths, known)
            show(statuses, time.monotonic() - began)
            if not pool.start_missing(statuses):
                return study_status(paths)
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        pool.stop()
        raise Interrupted("interrupted; every run has saved a checkpoint; rerun the same command to resume") from None
    finally:
        signal.signal(signal.SIGTERM, before)


class _Pool:
    """The runs of a stage that this call has started, the GPUs they use, and what may start beside them."""

    def __init__(self, paths: StudyPaths, cluster: Cluster, stage: str):
        self.paths, self.stage = paths, stage
        self.gpus = gpus.gpus(cluster)
        self.slots = workers(cluster, self.gpus)
        for s in study_status(paths):
            if s.run.stage == stage and s.state not in (*DONE, State.RUNNING):
                _settle(paths, s.run, cluster, Machine(self.slots, len(self.gpus)))
        # run_id, micro-batch limit and number of lost ranks when it was started, to the job: one start for each
        self.jobs: dict[tuple[str, int, int], Any] = {}
        self.used: dict[str, list[str]] = {}  # GPUs by run_id
        self.source: Path | None = None  # one snapshot for all that this call starts, taken when it is needed

    def start_missing(self, statuses: list[RunStatus]) -> bool:
        """Start the runs that are missing and find a free worker; whether any run is running."""
        mine = [s for s in statuses if s.run.stage == self.stage]
        running = [s for s in mine if s.state == State.RUNNING or self._is_alive(s.run)]
        busy = sum(s.run.execution.ranks for s in running)
        self.used = {s.run.run_id: self.used.get(s.run.run_id) or _gpus_of(self.paths, s.run) for s in running}
        waits = awaiting_parent(statuses) | {s.run.run_id for s in running}
        missing = [s.run for s in mine if s.state not in DONE and s.run.run_id not in waits]
        # Of equal FLOPs the run with more images takes longer: small models use a core less well.
        for run in sorted(missing, key=lambda run: (-run.budget_flops, -run.n_images)):
            if self._key(run) in self.jobs:
                continue
            if busy and busy + run.execution.ranks > self.slots:
                break
            self.source = self.source or snapshot(self.paths.code)
            own = gpus.least_used(self.gpus, run.execution.ranks, chain.from_iterable(self.used.values()))
            sharing = -(-self.slots // len(self.gpus)) if self.gpus else 1
            self.used[run.run_id] = own
            environment = {GPUS: ",".join(own), RUNS_PER_GPU: str(sharing)}
            self.jobs[self._key(run)] = _submit(self.paths, run, self.source, environment)
            busy += run.execution.ranks
        return bool(busy)

    def _key(self, run: Run) -> tuple[str, int, int]:
        at, ranks = self.paths.run(run.run_id), run.execution.ranks
        lost = sum(attempt.ended == "lost" for attempt in read_attempts(at)) if ranks > 1 else 0
        return run.run_id, read_limit(at, ranks), min(MAX_LOST_RANKS, lost)

    def _is_alive(self, run: Run) -> bool:
        return any(job.state == "RUNNING" for (run_id, *_), job in self.jobs.items() if run_id == run.run_id)

    def stop(self):
        """Ask every job to stop at its next step, and wait; a second SIGTERM (`timeout` sends two) changes nothing."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        running = [job for job in self.jobs.values() if job.state == "RUNNING"]
        for job in running:
            job._process.send_signal(signal.SIGTERM)  # job.cancel would kill it within a second
        until = time.monotonic() + STOP_S
        while any(job.state == "RUNNING" for job in running) and time.monotonic() < until:
            time.sleep(0.1)


def machine(cluster: Cluster) -> Machine:
    """This machine, as a launch with this cluster's settings uses it. Raises UserError as `gpus.gpus`."""
    given = gpus.gpus(cluster)
    return Machine(workers(cluster, given), len(given))


def _settle(paths: StudyPaths, run: Run, cluster: Cluster, machine: Machine):
    """Write into run.yaml how the run is executed here."""
    place = place_here(run, cluster, machine)
    settle(paths, [run], replace(cluster, threads=place.threads), place.ranks)


def _gpus_of(paths: StudyPaths, run: Run) -> list[str]:
    """The GPUs of a run that another call has started."""
    attempt = last_attempt(paths.run(run.run_id))
    return attempt.gpus.split(",") if attempt and attempt.gpus else []


def _submit(paths: StudyPaths, run: Run, source: Path, environment: dict[str, str]) -> Any:
    """Start one attempt at a run, importing from `source`, with a log directory of its own: submitit numbers its jobs
    by process ids, which are reused, and believes any result it finds under a number."""
    from submitit import LocalExecutor

    at = paths.run(run.run_id)
    attempt = len(list(at.log.glob("attempt-*"))) if at.log.is_dir() else 0
    # A terminal sends Ctrl-C to all processes. submitit's controller, which inherits this mask, must outlive it so that
    # its tasks, which unblock it (rundir/signals.py), can save. For us the signal stays pending.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        executor = LocalExecutor(folder=at.log / f"attempt-{attempt + 1:03d}")
        executor.update_parameters(timeout_min=60 * 24 * 365, tasks_per_node=run.execution.ranks)
        with importing_from(source, environment):
            return executor.submit(execute, str(at.root.resolve()))
    except OSError as error:
        raise unwritable(at.log, error, "launch again") from None
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
