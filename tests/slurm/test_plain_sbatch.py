"""sbatch --array with slurm/train_array.sbatch, and slurm/aggregate.sbatch after it: no submitit."""

import re
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow
TEMPLATES = Path(__file__).resolve().parents[2] / "slurm"


def test_an_array_and_its_aggregate(slurm, plan, tmp_path, quiet, records, small):
    root = tmp_path / "a study"
    runs = plan(root, *small)
    array = slurm.sbatch("--array=0-6", TEMPLATES / "train_array.sbatch", root, cwd=tmp_path)  # one too many
    after = slurm.sbatch(f"--dependency=afterany:{array}", TEMPLATES / "aggregate.sbatch", root, cwd=tmp_path)
    slurm.wait(lambda: slurm.ended(after), 180, "the aggregate ends")
    states = [job.state for _, job in sorted(slurm.jobs(array).items())]
    assert states == ["COMPLETED"] * 6 + ["FAILED"]
    assert (
        "there is no run 6; the study has 6: sbatch --array=0-5"
        in (tmp_path / f"ditscale-train-{array}.log").read_text()
    )
    assert records(root) == quiet(*small) and sorted(records(root)) == runs
    said = (tmp_path / f"ditscale-aggregate-{after}.log").read_text()
    assert "6 runs collected, 0 left out" in said and (root / "report" / "index.html").exists(), said

    again = slurm.sbatch("--array=0-2", TEMPLATES / "train_array.sbatch", root, "3", cwd=tmp_path)
    slurm.wait(lambda: slurm.ended(again), 60, "the repeated array ends")
    assert {job.state for job in slurm.jobs(again).values()} == {"COMPLETED"}
    assert records(root) == quiet(*small)


def test_a_run_on_several_nodes(slurm, plan, tmp_path, quiet, records, small, attempts):
    """Two ranks on each of two nodes, as the template's comment says, train as one rank does."""
    root = tmp_path / "study"
    run = plan(root, *small)[0]
    array = slurm.sbatch(
        "--array=0", "--nodes=2", "--ntasks-per-node=2", TEMPLATES / "train_array.sbatch", root, cwd=tmp_path
    )
    slurm.wait(lambda: slurm.ended(array), 120, "the array ends")
    assert {job.state for job in slurm.jobs(array).values()} == {"COMPLETED"}
    assert [attempt["ranks"] for attempt in attempts(root, run)] == [4]
    assert len(list((root / "runs" / run / "log").glob(f"job-{array}_0.*.log"))) == 4
    together, alone = (np.frombuffer(of[run]["loss"], "f4") for of in (records(root), quiet(*small)))
    np.testing.assert_allclose(together, alone, rtol=1e-3)


def test_a_signal_saves_and_requeues_this_element_only(
    slurm, plan, tmp_path, quiet, records, long, heartbeat, log, attempts
):
    root = tmp_path / "study"
    runs = plan(root, *long)
    array = slurm.sbatch("--array=0-1", TEMPLATES / "train_array.sbatch", root, cwd=tmp_path)
    slurm.wait(lambda: all(heartbeat(root, run) > 500 for run in runs), 60, "both train")
    slurm.call("scancel", "--signal=USR2", f"{array}_1")
    slurm.wait(lambda: slurm.jobs(array)[f"{array}_1"].restarts == 1, 30, "it is requeued")
    stopped_at = int(re.search(r"stopped at (\d+) of", log(root, runs[1])).group(1))
    slurm.wait(lambda: slurm.ended(array), 120, "the array ends")
    jobs = slurm.jobs(array)
    assert {job.state for job in jobs.values()} == {"COMPLETED"}
    assert jobs[f"{array}_0"].restarts == 0 and jobs[f"{array}_1"].restarts == 1
    first, second = attempts(root, runs[1])
    assert (first["ended"], first["restart"], second["ended"], second["restart"]) == ("stopped", 0, "finished", 1)
    assert second["checkpoint"].endswith(str(stopped_at))
    assert records(root) == quiet(*long)
