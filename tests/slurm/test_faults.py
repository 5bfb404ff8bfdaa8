"""What befalls runs on a cluster. After each fault the study completes, and every run equals an undisturbed one to the
bit.

Runs are frozen (SIGSTOP) while a fault is prepared, so that it hits them half-way on any machine.
"""

import os
import re
import signal
import subprocess
import time

import numpy as np
import pytest

from ditscale.rundir.checkpoints import resumable

pytestmark = pytest.mark.slow
FOUR = (
    "study=mini",
    "~evaluation",
    "nested=false",
    "budgets=[2.5e10]",
    "widths=[32,40,48,56]",
    "recipe.min_steps=20",
    "validation.n=128",
    "cluster.checkpoint_s=0.2",
)
BATCH = 16  # images of a step
ON_CLUSTER = "cluster=slurm-cpu"
USR2_PENDING = 1 << (signal.SIGUSR2 - 1)


@pytest.fixture
def half_way(slurm, plan, call, tmp_path, attempts, submissions, heartbeat):
    """The four runs, one on each node and frozen half-way: root, the array's number, run ids by index."""
    yield from freeze_half_way(slurm, plan, call, tmp_path / "study", attempts, submissions, heartbeat)


def freeze_half_way(slurm, plan, call, root, attempts, submissions, heartbeat):
    plan(root, *FOUR)
    done = call("launch", root, ON_CLUSTER, "cluster.checkpoint_s=0.2", "cluster.sbatch={}", '+cluster.sbatch.mem="5G"')
    assert done.returncode == 0, done.stderr
    (submission,) = submissions(root)
    freeze_when_training(slurm, root, submission["runs"], attempts, heartbeat, 1)
    yield root, submission["job"], submission["runs"]
    for run in submission["runs"]:
        thaw(attempts(root, run))


def freeze_when_training(slurm, root, runs, attempts, heartbeat, number):
    """SIGSTOP to each run once its attempt of this number trains and two checkpoints are there."""
    left = set(runs)

    def all_frozen():
        for run in sorted(left):
            tries = attempts(root, run)
            saved = len(resumable(root / "runs" / run / "checkpoint"))
            if len(tries) == number and not tries[-1]["ended"] and saved == 2 and heartbeat(root, run) > 100:
                try:
                    os.kill(tries[-1]["pid"], signal.SIGSTOP)
                except ProcessLookupError:
                    continue
                left.discard(run)
        return not left

    slurm.wait(all_frozen, 120, "all runs train")


def thaw(tries):
    for each in tries:
        if not each["ended"]:
            try:
                os.kill(each["pid"], signal.SIGCONT)
            except ProcessLookupError:
                pass


def pending_signals(pid: int) -> int:
    text = open(f"/proc/{pid}/status").read()
    return int(re.search(r"^ShdPnd:\s*(\w+)", text, re.M).group(1), 16)


def test_nodes_lost_requeue_and_a_damaged_checkpoint(
    slurm, half_way, attempts, status, records, quiet, log, call, settled
):
    root, array, runs = half_way
    cut, powerless, split, calm = runs
    node = {run: attempts(root, run)[0]["node"] for run in runs}
    assert len(set(node.values())) == 4
    zombie = attempts(root, split)[0]["pid"]

    slurm.script("break", node[powerless])
    slurm.script("break", "--network", node[split])
    slurm.call("scontrol", "requeue", f"{array}_0")
    thaw(attempts(root, calm))
    slurm.wait(lambda: slurm.jobs(array)[f"{array}_0"].state == "PENDING", 30, "the requeued element waits")
    newest = resumable(root / "runs" / cut / "checkpoint")[-1] / "__0_0.distcp"
    newest.write_bytes(newest.read_bytes()[:1000])
    assert status(root)[cut]["state"] == "queued"

    slurm.wait(
        lambda: len(attempts(root, split)) == 2 and len(attempts(root, powerless)) == 2, 90, "lost runs start elsewhere"
    )
    os.kill(zombie, signal.SIGCONT)  # the process that Slurm thinks dead goes on
    slurm.wait(lambda: attempts(root, split)[0]["ended"], 30, "it sees that it is fenced")
    settled(root)
    assert records(root) == quiet(*FOUR)
    assert [a["ended"] for a in attempts(root, powerless)] == ["", "finished"]
    assert [a["ended"] for a in attempts(root, split)] == ["fenced", "finished"]
    assert len(attempts(root, calm)) == 1 and len(attempts(root, cut)) == 2
    assert "attempt 1 ends: attempt 2 has taken over" in log(root, split)
    assert "cannot be read; resuming from" in log(root, cut)
    assert {s["state"] for s in status(root).values()} == {"finished"}
    assert "4 runs collected, 0 left out" in call("collect", root).stdout


