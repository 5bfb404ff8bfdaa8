"""`ditscale launch DIR cluster=slurm` on the real cluster: arrays by submitit, repeated, mixed with sbatch,
interrupted."""

import json
import os
import signal
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

pytestmark = pytest.mark.slow
TEMPLATES = Path(__file__).resolve().parents[2] / "slurm"
ON_CLUSTER = ("cluster=slurm-cpu",)


def test_launch_mixed_and_repeated(
    slurm, call, plan, tmp_path, quiet, records, small, log, status, submissions, settled
):
    """One run by plain sbatch first, the rest by launch; again while they run; again when all is done."""
    root = tmp_path / "study"
    runs = plan(root, *small)
    slurm.call("scontrol", "update", "partitionname=main", "state=down")  # nothing starts yet
    try:
        plain = slurm.sbatch("--array=0-0", TEMPLATES / "train_array.sbatch", "study", "2", cwd=tmp_path)
        # as from inside a job
        inside = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "7", "SLURM_ARRAY_TASK_ID": "3", "RANK": "5"}
        first = call("launch", root, *ON_CLUSTER, "cluster.parallel=3", **inside)
        assert first.returncode == 0, first.stdout + first.stderr
        assert "5 runs to submit, 1 pending or running, 0 done" in first.stdout and "3 at once" in first.stdout
        (mine,) = submissions(root)
        assert sorted(mine["runs"]) == sorted(set(runs) - {runs[2]})
        found = status(root)
        assert {s["state"] for s in found.values()} == {"queued"} and found[runs[2]]["job"] == f"{plain}_0"
        assert {s["reason"] for s in found.values()} == {"PartitionDown"}
        again = call("launch", root)  # the cluster is remembered
        assert "0 runs to submit, 6 pending or running" in again.stdout and len(submissions(root)) == 1
        arrays = slurm.call("scontrol", "show", "job", mine["job"])
        assert "ArrayTaskThrottle=3" in arrays and "NumTasks=1" in arrays
    finally:
        slurm.call("scontrol", "update", "partitionname=main", "state=up")
    settled(root)
    assert records(root) == quiet(*small)
    assert {s["state"] for s in status(root).values()} == {"finished"}
    assert "finished" in log(root, mine["runs"][0])
    pickles = [path.read_bytes() for path in root.glob("jobs/*/*_submitted.pkl")]
    assert len(pickles) == 5 and all(len(p) < 1000 and b"ditscale.launch.job.execute" in p for p in pickles)
    done = call("launch", root)
    assert "0 runs to submit, 0 pending or running, 6 done" in done.stdout
    # the plain array's too
    assert call("launch", root, "cluster=slurm-cpu").returncode == 0 and len(submissions(root)) == 2


def test_a_launcher_killed_after_sbatch_is_taken_up(
    slurm, call, plan, tmp_path, quiet, records, small, few, submissions, settled
):
    """SIGKILL when sbatch has answered, before anything is written down: the token finds the array again."""
    root = tmp_path / "study"
    runs = plan(root, *few)
    wrapper = tmp_path / "bin" / "sbatch"
    wrapper.parent.mkdir()
    wrapper.write_text(
        f'#!/bin/bash\n{slurm.call("which", "sbatch").strip()} "$@" >{tmp_path}/answer\nkill -KILL $PPID\n'
    )
    wrapper.chmod(0o755)
    killed = call("launch", root, *ON_CLUSTER, PATH=f"{wrapper.parent}:{os.environ['PATH']}")
    assert killed.returncode == -signal.SIGKILL and submissions(root)[0]["job"] == ""
    number = (tmp_path / "answer").read_text().split()[-1]
    again = call("launch", root)
    assert (
        again.returncode == 0
        and f"job {number}: adopted" in again.stdout
        and "0 runs to submit, 3 pending or running" in again.stdout
    ), again
    assert [s["job"] for s in submissions(root)] == [number]
    settled(root)
    assert records(root) == {run: quiet(*small)[run] for run in runs}


