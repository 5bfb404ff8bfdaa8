"""`ditscale doctor` on a real cluster, on a broken one, and without any."""

import subprocess
import sys
from pathlib import Path

import pytest

from ditscale.launch.doctor import directory, file_system, settings

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
    ):
        assert part in done.stdout, part
    assert not list(tmp_path.iterdir()) and not slurm.call("squeue", "--noheader")


def test_troubles(slurm, ditscale, tmp_path):
    said = lambda *words, **env: ditscale("doctor", tmp_path, *words, env={**slurm.env, **env})  # noqa: E731
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
    slurm.kill("slurmdbd")
    assert "sacct gives no answer" in said("cluster=slurm-cpu").stdout
    if not slurm.gpus:
        return
    gpus = said("cluster=slurm-cpu", "cluster.sizes=[{up_to_params: 1e9, gpus: 1, flops_per_s: 1e10}]", "--job")
    assert gpus.returncode == 1 and "gives a task 0 of 1 GPUs asked for" in gpus.stdout, (
        gpus.stdout
    )  # the rehearsal's GPUs are not real


def test_settings_of_other_clusters(slurm):
    text = slurm.call("scontrol", "show", "config")
    levels = lambda text: {f.what: f.level for f in settings(text)}  # noqa: E731
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