def test_runs_that_share_a_job(
    slurm, plan, call, tmp_path, attempts, submissions, heartbeat, status, records, quiet, log, settled
):
    """Two runs to a job. One that is killed leaves its neighbour alone; a job that is told to stop goes on with
    both."""
    root = tmp_path / "study"
    plan(root, *FOUR)
    done = call(
        "launch",
        root,
        ON_CLUSTER,
        "cluster.checkpoint_s=0.2",
        "cluster.sizes=[{up_to_params: 1e9, flops_per_s: 1e10, pack: 2}]",
    )
    assert done.returncode == 0 and "4 runs, 2 runs a job, 1 rank" in done.stdout, done
    (submission,) = submissions(root)
    array, (hurt, beside, first, second) = submission["job"], submission["runs"]
    assert "0 runs to submit, 4 pending or running" in call("launch", root).stdout
    freeze_when_training(slurm, root, submission["runs"], attempts, heartbeat, 1)
    assert {s["job"] for s in status(root).values()} == {f"{array}_0", f"{array}_1"}
    for pair in ((hurt, beside), (first, second)):
        assert len({attempts(root, run)[0]["node"] for run in pair}) == 1
    assert "CPUs/Task=2" in slurm.call("scontrol", "show", "job", f"{array}_0")

    os.kill(attempts(root, hurt)[0]["pid"], signal.SIGKILL)
    thaw(attempts(root, beside))
    slurm.call("scancel", "--signal=USR2", f"{array}_1")
    slurm.wait(
        lambda: all(pending_signals(attempts(root, run)[0]["pid"]) & USR2_PENDING for run in (first, second)),
        30,
        "both are told",
    )
    for run in (first, second):
        thaw(attempts(root, run))
    settled(root)
    assert {run: len(attempts(root, run)) for run in submission["runs"]} == {hurt: 1, beside: 1, first: 2, second: 2}
    assert [a["ended"] for a in attempts(root, first)] == ["stopped", "finished"]
    again = call("launch", root)
    assert "1 runs to submit, 0 pending or running, 3 done" in again.stdout, again
    settled(root)
    assert records(root) == quiet(*FOUR)
    assert all("finished" in log(root, run) for run in submission["runs"])


def test_preempted_timed_out_and_cancelled(
    slurm, half_way, attempts, heartbeat, status, records, quiet, call, settled, tmp_path
):
    root, array, runs = half_way
    urgent = slurm.sbatch("--partition=urgent", "--nodes=4", "--exclusive", "--time=1", "--wrap=sleep 1", cwd=tmp_path)
    slurm.wait(lambda: slurm.ended(urgent), 60, "the urgent job ends")  # Slurm lets the frozen go on, to save
    assert slurm.jobs(urgent)[urgent].state == "COMPLETED"
    freeze_when_training(slurm, root, runs, attempts, heartbeat, 2)
    assert {attempts(root, run)[0]["ended"] for run in runs} == {"stopped"}

    late, gone, *calm = runs
    minutes = int(slurm.call("squeue", "-h", "-j", f"{array}_0", "-o", "%M").strip().split(":")[0])
    slurm.call("scontrol", "update", f"jobid={array}_0", f"timelimit={minutes + 2}")
    slurm.call("scancel", f"{array}_1")
    for run in calm:
        thaw(attempts(root, run))
    pid = attempts(root, late)[1]["pid"]
    slurm.wait(lambda: pending_signals(pid) & USR2_PENDING, 120, "Slurm announces the time limit")
    os.kill(pid, signal.SIGCONT)
    settled(root)
    assert [slurm.jobs(array)[f"{array}_{i}"].state for i in range(4)] == [
        "COMPLETED",
        "CANCELLED",
        "COMPLETED",
        "COMPLETED",
    ]
    *cut, last = [a["ended"] for a in attempts(root, late)][1:]  # a slow machine reaches the limit again
    assert cut and set(cut) == {"stopped"} and last == "finished"
    # the latter when it was killed before it could save
    assert status(root)[gone]["state"] in ("stopped", "interrupted")

    again = call("launch", root)
    assert "1 runs to submit, 0 pending or running, 3 done" in again.stdout, again
    settled(root)
    assert records(root) == quiet(*FOUR)


def test_without_accounting_and_controller(slurm, half_way, attempts, status, records, quiet, call, settled):
    """slurmdbd dies, then slurmctld: status goes on from the files; the controller comes back and nothing was lost."""
    root, array, runs = half_way
    for run in runs[:2]:
        thaw(attempts(root, run))
    slurm.kill("slurmdbd")
    found = status(root)
    assert {found[run]["state"] for run in runs[2:]} == {"running"} and {
        s["job"].split("_")[0] for s in found.values()
    } == {array}
    os.kill(attempts(root, runs[3])[0]["pid"], signal.SIGKILL)  # a crash that nobody accounts for
    slurm.wait(lambda: slurm.jobs(array)[f"{array}_3"].state == "FAILED", 60, "the crash is a failed job")
    found = status(root)[runs[3]]
    assert found["state"] == "interrupted" and "launch again to resume it" in found["reason"]

    failed_at = time.time()  # a controller that is killed forgets what it has not saved
    slurm.wait(
        lambda: (slurm.directory / "state" / "job_state").stat().st_mtime > failed_at,
        30,
        "the controller saves its state",
    )
    slurm.kill("slurmctld")
    found = status(root)
    assert found[runs[2]]["state"] == "running" and found[runs[3]]["state"] == "interrupted"
    refused = call("launch", root)
    assert refused.returncode == 2 and "gives no answer" in refused.stderr
    slurm.script("up")
    thaw(attempts(root, runs[2]))
    again = call("launch", root)
    assert "1 runs to submit" in again.stdout, again
    settled(root)
    assert records(root) == quiet(*FOUR)


