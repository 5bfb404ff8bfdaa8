"""Runs as processes of this machine, through submitit's local executor: as many at once as there are workers.

Launching starts what is missing, keeps what runs and leaves what is done, so it may be repeated at any time.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Callable

from ...config import Cluster
from ...errors import Interrupted, UserError
from ...files import remedy
from ...naming import StudyPaths
from ...plan.run import Run
from ...process import GPUS, RUNS_PER_GPU
from ...rundir.attempts import last_attempt, read_attempts
from ...rundir.micro_batch import noted
from ..job import gpus
from ..job.execute import execute
from ..monitor.status import DONE, RunStatus, left_to_hosts, study_status
from ..resources import settle
from ..snapshot import snapshot

POLL_S = 0.5
WORTH_FLOPS = 1.5e8  # of a step, for each thread: with less they wait for each other
AGAIN = 3  # times that a run goes on in one call when it has lost a rank
STOP_S = 60  # what a run gets to finish its step and save when we are interrupted


def workers(cluster: Cluster, given: list[str]) -> int:
    """Runs at once: as configured, or one for each GPU given, or without any for each core this process may use."""
    return cluster.workers or len(given) or max(1, len(os.sched_getaffinity(0)) // cluster.threads)


def _settle(paths: StudyPaths, run: Run, cluster: Cluster, given: list[str]):
    """How a run is executed here. The probe, for which the others have ended, has as many ranks, of
    `cluster.probe_ranks` or of the GPUs given, as its batch divides over; else it is one, with as many of all workers'
    threads as its step has work for."""
    ranks = 1
    most = min(cluster.probe_ranks or len(given), len(given) or cluster.probe_ranks)
    if run.role == "probe" and most:
        ranks = next(n for n in range(most, 0, -1) if run.recipe.batch_size % n == 0)
    elif run.role == "probe":
        worth = round(run.flops_per_image * run.recipe.batch_size / WORTH_FLOPS)
        cluster = replace(cluster, threads=max(cluster.threads, min(worth, cluster.threads * workers(cluster, given))))
    settle(paths, [run], cluster, ranks)


def launch(
    paths: StudyPaths, cluster: Cluster, role: str, show: Callable[[list[RunStatus], float], None]
) -> list[RunStatus]:
    """Bring every run of `role` ("grid" or "probe") to its end; `show` is called meanwhile, with
    the study's status and the seconds that it took to find.

    Longest runs start first, so that the workers end together. A run that fails is not tried again in this call; one
    that ran out of memory on shards resumes with half the micro-batch (rundir/micro_batch.py), and one that lost a
    rank resumes.
    Returns the final status. Raises Interrupted on Ctrl-C or SIGTERM, after the runs have stopped at a checkpoint.
    """
    from submitit import LocalExecutor

    if cluster.name != "local":
        raise UserError(
            f"{paths.root}: its runs are for cluster={cluster.name}; `ditscale launch {paths.root}` submits them, and "
            "cluster=local trains here"
        )
    given = gpus.gpus(cluster)
    for s in study_status(paths):
        if s.run.role == role and s.state not in (*DONE, "running"):
            _settle(paths, s.run, cluster, given)
    slots = workers(cluster, given)
    sharing = -(-slots // len(given)) if given else 1
    used: dict[str, list[str]] = {}  # run_id to the GPUs that this call gave it
    # what this call started: run_id, the micro-batch noted then, and how often a rank was lost, to the job
    jobs: dict[tuple[str, int, int], object] = {}
    name = lambda run: (run.run_id, noted(paths.run(run.run_id), run.execution.ranks), _lost(paths, run))
    alive = lambda run: any(_alive(job) for (run_id, *_), job in jobs.items() if run_id == run.run_id)
    known: dict[str, RunStatus] = {}
    source = None  # one copy for all that this call starts, taken when something is to start
    with _terminated_as_interrupt():
        try:
            while True:
                looked = time.monotonic()
                everything = study_status(paths, known)
                mine = [s for s in everything if s.run.role == role]
                show(everything, time.monotonic() - looked)
                at_work = [s for s in mine if s.state == "running" or alive(s.run)]
                busy = sum(s.run.execution.ranks for s in at_work)
                used = {s.run.run_id: used.get(s.run.run_id) or _gpus_of(paths, s.run) for s in at_work}
                waiting = [
                    s
                    for s in mine
                    if not alive(s.run) and name(s.run) not in jobs and s.state not in ("running", *DONE)
                ]
                waiting = [s for s in waiting if s.run.run_id not in left_to_hosts(everything)]
                # of equal FLOPs the run with more images takes longer: small models use a core less well
                for s in sorted(waiting, key=lambda s: (-s.run.budget_flops, -s.run.n_images)):
                    if busy and busy + s.run.execution.ranks > slots:
                        break
                    source = source or snapshot(paths.code)
                    own = gpus.least_used(given, s.run.execution.ranks, chain.from_iterable(used.values()))
                    used[s.run.run_id] = own
                    environment = {GPUS: ",".join(own), RUNS_PER_GPU: str(sharing)}
                    jobs[name(s.run)] = _submit(LocalExecutor, paths, s, source, environment)
                    busy += s.run.execution.ranks
                if not busy:
                    return study_status(paths)
                time.sleep(POLL_S)
        except KeyboardInterrupt:
            _stop(jobs)
            raise Interrupted(
                "interrupted; every run saved a checkpoint; the same command goes on from there"
            ) from None


def _lost(paths: StudyPaths, run: Run) -> int:
    """How often a run has ended because one of its ranks did: up to AGAIN times it goes on."""
    if run.execution.ranks == 1:
        return 0
    return min(AGAIN, sum(attempt.ended == "lost" for attempt in read_attempts(paths.run(run.run_id))))


def _gpus_of(paths: StudyPaths, run: Run) -> list[str]:
    """Of a run that another call has started."""
    attempt = last_attempt(paths.run(run.run_id))
    return attempt.gpus.split(",") if attempt and attempt.gpus else []


def _submit(executor_class, paths: StudyPaths, status: RunStatus, source: Path, environment: dict[str, str]):
    """One attempt of a run, importing from `source`, as a submitit job, with a log directory of its own: submitit's job
    numbers are process ids, which return, and a result found under a number is believed."""
    at = paths.run(status.run.run_id)
    attempt = len(list(at.log.glob("attempt-*"))) if at.log.is_dir() else 0
    # A terminal sends Ctrl-C to all: submitit's controller, which inherits this mask, must outlive it so that its tasks
    # can save; they unblock it (rundir/signals.py). For us it stays pending, not lost.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        executor = executor_class(folder=at.log / f"attempt-{attempt + 1:03d}")
        executor.update_parameters(timeout_min=60 * 24 * 365, tasks_per_node=status.run.execution.ranks)
        with _importing_from(source, environment):
            return executor.submit(execute, str(at.root.resolve()))
    except OSError as error:
        raise UserError(
            f"{at.log}: cannot be written ({error.strerror}); {remedy(error, at.log)}, then launch again"
        ) from None
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


@contextmanager
def _importing_from(source, environment: dict[str, str]):
    """Processes started inside import ditscale from `source`, and never from the directory they happen to stand in."""
    before = dict(os.environ)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(source.resolve()), before.get("PYTHONPATH")]))
    os.environ |= {"PYTHONSAFEPATH": "1"} | environment
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _alive(job) -> bool:
    return job.state == "RUNNING"


def _stop(jobs: dict):
    """Ask every job to stop at its next step, and wait; a second SIGTERM (`timeout` sends two) changes nothing."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for job in jobs.values():
        if _alive(job):
            # the controller passes it on; job.cancel would kill within a second
            job._process.send_signal(signal.SIGTERM)
    until = time.monotonic() + STOP_S
    while any(_alive(job) for job in jobs.values()) and time.monotonic() < until:
        time.sleep(0.1)


@contextmanager
def _terminated_as_interrupt():
    """SIGTERM to this process means what Ctrl-C means."""

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
