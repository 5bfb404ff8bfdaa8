import shutil
from pathlib import Path

import pytest

from ditscale import flops
from ditscale.config import compose, dump_yaml, plain
from ditscale.errors import UserError
from ditscale.pipeline import probe_of
from ditscale.plan.grid import is_independent, plan_grid, plan_probe, plan_runs, table
from ditscale.plan.run import read_run
from ditscale.plan.study import plan_all, plan_run, read_study, write_run, write_study

WRITTEN = Path(__file__).with_name("written")


def test_the_papers_study():
    """arXiv 2410.08184: six budgets, depths 2 to 15 of width 64 x depth, batch 1024, C = 6 N D."""
    plan = plan_grid(compose(["study=paper-as-published"]))
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


@pytest.mark.parametrize("more", [[], ["seeds=[0,1]"], ["data.seed=4"], ["validation.seed=1"]])
def test_the_probe_shares_nothing_with_a_grid_run(more):
    """Neither the seed of weights and noise nor that of images; the grid's own runs have what they had."""
    study = compose(["study=mini", *more])
    probe, grid = plan_probe(study, 2e5), plan_grid(study).runs
    assert is_independent(study, probe)
    assert probe.seed not in {run.seed for run in grid} and probe.data.seed not in {run.data.seed for run in grid}
    assert probe.data.seed != study.validation.seed and probe.validation == grid[0].validation
    assert {run.data.seed for run in grid} == {study.data.seed}
    old = plan_probe(study, 2e5, independent=False)
    assert (old.seed, old.data) == (grid[0].seed, study.data) and not is_independent(study, old)


def test_a_probe_planned_before_stays_the_probe(tmp_path):
    """By its directory, or by planned.json where that was deleted; a study without one gets an independent one."""
    study = compose(["study=mini"])
    paths = write_study(tmp_path / "s", study)
    new = plan_probe(study, 2e5)
    assert probe_of(paths, study, 2e5) == new
    old = plan_probe(study, 2e5, independent=False)
    plan_all(paths, [old], by="forecast")
    assert probe_of(paths, study, 2e5) == old
    shutil.rmtree(paths.run(old.run_id).root)
    assert probe_of(paths, study, 2e5) == old
    paths.planned.unlink()
    assert probe_of(paths, study, 2e5) == new


def test_identity(tmp_path):
    """The id changes with whatever changes the result, and with nothing else."""
    first = plan_grid(compose(["study=mini"])).runs[0].run_id
    same = (
        plan_grid(compose(["study=mini", "name=other", "cluster.workers=7", "cluster.checkpoint_s=3"])).runs[0].run_id
    )
    assert first == same
    for change in ("recipe.clip=2", "data.seed=1", "seeds=[1]", "validation.n=512", "design.mlp_ratio=3"):
        assert plan_grid(compose(["study=mini", change])).runs[0].run_id != first


def test_the_directory(tmp_path):
    study = compose(["study=mini"])
    paths = write_study(tmp_path / "s", study)
    assert read_study(tmp_path / "s") == study
    run = plan_grid(study).runs[0]
    assert read_run(write_run(paths, run).run) == run
    for damaged in (b"", b"\xff\xfe\0", b"[]", b"seed: 2024-13-45\n", b"seed: 1" + 400 * b"0"):
        paths.run(run.run_id).run.write_bytes(damaged)
        with pytest.raises(UserError, match="run.yaml"):
            read_run(paths.run(run.run_id).run)
        assert read_run(plan_run(paths, run).run) == run
    paths.run(run.run_id).run.write_text(paths.run(run.run_id).run.read_text().replace("lr: 0", "lr: -0"))
    with pytest.raises(UserError, match=r"run.yaml.lr: -0.\d+ is too small; it must be above 0"):
        read_run(paths.run(run.run_id).run)
    write_study(tmp_path / "s", study)  # the same again is no error
    with pytest.raises(UserError, match="another study .recipe.clip is 1.0 in study.yaml, 2.0 in the settings"):
        write_study(tmp_path / "s", compose(["study=mini", "recipe.clip=2"]))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="exists and is not a study"):
        write_study(tmp_path / "other", study)
    with pytest.raises(UserError, match="holds no study.yaml"):
        read_study(tmp_path / "other")


# The first ids that were given. A study planned then must go on where it was, whatever settings recipes have gained
# since.
FIRST = {
    "mini": ("c2e11-d1-w32-s0-3b9319", "c8e11-d3-w80-s0-aa625f"),
    "paper-as-published": ("c1e17-d2-w128-s0-19ac18", "c6e18-d15-w960-s0-b3ffcd"),
}


@pytest.mark.parametrize("study", FIRST)
def test_runs_keep_their_identity(study):
    runs = plan_grid(compose([f"study={study}"])).runs
    assert (runs[0].run_id, runs[-1].run_id) == FIRST[study]
    changed = plan_grid(
        compose([f"study={study}", "recipe.width_scaling=mup", "recipe.base_width=64", "recipe.lr_width=0"])
    ).runs
    assert not {r.run_id for r in runs} & {r.run_id for r in changed}


