"""Runs as Slurm arrays, submitted by submitit: one array for each resource class, in chunks as MaxArraySize allows.

Launching starts what is missing, keeps what waits or runs and leaves what is done. It returns at once.
"""

from __future__ import annotations

import fcntl
import io
import os
import re
import shlex
import shutil
import time
from contextlib import contextmanager, redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import Callable

from ... import slurm_client
from ...config import Cluster
from ...errors import UserError
from ...files import make_directory, remedy
from ...naming import StudyPaths
from ...plan.run import Run
from ..doctor.examine import OK, shared
from ..job.execute import execute
from ..job.packed import together
from ..monitor.job_index import jobs_of
from ..monitor.status import DONE, left_to_hosts, study_status
from ..resources import Resources, classes, settle, shares
from ..snapshot import snapshot
from .submission import Submission, folder, new_token, read_all, write

SETTLE_S = 10  # an sbatch whose launcher was killed has reached the controller after this
NOT_OURS = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


def launch(paths: StudyPaths, cluster: Cluster, role: str | None = None) -> list[Submission]:
    """Submit every run (of `role`, or all) that is neither done, nor waiting, nor running; says what it does. Returns
    the new submissions.

    Raises UserError, before anything is submitted, where the cluster cannot take what is asked for.
    """
    limit = array_limit()
    partitions = _partitions()
    with only_launcher(paths):
        missing = _with_room(missing_runs(paths, lambda run: role in (None, run.role)), cluster)
        chunks = [
            (what, runs[i : i + limit * what.size.pack])
            for what, runs in classes(missing, cluster).items()
            for i in range(0, len(runs), limit * what.size.pack)
        ]
        for what, _ in chunks:
            _check_time(what, cluster, partitions)
        if 0 < cluster.parallel < len(chunks):
            print(
                f"cluster.parallel is {cluster.parallel}, but {len(chunks)} arrays run at least {len(chunks)} at once"
            )
        if chunks and (finding := shared(paths.root)).level != OK:
            print(finding)
        code = snapshot(paths.code)
        submitted = []
        for (what, runs), at_once in zip(
            chunks, shares(cluster.parallel, [what.elements(runs) for what, runs in chunks])
        ):
            try:
                settle(paths, runs, cluster, what.ranks)
                submitted.append(_submit(paths, cluster, what, runs, at_once, code))
            except UserError as error:
                before = (
                    f"submitted before it: {', '.join(s.job for s in submitted)}"
                    if submitted
                    else "nothing was submitted"
                )
                raise UserError(f"{error}; {before}") from None
            print(f"job {submitted[-1].job}: {len(runs)} runs, {what}{f', {at_once} at once' if at_once else ''}")
        return submitted


def missing_runs(paths: StudyPaths, among: Callable[[Run], bool]) -> list[Run]:
    """Runs of those asked for that are neither done, nor waiting, nor running; says how many, and which jobs are
    orphaned. To be called under `only_launcher`. Raises UserError when squeue gives no answer."""
    _recover(paths)
    live = jobs_of(paths)  # before the files: a run that ends between the two looks is then seen as ended
    if live is None:
        raise UserError("squeue gives no answer, so what already waits or runs is not known; launch again when it does")
    statuses = study_status(paths)
    over = {s.run.run_id for s in statuses if s.state in DONE}
    for job in {
        job.id
        for run_id, jobs in live.items()
        if run_id not in over
        for job in jobs
        if slurm_client.is_held(job.state, job.reason)
    }:
        slurm_client.release(job)
    _report_orphans({s.run.run_id: s.state for s in statuses}, live)
    # a job that completes was cancelled, say, and saves; the next attempt waits for it (rundir/attempts.py)
    kept = {run_id for run_id, jobs in live.items() if any(job.state != "COMPLETING" for job in jobs)}
    kept |= {s.run.run_id for s in statuses if s.state == "running" and s.run.run_id not in live}
    kept |= left_to_hosts(statuses)
    mine = [s for s in statuses if among(s.run)]
    done = sum(s.state in DONE for s in mine)
    missing = [s.run for s in mine if s.state not in DONE and s.run.run_id not in kept]
    print(f"{len(missing)} runs to submit, {len(mine) - len(missing) - done} waiting or running, {done} done")
    return missing


def _with_room(missing: list[Run], cluster: Cluster) -> list[Run]:
    """As many of the runs as may be queued, the longest first."""
    if not cluster.max_queued:
        return missing
    there = slurm_client.jobs()
    if there is None:
        raise UserError(
            "squeue gives no answer, so the room under cluster.max_queued is not known; launch again when it does"
        )
    room = max(0, cluster.max_queued - len(there))
    if len(missing) > room:
        print(
            f"{len(missing) - room} runs are left for the next launch: cluster.max_queued is {cluster.max_queued}, "
            f"{len(there)} jobs are queued"
        )
    return sorted(missing, key=lambda run: -run.n_images * run.flops_per_image)[:room]


