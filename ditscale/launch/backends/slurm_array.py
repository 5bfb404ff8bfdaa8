"""Runs as Slurm arrays, submitted by submitit: one array per resource class, in chunks as MaxArraySize allows."""

import io
import shutil
import time
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path
from secrets import token_hex
from typing import Any

from ...config import Cluster
from ...errors import UserError
from ...files import unwritable
from ...logs import log
from ...naming import StudyPaths
from ...plan.run import Run
from ...plan.study import settle
from ...price.records import read_speeds
from ...price.resources import Resources, classes
from ...price.schedule import shares
from ..doctor.directory import OK, shared
from ..reconcile import missing_runs, only_launcher, task_calls
from ..snapshot import snapshot
from .limits import array_limit, check_time, partitions, within_queue_limit
from .preamble import clean_environment, preamble
from .submission import Submission, write


def launch(paths: StudyPaths, cluster: Cluster, stage: str | None = None) -> list[Submission]:
    """Submit every run (of `stage`, or all) that is neither done, nor pending, nor running; returns the submissions.
    Raises UserError, before anything is submitted, where the cluster cannot take what the study asks for."""
    limit, hours, speeds = array_limit(), partitions(), read_speeds(paths, cluster)
    with only_launcher(paths):
        missing = within_queue_limit(missing_runs(paths, lambda run: stage in (None, run.stage)), cluster)
        by_class = [(what, runs, limit * what.size.pack) for what, runs in classes(missing, cluster, speeds).items()]
        chunks = [(what, runs[i : i + n]) for what, runs, n in by_class for i in range(0, len(runs), n)]
        for what, _ in chunks:
            check_time(what, cluster, hours)
        if 0 < cluster.parallel < len(chunks):
            log.info(f"cluster.parallel is {cluster.parallel}, but each of {len(chunks)} arrays runs at least 1")
        if chunks and (finding := shared(paths.root)).level != OK:
            log.info(finding)
        code = snapshot(paths.code)
        submitted: list[Submission] = []
        parallel = shares(cluster.parallel, [-(-len(runs) // what.size.pack) for what, runs in chunks])
        for (what, runs), at_once in zip(chunks, parallel):
            try:
                settle(paths, runs, cluster, what.ranks)
                submitted.append(_submit(paths, cluster, what, runs, at_once, code))
            except UserError as error:
                jobs = ", ".join(s.job for s in submitted)
                before = f"submitted before it: {jobs}" if submitted else "nothing was submitted"
                raise UserError(f"{error}; {before}") from None
            limited = f", {at_once} at once" if at_once else ""
            log.info(f"job {submitted[-1].job}: {len(runs)} runs, {what}{limited}")
        return submitted


def _submit(paths: StudyPaths, cluster: Cluster, what: Resources, runs: list[Run], most: int, code: Path) -> Submission:
    """Submit one array. Its record is written before sbatch is called, without the job's number, and completed then."""
    from submitit import SlurmExecutor

    run_ids = tuple(run.run_id for run in runs)
    submission = Submission(token_hex(4), "", run_ids, str(code.resolve()), time.time(), what.size.pack)
    write(paths, submission)
    at = paths.jobs / submission.token
    try:
        with clean_environment(), redirect_stderr(io.StringIO()):  # submitit prints once more what sbatch says.
            executor = SlurmExecutor(folder=at.resolve(), max_num_timeout=10**6)
            executor.update_parameters(**_parameters(submission, cluster, what, most))
            started = executor.map_array(*task_calls(paths, submission))
    except Exception as error:
        raise refused(error, at, submission) from None
    submission = replace(submission, job=started[0].job_id.split("_")[0])
    write(paths, submission)
    return submission


def refused(error: Exception, at: Path, submission: Submission) -> Exception:
    """What to raise where submitit failed: sbatch's reason, or the disk's. What sbatch refused is forgotten."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    if isinstance(error, OSError):
        return unwritable(at, error, "launch again")
    if not isinstance(error, (FailedJobError, FailedSubmissionError)):
        return error
    shutil.rmtree(at, ignore_errors=True)
    lines = str(error).strip().splitlines()
    reason = next((line for line in lines if "error:" in line), lines[-1]).split("error:")[-1].strip()
    limited = "QOS" in reason or "submit limit" in reason
    hint = " (where an account may queue fewer jobs, set cluster.max_queued)" if limited else ""
    return UserError(f"sbatch refuses {len(submission.runs)} runs: {reason}{hint}")


def _parameters(submission: Submission, cluster: Cluster, what: Resources, at_once: int) -> dict[str, Any]:
    """submitit's parameters. Only what is set is passed: otherwise Slurm's own defaults apply."""
    cpus = cluster.threads * submission.pack
    gpus = f"{cluster.gpu_type}:{what.size.gpus}" if cluster.gpu_type else str(what.size.gpus)
    further: dict[str, Any] = {"requeue": True, "signal": f"USR2@{cluster.signal_s}"}
    if what.size.gpus:
        further |= {"gres": f"gpu:{gpus}"} if cluster.gpu_option == "gres" else {"gpus-per-node": gpus}
    further |= {name: value or True for name, value in cluster.sbatch.items()}
    return {
        "job_name": submission.name, "nodes": what.size.nodes, "ntasks_per_node": what.size.ranks,
        "cpus_per_task": cpus, "time": what.minutes, "wckey": None, "stderr_to_stdout": True,
        **{name: getattr(cluster, name) or None for name in ("partition", "account", "constraint")},
        "array_parallelism": at_once or len(submission.tasks), "additional_parameters": further,
        "setup": preamble(submission.code, cpus, cluster.setup),
    }  # fmt: skip
