"""How jobs end: at their time limit without warning, in a crash loop, diverged, signalled while they start, without
their run.

What waits for the same minute waits together.
"""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
TEMPLATES = Path(__file__).resolve().parents[2] / "slurm"
ON_CLUSTER = "cluster=slurm-cpu"


def test_the_time_limit_without_warning_and_a_crash_loop(
    slurm, call, plan, long, few, tmp_path, attempts, heartbeat, log, status, settled, submissions, records, quiet
):
    """Slurm sends SIGTERM at the limit: the run saves and asks for its requeue. Beside it a run dies at once, six
    times."""
    limit, loop = tmp_path / "limit", tmp_path / "loop"
    late, _ = plan(limit, *long)
    array = slurm.sbatch(
        "--array=0-0", "--time=1", "--signal=B:URG@1", TEMPLATES / "train_array.sbatch", limit, cwd=tmp_path
    )
    slurm.wait(lambda: heartbeat(limit, late) > 500, 60, "it trains")
    os.kill(attempts(limit, late)[0]["pid"], signal.SIGSTOP)  # else it might finish; SIGCONT at the limit lets it go

    (crashing, *_) = plan(loop, *few, "widths=[16]", "recipe.min_steps=10")
    assert call("launch", loop, ON_CLUSTER).returncode == 0
    (submission,) = submissions(loop)
    job = submission["job"]  # one run is no array
    for restart in range(5):
        slurm.wait(lambda: len(attempts(loop, crashing)) == restart + 1, 90, f"start {restart + 1} claims the run")
        slurm.call("scontrol", "requeue", job)  # as Slurm does when a node fails ...
        kill(attempts(loop, crashing)[-1]["pid"])  # ... and nothing was saved
    settled(loop)
    found = status(loop)[crashing]
    assert (
        found["state"] == "failed"
        and f"5 attempts of job {job} got no further than its first checkpoint" in found["reason"]
    )
    assert slurm.jobs(job)[job].state == "FAILED" and len(attempts(loop, crashing)) == 5
    again = call("launch", loop)  # somebody has mended what was wrong
    assert "1 runs to submit" in again.stdout, again

    slurm.wait(
        lambda: slurm.ended(array) and attempts(limit, late)[-1]["ended"] == "finished", 240, "the late run ends"
    )
    assert f"requeueing job {array}_0" in log(limit, late)
    *cut, _ = attempts(limit, late)  # a slow machine needs more than two minutes for it
    assert cut and {a["ended"] for a in cut} == {"stopped"}
    assert slurm.jobs(array)[f"{array}_0"].state == "COMPLETED" and slurm.jobs(array)[f"{array}_0"].restarts == len(cut)
    rest = call("launch", limit, ON_CLUSTER)
    assert "1 runs to submit, 0 pending or running, 1 done" in rest.stdout, rest
    settled(limit)
    settled(loop)
    assert records(limit) == quiet(*long)
    assert status(loop)[crashing]["state"] == "finished"


def kill(pid: int):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def test_diverged_signalled_early_and_gone_from_the_study(
    slurm, call, plan, few, small, tmp_path, status, settled, submissions, records, quiet
):
    wild, early, left = tmp_path / "wild", tmp_path / "early", tmp_path / "left"
    (diverging, *_) = plan(
        wild, *few, "widths=[24]", "recipe.lr_scale=1e6", "recipe.clip=1e9", "recipe.warmup_images=0"
    )
    runs = plan(early, *few)
    gone, *stay = plan(left, *few)
    slurm.call("scontrol", "update", "partitionname=main", "state=down")
    try:
        for root in (wild, early, left):
            assert call("launch", root, ON_CLUSTER).returncode == 0
        shutil.rmtree(left / "runs" / gone)
        said = call("launch", left).stdout
        (submission,) = submissions(left)
        orphan = f"{submission['job']}_{submission['runs'].index(gone)}"
        assert (
            f"orphaned: job {orphan} is for run {gone}, which is no longer in this study; `scancel {orphan}` "
            "removes it" in said
        )
        assert "0 runs to submit, 2 pending or running" in said
    finally:
        slurm.call("scontrol", "update", "partitionname=main", "state=up")

    array = submissions(early)[0]["job"]
    for i in range(len(runs)):  # before Python has come to block it, or while it starts: either way nothing is lost
        slurm.wait(lambda: slurm.jobs(array)[f"{array}_{i}"].state != "PENDING", 60, "it starts")
        slurm.call("scancel", "--signal=USR2", f"{array}_{i}", check=False)
    for root in (wild, early, left):
        settled(root)
    call("launch", early)
    settled(early)
    assert records(early) == {run: quiet(*small)[run] for run in runs}

    job = submissions(wild)[0]["job"]
    assert slurm.jobs(job)[job].state == "COMPLETED"
    found = status(wild)[diverging]
    assert found["state"] == "diverged" and "the run has diverged" in found["reason"]
    assert "0 runs to submit, 0 pending or running, 1 done" in call("launch", wild).stdout

    assert slurm.jobs(submission["job"])[orphan].state == "FAILED" and not (left / "runs" / gone).exists()
    assert records(left) == {run: quiet(*small)[run] for run in stay}
    text = next((left / "jobs" / submission["token"]).glob(f"{orphan}_*_log.out")).read_text()
    assert "run.yaml: there is no such file" in text and "Traceback" not in text


def test_a_study_that_cannot_be_written(slurm, call, plan, few, tmp_path, one_line_error):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("mounting a tmpfs needs root")
    try:
        plan(disk / "study", *few)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        assert "Read-only file system" in one_line_error(call("launch", disk / "study", ON_CLUSTER))
        assert "Read-only file system" in one_line_error(call("launch", disk / "study", "cluster=local"))
        assert "Read-only file system" in call("doctor", disk / "study", ON_CLUSTER).stdout
        assert not slurm.call("squeue", "--noheader")
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