# -------------------------------------------------------------------------------------------------- what the cluster is


def array_limit() -> int:
    """Elements that one array may have."""
    if shutil.which("sbatch") is None:
        raise UserError("sbatch is not on the PATH; run on a login node of the cluster, or take cluster=local")
    settings = slurm_client.ask("scontrol", "show", "config")
    if settings is None:
        raise UserError(
            "`scontrol show config` gives no answer; is the controller up (`scontrol ping`), and SLURM_CONF right?"
        )
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", settings, re.M)
    return int(found.group(1)) if found else 1000


def _partitions() -> dict[str, float]:
    """Hours that each partition allows, the default one under "" too."""
    found = {}
    for line in (slurm_client.ask("sinfo", "--noheader", "--format=%P|%l") or "").splitlines():
        name, _, limit = line.partition("|")
        found[name.rstrip("*")] = _hours(limit)
        if name.endswith("*"):
            found[""] = _hours(limit)
    return found


def _hours(limit: str) -> float:
    """Slurm's [days-]hours:minutes:seconds."""
    if not re.match(r"[\d:-]+$", limit):
        return float("inf")
    days, _, clock = limit.rpartition("-")
    seconds = 0
    for part in clock.split(":"):
        seconds = 60 * seconds + int(part)
    return 24 * int(days or 0) + seconds / 3600


def _check_time(what: Resources, cluster: Cluster, partitions: dict[str, float]):
    names = ", ".join(sorted(filter(None, partitions)))
    if not partitions or "," in cluster.partition or "partition" in cluster.sbatch:
        return  # sbatch itself will say
    if cluster.partition not in partitions:
        wrong = (
            f"{cluster.partition!r} is not known" if cluster.partition else "missing, and this cluster has no default"
        )
        raise UserError(f"cluster.partition: {wrong}; choose one of: {names}")
    allowed = partitions[cluster.partition]
    if what.minutes > 60 * allowed:
        where = f"partition {cluster.partition}" if cluster.partition else "the default partition"
        raise UserError(
            f"runs of this study ask for {what.minutes / 60:g} h, and {where} allows {allowed:g} h; set "
            f"cluster.max_time_h={allowed:g} (longer runs are requeued and go on) or choose another of: {names}"
        )


# ----------------------------------------------------------------------------------------------------------- submission


def _submit(
    paths: StudyPaths, cluster: Cluster, what: Resources, runs: list[Run], at_once: int, code: Path
) -> Submission:
    """One array. Its record is there before sbatch is called, without the job's number."""
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    token = new_token()
    submission = Submission(
        token, "", tuple(run.run_id for run in runs), str(code.resolve()), time.time(), what.size.pack
    )
    write(paths, submission)
    try:
        with clean_environment(), redirect_stderr(io.StringIO()):  # submitit shows what sbatch says twice
            executor = SlurmExecutor(folder=folder(paths, token).resolve(), max_num_timeout=10**6)
            executor.update_parameters(**_parameters(submission, cluster, what, at_once or len(submission.elements)))
            started = executor.map_array(*_calls(paths, submission))
    except (FailedJobError, FailedSubmissionError) as error:
        shutil.rmtree(folder(paths, token), ignore_errors=True)
        raise UserError(f"sbatch refuses {len(runs)} runs: {refusal(error)}") from None
    except OSError as error:
        at = folder(paths, token)
        raise UserError(f"{at}: cannot be written ({error.strerror}); {remedy(error, at)}, then launch again") from None
    submission = replace(submission, job=started[0].job_id.split("_")[0])
    write(paths, submission)
    return submission


def _calls(paths: StudyPaths, submission: Submission) -> tuple[Callable, list]:
    """What an element of the array executes, and on what, by index."""
    directories = [[str(paths.run(run_id).root.resolve()) for run_id in element] for element in submission.elements]
    return (together, directories) if submission.pack > 1 else (execute, [directory for (directory,) in directories])


def refusal(error: Exception) -> str:
    """sbatch's own reason in an error of submitit."""
    lines = str(error).strip().splitlines()
    reason = next((line for line in lines if "error:" in line), lines[-1]).split("error:")[-1].strip()
    limited = "QOS" in reason or "submit limit" in reason
    return reason + (" (where an account may queue fewer jobs, set cluster.max_queued)" if limited else "")


