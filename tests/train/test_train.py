"""Real runs in processes of their own: resumed, killed, spread over ranks, refused."""

import math
import os
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch

from ditscale.plan.run import read_run
from ditscale.rundir.checkpoints import resumable
from ditscale.rundir.record import read_state
from ditscale.train.segment import record_rows


def same(a, b):
    return all(np.array_equal(a[k], b[k]) for k in a)


def copies(run_dir, names):
    made = [run_dir.parent / name for name in names]
    for path in made:
        shutil.copytree(run_dir, path)
    return made


def start(run_dir, **env):
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **env}
    return subprocess.Popen(
        [sys.executable, "-m", "ditscale", "run", str(run_dir)],
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_images(run_dir, n, process, seconds=60):
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        if (run_dir / "metrics.h5").exists():
            with h5py.File(run_dir / "metrics.h5", "r", locking=False) as f:
                if f["steps"]["images"].max() >= n:
                    return
        time.sleep(0.01)
    raise AssertionError(f"never reached {n} images: {process.communicate()}")


@pytest.mark.slow
@pytest.mark.parametrize("design", ["incontext", "crossattention"])
def test_interrupted_and_killed_runs_equal_an_undisturbed_one(one_run, ditscale, content, design):
    run_dir = one_run(
        f"design={design}",
        "design.head_size=8",
        "design.patch=3",
        "cluster.checkpoint_s=0.2",
        "budgets=[1e10]",
        "recipe.ema_also=[0.05,0.3]",
    )
    quiet, killed, stopped = copies(run_dir, ["quiet", "killed", "stopped"])
    assert ditscale("run", quiet).returncode == 0
    images = read_run(run_dir / "run.yaml").n_images

    for part in (0.2, 0.5):  # SIGKILL at two moments
        process = start(killed)
        wait_for_images(killed, part * images, process)
        process.kill()
        process.wait()
    assert ditscale("run", killed).returncode == 0

    process = start(stopped)
    wait_for_images(stopped, 0.4 * images, process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "rerun the same command to resume" in out, (out, err)
    assert read_state(stopped / "metrics.h5") == "stopped"
    assert ditscale("run", stopped).returncode == 0

    for other in (killed, stopped):
        assert same(content(quiet), content(other))
        final = [torch.load(d / "checkpoint" / "final.pt", weights_only=True) for d in (quiet, other)]
        averages = [(f["ema"], *f["ema_also"]) for f in final]
        assert len(averages[0]) == 3 and not torch.equal(averages[0][1][0], averages[0][2][0])
        for one, other_one in zip(*averages, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other_one, strict=True))
        assert all(torch.equal(final[0]["model"][k], final[1]["model"][k]) for k in final[0]["model"])
    with h5py.File(killed / "metrics.h5") as f:
        assert (f["attempts"]["started_unix"] > 0).sum() == 3
    assert ditscale("run", quiet).stdout.strip() == "finished"  # once more changes nothing


@pytest.mark.slow
def test_under_torchrun(one_run, ditscale, content):
    """As test_parallel.py, but that torchrun says who the ranks are."""
    run_dir = one_run("budgets=[1.2e9]")
    one, two = copies(run_dir, ["1", "2"])
    assert ditscale("run", one).returncode == 0
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        "-m",
        "ditscale",
        "run",
        str(two),
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(content(two)["loss"][:50], content(one)["loss"][:50], rtol=1e-5)


@pytest.mark.slow
def test_a_damaged_newest_checkpoint_falls_back(one_run, ditscale, content):
    run_dir = one_run("cluster.checkpoint_s=0.1", "budgets=[1e10]")
    quiet, hurt = copies(run_dir, ["quiet", "hurt"])
    assert ditscale("run", quiet).returncode == 0
    process = start(hurt)
    while len(resumable(hurt / "checkpoint")) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.kill()
    process.wait()
    newest = resumable(hurt / "checkpoint")[-1] / "__0_0.distcp"
    newest.write_bytes(newest.read_bytes()[:1000])
    again = ditscale("run", hurt)
    assert "cannot be read; resuming from" in again.stdout
    assert same(content(quiet), content(hurt))


@pytest.mark.slow
def test_the_second_process_is_refused(one_run, ditscale, one_line_error):
    run_dir = one_run("budgets=[5e10]")
    first = start(run_dir)
    wait_for_images(run_dir, 100, first)
    message = one_line_error(ditscale("run", run_dir))
    assert f"process {first.pid} on" in message and "is running it" in message
    assert not (run_dir / "failure.json").exists()
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=60)
    assert first.returncode == 130


