"""The learning-rate sweep as runs of a study: what is planned, what is not planned twice, and that no law sees it."""

import csv

import numpy as np
import pytest

from ditscale.collect.table import collect
from ditscale.config import compose, plain
from ditscale.errors import UserError
from ditscale.laws import fit, read_table, read_trials
from ditscale.pipeline import plan_study
from ditscale.plan.grid import plan_grid, plan_runs, table
from ditscale.plan.run import read_run
from ditscale.plan.study import read_study

RATES = "rates=[0.25,0.5,1,2,4]"


def test_a_sweep_is_the_grid_again_at_other_rates():
    study = compose(["study=mini", RATES, "seeds=[0,1]"])
    planned = plan_runs(study)
    grid = [r for r in planned.runs if r.role == "grid"]
    swept = [r for r in planned.runs if r.role == "rate"]
    assert grid == list(plan_grid(compose(["study=mini", "seeds=[0,1]"])).runs)  # the sweep changes no run of the grid
    assert len(swept) == 4 * 6 * 2 and {r.budget_flops for r in swept} == {2e11}
    assert len({r.run_id for r in planned.runs}) == len(planned.runs)
    for run in swept:
        (own,) = [g for g in grid if (g.width, g.seed, g.budget_flops) == (run.width, run.seed, run.budget_flops)]
        differ = {k for k, v in plain(own).items() if plain(run)[k] != v}
        # losses alone are asked of a sweep, and none of its runs is read from another
        assert differ - {"within", "readings"} == {"run_id", "role", "lr", "evaluation"}
        assert any(run.lr == pytest.approx(own.lr * m, rel=1e-5) for m in (0.25, 0.5, 2, 4))
    assert "48 of them a sweep of the learning rate" in table(planned)


def test_budgets_of_the_sweep():
    planned = plan_runs(compose(["study=mini", RATES, "rate_budgets=[4e11,8e11]"]))
    assert {r.budget_flops for r in planned.runs if r.role == "rate"} == {4e11, 8e11}


@pytest.mark.parametrize(
    "settings, says",
    [
        (["rates=[1,2,4,2]"], "give each multiple once, from small to large"),
        (["rates=[0,1,2]"], "study.rates[0]: 0 is too small"),
        (["rates=[1,2]"], "a minimum takes three or more"),
        (["rates=[2]"], "a minimum takes three or more"),
        ([RATES, "rate_budgets=[3e11]"], "3e11 is not a budget of the grid"),
        (["rate_budgets=[2e11]"], "there are no rates to sweep"),
        (["rates=2"], "is not a list"),
    ],
)
def test_impossible_sweeps(settings, says):
    with pytest.raises(UserError) as error:
        compose(["study=mini", *settings])
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_sweep_is_added_to_a_planned_study(tmp_path):
    root = str(tmp_path / "s")
    paths, before = plan_study(root, ["study=mini"])
    _, after = plan_study(root, ["study=mini", RATES])
    assert after.runs[: len(before.runs)] == before.runs and len(after.runs) == len(before.runs) + 24
    _, again = plan_study(root, ["study=mini"])  # settings that say nothing of it leave it
    assert again.runs == after.runs and read_study(root).rates == (0.25, 0.5, 1, 2, 4)
    assert plan_study(root, [])[1].runs == after.runs
    assert sorted(read_run(at.run).run_id for at in paths.run_dirs()) == sorted(r.run_id for r in after.runs)
    with pytest.raises(UserError, match="holds another study"):
        plan_study(root, ["study=mini", RATES, "recipe.clip=2"])


def test_what_is_left_out_says_that_it_is_of_the_sweep(tmp_path):
    plan_study(str(tmp_path / "s"), ["study=mini", RATES])
    reasons = [reason for _, reason in collect(tmp_path / "s").excluded]
    assert sorted(reasons) == ["learning-rate sweep: not started"] * 24 + ["not started"] * 18
    trials, left_out = read_trials(tmp_path / "s")  # the sweep, and the grid at its budget alone
    assert not trials and [why for _, why in left_out] == ["not started"] * 30


def write(path, rows):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_no_law_sees_a_sweep(tmp_path):
    """The laws of a table with a sweep's rows, far below every slice, are those of the table without them, in each
    digit."""
    planned = plan_runs(compose(["study=mini", RATES]))
    rng = np.random.default_rng(0)
    rows = [
        {
            "run_id": r.run_id, "role": r.role, "n_params": r.n_params, "n_tokens": r.n_tokens,
            "budget_flops": r.budget_flops,
            "loss": 0.05 if r.role == "rate"
            else 0.1 + 9 * r.n_params**-0.4 + 300 * r.n_tokens**-0.7 + 1e-4 * rng.random(),
        }
        for r in planned.runs
    ]  # fmt: skip
    write(tmp_path / "both.csv", rows)
    write(tmp_path / "grid.csv", [row for row in rows if row["role"] == "grid"])
    both, grid = read_table(tmp_path / "both.csv"), read_table(tmp_path / "grid.csv")
    assert len(both) == len(grid) == 18 and set(both.role) == {"grid"}
    assert ("rows", "24 of role rate, a learning-rate sweep, left to `ditscale rates`") in both.recorded
    found = [fit(t, targets=("6.4e12",), bootstrap=100).to_dict() for t in (both, grid)]
    for key in ("slices", "approach2", "approach3", "predictions", "points"):
        assert found[0][key] == found[1][key]
    write(tmp_path / "rate.csv", [row for row in rows if row["role"] == "rate"])
    with pytest.raises(UserError, match="a sweep of learning rates and no other run"):
        read_table(tmp_path / "rate.csv")