def _parameters(submission: Submission, cluster: Cluster, what: Resources, at_once: int) -> dict:
    """submitit's parameters. Only what is set is passed: Slurm's own defaults stay."""
    cpus = cluster.threads * submission.pack
    gpus = f"{cluster.gpu_type}:{what.size.gpus}" if cluster.gpu_type else str(what.size.gpus)
    further = {"requeue": True, "signal": f"USR2@{cluster.signal_s}"}
    if what.size.gpus:
        further |= {"gres": f"gpu:{gpus}"} if cluster.gpu_option == "gres" else {"gpus-per-node": gpus}
    further |= {name: value or True for name, value in cluster.sbatch.items()}
    import_path = os.pathsep.join(filter(None, [submission.code, os.environ.get("PYTHONPATH")]))
    return {
        "job_name": submission.name,
        "nodes": what.size.nodes,
        "ntasks_per_node": what.size.ranks,
        "cpus_per_task": cpus,
        "time": what.minutes,
        "partition": cluster.partition or None,
        "account": cluster.account or None,
        "constraint": cluster.constraint or None,
        "wckey": None,
        "array_parallelism": at_once,
        "additional_parameters": further,
        "stderr_to_stdout": True,
        "srun_args": ["--kill-on-bad-exit=1"],
        # to stop is for the run, which saves first and asks for its own requeue; srun would end it at once
        "setup": [
            "trap '' USR2 TERM",
            f"export PYTHONSAFEPATH=1 PYTHONPATH={shlex.quote(import_path)} SRUN_CPUS_PER_TASK={cpus}",
            *cluster.setup,
        ],
    }


@contextmanager
def clean_environment():
    """What our jobs inherit tells nothing of a job that we may be in ourselves; SLURM_CONF stays, it names the
    cluster."""
    before = dict(os.environ)
    for name in before:
        if name.startswith(("SLURM_", "SUBMITIT_")) and name != "SLURM_CONF" or name in NOT_OURS:
            del os.environ[name]
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def only_launcher(paths: StudyPaths):
    """One launcher at a time on a study."""
    make_directory(paths.jobs)
    try:
        file = open(paths.jobs / "lock", "w")
    except OSError as error:
        raise UserError(f"{paths.jobs}: cannot be written ({error.strerror})") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{paths.root}: another launch is at work on this study; wait for it") from None
        except OSError:
            pass  # a file system without locks: claims keep runs from being trained twice
        yield


def _recover(paths: StudyPaths):
    """Settle submissions whose launcher died between sbatch and the record: take up the job, or forget the token."""
    from submitit.core.utils import DelayedSubmission, JobPaths

    for submission in read_all(paths):
        if submission.job:
            continue
        time.sleep(max(0.0, min(SETTLE_S, submission.unix + SETTLE_S - time.time())))
        found = slurm_client.jobs(submission.name)
        if found is None:
            raise UserError(
                "squeue gives no answer, so what an interrupted launch has submitted is not known; "
                "launch again when it does"
            )
        at = folder(paths, submission.token)
        if not found:
            shutil.rmtree(at, ignore_errors=True)
            continue
        number = found[0].array
        call, arguments = _calls(paths, submission)
        for index, argument in enumerate(arguments):  # submitit names its pickles by the job's number, after sbatch
            name = number if found[0].index is None else f"{number}_{index}"
            pickle = JobPaths(at.resolve(), name).submitted_pickle
            if not pickle.exists():
                delayed = DelayedSubmission(call, argument)
                delayed.set_timeout(60, 10**6)
                delayed.dump(pickle)
        write(paths, replace(submission, job=number))
        print(f"job {number}: taken up from an interrupted launch, {len(submission.runs)} runs")


def _report_orphans(states: dict[str, str], live: dict):
    """Say which jobs have nothing to do: their run left the study or is done, or has another job too."""
    needed = {job.id for run_id, jobs in live.items() if states.get(run_id, DONE[0]) not in DONE for job in jobs}
    for run_id, jobs in live.items():
        if states.get(run_id, DONE[0]) in DONE:  # a job of several runs may have others left
            jobs = [job for job in jobs if job.id not in needed]
        if run_id not in states:
            why = "which is not in this study any more"
        elif states[run_id] in DONE:  # one that runs is about to end
            jobs, why = [job for job in jobs if job.state == "PENDING"], f"which is {states[run_id]}"
        elif len(jobs) > 1:
            jobs, why = jobs[1:], f"which has job {jobs[0].id} already"
        else:
            continue
        for job in jobs:
            print(f"orphaned: job {job.id} is for run {run_id}, {why}; `scancel {job.id}` removes it")
