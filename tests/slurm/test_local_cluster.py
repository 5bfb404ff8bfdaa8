"""The rehearsal cluster itself: what the other tests rely on is really Slurm's behaviour."""

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
SCRIPTS = Path(__file__).resolve().parents[2] / "slurm" / "local"


def script(tmp_path, body: str) -> Path:
    path = tmp_path / "job.sh"
    path.write_text(f"#!/bin/bash\n#SBATCH --time=5 --output={tmp_path}/%a.out\n{body}\n")
    return path


def test_an_array_waits_runs_and_is_accounted(slurm, tmp_path):
    ask = "--gres=gpu:1" if slurm.gpus else "--cpus-per-task=2"
    job = slurm.sbatch("--array=0-7", ask, script(tmp_path, "echo $SLURMD_NODENAME ${CUDA_VISIBLE_DEVICES-0}; sleep 3"))
    slurm.wait(
        lambda: sum(j.state == "RUNNING" for j in slurm.jobs(job).values()) == 4,
        what="four elements run, one on a node",
    )
    waiting = [j for j in slurm.jobs(job).values() if j.state == "PENDING"]
    assert len(waiting) == 4 and {j.reason for j in waiting} <= {"Resources", "Priority", "None"}
    slurm.wait(lambda: slurm.ended(job), what="the array ends")
    printed = [(tmp_path / f"{i}.out").read_text().split() for i in range(8)]
    assert {node for node, _ in printed} == {"node1", "node2", "node3", "node4"} and {gpu for _, gpu in printed} == {
        "0"
    }

    accounts = lambda: slurm.call("sacct", "-X", "-n", "-P", "-o", "JobID,State", "-j", job).split()
    slurm.wait(lambda: sorted(accounts()) == [f"{job}_{i}|COMPLETED" for i in range(8)], 30, "sacct knows all eight")


def test_requeue_restarts_one_element(slurm, tmp_path):
    job = slurm.sbatch(
        "--array=0-1",
        "--requeue",
        script(tmp_path, f"echo ${{SLURM_RESTART_COUNT:-0}} >>{tmp_path}/starts.$SLURM_ARRAY_TASK_ID; sleep 6"),
    )
    slurm.wait(lambda: all(j.state == "RUNNING" for j in slurm.jobs(job).values()), what="both run")
    slurm.call("scontrol", "requeue", f"{job}_1")
    slurm.wait(lambda: slurm.ended(job), what="both end")
    assert (tmp_path / "starts.0").read_text().split() == ["0"]
    assert (tmp_path / "starts.1").read_text().split() == ["0", "1"]


def test_a_lost_node_moves_its_job(slurm, tmp_path):
    job = slurm.sbatch(
        "--requeue", script(tmp_path, f"while sleep 0.5; do echo $SLURMD_NODENAME >>{tmp_path}/ticks; done")
    )
    ticks = lambda: (tmp_path / "ticks").read_text().split() if (tmp_path / "ticks").exists() else []
    slurm.wait(ticks, what="it runs")
    lost = ticks()[0]
    slurm.script("break", lost)
    written = len(ticks())
    slurm.wait(lambda: set(ticks()) - {lost}, what="it runs elsewhere")
    assert lost not in ticks()[written:]
    assert slurm.jobs(job)[job].restarts == 1
    slurm.script("mend", lost)
    assert "idle" in slurm.call("sinfo", "-h", "-n", lost, "-o", "%t")


def test_up_and_down_twice_beside_another_cluster(slurm, tmp_path):
    """A second cluster, without a database, comes and goes twice; the first keeps running."""
    directory = tempfile.mkdtemp(prefix="ditscale-slurm-two-", dir="/tmp")
    env = {**os.environ, "NODES": "1", "GPUS": "0", "ACCOUNTING": "no"}
    run = lambda *words: subprocess.run(
        words, env={**env, "SLURM_CONF": f"{directory}/etc/slurm.conf"}, capture_output=True, text=True, timeout=120
    )
    for _ in range(2):
        up = run(SCRIPTS / "up", directory)
        assert up.returncode == 0 and "1 nodes" in up.stdout, up.stdout + up.stderr
        assert run("srun", "hostname").returncode == 0
        assert run("sacct").returncode != 0
        number = run("sbatch", "--parsable", script(tmp_path, "sleep 100")).stdout.strip()
        assert number.isdigit()
        down = run(SCRIPTS / "down", directory)
        assert down.returncode == 0, down.stderr
        assert run("sinfo").returncode != 0
    assert run(SCRIPTS / "down", directory, "--wipe").returncode == 0 and not Path(directory).exists()
    assert not [p for p in Path("/proc").glob("[0-9]*") if directory.encode() in command(p)]
    assert "node4" in slurm.call("sinfo", "-N")


def command(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""  # it has ended


def test_mistakes(slurm):
    for words in (("break", "node9"), ("mend", "node9")):
        done = subprocess.run([SCRIPTS / words[0], *words[1:], slurm.directory], capture_output=True, text=True)
        assert done.returncode == 2 and "node9: there is no such node; nodes are: node1" in done.stderr
