"""What a job does at its edges, as processes of their own with Slurm's variables; without squeue."""

import os
import subprocess
import sys
import time

from ditscale.launch.attempt import claim, read_attempts
from ditscale.naming import RunPaths
from ditscale.store.lock import RunLock


def start(run_dir, rank, ranks, **more):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SUBMITIT_"))}
    env |= {
        "PYTHONPATH": os.getcwd(),
        "PATH": "/nowhere",
        "OMP_NUM_THREADS": "1",
        "SLURM_JOB_ID": "5",
        "SLURM_PROCID": str(rank),
    }
    env |= {"SLURM_NTASKS": str(ranks), "SLURM_LOCALID": str(rank), **more}
    return subprocess.Popen(
        [sys.executable, "-m", "ditscale.launch.job", str(run_dir)],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_all_ranks_leave_a_run_that_another_process_trains(one_run):
    at = RunPaths(one_run())
    claim(at)
    lock = RunLock(at.lock)
    processes = [start(at.root, rank, 2) for rank in (0, 1)]
    (said, _), (_, trouble) = [
        process.communicate(timeout=100) for process in processes
    ]  # rank 1 is told: it would wait 120 s
    assert [process.returncode for process in processes] == [0, 0], trouble
    assert f"process {os.getpid()} on" in said and "nothing to do" in said
    assert len(read_attempts(at)) == 1 and not at.failure.exists()
    lock.release()


def test_a_signal_before_the_loop_listens_is_not_lost(one_run):
    """SIGTERM while Python still imports torch: the run starts, stops at its first look and can be resumed."""
    at = RunPaths(one_run("budgets=[1e11]"))
    process = start(at.root, 0, 1)
    while not read_attempts(at):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.terminate()
    said, trouble = process.communicate(timeout=60)
    assert process.returncode == 0 and "stopped at" in said and "it is not requeued from here" in said, trouble
    assert [a.ended for a in read_attempts(at)] == ["stopped"]


def test_a_finished_run_is_left_alone_and_a_failed_one_fails_its_job(one_run):
    at = RunPaths(one_run())
    for _ in range(2):
        process = start(at.root, 0, 1)
        said, trouble = process.communicate(timeout=120)
        assert process.returncode == 0, trouble
    assert "finished already" in said and len(read_attempts(at)) == 1
    at.metrics.write_bytes(b"broken")
    process = start(at.root, 0, 1)
    _, trouble = process.communicate(timeout=60)
    assert process.returncode == 1 and "truncated or not HDF5" in trouble and "Traceback" not in trouble