def test_four_runs_go_on_with_two_ranks_each(slurm, half_way, attempts, records, quiet, call, settled):
    """Cancelled half-way on one rank, launched again with two: all four at once, on nodes that share one machine's
    ports."""
    root, array, runs = half_way
    assert "cancelled 4 jobs" in call("cancel", root).stdout  # Slurm lets the frozen go on, to save
    settled(root)
    row = "cluster.sizes=[{up_to_params: 1e9, ranks: 2, flops_per_s: 1e10}]"
    again = call("launch", root, ON_CLUSTER, row, "cluster.sbatch={}", '+cluster.sbatch.mem="5G"')
    assert "4 runs to submit" in again.stdout and "2 ranks" in again.stdout, again
    settled(root)
    for run, found in records(root).items():
        first, second = attempts(root, run)
        assert (first["ranks"], second["ranks"], second["ended"]) == (1, 2, "finished")
        ours, theirs = (np.frombuffer(r["loss"], "f4") for r in (found, quiet(*FOUR)[run]))
        begun = int(second["checkpoint"].split("-")[1]) // BATCH
        assert begun > 0 and (ours[:begun] == theirs[:begun]).all()
        np.testing.assert_allclose(ours[begun : begun + 50], theirs[begun : begun + 50], rtol=1e-5)
        np.testing.assert_allclose(ours, theirs, rtol=1e-3)
    started = [attempts(root, run)[1]["started_unix"] for run in runs]
    ended = [os.stat(root / "runs" / run / "attempts" / "0002.json").st_mtime for run in runs]
    assert max(started) < min(ended)  # they did run at once


def test_a_disk_that_fills_in_mid_run(
    slurm, plan, call, small_disk, attempts, submissions, heartbeat, status, records, quiet, settled, log
):
    """Four runs train when the disk is full: each ends in one line and keeps its checkpoint, and goes on with room
    again."""
    half_way = freeze_half_way(slurm, plan, call, small_disk("60m") / "study", attempts, submissions, heartbeat)
    root, array, runs = next(half_way)
    saved = {run: resumable(root / "runs" / run / "checkpoint")[-1] for run in runs}
    ballast = fill(root.parent)
    for run in runs:
        thaw(attempts(root, run))
    settled(root)
    assert {slurm.jobs(array)[f"{array}_{i}"].state for i in range(4)} == {"FAILED"}
    for run, state in status(root).items():
        assert state["state"] in ("failed", "interrupted"), state
        assert "cannot be written (No space left on device)" in log(root, run) and "Traceback" not in log(root, run)
        # perhaps a newer one: to delete an old checkpoint makes room
        assert max((root / "runs" / run / "checkpoint").glob("images-*")) >= saved[run] and not list(
            (root / "runs" / run).rglob("*.tmp*")
        )
    ballast.unlink()
    again = call("launch", root)
    assert "4 runs to submit" in again.stdout, again
    settled(root)
    assert records(root) == quiet(*FOUR)
    assert all(attempts(root, run)[1]["checkpoint"] >= saved[run].stem for run in runs)  # none began anew


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a file system of a size such as "6m", and returns where."""
    disk = tmp_path / "disk"

    def mount(size: str):
        disk.mkdir()
        if subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)], capture_output=True
        ).returncode:
            pytest.skip("mounting a small tmpfs needs root")
        return disk

    yield mount
    subprocess.run(["umount", "-l", str(disk)], check=disk.is_mount())


def fill(disk):
    """Take all room on a disk; returns the file that does."""
    with pytest.raises(OSError):
        with open(disk / "ballast", "wb") as ballast:
            while True:
                ballast.write(b"x" * 4096)
                ballast.flush()
    return disk / "ballast"


def test_a_full_disk(slurm, call, plan, small_disk, small, few, quiet, records, status, settled, submissions):
    """The jobs fail and say why; with room again, launching goes on."""
    root = small_disk("6m") / "study"
    runs = plan(root, *few)
    slurm.call("scontrol", "update", "partitionname=main", "state=down")
    try:
        assert call("launch", root, ON_CLUSTER).returncode == 0
        ballast = fill(root.parent)
    finally:
        slurm.call("scontrol", "update", "partitionname=main", "state=up")
    settled(root)
    array = submissions(root)[0]["job"]
    assert {job.state for job in slurm.jobs(array).values()} == {"FAILED"}
    assert {s["state"] for s in status(root).values()} <= {"failed", "planned", "interrupted"}
    ballast.unlink()
    again = call("launch", root)
    assert "3 runs to submit" in again.stdout, again
    settled(root)
    assert records(root) == {run: quiet(*small)[run] for run in runs}
