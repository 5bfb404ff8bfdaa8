"""Levers: runs that are in the surface and the answer and in no parabola."""

from types import SimpleNamespace

import pytest

from ditscale.config import compose
from ditscale.errors import UserError
from ditscale.launch.backends import local
from ditscale.launch.monitor.status import study_status
from ditscale.pipeline import plan_study
from ditscale.plan.grid import plan_grid, plan_runs, table
from ditscale.plan.study import read_study

LEVERS = ["study=mini", "~evaluation", "budgets=[1e11,2e11]", "widths=[32,40,48,56]", "levers=[[24,32,64],[80]]"]


def test_levers_are_planned_beside_the_slices():
    """A width that is in the slice too is a run of the slice; a sweep of the rate has the slices' sizes alone."""
    plan = plan_runs(compose([*LEVERS, "rates=[0.5,1,2]", "seeds=[0,1]"]))
    widths = lambda role, budget: {r.width for r in plan.runs if (r.role, r.budget_flops) == (role, budget)}
    assert widths("grid", 1e11) == widths("grid", 2e11) == widths("rate", 1e11) == {32, 40, 48, 56}
    assert widths("lever", 1e11) == {24, 64} and widths("lever", 2e11) == {80}
    assert {run.stage for run in plan.runs if run.role == "lever"} == {"grid"}
    assert "6 of them levers" in table(plan) and table(plan).count(" lever\n") == 6


def test_one_list_of_levers_is_for_every_budget():
    plan = plan_grid(compose([*LEVERS[:-1], "levers=[64]"]))
    assert [(r.budget_flops, r.width) for r in plan.runs if r.role == "lever"] == [(1e11, 64), (2e11, 64)]


def test_levers_nest_with_the_grid():
    """Whichever is the longer run trains the other, and the identity of a run does not depend on its role."""
    words = [*LEVERS[:3], "widths=[[32,40,48,56],[40,48,56,64]]", "levers=[[64],[32]]"]
    plan = {(r.budget_flops, r.width): r for r in plan_grid(compose(words)).runs}
    assert plan[1e11, 64].role == "lever" and plan[1e11, 64].within == plan[2e11, 64].run_id
    assert plan[2e11, 32].role == "lever" and plan[2e11, 32].readings == (plan[1e11, 32].run_id,)
    alike = plan_grid(compose([*LEVERS[:3], "widths=[32,40,48,56,64]"])).runs
    assert {r.run_id for r in alike} == {r.run_id for r in plan.values()}


def test_a_lever_that_cannot_be_trained_is_dropped_and_a_slice_must_stay():
    plan = plan_grid(compose([*LEVERS[:-1], "levers=[640]"]))
    assert [cell.width for cell in plan.dropped] == [640, 640] and "min_steps" in plan.dropped[0].reason
    with pytest.raises(UserError, match="budget 1e11: no width fits it .640:"):
        plan_grid(compose([*LEVERS[:3], "widths=[640]", "levers=[32,40]"]))


def test_levers_are_launched_with_the_grid(tmp_path, monkeypatch):
    """The local launcher starts both for the stage "grid", and no run of the sweep."""
    started = []
    monkeypatch.setattr(
        local, "_submit", lambda paths, run, *_: started.append(run) or SimpleNamespace(state="RUNNING")
    )
    words = [*LEVERS, "rates=[0.5,1,2]", "nested=false", "cluster.workers=100"]
    paths, plan = plan_study(tmp_path / "s", words)
    local._Pool(paths, read_study(paths.root).cluster, "grid").start_missing(study_status(paths))
    assert sorted(run.run_id for run in started) == sorted(run.run_id for run in plan.runs if run.role != "rate")
    assert {run.role for run in started} == {"grid", "lever"}


def test_levers_may_be_added_to_a_planned_study(tmp_path):
    """They leave its grid as it is."""
    plan_study(tmp_path / "s", LEVERS[:-1])
    _, plan = plan_study(tmp_path / "s", LEVERS)
    assert read_study(tmp_path / "s").levers == ((24, 32, 64), (80,)) and sum(r.role == "lever" for r in plan.runs) == 3
    with pytest.raises(UserError, match="levers of 1e11 FLOPs are without 24; levers may be added"):
        plan_study(tmp_path / "s", [*LEVERS[:-1], "levers=[[64],[80]]"])