def test_a_launcher_killed_before_sbatch_leaves_nothing(slurm, call, plan, tmp_path, few, submissions):
    root = tmp_path / "study"
    plan(root, *few)
    wrapper = tmp_path / "bin" / "sbatch"
    wrapper.parent.mkdir()
    wrapper.write_text("#!/bin/bash\nkill -KILL $PPID\n")
    wrapper.chmod(0o755)
    assert (
        call("launch", root, *ON_CLUSTER, PATH=f"{wrapper.parent}:{os.environ['PATH']}").returncode == -signal.SIGKILL
    )
    again = call("launch", root)
    assert "3 runs to submit" in again.stdout and len(submissions(root)) == 1
    other = slurm.sbatch("--wrap=sleep 100", cwd=tmp_path)
    ended = call("cancel", root)
    assert "cancelled 3 jobs" in ended.stdout, ended
    slurm.wait(lambda: all(slurm.ended(s["job"]) for s in submissions(root)), 60, "the study's jobs end")
    assert not slurm.ended(other)
    slurm.call("scancel", other)
    assert "no job of this study" in call("cancel", root).stdout


def test_chunks_of_a_small_cluster(slurm, call, plan, tmp_path, quiet, records, small, few, submissions, settled):
    """More runs than an array may have: chunks, and the limit on runs at once split over them."""
    root = tmp_path / "study"
    runs = plan(root, *few)
    conf = slurm.directory / "etc" / "slurm.conf"
    usual = conf.read_text()
    try:
        conf.write_text(usual.replace("MaxArraySize=1001", "MaxArraySize=2"))
        slurm.call("scontrol", "reconfigure")
        slurm.wait(
            lambda: "= 2" in slurm.call("scontrol", "show", "config").split("MaxArraySize")[1][:30], 20, "the new limit"
        )
        planned = json.loads(call("plan", "--dry-run", "--json", *few, *ON_CLUSTER).stdout)
        assert {each["code"]: each["value"] for each in planned["checks"]}["array_split"] == 3
        done = call("launch", root, *ON_CLUSTER, "cluster.parallel=3")
        assert done.returncode == 0, done.stderr
        assert [len(s["runs"]) for s in submissions(root)] == [2, 1]
        assert (
            "2 runs, 1 rank, 15m00s, 2 at once" in done.stdout and "1 runs, 1 rank, 15m00s, 1 at once" in done.stdout
        ), done.stdout
        settled(root)
    finally:
        conf.write_text(usual)
        slurm.restart()  # a controller keeps the limit that its first array has met
    assert records(root) == {run: quiet(*small)[run] for run in runs}


def test_two_ranks_on_two_nodes(slurm, call, plan, tmp_path, small, settled):
    """Each rank on a node of its own: they find each other through the run's directory; two runs share the nodes."""
    one, two = tmp_path / "one", tmp_path / "two"
    only = (*small, "budgets=[2.5e9]", "widths=[24,32]")
    for root in (one, two):
        plan(root, *only)
    assert call("launch", one).returncode == 0
    done = call("launch", two, *ON_CLUSTER, "cluster.sizes=[{up_to_params: 1e9, nodes: 2, flops_per_s: 1e10}]")
    assert "2 nodes, 2 ranks" in done.stdout, done
    settled(two)
    for path in one.glob("runs/*/metrics.h5"):
        with h5py.File(path) as a, h5py.File(two / path.relative_to(one)) as b:
            assert b["state"][()] == b"finished" and b["attempts"]["ranks"][0] == 2
            np.testing.assert_allclose(b["steps"]["loss"], a["steps"]["loss"], rtol=1e-4)


