"""Launching for real: submitit's local executor, several runs at once, interrupted and repeated."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from ditscale.launch.backends import local
from ditscale.pipeline import plan_study
from ditscale.plan.run import read_run
from ditscale.plan.study import read_study

STUDY = [
    "study=mini",
    "~evaluation",
    "nested=false",
    "budgets=[2.5e9,5e9]",
    "widths=[16,24,32]",
    "probe_budget=1.2e10",
    "recipe.min_steps=20",
    "validation.n=128",
    "cluster.workers=2",
]


def losses(root):
    with h5py.File(root / "study.h5") as file:
        return dict(zip(file["points/run_id"].asstr()[:], file["points/loss"][:]))


@pytest.mark.slow
def test_interrupted_and_repeated(tmp_path, ditscale):
    quiet, rough = tmp_path / "quiet", tmp_path / "rough"
    for root in (quiet, rough):
        assert ditscale("plan", root, *STUDY).returncode == 0
    assert ditscale("launch", quiet).returncode == 0

    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    launch = lambda: subprocess.Popen(
        [sys.executable, "-m", "ditscale", "launch", str(rough)],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # ignored when the tests themselves run in the background
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    process = launch()  # Ctrl-C as a terminal sends it: to the whole process group
    wait_until(lambda: any(rough.glob("runs/*/metrics.h5")))
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=90)
    assert process.returncode == 130 and "rerun the same command to resume" in err and "Traceback" not in err, err
    assert not running(ditscale, rough)

    process = launch()  # killed outright: its runs go on without it, and the next launch leaves them alone
    wait_until(lambda: any(p.stat().st_mtime > time.time() - 3 for p in rough.glob("runs/*/heartbeat.json")))
    process.kill()
    process.communicate()
    done = ditscale("launch", rough)
    assert done.returncode == 0, done.stdout + done.stderr

    for root in (quiet, rough):
        assert "6 runs collected, 0 left out" in ditscale("collect", root).stdout
    a, b = losses(quiet), losses(rough)
    assert a == b and len(a) == 6
    again = ditscale("launch", rough)
    assert again.returncode == 0 and "6 of 6 runs done" in again.stdout
    assert losses(rough) == b


@pytest.mark.slow
def test_a_failing_run_is_said_and_the_others_end(tmp_path, ditscale):
    root = tmp_path / "s"
    assert ditscale("plan", root, *STUDY, "budgets=[2.5e9]").returncode == 0
    victim = sorted(root.glob("runs/*"))[0]
    (victim / "metrics.h5").write_bytes(b"broken")
    done = ditscale("launch", root)
    assert done.returncode == 1 and victim.name in done.stdout and "truncated or not HDF5" in done.stdout
    assert "2 runs collected, 1 left out" in ditscale("collect", root).stdout
    (victim / "metrics.h5").unlink()
    assert ditscale("launch", root).returncode == 0
    assert "3 runs collected, 0 left out" in ditscale("collect", root).stdout


@pytest.mark.slow
def test_ranks_of_one_run_meet(tmp_path, ditscale):
    """The probe's two ranks, started by submitit, find each other through the run's directory, and agree with one
    rank."""
    roots = [tmp_path / "one", tmp_path / "two"]
    for root in roots:
        ditscale("plan", root, *STUDY, "budgets=[2.5e9]", "widths=[24]", "cluster.probe_ranks=2")
    at = next(roots[1].glob("runs/*/run.yaml"))
    at.write_text(at.read_text().replace("role: grid", "role: probe"))
    found = []
    for root in roots:
        assert ditscale("launch", root).returncode == 0
        with h5py.File(next(root.glob("runs/*/metrics.h5"))) as file:
            assert file["attempts"]["ranks"][0] == (1 if root == roots[0] else 2)
            found.append(file["steps"]["loss"])
    assert "ranks: 2" in at.read_text()
    assert ditscale("plan", roots[1]).returncode == 0 and "ranks: 2" in at.read_text()
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4)


@pytest.mark.slow
def test_a_run_that_loses_a_rank_goes_on(tmp_path, ditscale):
    """In the same call, from its checkpoint."""
    root = tmp_path / "s"
    words = ["budgets=[3e10]", "widths=[24]", "cluster.probe_ranks=2", "cluster.checkpoint_s=0.3"]
    assert ditscale("plan", root, *STUDY, *words, "probe_budget=1e11").returncode == 0
    (at,) = root.glob("runs/*/run.yaml")
    at.write_text(at.read_text().replace("role: grid", "role: probe"))
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    launch = subprocess.Popen(
        [sys.executable, "-m", "ditscale", "launch", str(root)], env=env, stdout=subprocess.PIPE, text=True
    )
    try:
        wait_until(lambda: any(at.parent.glob("checkpoint/images-*")))
        (second,) = (pid for pid in processes(at.parent) if b"SUBMITIT_LOCAL_GLOBALID=1" in environment(pid))
        os.kill(second, signal.SIGKILL)
        out, _ = launch.communicate(timeout=120)
    finally:
        launch.kill()
    assert launch.returncode == 0, out
    ends = [json.loads(path.read_text())["ended"] for path in sorted(at.parent.glob("attempts/*.json"))]
    assert ends == ["lost", "finished"]


def processes(run_dir):
    """Those that work at a run: submitit's commands name its log."""
    mine = f"{run_dir}/log".encode()
    return [int(p.parent.name) for p in Path("/proc").glob("[0-9]*/cmdline") if mine in content(p)]


