"""Which runs are the beginning of others, and what that saves."""

import pytest

from ditscale.config import compose
from ditscale.plan.grid import plan_grid, plan_probe, table

THREE = ("study=mini", "nested=true", "budgets=[1e11,2e11,4e11]", "widths=[[32,40],[32,40,48],[40,48]]", "seeds=[0,1]")


def test_one_trajectory_a_size_and_seed():
    planned, alone = plan_grid(compose(list(THREE))), plan_grid(compose([*THREE, "nested=false"]))
    # who trains a run does not change what it is
    assert [r.run_id for r in planned.runs] == [r.run_id for r in alone.runs]
    by_id = {r.run_id: r for r in planned.runs}
    for run in planned.runs:
        family = [r for r in planned.runs if (r.width, r.seed) == (run.width, run.seed)]
        longest = max(family, key=lambda r: r.n_images)
        assert run.within == ("" if run is longest else longest.run_id)
        assert [by_id[i] for i in run.readings] == (
            sorted(family, key=lambda r: r.n_images)[:-1] if run is longest else []
        )
    once = sum(r.n_images * r.flops_per_image for r in planned.runs if not r.within)
    assert planned.flops == once == pytest.approx(2 * (2e11 + 4e11 + 4e11), rel=0.01)
    assert f"{1 - once / alone.flops:.0%} of the FLOPs saved" in table(planned) and "saved" not in table(alone)
    assert not plan_probe(compose(list(THREE)), 5e4).within


def test_branches_are_paid_for():
    """With a cool-down over the last tenth, a run in common with a longer one costs that tenth."""
    cooling = [*THREE, "recipe.schedule=wsd", "recipe.decay=0.1"]
    planned, alone = plan_grid(compose(cooling)), plan_grid(compose([*cooling, "nested=false"]))
    assert [r.run_id for r in planned.runs] == [r.run_id for r in alone.runs]
    # Of two seeds: parents of 2e11 (32), 4e11 (40) and 4e11 (48); branches of 1e11 (32, 40) and 2e11 (40, 48)
    assert planned.flops == pytest.approx(2 * (2e11 + 4e11 + 4e11 + 0.1 * (2 * 1e11 + 2 * 2e11)), rel=0.01)
    by_id = {r.run_id: r for r in planned.runs}
    for parent in (r for r in planned.runs if r.readings):
        assert parent.branch_images == pytest.approx(0.1 * sum(by_id[i].n_images for i in parent.readings), rel=0.01)
    saved = 1 - planned.flops / alone.flops
    assert f"cool-down of 1.2e11 FLOPs; {saved:.0%} of the FLOPs saved" in table(planned)


@pytest.mark.parametrize("settings, says", [
    (["recipe.schedule=cosine"], "with recipe.schedule=cosine no run"),
    (["recipe.lr_tokens=-0.1"], "must not depend on D"),
    (["widths=[[32],[40],[48]]"], "must be in several budgets"),
    (["+recipe.batch_law={scale: 0.02, tokens: 0.5}"], "must not depend on D"),
])  # fmt: skip
def test_where_nothing_can_be_nested(settings, says):
    planned = plan_grid(compose([*THREE, *settings]))
    assert says in table(planned) and not any(run.within or run.readings for run in planned.runs)
