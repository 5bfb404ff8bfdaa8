"""Hydra multirun in this process: its points are runs of the study like all others."""

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import pytest

ROOT = Path(__file__).resolve().parent.parent
STUDY = ["study=mini", "~evaluation", "nested=false", "recipe.min_steps=20", "validation.n=128"]


@pytest.fixture
def sweep(tmp_path):
    """Run `python -m ditscale.sweep --multirun` in an empty directory of its own."""
    cwd = tmp_path / "cwd"
    cwd.mkdir()

    def call(*words, path=ROOT):
        command = [sys.executable, "-m", "ditscale.sweep", "--multirun", *map(str, words)]
        env = {**os.environ, "PYTHONPATH": str(path), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
        assert not any(cwd.iterdir())
        return done

    return call


def records(root):
    found = {}
    for path in root.glob("runs/*/metrics.h5"):
        with h5py.File(path) as file:
            found[path.parent.name] = [file["state"][()], file["steps"]["loss"].tobytes(), file["samples"][:].tobytes()]
    return found


@pytest.mark.slow
def test_equals_launch_and_repeats(sweep, ditscale, tmp_path):
    swept, launched = tmp_path / "it's swept", tmp_path / "launched"
    assert ditscale("plan", launched, *STUDY, "budgets=[2.5e9]", "widths=[16,24]").returncode == 0
    assert ditscale("launch", launched).returncode == 0
    points = (f'study_dir="{swept}"', "budget=2.5e9,1e8", "width=16,24")
    refused = sweep(*points, *STUDY)
    assert refused.returncode == 2 and "budget 1e8: no width fits it" in refused.stderr and not swept.exists()
    points = (f'study_dir="{swept}"', "budget=2.5e9", "width=16,24,400")  # the last is too large for the budget
    done = sweep(*points, *STUDY)
    assert done.returncode == 0, done.stderr
    assert "dropped: budget 2.5e9, width 400" in done.stdout and "2 of 2 runs are finished" in done.stdout
    assert records(swept) == records(launched) and len(records(swept)) == 2
    again = sweep(*points)  # the study is there: its settings may be left out
    assert again.returncode == 0 and "0 runs to train, 0 pending or running, 2 done" in again.stdout, again
    assert "2 done" in sweep(*points, *STUDY).stdout
    more = sweep(f'study_dir="{swept}"', "budget=2.5e9", "depth=1", "seed=3,4")
    assert more.returncode == 0, more
    assert sorted(run.rsplit("-", 1)[0] for run in set(records(swept)) - set(records(launched))) == [
        "c2.5e9-d1-w24-s3",
        "c2.5e9-d1-w24-s4",
    ]
    listed = json.loads(ditscale("status", swept, "--json").stdout)
    assert len(listed) == 4 and {s["state"] for s in listed} == {"finished"}


@pytest.mark.slow
def test_a_failed_run_is_failed_and_the_others_end(sweep, ditscale, tmp_path):
    root = tmp_path / "study"
    assert ditscale("plan", root, *STUDY, "budgets=[2.5e9]", "widths=[16,24]").returncode == 0
    victim = sorted(root.glob("runs/*"))[0]
    (victim / "heartbeat.json").mkdir()
    done = sweep(f"study_dir={root}", "budget=2.5e9", "width=16,24")
    assert done.returncode == 1 and "1 of 2 runs are finished" in done.stdout, done
    assert f"{victim.name}: failed: " in done.stdout and "Traceback" not in done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("ditscale: error: ") and "heartbeat.json" in line
    states = {s["run_id"]: s for s in json.loads(ditscale("status", root, "--json").stdout)}
    assert states[victim.name]["state"] == "failed" and "heartbeat.json" in states[victim.name]["reason"]
    (victim / "heartbeat.json").rmdir()
    assert (
        "1 runs to train, 0 pending or running, 1 done"
        in sweep(f"study_dir={root}", "budget=2.5e9", "width=16,24").stdout
    )
    assert len(records(root)) == 2


@pytest.mark.slow
def test_refusals(sweep, tmp_path, one_line_error):
    root = tmp_path / "study"
    here = (f"study_dir={root}", *STUDY)
    refused = lambda *words: one_line_error(sweep(*words))
    assert "study_dir: missing" in refused("budget=1e10", "width=16")
    assert "budget=2e11,4e11,8e11 width=32,40,48,56,64,80" in refused(*here)
    assert "give the points" in refused(*here, "budget=1e10", "width=16", "depth=1")
    assert "design: a sweep is over budget" in refused(
        *here, "budget=1e10", "width=16", "design=incontext,crossattention"
    )
    assert "'many' is not a number" in refused(*here, "budget=many", "width=16")
    assert "20 is not a multiple of the head size 8; use 16" in refused(*here, "budget=1e10", "width=16,20")
    assert "depth: 3 is width 60 by the recipe's aspect" in refused(*here, "recipe.aspect=20", "budget=1e10", "depth=3")
    assert "not below the probe's 6.4e12" in refused(*here, "budget=1e10,7e12", "width=16")
    assert "there is no such setting" in refused(*here, "budget=1e10", "width=16", "recipe.bach_size=4")
    assert "wait=false" in refused(*here, "budget=1e10", "width=16", "wait=false")
    assert "wait: 'maybe' is not" in refused(*here, "budget=1e10", "width=16", "wait=maybe")
    assert "hydra/sweeper" in refused(*here, "budget=1e10", "width=16", "hydra/sweeper=basic")
    assert "hydra/launcher=nothing: Hydra has no such launcher" in refused(
        *here, "budget=1e10", "width=16", "hydra/launcher=nothing"
    )
    assert "Could not override 'hydra.launcher.colour'" in refused(
        *here, "budget=1e10", "width=16", "hydra.launcher.colour=red"
    )
    assert "no such directory" in refused(*here, "budget=1e10", "width=16", "--config-dir", tmp_path / "none")
    assert "budget=[1e10: Hydra cannot read this" in refused(*here, "budget=[1e10", "width=16")
    assert not root.exists()


def test_without_the_plugin(sweep, tmp_path, one_line_error):
    """An ordinary package of this name hides the plugins that are installed."""
    (tmp_path / "hydra_plugins").mkdir()
    (tmp_path / "hydra_plugins" / "__init__.py").write_text("")
    words = (f"study_dir={tmp_path}/study", *STUDY, "budget=2.5e9", "width=16", "hydra/launcher=submitit_slurm")
    assert "pip install 'ditscale[sweep]'" in one_line_error(sweep(*words, path=f"{tmp_path}:{ROOT}"))


def test_another_study_in_the_directory(sweep, ditscale, tmp_path, one_line_error):
    root = tmp_path / "study"
    assert ditscale("plan", root, *STUDY).returncode == 0
    before = sorted(root.rglob("*"))
    refused = one_line_error(sweep(f"study_dir={root}", *STUDY, "design=crossattention", "budget=2.5e9", "width=16"))
    assert "another study (design.name is incontext " in refused and "crossattention" in refused
    assert sorted(root.rglob("*")) == before