def test_two_ranks_stop_together_and_one_is_killed(
    slurm, call, plan, tmp_path, long, heartbeat, attempts, records, quiet, submissions
):
    """Told to stop, both ranks save and are requeued as one; when one is killed, whichever it is, the other puts the
    job back too."""
    root = tmp_path / "study"
    (run, *_) = plan(root, *long, "widths=[40]")
    two = ("cluster.sizes=[{up_to_params: 1e9, nodes: 2, flops_per_s: 1e10}]", "cluster.checkpoint_s=0.5")
    assert call("launch", root, *ON_CLUSTER, *two).returncode == 0
    (mine,) = submissions(root)
    job = mine["job"]
    slurm.wait(lambda: heartbeat(root, run) > 500, 120, "it trains")
    slurm.call("scancel", "--signal=USR2", job)
    slurm.wait(lambda: slurm.jobs(job)[job].restarts == 1, 60, "it is requeued")
    for restarts, first in ((1, False), (2, True)):
        slurm.wait(lambda n=restarts: len(attempts(root, run)) == n + 1, 120, "it starts again")
        reached = heartbeat(root, run)
        slurm.wait(lambda images=reached: heartbeat(root, run) > images, 120, "it goes on")
        (killed,) = [p for p in ranks_of(slurm, job) if (p == attempts(root, run)[-1]["pid"]) == first]
        os.kill(killed, signal.SIGKILL)
    slurm.wait(lambda: slurm.ended(job), 120, "the job ends")
    assert (slurm.jobs(job)[job].state, slurm.jobs(job)[job].restarts) == ("COMPLETED", 3)
    assert [a["ended"] for a in attempts(root, run)] == ["stopped", "lost", "", "finished"]
    assert all(a["ranks"] == 2 for a in attempts(root, run))
    ours, theirs = (np.frombuffer(found[run]["loss"], "f4") for found in (records(root), quiet(*long)))
    np.testing.assert_allclose(ours[:50], theirs[:50], rtol=1e-5)
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)


def ranks_of(slurm, job: str) -> list[int]:
    """Processes of a job's ranks; the clusters of other tests, which run beside this one, number their jobs alike."""
    found = []
    wanted = {f"SLURM_JOB_ID={job}".encode(), f"SLURM_CONF={slurm.directory}/etc/slurm.conf".encode()}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            variables = (process / "environ").read_bytes().split(b"\0")
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if wanted <= set(variables) and b"submitit.core._submit" in command and b"srun" not in command:
            found.append(int(process.name))
    return found


def test_a_failed_run_is_a_failed_job(slurm, call, plan, tmp_path, few, submissions, settled):
    root = tmp_path / "study"
    runs = plan(root, *few)
    (root / "runs" / runs[0] / "metrics.h5").write_bytes(b"broken")
    # damaged is said by status
    assert "2 runs to submit, 0 pending or running, 1 done" in call("launch", root, *ON_CLUSTER).stdout
    text = (root / "runs" / runs[1] / "run.yaml").read_text()
    (root / "runs" / runs[1] / "run.yaml").write_text(text.replace("width: 24", "width: 25"))
    settled(root)
    (mine,) = submissions(root)
    states = {run: slurm.jobs(mine["job"])[f"{mine['job']}_{i}"].state for i, run in enumerate(mine["runs"])}
    assert states == {runs[1]: "FAILED", runs[2]: "COMPLETED"}


def test_gpus_and_jobs_that_end_before_their_run_begins(
    slurm, call, plan, tmp_path, few, small, status, settled, attempts, records, quiet, submissions
):
    """Each task keeps the GPU that Slurm gives it, whatever was set where it was submitted. Before that, jobs fail in
    their setup, and are cancelled while they wait: status says so."""
    root = tmp_path / "study"
    runs = plan(root, *few)
    size = "cluster.sizes=[{up_to_params: 1e9, gpus: 1, flops_per_s: 1e10}]" if slurm.gpus else "cluster.threads=1"
    assert call("launch", root, *ON_CLUSTER, size, "cluster.setup=[exit 3]", CUDA_VISIBLE_DEVICES="7").returncode == 0
    settled(root)
    (failed,) = submissions(root)
    slurm.wait(lambda: {s["state"] for s in status(root).values()} == {"failed"}, 30, "sacct knows how they ended")
    told = status(root)
    for i, run in enumerate(failed["runs"]):
        assert f"job {failed['job']}_{i}: FAILED before the run began; see {root}/jobs/" in told[run]["reason"], told[
            run
        ]
    slurm.kill("slurmdbd")  # and where sacct does not know
    assert {s["state"] for s in status(root).values()} == {"planned"}
    assert all("gone before the run began; see" in s["reason"] for s in status(root).values())
    slurm.script("up")

    slurm.call("scontrol", "update", "partitionname=main", "state=down")
    try:
        again = call("launch", root, *ON_CLUSTER, size, CUDA_VISIBLE_DEVICES="7")
        assert "3 runs to submit" in again.stdout, again
        assert "cancelled 3 jobs" in call("cancel", root).stdout
        slurm.wait(
            lambda: all("launch again to submit it" in s["reason"] for s in status(root).values()),
            30,
            "status says so",
        )
        assert all("CANCELLED by" in s["reason"] for s in status(root).values())
        last = call("launch", root, *ON_CLUSTER, size, CUDA_VISIBLE_DEVICES="7")
        assert "3 runs to submit" in last.stdout, last
    finally:
        slurm.call("scontrol", "update", "partitionname=main", "state=up")
    settled(root)
    assert {s["reason"] for s in status(root).values()} == {""}
    assert {attempts(root, run)[0]["gpus"] for run in runs} == {"0" if slurm.gpus else "7"}
    assert records(root) == {run: quiet(*small)[run] for run in runs}