def test_files_of_earlier_versions_read_and_write_alike(tmp_path):
    """written/ has a study.yaml and the run.yaml of one of its runs, as commit 3c1e391 wrote them: the same keys in the
    same order, but for those that studies gained since, and the same identity."""
    study = read_study(WRITTEN)
    written = {key: value for key, value in plain(study).items() if key not in ("levers", "notes")}
    assert dump_yaml(written) == (WRITTEN / "study.yaml").read_text()
    assert study.levers == study.notes == () and study.prior is None and study.around is None
    run = read_run(WRITTEN / "run.yaml")
    assert dump_yaml(plain(run)) == (WRITTEN / "run.yaml").read_text()
    assert run.run_id == "c8e11-d1-w32-s0-0ce010" and run in plan_runs(study).runs


def test_a_run_planned_before_windows_were_several(tmp_path):
    """Its run.yaml reads, and it is the same run; further windows make another one."""
    study = compose(["study=mini"])
    run = plan_grid(study).runs[0]
    paths = write_study(tmp_path / "s", study)
    path = write_run(paths, run).run
    for file in (path, paths.study):
        assert "  ema_also: []\n" in file.read_text()
        file.write_text(file.read_text().replace("  ema_also: []\n", ""))
    assert read_run(path) == run and run.run_id == FIRST["mini"][0]
    write_study(tmp_path / "s", study)
    more = plan_grid(compose(["study=mini", "recipe.ema_also=[0.05,0.2]"])).runs[0]
    assert more.recipe.windows == (0.1, 0.05, 0.2) and more.run_id != run.run_id and read_back(more) == more


def test_laws_of_the_recipe():
    """Batch, warm-up and weight decay by laws: each run holds numbers, those of the formula, rounded as stated."""
    laws = [
        "recipe.batch_law={scale: 0.002, tokens: 0.7, quantum: 8}",
        "recipe.warmup_law.scale=0.5", "recipe.warmup_law.params=0.6",
        "recipe.weight_decay_law={scale: 30, params: -0.5, tokens: 0.1}",
    ]  # fmt: skip
    study = compose(["study=mini", *laws])
    runs = plan_grid(study).runs
    assert len({r.recipe.batch_size for r in runs}) > 3
    for run in runs:
        recipe, n, d = run.recipe, run.n_params, run.n_tokens
        nominal = run.budget_flops / run.flops_per_image * run.tokens_per_image
        assert recipe.batch_size % 8 == 0 and abs(recipe.batch_size - 0.002 * nominal**0.7) <= 4
        assert run.n_images == run.steps * recipe.batch_size and abs(run.deviation) <= 0.005
        assert recipe.warmup_images % recipe.batch_size == 0
        assert abs(recipe.warmup_images - 0.5 * n**0.6) <= max(recipe.batch_size / 2, recipe.batch_size - 0.5 * n**0.6)
        assert recipe.weight_decay == pytest.approx(30 * n**-0.5 * d**0.1, rel=1e-5)
        assert (recipe.batch_law, recipe.warmup_law, recipe.weight_decay_law) == (None, None, None)
        assert read_back(run) == run


def read_back(run):
    from ditscale.config import build, plain
    from ditscale.plan.run import Run

    return build(Run, plain(run), "run")


def test_a_law_that_is_a_constant_plans_the_same_runs():
    constant = plan_grid(compose(["study=mini"])).runs
    assert (
        plan_grid(compose(["study=mini", "recipe.batch_law={scale: 16}", "recipe.warmup_law={scale: 480}"])).runs
        == constant
    )


@pytest.mark.parametrize(
    "settings, says",
    [
        (["recipe.batch_law={scale: 0}"], "batch_law.scale: 0 is too small"),
        (["recipe.batch_law={scale: 16, quantum: 2.5}"], "batch_law.quantum: 2.5 is not a whole number"),
        (["recipe.batch_law={scale: 16, power: 2}"], "unknown key 'power'"),
        (["recipe.batch_law=16"], "expected keys (scale, params, tokens, quantum)"),
        (["recipe.warmup_law={scale: 1e9}"], "a warm-up of 1G images"),
        (["recipe.width_scaling=mup"], "base_width: missing"),
        (["recipe.width_scaling=mup", "recipe.base_width=64"], "recipe.lr_width=0 recipe.lr_scale=0.0046875"),
        (["recipe.base_width=64"], "base_width: 64 has no effect without"),
        (["recipe.width_scaling=up"], "choose one of: none, mup"),
        (["recipe.ema_also=[0.05,0.1]"], "ema_also: 0.1 and 0.1 are"),
        (["recipe.ema_also=[0.05,0.2,0.0502]"], "ema_also: 0.05 and 0.0502 are"),
        (["recipe.ema_also=[0]"], "ema_also[0]: 0 is too small; it must be above 0"),
        (["recipe.ema_also=[1.5]"], "ema_also[0]: 1.5 is too large"),
        (["recipe.ema_also=0.05"], "write [0.05]"),
    ],
)
def test_impossible_laws(settings, says):
    with pytest.raises(UserError) as error:
        plan_grid(compose(["study=mini", *settings]))
    assert says in str(error.value) and "\n" not in str(error.value)
