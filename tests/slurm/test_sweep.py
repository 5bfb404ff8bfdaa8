"""`python -m ditscale.sweep --multirun ... hydra/launcher=submitit_slurm` on the real cluster."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
TEMPLATES = Path(__file__).resolve().parents[2] / "slurm"
ON_SLURM = "hydra/launcher=submitit_slurm"


@pytest.fixture
def sweep(slurm, tmp_path):
    """Start a sweep; returns its process."""

    def start(root, *words):
        command = [sys.executable, "-m", "ditscale.sweep", "--multirun", f"study_dir={root}", *words]
        return subprocess.Popen(
            command, env=slurm.env, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    return start


def test_a_signal_and_a_failure(
    slurm, sweep, plan, tmp_path, quiet, records, long, heartbeat, log, status, attempts, submissions
):
    """One element is told to save and goes on, one fails, and the sweep's end tells by the records."""
    root = tmp_path / "study"
    victim = next(run for run in plan(root, *long) if "w48" in run)
    (root / "runs" / victim / "checkpoint").write_text("not a directory")
    waiting = sweep(root, *long, "budget=4e10", "width=40,48", ON_SLURM)
    slurm.wait(lambda: submissions(root) and submissions(root)[0]["job"], 60, "the array is submitted")
    (mine,) = submissions(root)
    calm = next(run for run in mine["runs"] if run != victim)
    element = f"{mine['job']}_{mine['runs'].index(calm)}"
    slurm.wait(lambda: heartbeat(root, calm) > 500, 240, "it trains")
    slurm.call("scancel", "--signal=USR2", element)
    slurm.wait(lambda: slurm.jobs(mine["job"])[element].restarts == 1, 120, "it is requeued")
    out, err = waiting.communicate(timeout=600)
    assert waiting.returncode == 1 and "1 of 2 runs are finished" in out and "Traceback" not in err, out + err
    jobs = slurm.jobs(mine["job"])
    assert {name: (job.state, job.restarts) for name, job in jobs.items()} == {
        element: ("COMPLETED", 1),
        f"{mine['job']}_{mine['runs'].index(victim)}": ("FAILED", 0),
    }
    found = status(root)
    assert found[victim]["state"] == "failed" and "cannot be written (" in found[victim]["reason"]
    assert found[calm]["state"] == "finished" and "stopped at" in log(root, calm)
    assert [a["ended"] for a in attempts(root, calm)] == ["stopped", "finished"]

    (root / "runs" / victim / "checkpoint").unlink()
    alone = sweep(root, "budget=4e10", "width=40,48", ON_SLURM)  # one element is no array
    out, err = alone.communicate(timeout=600)
    assert alone.returncode == 0 and "1 runs to submit, 0 pending or running, 1 done" in out, out + err
    assert records(root) == quiet(*long)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["study"]


def test_three_ways_at_once(
    slurm, sweep, call, plan, tmp_path, quiet, records, small, status, attempts, submissions, settled
):
    """A sweep, a plain array with one of its runs too, and a launch, all waiting together; each run is trained once."""
    root = tmp_path / "study"
    runs = plan(root, *small)  # those of 2.5e9 come first
    slurm.call("scontrol", "update", "partitionname=main", "state=down")  # nothing starts yet
    try:
        words = ("budget=2.5e9,5e9", "width=16", ON_SLURM, "hydra.launcher.timeout_min=20", "wait=false")
        out, err = sweep(root, *words).communicate(timeout=300)
        assert "2 runs to submit" in out and f"job {submissions(root)[0]['job']}: 2 runs" in out, out + err
        swept = submissions(root)[0]["runs"]
        plain = slurm.sbatch("--array=0-1", TEMPLATES / "train_array.sbatch", "study", cwd=tmp_path)
        both = set(runs[:2]) & set(swept)
        assert len(both) == 1
        launched = call("launch", root, "cluster=slurm-cpu")
        assert "3 runs to submit, 3 pending or running, 0 done" in launched.stdout, launched
        assert f"orphaned: job {plain}_" in launched.stdout and both.pop() in launched.stdout
        found = status(root)
        assert {s["state"] for s in found.values()} == {"queued"} and found[swept[0]]["job"].startswith(
            submissions(root)[0]["job"]
        )
        out, err = sweep(root, *words).communicate(timeout=300)
        assert "0 runs to submit, 2 pending or running" in out and len(submissions(root)) == 2, out + err
    finally:
        slurm.call("scontrol", "update", "partitionname=main", "state=up")
    slurm.wait(lambda: len(submissions(root)) == 3, 60, "the plain array starts")
    settled(root)
    assert records(root) == quiet(*small)
    assert {len(attempts(root, run)) for run in runs} == {1}
    assert {s["state"] for s in status(root).values()} == {"finished"}


def test_two_ranks(slurm, sweep, tmp_path, small, attempts, records):
    """nodes x tasks_per_node run the job once for each rank; they are one attempt of one run."""
    root = tmp_path / "study"
    words = (*small, "budget=2.5e9", "width=24", ON_SLURM)
    out, err = sweep(root, *words, "hydra.launcher.nodes=2").communicate(timeout=300)
    assert "1 of 1 runs are finished" in out, out + err
    (run,) = records(root)
    assert [a["ranks"] for a in attempts(root, run)] == [2]


def test_refusals(slurm, sweep, call, plan, tmp_path, few, status, submissions):
    root = tmp_path / "study"
    plan(root, *few)

    def refused(*words):
        process = sweep(root, "budget=2.5e9", "width=16", ON_SLURM, *words)
        out, err = process.communicate(timeout=300)
        (line,) = err.strip().splitlines()
        assert process.returncode == 2 and line.startswith("ditscale: error: "), out + err
        return line

    assert "sbatch refuses 1 runs: invalid partition specified: nowhere" in refused("hydra.launcher.partition=nowhere")
    assert "does not divide over 3 ranks" in refused("hydra.launcher.tasks_per_node=3")
    assert not submissions(root) and {s["state"] for s in status(root).values()} == {"planned"}
    assert not [path for path in (root / "jobs").iterdir() if path.is_dir()]

    slurm.call("scontrol", "update", "partitionname=main", "state=down")
    try:
        out, err = sweep(root, "budget=2.5e9", "width=16,24", ON_SLURM, "wait=false").communicate(timeout=300)
        assert "2 runs to submit" in out, out + err
        assert "cancelled 2 jobs" in call("cancel", root).stdout
    finally:
        slurm.call("scontrol", "update", "partitionname=main", "state=up")