def test_refusals(slurm, call, plan, tmp_path, small, one_line_error, status, submissions):
    root = tmp_path / "study"
    plan(root, *small)
    refused = lambda *words, **env: one_line_error(call("launch", root, *words, **env))
    assert "'nowhere' is not known; choose one of: main, urgent" in refused(*ON_CLUSTER, "cluster.partition=nowhere")
    assert "ask for 3 h, and partition urgent allows 1 h" in refused(
        *ON_CLUSTER,
        "cluster.partition=urgent",
        "cluster.max_time_h=3",
        "cluster.sizes=[{up_to_params: 1e9, flops_per_s: 1e6}]",
    )
    assert "sbatch refuses 6 runs: Batch job submission failed: Invalid feature" in refused(
        *ON_CLUSTER, "cluster.constraint=gold"
    )
    assert "sbatch refuses" in refused(*ON_CLUSTER, "+cluster.sbatch={license: gold}")
    assert "cluster.sizes ends at" in refused(*ON_CLUSTER, "cluster.sizes=[{up_to_params: 100, flops_per_s: 1e10}]")
    assert "does not divide over the 3 ranks" in refused(
        *ON_CLUSTER, "cluster.sizes=[{up_to_params: 1e9, ranks: 3, flops_per_s: 1e10}]"
    )
    assert "unknown key 'gpu'" in refused(*ON_CLUSTER, "cluster.sizes=[{up_to_params: 1e9, gpu: 3, flops_per_s: 1e10}]")
    assert "cluster and budget may change" in refused("recipe.batch_size=4", *ON_CLUSTER)
    assert "sbatch is not on the PATH" in refused(*ON_CLUSTER, PATH=str(Path(sys.executable).parent))
    assert "gives no answer" in refused(*ON_CLUSTER, SLURM_CONF="/nowhere/slurm.conf")
    assert not submissions(root) and not slurm.call("squeue", "--noheader")
    assert {s["state"] for s in status(root, SLURM_CONF="/nowhere/slurm.conf").values()} == {"planned"}


def test_runs_that_are_read_from_longer_ones(
    slurm, call, plan, tmp_path, small, quiet, records, submissions, settled, attempts
):
    """Of six runs three are submitted; a plain array over all of them trains no run twice."""
    root = tmp_path / "study"
    runs = plan(root, *small, "nested=true")
    assert call("launch", root, *ON_CLUSTER).returncode == 0
    (mine,) = submissions(root)
    assert len(mine["runs"]) == 3 and len(runs) == 6
    array = slurm.sbatch("--array=0-5", TEMPLATES / "train_array.sbatch", root, cwd=tmp_path)
    settled(root)
    slurm.wait(lambda: slurm.ended(array), 120, "the plain array ends")
    assert records(root) == quiet(*small)
    assert sorted(run for run in runs if attempts(root, run)) == sorted(mine["runs"])
    assert "6 runs collected, 0 left out" in call("collect", root).stdout
