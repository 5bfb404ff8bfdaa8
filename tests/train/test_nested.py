"""Nested runs, and those that branch off their parent for their cool-down, equal those that are trained alone: record,
weights, evaluation, to the bit."""

import json
import shutil
import signal
import time

import h5py
import numpy as np
import pytest
import torch

from ditscale.pipeline import plan_study
from ditscale.plan.run import read_run
from ditscale.rundir.evaluation import read_results
from ditscale.rundir.outcomes import Diverged
from ditscale.rundir.record import read_state
from ditscale.train import finalize, loop

pytestmark = pytest.mark.slow
SETTINGS = [
    "study=mini", "~evaluation", "+evaluation.vlb.n=48", "budgets=[4e9,8e9,1.6e10]", "widths=[32,40]",
    "recipe.min_steps=10",
    "validation.n=64", "validation.batch_size=16", "cluster.checkpoint_s=0.3",
    "recipe.ema_also=[0.05]",
]  # fmt: skip
COOLING = [
    "recipe.schedule=wsd",
    "recipe.decay=0.5",
    "cluster.checkpoint_s=0.03",
    "budgets=[1e10,2e10,4e10]",
    "widths=[32]",
]


def content(run_dir) -> dict:
    with h5py.File(run_dir / "metrics.h5", locking=False) as file:
        assert file["state"][()] == b"finished"
        found = {name: file["steps"][name].tobytes() for name in ("images", "loss", "loss_ema", "grad_norm", "lr")}
        found |= {
            f"validation {name}": file["validation"][name].tobytes()
            for name in ("images", "loss", "loss_se", "raw_loss")
        }
        found["samples"] = file["samples"][:].tobytes()
    final = torch.load(run_dir / "checkpoint" / "final.pt", weights_only=True)
    found |= {name: w.numpy().tobytes() for name, w in final["model"].items()}
    found |= {i: w.numpy().tobytes() for i, w in enumerate([*final["ema"], *final["ema_also"][0]])} | {
        "of": (final["run_id"], final["images"])
    }
    return found | {(r.metric, r.dataset): (r.value, r.se) for r in read_results(run_dir / "evaluation.h5")}


@pytest.fixture(scope="module")
def alone(tmp_path_factory, ditscale):
    """Every run trained by itself."""
    root = tmp_path_factory.mktemp("alone") / "s"
    plan_study(str(root), SETTINGS)
    assert ditscale("launch", root).returncode == 0
    return {path.name: content(path) for path in sorted(root.glob("runs/*"))}


@pytest.fixture(scope="module")
def cooled(tmp_path_factory, ditscale):
    """Every run that cools down trained by itself."""
    root = tmp_path_factory.mktemp("cooled") / "s"
    plan_study(str(root), [*SETTINGS, *COOLING])
    assert ditscale("launch", root).returncode == 0
    return {path.name: content(path) for path in sorted(root.glob("runs/*"))}


def nested(root, *others):
    """A nested study, and its parent run of width 32 with the first nested run."""
    _, planned = plan_study(str(root), [*SETTINGS, *others, "nested=true"])
    parent = next(r for r in planned.runs if r.width == 32 and r.readings)
    return root / "runs" / parent.run_id, root / "runs" / parent.readings[0]


def test_a_nested_study(tmp_path, alone, ditscale):
    root = tmp_path / "s"
    parent, first = nested(root)
    before = ditscale("status", root).stdout
    assert before.count("trained as part of") == 4
    done = ditscale("launch", root)
    assert done.returncode == 0, done
    assert {path.name: content(path) for path in sorted(root.glob("runs/*"))} == alone
    assert len(list(root.glob("runs/*/log/attempt-*"))) == 2  # two trajectories, and nothing else was started
    assert "6 runs collected, 0 left out" in ditscale("collect", root).stdout
    with h5py.File(parent / "metrics.h5") as file:
        n = len(file["steps"])
        assert (np.diff(file["steps"]["elapsed_s"]) >= 0).all() and (file["steps"]["images"][:] > 0).sum() == n
    assert {s["state"] for s in json.loads(ditscale("status", root, "--json").stdout)} == {"finished"}

    shutil.rmtree(first)  # lost, though its parent is done: planned and launched again it is trained alone
    _, planned = plan_study(str(root), [*SETTINGS, "nested=true"])
    assert ditscale("launch", root).returncode == 0
    assert content(first) == alone[first.name] and len(list(first.glob("log/attempt-*"))) == 1


