"""GPUs of this machine given to runs that are started on it. There are none here: a stand-in lists them."""

import json
import os

import pytest

from ditscale.config import Cluster
from ditscale.errors import UserError
from ditscale.launch.backends import local
from ditscale.launch.job import gpus
from ditscale.pipeline import plan_study
from ditscale.plan.run import read_run
from ditscale.plan.study import read_study

SMALL = ["study=mini", "~evaluation", "nested=false", "budgets=[1e9,2e9]", "widths=[16,24]", "probe_budget=4e9"]
SMALL += ["recipe.min_steps=5", "validation.n=64"]


@pytest.fixture
def four(tmp_path, monkeypatch):
    """A machine whose driver lists four GPUs, one of them in slices, and a torch that could use them."""
    driver = tmp_path / "bin" / "nvidia-smi"
    driver.parent.mkdir()
    lines = [f"GPU {i}: NVIDIA H200 (UUID: GPU-{i})" for i in range(4)] + ["  MIG 1g.5gb Device 0: (UUID: MIG-0)"]
    driver.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines))
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", str(driver.parent), prepend=os.pathsep)
    monkeypatch.setattr(gpus, "version", lambda package: "2.13.0")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return driver


def test_which_there_are(four, monkeypatch):
    assert gpus.visible() == ["0", "1", "2", "3"]
    for said, found in {"2,3": ["2", "3"], "": [], "GPU-1, MIG-0": ["GPU-1", "MIG-0"], "1,-1,2": ["1"]}.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", said)
        assert gpus.visible() == found
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    four.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed' >&2\nexit 9\n")
    assert gpus.visible() == [], "a driver that does not work"
    four.unlink()
    monkeypatch.setenv("PATH", str(four.parent))
    assert gpus.visible() == [], "no driver"


def test_a_torch_for_cpus_has_none(four, monkeypatch):
    monkeypatch.setattr(gpus, "version", lambda package: "2.13.0+cpu")
    assert gpus.visible() == []


def test_as_many_as_the_cluster_says(four):
    assert gpus.gpus(Cluster()) == ["0", "1", "2", "3"]
    assert gpus.gpus(Cluster(gpus=2)) == ["0", "1"] and gpus.gpus(Cluster(gpus=0)) == []
    with pytest.raises(UserError, match="cluster.gpus: 5 requested, and torch can use 4 on this machine"):
        gpus.gpus(Cluster(gpus=5))
    assert local.workers(Cluster(), ["0", "1"]) == 2 and local.workers(Cluster(workers=6), ["0", "1"]) == 6


def test_the_least_used():
    assert gpus.least_used(["0", "1", "2"], 1, ["0", "2", "1", "0", "2"]) == ["1"]
    assert gpus.least_used(["0", "1", "2"], 2, ["0"]) == ["1", "2"]


@pytest.mark.slow
@pytest.mark.parametrize("workers, sharing", [(0, 1), (3, 2)])
def test_runs_get_theirs(four, tmp_path, monkeypatch, workers, sharing):
    """Each of four runs on two GPUs has one, and both are used; the probe, on which all ranks work, has both."""
    paths, planned = plan_study(str(tmp_path / "s"), [*SMALL, "cluster.gpus=2", f"cluster.workers={workers}"])
    cluster = read_study(paths.root).cluster
    asked, submit = {}, local._submit

    def submitted(paths, run, source, environment):
        asked[run.run_id] = environment
        return submit(paths, run, source, environment)

    monkeypatch.setattr(local, "_submit", submitted)
    ended = local.launch(paths, cluster, "grid", lambda statuses, took: None)
    assert [s.state for s in ended] == ["finished"] * 4
    given = {run: json.loads(next(paths.run(run).attempts.glob("*.json")).read_text())["gpus"] for run in asked}
    assert set(given.values()) == {"0", "1"}
    for run, environment in asked.items():
        assert environment == {"DITSCALE_GPUS": given[run], "DITSCALE_PACKED": str(sharing)}

    run = planned.runs[0]
    at = paths.run(run.run_id)
    at.run.write_text(at.run.read_text().replace("role: grid", "role: probe"))
    local._settle(paths, read_run(at.run), cluster, local.Machine(2, 2))
    assert read_run(at.run).execution.ranks == 2


def test_without_any_a_run_sees_none(tmp_path, monkeypatch):
    """Not even those that torch would find by itself: the study said so."""
    monkeypatch.setenv("DITSCALE_GPUS", "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    gpus.take()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
