import pytest

from ditscale import flops
from ditscale.config import compose
from ditscale.errors import UserError
from ditscale.plan.grid import plan_grid, plan_probe, table
from ditscale.plan.run import read_run
from ditscale.plan.study import read_study, write_run, write_study


def test_the_papers_study():
    """arXiv 2410.08184: six budgets, depths 2 to 15 of width 64 x depth, batch 1024, C = 6 N D."""
    plan = plan_grid(compose(["study=paper"]))
    assert len(plan.runs) == 6 * 14 and not plan.dropped
    assert {(r.width, r.depth) for r in plan.runs} == {(64 * d, d) for d in range(2, 16)}
    for run in plan.runs:
        assert run.n_params == 12 * run.depth * run.width**2
        assert run.achieved_flops == 6 * run.n_params * run.n_tokens
        assert abs(run.achieved_flops / run.budget_flops - 1) <= 0.005
        assert run.n_images == run.steps * 1024


@pytest.mark.parametrize("design", ["incontext", "crossattention"])
def test_exact_budgets_are_met(design):
    plan = plan_grid(compose(["study=mini", f"design={design}", "design.head_size=8", "design.patch=3"]))
    for run in plan.runs:
        exact = flops.training_flops(run.shape) * run.n_images
        assert run.achieved_flops == exact and abs(exact / run.budget_flops - 1) <= 0.005
        assert run.n_tokens == run.n_images * run.tokens_per_image
    assert len({r.run_id for r in plan.runs}) == len(plan.runs)


def test_impossible_cells_are_dropped_with_a_reason():
    plan = plan_grid(compose(["study=mini", "budgets=[2e10]", "widths=[32,640]"]))
    assert [r.width for r in plan.runs] == [32]
    assert plan.dropped[0].width == 640 and "fewer than the recipe's min_steps" in plan.dropped[0].reason
    assert "dropped: budget 2e10, width 640" in table(plan)


def test_a_budget_too_small_for_a_step():
    with pytest.raises(UserError, match="budget 1e3: no width fits it"):
        plan_grid(compose(["study=mini", "budgets=[1e3]", "widths=[32]", "recipe.min_steps=1"]))


def test_the_probe_is_the_nearest_size():
    study = compose(["study=mini"])
    for target in (5e4, 2e5, 1e6):
        probe = plan_probe(study, target)
        assert probe.role == "probe" and probe.budget_flops == study.probe_budget
        off = abs(probe.n_params / target - 1)
        for width in (probe.width - 8, probe.width + 8):
            shape = flops.shape_of(study.design, study.data, max(1, round(width / study.recipe.aspect)), width)
            assert off <= abs(flops.n_params(shape)["matmul"] / target - 1) + 0.1


def test_identity(tmp_path):
    """The id changes with whatever changes the result, and with nothing else."""
    first = plan_grid(compose(["study=mini"])).runs[0].run_id
    same = plan_grid(compose(["study=mini", "name=other", "cluster.workers=7", "cluster.checkpoint_s=3"])).runs[0].run_id
    assert first == same
    for change in ("recipe.clip=2", "data.seed=1", "seeds=[1]", "validation.n=512", "design.mlp_ratio=3"):
        assert plan_grid(compose(["study=mini", change])).runs[0].run_id != first


def test_the_directory(tmp_path):
    study = compose(["study=mini"])
    paths = write_study(tmp_path / "s", study)
    assert read_study(tmp_path / "s") == study
    run = plan_grid(study).runs[0]
    assert read_run(write_run(paths, run).run) == run
    write_study(tmp_path / "s", study)  # the same again is no error
    with pytest.raises(UserError, match=r"holds another study \(recipe.clip is 1.0 there, 2.0 here\)"):
        write_study(tmp_path / "s", compose(["study=mini", "recipe.clip=2"]))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="exists and is not a study"):
        write_study(tmp_path / "other", study)
    with pytest.raises(UserError, match="holds no study.yaml"):
        read_study(tmp_path / "other")