def test_branches(tmp_path, cooled, ditscale):
    """Each shorter run branches off where its rate does, cools down, and is measured; its parent is unaffected."""
    root = tmp_path / "s"
    parent, first = nested(root, *COOLING)
    done = ditscale("launch", root)
    assert done.returncode == 0, done
    assert {path.name: content(path) for path in sorted(root.glob("runs/*"))} == cooled
    assert len(list(root.glob("runs/*/log/attempt-*"))) == 1 and not list(root.glob("runs/*/checkpoint/images-*"))
    for path in (first, parent):
        with h5py.File(path / "metrics.h5") as file:
            assert (np.diff(file["steps"]["elapsed_s"]) >= 0).all()
            attempt, steps = file["attempts"][0], len(file["steps"])
            assert attempt["images_per_s"] > 0
            own = attempt["from_images"] / 16
            assert own == (0 if path == parent else steps // 2 + 1)  # the first step at a lower rate is the one after
    assert {s["state"] for s in json.loads(ditscale("status", root, "--json").stdout)} == {"finished"}


def test_several_that_branch_off_at_one_place(tmp_path, ditscale):
    """Rates that fall from the first step on have that one in common."""
    falling, roots = (
        [*SETTINGS, *COOLING, "recipe.decay=1", "budgets=[4e9,8e9,1.6e10]"],
        [tmp_path / "alone", tmp_path / "nested"],
    )
    for root in roots:
        plan_study(str(root), [*falling, f"nested={str(root.name == 'nested').lower()}"])
        assert ditscale("launch", root).returncode == 0
    assert len(list(roots[1].glob("runs/*/log/attempt-*"))) == 1
    alone, nested_ = ({path.name: content(path) for path in root.glob("runs/*")} for root in roots)
    assert len(alone) == 3 and alone == nested_


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
def test_stopped_in_the_middle_of_a_branch(tmp_path, cooled, ending, start):
    """While it cools down, and while it is measured."""
    parent, first = nested(tmp_path / "s", *COOLING)
    moments = (
        lambda: list(first.glob("checkpoint/images-*[0-9]")),
        lambda: list(first.glob("evaluation.parts/*/*.npz")),
    )
    for moment in moments:
        process = start(parent)
        while not moment() and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(ending)
        out, err = process.communicate(timeout=60)
        assert process.returncode in (130, -9) and read_state(parent / "metrics.h5") in ("stopped", "running"), (
            out,
            err,
        )
        assert read_state(first / "metrics.h5") in ("stopped", "running")
        assert process.returncode == -9 or f"{parent}: stopped at" in out + err, (out, err)
    out, err = start(parent).communicate(timeout=120)
    assert "finished" in out, (out, err)
    for path in (first, parent, *(parent.parent / name for name in read_run(parent / "run.yaml").readings)):
        assert content(path) == cooled[path.name]


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
def test_stopped_in_the_middle_of_a_nested_run(tmp_path, alone, ending, start):
    parent, first = nested(tmp_path / "s")
    process = start(parent)
    while not list(first.glob("evaluation.parts/*/*.npz")) and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(ending)
    out, err = process.communicate(timeout=60)
    assert process.returncode in (130, -9) and read_state(parent / "metrics.h5") in ("stopped", "running"), (out, err)
    assert read_state(first / "metrics.h5") != "finished"
    out, err = start(parent).communicate(timeout=120)
    assert "finished" in out, (out, err)
    for path in (first, parent, *(parent.parent / name for name in read_run(parent / "run.yaml").readings)):
        assert content(path) == alone[path.name]


def test_two_ranks_measure_nested_runs_too(tmp_path, alone, start):
    parent, first = nested(tmp_path / "s")
    out, err = start(parent, ranks=2).communicate(timeout=180)
    assert read_state(first / "metrics.h5") == read_state(parent / "metrics.h5") == "finished", (out, err)
    with h5py.File(first / "metrics.h5") as file:
        there = np.frombuffer(alone[first.name]["loss"], "f4")
        np.testing.assert_allclose(file["steps"]["loss"], there, rtol=1e-4)
        assert (file["attempts"]["ranks"][0], file["state"][()]) == (2, b"finished")


def test_two_ranks_branch_too(tmp_path, cooled, start):
    """With shards; the parent's curve after the branches is that of one rank within rounding."""
    parent, first = nested(tmp_path / "s", *COOLING, "cluster.sharding=full", "budgets=[1e10,2e10]")
    out, err = start(parent, ranks=2).communicate(timeout=180)
    assert read_state(first / "metrics.h5") == read_state(parent / "metrics.h5") == "finished", (out, err)
    for path in (first, parent):
        with h5py.File(path / "metrics.h5") as file:
            np.testing.assert_allclose(file["steps"]["loss"], np.frombuffer(cooled[path.name]["loss"], "f4"), rtol=1e-3)


def test_a_branch_that_diverges_leaves_its_parent_unaffected(tmp_path, cooled, monkeypatch, logged):
    parent, first = nested(tmp_path / "s", *COOLING)
    validate = finalize.validate

    def diverged(setup, run, writer):
        if run.run_id == first.name:
            raise Diverged("the loss is beyond words")
        validate(setup, run, writer)

    monkeypatch.setattr(finalize, "validate", diverged)
    assert loop.train(parent) == "finished"
    assert read_state(first / "metrics.h5") == "diverged" and "beyond words" in (first / "failure.json").read_text()
    for path in (parent, *(parent.parent / name for name in read_run(parent / "run.yaml").readings[1:])):
        assert content(path) == cooled[path.name]
    assert "beyond words" in logged.text


def test_a_nested_run_that_another_process_trains_is_left_to_it(tmp_path, alone, start):
    parent, first = nested(tmp_path / "s")
    own = start(first)
    while not (first / "attempts").is_dir():
        time.sleep(0.01)
    out, err = start(parent).communicate(timeout=120)
    assert "finished" in out, (out, err)
    own.communicate(timeout=60)
    assert content(first) == alone[first.name] and content(parent) == alone[parent.name]
