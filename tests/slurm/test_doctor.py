"""`ditscale doctor` on a real cluster, on a broken one, and without any."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ditscale.config import compose
from ditscale.launch.doctor.directory import directory, file_system
from ditscale.launch.doctor.examine import files_of, local_files
from ditscale.launch.doctor.node import findings
from ditscale.launch.doctor.slurm import settings

pytestmark = pytest.mark.slow


def test_a_sound_cluster(slurm, ditscale, tmp_path):
    done = ditscale("doctor", tmp_path / "study", "cluster=slurm-cpu", "--job", env=slurm.env)
    assert done.returncode == 0 and "bad" not in done.stdout, done.stdout + done.stderr
    for part in (
        "Slurm 22",
        "arrays of up to 1001 runs",
        "has 6 s to save (KillWait)",
        "announces itself",
        "sbatch takes a job without partition",
        "sacct answers",
        "file locks work",
        "rename and exclusive creation work",
        "clock agrees",
        "GiB free",
        f"sees {tmp_path} and has torch",
        "sees a lock of this machine",
        "clock agrees with this machine's to 60 s",
        "HF_HUB_OFFLINE=1",
    ):
        assert part in done.stdout, part
    assert not list(tmp_path.iterdir()) and not slurm.call("squeue", "--noheader")


def test_troubles(slurm, ditscale, tmp_path):
    said = lambda *words, **env: ditscale("doctor", tmp_path, *words, env={**slurm.env, **env})
    wrong = said("cluster=slurm-cpu", "cluster.partition=nowhere", "--job")
    assert (
        wrong.returncode == 1
        and "sbatch refuses --partition=nowhere" in wrong.stdout
        and "invalid partition" in wrong.stdout.lower()
    )
    gone = said("cluster=slurm-cpu", SLURM_CONF="/nowhere/slurm.conf")
    assert (
        gone.returncode == 1
        and "the controller gives no answer" in gone.stdout
        and "SLURM_CONF is /nowhere/slurm.conf" in gone.stdout
    )
    bare = said("cluster=slurm-cpu", PATH=str(Path(sys.executable).parent))
    assert bare.returncode == 1 and "not on the PATH: sbatch, squeue" in bare.stdout
    slurm.call("sacctmgr", "--immediate", "add", "account", "lab", check=False)
    slurm.call(
        "sacctmgr",
        "--immediate",
        "add",
        "user",
        slurm.call("id", "-un").strip(),
        "account=lab",
        "maxsubmitjobs=40",
        check=False,
    )
    assert (
        "account lab may queue 40 jobs; a larger study needs cluster.max_queued=40" in said("cluster=slurm-cpu").stdout
    )
    assert "may queue" not in said("cluster=slurm-cpu", "cluster.max_queued=40").stdout
    slurm.kill("slurmdbd")
    assert "sacct gives no answer" in said("cluster=slurm-cpu").stdout
    if not slurm.gpus:
        return
    gpus = said("cluster=slurm-cpu", "cluster.sizes=[{up_to_params: 1e9, gpus: 1, flops_per_s: 1e10}]", "--job")
    # the rehearsal's GPUs are not real
    assert gpus.returncode == 1 and "gives a task 0 of 1 GPUs requested" in gpus.stdout, gpus.stdout


def test_a_directory_that_nodes_do_not_share(slurm, ditscale, tmp_path, plan, call, few, status, settled):
    """node1's slurmd gets a file system of its own there, as on a cluster where the study lies on a login node's
    disk."""
    os.kill(int((slurm.directory / "pid" / "slurmd.node1.pid").read_text()), signal.SIGKILL)
    hide = f"mount -t tmpfs tmpfs {tmp_path} && exec slurmd -N node1 -f {slurm.env['SLURM_CONF']}"
    env = {**slurm.env, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    try:
        apart = subprocess.run(
            ["unshare", "--mount", "sh", "-c", hide], env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        if apart.returncode:
            pytest.skip(f"no mount namespaces here: {apart.stderr.strip()}")
        slurm.wait(
            lambda: slurm.call("sinfo", "-h", "-n", "node1", "-p", "main", "-o", "%t").strip() == "idle",
            60,
            "node1 is back",
        )
        done = ditscale(
            "doctor",
            tmp_path / "study",
            "cluster=slurm-cpu",
            "+cluster.sbatch={nodelist: node1}",
            "--job",
            env=slurm.env,
        )
        assert done.returncode == 1 and f"a node does not see {tmp_path}; put the study on" in done.stdout, (
            done.stdout + done.stderr
        )

        plan(tmp_path / "study", *few)  # who launches all the same is told, before and after
        launched = call("launch", tmp_path / "study", "cluster=slurm-cpu", "+cluster.sbatch={nodelist: node1}")
        assert (
            launched.returncode == 0
            and "looks local to this machine; other nodes must see the study" in launched.stdout
        ), launched
        settled(tmp_path / "study")
        slurm.wait(
            lambda: {s["state"] for s in status(tmp_path / "study").values()} == {"failed"},
            30,
            "sacct knows how they ended",
        )
        assert all("its node may not see this directory" in s["reason"] for s in status(tmp_path / "study").values())
    finally:
        pid = slurm.directory / "pid" / "slurmd.node1.pid"
        if pid.exists():
            os.kill(int(pid.read_text()), signal.SIGKILL)
        slurm.script("up")


def test_files_that_runs_read(tmp_path):
    (tmp_path / "train.h5").write_text("x")
    data = [str(tmp_path / name) for name in ("train.h5", "held-out.h5")]
    study = compose(["study=paper", f"data.path={data[0]}", f"validation.path={data[1]}"])
    assert files_of(study)[:2] == data
    here, missing, offline = local_files(files_of(study)[:2])
    assert (here.level, missing.level, offline.level) == ("ok", "bad", "ok")
    assert "held-out.h5 does not exist" in missing.what and "HF_HUB_OFFLINE=1" in offline.what
    answer = {
        "node": "node1",
        "gpus": 1,
        "torch": "2",
        "unix": time.time() - 300,
        "locked": False,
        "unreadable": [data[0]],
    }
    said = {f.what: f.level for f in findings(tmp_path, answer, 4)}
    assert said[f"node1 cannot read {data[0]}"] == "bad" and said["node1 gives a task 1 of 4 GPUs requested"] == "bad"
    assert said["node1 does not see a lock of this machine"] == "note" and said["node1's clock is -300 s off"] == "note"


def test_settings_of_other_clusters(slurm):
    text = slurm.call("scontrol", "show", "config")
    levels = lambda text: {f.what: f.level for f in settings(text)}
    other = text.replace("MaxArraySize            = 1001", "MaxArraySize            = 0").replace(
        "preempt_send_user_signal", "(null)"
    )
    other = other.replace("JobRequeue              = 1", "JobRequeue              = 0")
    assert levels(other)["this cluster allows no job arrays"] == "bad"
    assert any("SIGTERM only" in what for what in levels(other)) and any(
        "not requeued unless" in what for what in levels(other)
    )
    assert "bad" not in levels(text).values()


def test_directories(tmp_path):
    assert any("cannot be written" in f.what and f.level == "bad" for f in directory(Path("/proc/1/nothing")))
    assert file_system(Path("/proc")) == "proc"
    held = tmp_path / "ram"
    held.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(held)], capture_output=True).returncode:
        pytest.skip("mounting a tmpfs needs root")
    try:
        found = [f.what for f in directory(held)]
        assert any("(tmpfs) looks local" in what for what in found) and any(
            "only 0.0 GiB free" in what for what in found
        )
    finally:
        subprocess.run(["umount", str(held)], check=True)