def environment(pid):
    return content(Path(f"/proc/{pid}/environ")).split(b"\0")


def content(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize("workers, width, threads", [(1, 64, 1), (2, 64, 2), (16, 64, 2), (16, 256, 16), (3, 16, 1)])
def test_the_probe_gets_as_many_threads_as_it_has_work_for(tmp_path, workers, width, threads):
    """64x3 has 3.7e8 FLOPs a step, which is work for two; 16x1 for none but its own."""
    paths, planned = plan_study(
        str(tmp_path / "s"), ["study=mini", "budgets=[6.3e12]", f"widths=[{width}]", f"cluster.workers={workers}"]
    )
    (run,) = planned.runs
    cluster = read_study(paths.root).cluster
    local._settle(paths, replace(run, role="probe"), cluster, local.machine(cluster))
    settled = read_run(paths.run(run.run_id).run).execution
    assert (settled.ranks, settled.threads) == (1, threads)
    local._settle(paths, replace(read_run(paths.run(run.run_id).run), role="grid"), cluster, local.machine(cluster))
    assert read_run(paths.run(run.run_id).run).execution.threads == 1, "of the grid, as many run as there are workers"


def test_status(tmp_path, ditscale, one_line_error):
    root = tmp_path / "s"
    ditscale("plan", root, *STUDY)
    found = json.loads(ditscale("status", root, "--json").stdout)
    assert len(found) == 6 and {s["state"] for s in found} == {"planned"}
    assert "6 planned" in ditscale("status", root).stdout
    assert "holds no study.yaml" in one_line_error(ditscale("status", tmp_path / "nowhere"))
    assert "holds no study.yaml" in one_line_error(ditscale("launch", tmp_path))


def running(ditscale, root):
    return [s for s in json.loads(ditscale("status", root, "--json").stdout) if s["state"] == "running"]


def wait_until(true, seconds=60):
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize("cpus, threads, workers, expected", [(4, 1, 0, 4), (4, 2, 0, 2), (4, 8, 0, 1), (4, 1, 3, 3)])
def test_workers(monkeypatch, cpus, threads, workers, expected):
    from ditscale.config import Cluster
    from ditscale.launch.backends.local import workers as count

    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cpus)))
    assert count(Cluster(workers=workers, threads=threads), []) == expected
