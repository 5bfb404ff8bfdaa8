"""The studies of configs/study/ on the law they were planned by: what their own grid makes of noiseless losses."""

import numpy as np
import pytest

from ditscale.config import compose, configs_dir
from ditscale.laws import fit
from ditscale.plan.grid import plan_grid
from ditscale.tables.table import Table

# To compare with: its one list of widths is what a study should not do (docs/measured/plans.md).
PUBLISHED = "paper-as-published"
STUDIES = sorted(path.stem for path in (configs_dir() / "study").glob("*.yaml") if path.stem != PUBLISHED)
# Of the miniature's smallest model, embeddings and head are a sixth of the FLOPs, which 6 N D does not see.
ALLOWED = {"mini": {"budget_mismatch"}}
CROSS = ["study=paper", "design=crossattention", "prior=liang-crossattention"]
PUBLISHED_IMAGES = 108e6  # Of arXiv 2410.08184.


def noiseless(plan):
    """The runs of a plan with the losses of its prior, and readings of one training marked as such."""
    runs = plan.runs
    n, d, c = (np.array([getattr(r, name) for r in runs], float) for name in ("n_params", "n_tokens", "budget_flops"))
    shared = {"trajectory": np.array([run.within or run.run_id for run in runs])}
    names, roles = [run.run_id for run in runs], [run.role for run in runs]
    return Table.of(n, d, c, plan.prior.loss_at(n, d), names, roles, shared=shared)


@pytest.mark.slow
@pytest.mark.parametrize("words", [*([f"study={name}"] for name in STUDIES), CROSS], ids=" ".join)
def test_a_shipped_study_finds_the_law_it_was_planned_by(words):
    """N* and L* at the probe's budget within 0.3 % and 0.02 % (mini: 3 % and 1 %), and no finding above info."""
    study = compose(words)
    plan = plan_grid(study)
    laws = fit(noiseless(plan), targets=study.probe_budget, bootstrap=100)
    assert {f.code for f in laws.findings if f.severity != "info"} == ALLOWED.get(study.name, set())
    (said,) = laws.predictions.values()
    n_params = plan.prior.optimum(study.probe_budget, laws.kappa)
    loss = plan.prior.loss_at(n_params, study.probe_budget / laws.kappa / n_params)
    n_off, l_off = (3e-2, 1e-2) if study.name == "mini" else (3e-3, 2e-4)
    for each in (said.answer, said.approach3):
        assert each.n_params.value == pytest.approx(n_params, rel=n_off)
        assert each.loss.value == pytest.approx(loss, rel=l_off)
    assert all(s.ok for s in laws.slices) and len(laws.slices) == len(study.budgets)


@pytest.mark.slow
def test_the_published_list_raises_what_the_new_one_avoids():
    codes = [f.code for f in fit(noiseless(plan_grid(compose(["study=paper-as-published"]))), bootstrap=0).findings]
    assert codes.count("wide_grid") == 6 and {"one_sided_grid", "drifting_centring"} <= set(codes)


def test_what_the_paper_costs_today():
    """At most .35 of the published study's FLOPs and .05 of its images, and 1.7 passes over its images."""
    images = lambda plan: sum(run.n_images for run in plan.runs if not run.within)
    today, published = (plan_grid(compose([f"study={name}"])) for name in ("paper", "paper-as-published"))
    assert today.flops <= 0.35 * published.flops and images(today) <= 0.05 * images(published)
    assert max(run.n_images for run in today.runs) <= 1.7 * PUBLISHED_IMAGES
    # No run is trained that no slice or lever asks for, and warm-up is at most a quarter of any.
    assert all(4 * run.recipe.warmup_images <= run.n_images for run in today.runs) and not today.dropped
