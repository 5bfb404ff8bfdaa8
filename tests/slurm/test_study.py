"""`ditscale study` on a cluster: from a login node, interrupted there, then as a job that is requeued on its way."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import pytest

pytestmark = pytest.mark.slow
DRIVER = Path(__file__).resolve().parents[2] / "slurm" / "study.sbatch"
NINE = (  # with the probe
    "study=mini",
    "nested=false",
    "~evaluation.fid",
    "~evaluation.likelihood",
    "evaluation.vlb.n=64",
    "budgets=[4e9,8e9]",
    "widths=[16,24,32,40]",
    "probe_budget=1.6e10",
    "recipe.min_steps=10",
    "validation.n=256",
)


def test_interrupted_and_gone_on_with_as_a_job(slurm, call, tmp_path, records, attempts, submissions, settled):
    root = tmp_path / "a study"
    command = [
        sys.executable,
        "-m",
        "ditscale",
        "study",
        str(root),
        *NINE,
        "cluster=slurm-cpu",
        "cluster.parallel=3",
        "cluster.max_queued=7",
    ]
    waiting = subprocess.Popen(
        command,
        env=slurm.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # ignored when the tests themselves run in the background
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    slurm.wait(lambda: list(root.glob("runs/*/heartbeat.json")), 120, "the grid trains")
    waiting.send_signal(signal.SIGINT)
    out, err = waiting.communicate(timeout=60)
    (line,) = err.strip().splitlines()
    assert waiting.returncode == 130 and "the study's jobs keep running" in line, out + err

    driver = slurm.sbatch("--time=10", DRIVER, root, cwd=tmp_path)
    log = tmp_path / f"ditscale-study-{driver}.log"
    slurm.wait(lambda: log.exists() and "runs done" in log.read_text(), 120, "the job waits for the grid")
    slurm.call("scancel", "--batch", "--signal=USR2", driver)
    slurm.wait(lambda: slurm.jobs(driver)[driver].restarts == 1, 60, "it is requeued")
    slurm.wait(lambda: slurm.ended(driver), 400, "the study is complete")
    said = log.read_text()
    assert slurm.jobs(driver)[driver].state == "COMPLETED" and f"the study is complete; report: {root}" in said, said

    with h5py.File(root / "study.h5") as file:
        roles = file["points/role"].asstr()[:].tolist()
    assert (roles.count("grid"), roles.count("probe")) == (8, 1) and (root / "report" / "index.html").exists()
    assert json.loads((root / "verdict.json").read_text())["measured"] > 0
    found = records(root)  # all finished
    submitted = [s["runs"] for s in submissions(root)]
    # as many as there was room for; each once
    assert len(submitted[0]) == 7 and sorted(sum(submitted, [])) == sorted(found)
    assert all(len(attempts(root, run)) == 1 for run in found)
    assert {s["job"] for s in submissions(root)} >= {
        a["job"].split("_")[0] for run in found for a in attempts(root, run)
    }
    needless = slurm.sbatch(
        "--array=0-3", "--begin=now+1hour", DRIVER.with_name("train_array.sbatch"), root, cwd=tmp_path
    )
    again = call("study", root)
    assert "cancelled 4 jobs" in again.stdout and slurm.ended(needless + "_3")
    assert again.returncode == 0 and "0 runs to submit, 0 pending or running, 8 done" in again.stdout, again


def test_cancel_ends_the_job_that_launches(slurm, call, tmp_path, submissions, settled):
    root = tmp_path / "study"
    driver = slurm.sbatch("--time=10", DRIVER, root, *NINE, "cluster=slurm-cpu", cwd=tmp_path)
    slurm.wait(lambda: submissions(root) and submissions(root)[0]["job"], 120, "it has launched")
    other = slurm.sbatch("--time=10", "--hold", DRIVER, tmp_path / "other", cwd=tmp_path)
    ended = call("cancel", root)
    assert re.match(r"cancelled \d+ jobs \((\d+, )*\d+\)$", ended.stdout.strip()) and driver in ended.stdout, ended
    settled(root)
    slurm.wait(lambda: slurm.ended(driver), 60, "it ends")
    assert not slurm.ended(other)
    slurm.call("scancel", other)
