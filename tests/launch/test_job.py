"""What a job does at its edges, as processes of their own with Slurm's variables; without squeue."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import h5py
import pytest

from ditscale.naming import RunPaths
from ditscale.rundir.attempts import claim, read_attempts
from ditscale.rundir.checkpoints import resumable
from ditscale.rundir.record import read_state


def start(run_dir, rank, ranks, **more):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SUBMITIT_"))}
    env |= {
        "PATH": "/nowhere",
        "OMP_NUM_THREADS": "1",
        "SLURM_JOB_ID": "5",
        "SLURM_PROCID": str(rank),
        "SLURM_STEP_ID": "0",
    }
    env |= {"SLURM_NTASKS": str(ranks), "SLURM_LOCALID": str(rank), **more}
    return subprocess.Popen(
        [sys.executable, "-m", "ditscale.launch.job", str(run_dir)],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_all_ranks_leave_a_run_that_another_process_trains(one_run):
    at = RunPaths(one_run())
    _, lock = claim(at)
    processes = [start(at.root, rank, 2) for rank in (0, 1)]
    # rank 1 is told: it would wait 120 s
    (said, _), (_, trouble) = [process.communicate(timeout=100) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], trouble
    assert f"process {os.getpid()} on" in said and "nothing to do" in said
    assert len(read_attempts(at)) == 1 and not at.failure.exists()
    lock.release()


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_diverged_run_is_a_result_and_not_a_failed_job(one_run):
    at = RunPaths(one_run("recipe.lr_scale=1e6", "recipe.clip=1e9", "recipe.warmup_images=0"))
    for said in ("has diverged", "diverged already"):
        process = start(at.root, 0, 1)
        out, trouble = process.communicate(timeout=120)
        assert process.returncode == 0 and said in out and not trouble, (out, trouble)
    assert [a.ended for a in read_attempts(at)] == ["diverged"] and read_state(at.metrics) == "diverged"


def test_a_run_that_left_the_study_leaves_nothing(one_run):
    at = RunPaths(one_run())
    shutil.rmtree(at.root)
    process = start(at.root, 0, 1)
    _, trouble = process.communicate(timeout=60)
    assert process.returncode == 1 and "run.yaml: there is no such file" in trouble and "Traceback" not in trouble
    assert not at.root.exists()


@pytest.mark.slow
def test_a_fenced_attempt_writes_and_deletes_nothing(one_run):
    """The first attempt is frozen while it validates, its job is started again, and it goes on before the second one
    has read anything: the checkpoints it would clear away are what that one resumes from."""
    at = RunPaths(one_run("budgets=[1e10]", "validation.n=20000", "cluster.checkpoint_s=0.2"))
    first = start(at.root, 0, 1)
    wait_until(lambda: phase(at) == "validating" and resumable(at.checkpoint), first)  # it is saved meanwhile
    os.kill(first.pid, signal.SIGSTOP)
    saved = resumable(at.checkpoint)
    assert not (at.checkpoint / "final.pt").exists()
    second = start(at.root, 0, 1, SLURM_RESTART_COUNT="1")
    wait_until(lambda: len(read_attempts(at)) == 2, second)
    os.kill(second.pid, signal.SIGSTOP)
    os.kill(first.pid, signal.SIGCONT)
    said, trouble = first.communicate(timeout=120)
    assert "attempt 1 ends: attempt 2 has taken over" in trouble, (said, trouble)
    assert resumable(at.checkpoint) == saved and not (at.checkpoint / "final.pt").exists() and not at.failure.exists()
    os.kill(second.pid, signal.SIGCONT)
    said, trouble = second.communicate(timeout=120)
    assert second.returncode == 0, trouble
    assert [a.ended for a in read_attempts(at)] == ["fenced", "finished"]
    assert os.listdir(at.checkpoint) == ["final.pt"]
    with h5py.File(at.metrics) as file:
        assert file["attempts"]["from_images"][1] == int(saved[-1].name.removeprefix("images-"))


@pytest.mark.slow
def test_two_runs_by_hand_at_once(one_run, ditscale, one_line_error):
    """`ditscale run` claims as a job does: of two that start together one trains, and the other says so in one line."""
    at = RunPaths(one_run("budgets=[5e10]"))
    command = [sys.executable, "-m", "ditscale", "run", str(at.root)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    wait_until(lambda: any(process.poll() is not None for process in both))
    refused = next(process for process in both if process.poll() is not None)
    (trains,) = set(both) - {refused}
    out, err = refused.communicate()
    done = subprocess.CompletedProcess(refused.args, refused.returncode, out, err)
    assert f"process {trains.pid} on" in one_line_error(done)
    wait_until(lambda: phase(at) == "training", trains)
    trains.send_signal(signal.SIGTERM)
    out, err = trains.communicate(timeout=60)
    assert trains.returncode == 130 and "rerun the same command to resume" in out, (out, err)
    assert [(a.number, a.pid, a.ended) for a in read_attempts(at)] == [(1, trains.pid, "stopped")]
    assert not at.failure.exists()


ALONE = """
import fcntl, socket, struct, subprocess, sys
with socket.socket() as s:
    fcntl.ioctl(s, 0x8914, struct.pack("16sh", b"lo", 0x41))  # SIOCSIFFLAGS: loopback goes up
done = subprocess.run(sys.argv[1:])
print(open("/proc/net/snmp").read())
sys.exit(done.returncode)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="a network without outside needs root")
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_run_touches_no_network(one_run, ranks):
    """In a network namespace with nothing but loopback: it finishes, and one rank has not even tried to connect."""
    at = RunPaths(one_run())
    several = ("-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}") if ranks > 1 else ()
    command = [
        "unshare",
        "--net",
        sys.executable,
        "-c",
        ALONE,
        sys.executable,
        *several,
        "-m",
        "ditscale",
        "run",
        str(at.root),
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=200)
    if "unshare failed" in done.stderr:
        pytest.skip(f"no network namespaces here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert read_state(at.metrics) == "finished"
    counts = counters(done.stdout)
    if ranks == 1:
        assert (
            counts["Tcp"]["ActiveOpens"] == 0
            and counts["Udp"]["OutDatagrams"] == 0
            and counts["Ip"]["OutNoRoutes"] == 0
        )


def counters(text) -> dict:
    """/proc/net/snmp: pairs of lines, names and values."""
    lines = [line.split() for line in text.splitlines() if ": " in line]
    return {
        names[0].rstrip(":"): dict(zip(names[1:], map(int, values[1:])))
        for names, values in zip(lines[::2], lines[1::2])
    }


def phase(at) -> str:
    try:
        return json.loads(at.heartbeat.read_text())["phase"]
    except (OSError, ValueError):
        return ""


def wait_until(true, process=None, seconds=60):
    until = time.monotonic() + seconds
    while not true():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)