@pytest.mark.slow
@pytest.mark.parametrize("bad, says", [(range(3, 15), "in 10 steps in a row, at 208 images"), (range(3, 12), "")])
def test_ten_bad_steps_in_a_row_are_too_many_wherever_the_loop_looks(bad, says):
    """Also where a good step comes before the sync: where that falls depends on stops and nested runs."""
    state = SimpleNamespace(loss_ema=math.nan, skipped=0, skipped_in_row=0)
    values = [(1.0, math.nan if step in bad else 0.5) for step in range(16)]
    rows, why = record_rows(values, [0.1] * 16, 0, 16, state)
    assert says in why and bool(why) == bool(says)
    assert np.isnan(rows["grad_norm"]).sum() == state.skipped == len(bad)


def test_a_diverged_run_says_so(one_run, ditscale, one_line_error):
    run_dir = one_run("recipe.lr_scale=1e6", "recipe.clip=1e9", "recipe.warmup_images=0")
    assert "has diverged" in one_line_error(ditscale("run", run_dir))
    assert read_state(run_dir / "metrics.h5") == "diverged"
    study = run_dir.parent.parent
    assert "diverged after" in ditscale("collect", study).stdout
    assert "diverged" in ditscale("status", study).stdout


@pytest.mark.slow
def test_damaged_files_are_refused_in_one_line(one_run, ditscale, one_line_error):
    run_dir = one_run()
    (cut,) = copies(run_dir, ["cut"])
    assert ditscale("run", cut).returncode == 0
    whole = (cut / "metrics.h5").read_bytes()
    (cut / "metrics.h5").write_bytes(whole[:500])
    assert "truncated or not HDF5" in one_line_error(ditscale("run", cut))
    assert "truncated or not HDF5" in ditscale("collect", run_dir.parent.parent).stdout
    (cut / "metrics.h5").unlink()
    assert "not started" in ditscale("collect", run_dir.parent.parent).stdout
    text = (cut / "run.yaml").read_text()
    (cut / "run.yaml").write_text(text.replace("width: 24", "width: 25"))
    assert "not a multiple of the head size 8" in one_line_error(ditscale("run", cut))
    (cut / "run.yaml").write_text(text.replace("width: 24", "wdith: 24"))
    assert "did you mean 'width'" in one_line_error(ditscale("run", cut))
    (cut / "run.yaml").write_text(text[:100] + "\n\t")
    assert "not valid YAML" in one_line_error(ditscale("run", cut))
    assert "run.yaml: there is no such file" in one_line_error(ditscale("run", run_dir.parent))


@pytest.mark.slow
def test_a_full_disk(one_run, ditscale, one_line_error, small_disk, content):
    """The run ends in one line, what was complete stays complete, and with room again it goes on."""
    run_dir = one_run("budgets=[2e10]", "widths=[40]", "cluster.checkpoint_s=0.2")
    (quiet,) = copies(run_dir, ["quiet"])
    assert ditscale("run", quiet).returncode == 0
    full = small_disk / "run"
    shutil.copytree(run_dir, full)
    message = one_line_error(ditscale("run", full))
    assert "cannot be written" in message and "run again" in message
    assert not list((full / "checkpoint").glob("*.tmp-*"))
    assert ditscale("status", run_dir.parent.parent).returncode == 0
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    assert ditscale("run", full).returncode == 0
    assert same(content(quiet), content(full))


def test_planning_on_a_full_disk_writes_no_half_file(small_disk, ditscale, one_line_error):
    (small_disk / "ballast").write_bytes(b"x" * 590 * 1024)
    assert "no space" in one_line_error(ditscale("plan", small_disk / "study", "study=mini")).lower()
    for path in (small_disk / "study").rglob("*"):
        assert path.is_dir() or path.stat().st_size > 0


@pytest.mark.slow
def test_mup_is_trained(one_run, content):
    """At the base width mup is nothing; at twice the base width the run is another one, from its second step on."""
    mup = lambda base: (
        "recipe.width_scaling=mup",
        f"recipe.base_width={base}",
        "recipe.lr_width=0",
        "recipe.lr_scale=0.0125",
    )
    runs = [one_run("recipe.warmup_images=0"), *(one_run("recipe.warmup_images=0", *mup(base)) for base in (24, 12))]
    for process in [start(run) for run in runs]:
        assert process.wait(timeout=120) == 0, process.communicate()
    plain, at_base, wider = map(content, runs)
    assert same(plain, at_base)
    assert wider["loss"][0] == plain["loss"][0] and np.array_equal(wider["lr"], plain["lr"])
    assert np.abs(wider["loss"][2:20] / plain["loss"][2:20] - 1).max() > 1e-3
