"""Planned precision, against closed forms, generalised least squares, and studies that are drawn and fitted."""

import dataclasses
import math

import numpy as np
import pytest

import ditscale as ds
from ditscale import cli
from ditscale.config import Prior
from ditscale.errors import UserError
from ditscale.laws.predictor.noise import Noise
from ditscale.precision.design import Design
from ditscale.precision.field import Field
from ditscale.precision.information import local, root_of, speakers
from ditscale.precision.planned import TYPICAL, planned_interval
from ditscale.precision.refine import refine
from ditscale.precision.search import Candidates, Search, fields_of
from ditscale.precision.simulate import simulate
from ditscale.precision.studies import Goal
from ditscale.precision.surfaces import Surface, draws, nominal

TARGET = 1.5e21
LAW = Surface(math.log(TARGET), 0.585, math.log(0.045), math.log(958e6), 0.54, 0.175)
PRIOR = Prior(E=0.585, A=27.0, B=40.0, alpha=0.32, beta=0.38)
BUDGETS = (1e17, 3e17, 1e18, 3e18)


def grid(law: Surface, nested: bool, budgets=BUDGETS, span: float = 8.0) -> Design:
    """One ladder of sizes for all budgets, each of which takes those within `span` of its optimum."""
    ladder = law.log_size(math.log(1e18)) + 0.5 * np.arange(-12, 13)
    cells = [(c, z) for c in budgets for z in ladder if abs(z - law.log_size(math.log(c))) < math.log(span)]
    c, z = map(np.array, zip(*cells, strict=True))
    return Design.of(np.exp(z), None, c, trajectory=z.round(6) if nested else None)


# ----------------------------------------------------------------------------------------------------- laws and errors


def test_a_prior_as_a_surface_has_its_losses_and_its_optimum():
    law, c, n = Surface.of(PRIOR, math.log(1e18)), np.array([1e17, 1e19, 1e21])[:, None], np.geomspace(1e6, 1e9, 7)
    np.testing.assert_allclose(law.loss(np.log(c), np.log(n)), PRIOR.loss_at(n, c / 6 / n), rtol=1e-12)
    assert float(law.log_size(math.log(1e20))) == pytest.approx(math.log(PRIOR.optimum(1e20)), rel=1e-12)


@pytest.mark.parametrize("off", [(0, 0, 0, 0, 0), *np.eye(5).tolist(), (-1.3, 1, -1, 1, -1)])
def test_every_law_around_a_prior_is_least_where_it_says(off):
    law, sizes = LAW.moved(off), np.linspace(math.log(1e6), math.log(1e11), 200_001)
    for c in (1e17, 1e20):
        losses = law.loss(np.array(math.log(c)), sizes)
        assert sizes[np.argmin(losses)] == pytest.approx(float(law.log_size(math.log(c))), abs=1e-4)
        assert losses.min() == pytest.approx(float(law.least(math.log(c))), rel=1e-9)
    step = 1e-4
    low, high = (math.log(float(law.least(math.log(TARGET) + s))) for s in (-step, step))
    assert law.log_fall(math.log(TARGET)) == pytest.approx((low - high) / 2 / step, rel=1e-5)


def test_slices_are_curved_as_p_says_and_no_law_has_a_negative_floor():
    bent = dataclasses.replace(LAW, p=1.6)
    at, h = math.log(1e19), 1e-3
    second = [
        float(np.diff(law.loss(np.array(at), law.log_size(at) + h * np.arange(-1, 2)), 2)[0]) for law in (LAW, bent)
    ]
    assert second[0] / second[1] == pytest.approx(1.6, rel=1e-4)
    without = Surface(math.log(TARGET), 0.0, math.log(0.63), math.log(958e6), 0.57, 0.03)
    assert all(law.floor >= 0 for law in (*draws(without, 50), *draws(LAW, 50)))


def test_the_eight_laws_scatter_as_drawn_ones():
    """Mean and standard deviation of ln p, of ln of what is above the floor, and of the exponent."""
    both = [[(math.log(w.p), w.above, w.slope) for w in laws] for laws in (nominal(LAW), draws(LAW, 4000))]
    few, many = (np.array(rows) for rows in both)
    np.testing.assert_allclose(few.std(0), many.std(0), rtol=0.05)
    assert (np.abs(few.mean(0) - many.mean(0)) < 0.1 * many.std(0)).all()


def test_covariance_of_errors():
    c, training = np.log([1e17, 1e17, 1e18]), np.array([0, 1, 1])
    noise = Noise(run=3e-3, reading=4e-4, slice=1e-3, size=2e-3, common=0.6, distance=0.7)
    made = noise.covariance(c, training, slices=np.array([0, 0, 1]), sizes=np.array([0, 1, 1]))
    own = 3e-3**2 + 4e-4**2 + 1e-3**2 + 2e-3**2
    shared = 3e-3**2 * (0.6 + 0.4 * math.exp(-math.log(10) / 0.7)) + 2e-3**2
    np.testing.assert_allclose(made, [[own, 1e-6, 0], [1e-6, own, shared], [0, shared, own]], rtol=1e-12)
    np.testing.assert_allclose(noise.scaled(2).covariance(c, training), 4 * noise.covariance(c, training), rtol=1e-12)


# --------------------------------------------------------------------------------------------------------- information


def gls(design: Design, law: Surface, covariance: np.ndarray) -> np.ndarray:
    """Standard deviations of ln L*, ln N* and the exponent by generalised least squares for who knows the form:
    derivatives by differences, no prior."""
    start = np.array([law.floor, law.above, law.place, law.slope, law.fall])
    at, log_c, log_n = math.log(TARGET), np.log(design.budget_flops), np.log(design.n_params)

    def told(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        own = Surface(law.at, *p)
        return np.log(own.loss(log_c, log_n)), np.array([math.log(own.least(at)), float(own.log_size(at)), p[3]])

    steps = [1e-6 * np.eye(5)[i] for i in range(5)]
    pairs = [[(up - down) / 2e-6 for up, down in zip(told(start + s), told(start - s), strict=True)] for s in steps]
    j, g = (np.array(rows).T for rows in zip(*pairs, strict=True))
    return np.sqrt(np.diag(g @ np.linalg.inv(j.T @ np.linalg.solve(covariance, j)) @ g.T))


@pytest.mark.parametrize("nested", [False, True])
def test_the_surface_member_is_generalised_least_squares(nested):
    """Its rows are an estimator that errs as little as one can whose form is right."""
    design, noise = grid(LAW, nested), Noise(size=0.0, slice=0.0)
    here = local(design, LAW, TARGET)
    root = root_of(design, here, noise)
    surface = speakers(here, root, {})[0]
    error = np.linalg.norm(surface.speaks(root).rows @ root, axis=1)
    assert surface.name == "surface"
    best = gls(design, LAW, root @ root.T)
    assert (error > 0.97 * best).all() and (error < 1.25 * best).all()


@pytest.fixture(scope="module")
def fields():
    design = grid(LAW, True)
    return [
        field
        for law in fields_of(design, np.ones(len(design), dtype=bool), nominal(LAW)[:2], TARGET, TYPICAL)
        for field in law
    ]


def test_a_field_is_a_gaussian_conditioned(fields):
    """One more run, one fewer and a block are what conditioning from scratch gives."""
    for field in fields:
        chosen = np.arange(len(field.among)) % 3 > 0
        inside, outside = np.flatnonzero(chosen), np.flatnonzero(~chosen)
        more, fewer = chosen.copy(), chosen.copy()
        more[outside[1]], fewer[inside[2]] = True, False
        given = field.given(chosen)
        np.testing.assert_allclose(given.asked, field.variances(chosen), rtol=1e-6)
        np.testing.assert_allclose(given.with_one()[outside[1]], field.variances(more), rtol=1e-5)
        np.testing.assert_allclose(given.known(int(outside[1])).asked, field.variances(more), rtol=1e-5)
        np.testing.assert_allclose(given.with_block(outside[1:2]), field.variances(more), rtol=1e-5)
        np.testing.assert_allclose(field.without(chosen)[2], field.variances(fewer), rtol=1e-5)
        assert (field.variances(more) <= field.variances(chosen) * (1 + 1e-9)).all()


def test_a_field_says_what_its_member_says():
    design = grid(LAW, True)
    here = local(design, LAW, TARGET)
    for member in speakers(here, root_of(design, here, TYPICAL), {}):
        field = Field.of(member, 1.0, len(design))
        np.testing.assert_allclose(field.variances(np.ones(len(design), dtype=bool)), member.variances(), rtol=1e-6)


def test_precision_scales_with_the_noise_and_gains_by_runs():
    small, large = grid(LAW, False), grid(LAW, False, (*BUDGETS, 6e18, 1e19))
    few, many = planned_interval(small, LAW, TARGET), planned_interval(large, LAW, TARGET)
    quiet = planned_interval(small, LAW, TARGET, TYPICAL.scaled(0.5))
    for name in ("loss", "n_params", "exponent", "multiplier"):
        a, b, c = (getattr(each, name) for each in (few, many, quiet))
        assert b.width < a.width and c.width < a.width and c.error < a.error
        assert a.low <= a.width <= a.high
    assert few.multiplier.width > few.loss.width / LAW.log_fall(math.log(TARGET))


@pytest.mark.slow
@pytest.mark.parametrize("nested", [False, True])
def test_planned_is_what_studies_then_have(nested):
    """40 studies, each under a law of its own: a standard deviation of them is known to 11 %, a median to about 12."""
    design = grid(LAW, nested, (1e17, 3e17, 6e17, 1e18, 3e18, 6e18))
    planned, real = planned_interval(design, LAW, TARGET), simulate(design, LAW, TARGET, 40)
    for name in ("loss", "n_params", "exponent"):
        p, r = getattr(planned, name), getattr(real, name)
        assert p.error == pytest.approx(r.error, rel=0.4) and p.width == pytest.approx(r.width, rel=0.4)


# -------------------------------------------------------------------------------------------------------------- search


@pytest.fixture(scope="module")
def search():
    design = grid(LAW, True, (1e16, 3e16, *BUDGETS))
    off = np.log(design.n_params) - LAW.log_size(np.log(design.budget_flops))
    candidates = Candidates(design, design.budget_flops, off, True)
    every = np.ones(len(design), dtype=bool)
    fields = fields_of(design, every, nominal(LAW)[::4], TARGET, TYPICAL)
    made = Search(candidates, fields, np.zeros(3))
    goals = 2 * np.log(1.3 * made.spread(every)) * [1, 1, 0] + [0, 0, math.inf]
    return dataclasses.replace(made, goals=goals)


def test_a_nested_training_costs_its_longest_run():
    design = Design.of([1e6, 1e6, 2e6], None, [1e17, 3e17, 1e17], trajectory=[0, 0, 1])
    for nested, total, added in ((True, 4e17, [0, 2e17, 1e17]), (False, 5e17, [1e17, 3e17, 1e17])):
        candidates = Candidates(design, design.budget_flops, np.zeros(3), nested)
        assert candidates.total(np.ones(3, dtype=bool)) == total
        np.testing.assert_allclose(candidates.added(np.array([True, False, False]))[1:], added[1:])
        np.testing.assert_allclose(candidates.saved(np.ones(3, dtype=bool)), added)


def test_the_search_reaches_its_goal_for_less(search):
    every = np.ones(len(search.candidates), dtype=bool)
    chosen = search.best()
    assert search.of(chosen) <= 1e-3
    assert search.candidates.total(chosen) < 0.6 * search.candidates.total(every)
    counts = np.bincount(search.candidates.budgets[chosen])
    assert counts[counts > 0].min() >= 4
    spent = 0.7 * search.candidates.total(chosen)
    poor = search.best(spent)
    assert search.candidates.total(poor) <= spent and search.of(poor) > 0


def test_no_single_run_can_be_left_out_of_what_was_thinned(search):
    chosen = search.quick()
    saved, spare = search.candidates.saved(chosen), search.spare(chosen)
    for i, row in enumerate(np.flatnonzero(chosen)):
        fewer = chosen & (np.arange(len(chosen)) != row)
        assert search.of(fewer) > 0 or saved[i] == 0 or not spare[row]


# -------------------------------------------------------------------------------------------------------------- refine


@pytest.fixture(scope="module")
def study():
    """(losses of all candidates, candidates, which of them are finished first)"""
    design = grid(LAW, True, (1e16, 3e16, 1e17, 3e17, 1e18))
    log_c, log_n = np.log(design.budget_flops), np.log(design.n_params)
    root = np.linalg.cholesky(TYPICAL.covariance(log_c, design.trajectory, design.slices(), design.sizes()))
    losses = LAW.loss(log_c, log_n) * np.exp(root @ np.random.default_rng(1).standard_normal(len(design)))
    off = log_n - LAW.log_size(log_c)
    order = np.argsort(~((np.abs(off) < math.log(4)) & (design.budget_flops <= 1e17)), kind="stable")
    count = int(((np.abs(off) < math.log(4)) & (design.budget_flops <= 1e17)).sum())
    cost = np.where(np.arange(len(design)) < count, 0.0, design.budget_flops[order])
    return losses[order], Candidates(design.take(order), cost, off[order], True), count


def refined(study, goals, most=math.inf, planned=None):
    losses, candidates, count = study
    finished = candidates.design.take(np.arange(count)).table(losses[:count])
    return refine(finished, candidates, count if planned is None else planned, TARGET, np.array(goals), most)


def test_refine_narrows_within_what_may_be_spent(study):
    losses, candidates, count = study
    found = refined(study, (0.01, 0.3, math.inf))
    assert found.rows and min(found.rows) >= count and not found.reached
    assert (found.after.to_array() < found.now.to_array()).all()
    assert found.cost == pytest.approx(candidates.total(np.isin(np.arange(len(losses)), found.rows)))
    assert found.cost <= found.to_goal * 1.001
    less = refined(study, (0.01, 0.3, math.inf), most=0.5 * found.cost)
    assert less.cost <= 0.5 * found.cost
    assert refined(study, (1.0, 10.0, math.inf)).reached


def test_refine_does_not_propose_what_is_planned(study):
    losses, candidates, count = study
    first = refined(study, (0.01, 0.3, math.inf)).rows
    order = np.array([*range(count), *first, *(i for i in range(count, len(losses)) if i not in first)])
    cost = np.where(np.arange(len(losses)) < count + len(first), 0.0, candidates.cost[order])
    again = Candidates(candidates.design.take(order), cost, candidates.off[order], True)
    then = refined((losses[order], again, count), (0.01, 0.3, math.inf), planned=count + len(first))
    assert not then.rows or min(then.rows) >= count + len(first)


# ----------------------------------------------------------------------------------------------------- what users type


@pytest.mark.parametrize(
    "text, loss, place", [("2%", 1.02, math.inf), ("0.5 %, 1.2x", 1.005, 1.2), ("10%,3x", 1.1, 3.0)]
)
def test_a_goal_as_people_write_it(text, loss, place):
    goal = Goal.of(text)
    assert (math.exp(goal.loss), math.exp(goal.n_params)) == pytest.approx((loss, place))


@pytest.mark.parametrize("text", ["2", "0%", "-1%", "60%", "2%,0.5x", "2%,3", "x", "nan%"])
def test_an_impossible_interval_is_refused(text):
    with pytest.raises(UserError, match="target-interval"):
        Goal.of(text)


def test_a_target_inside_the_grid_is_refused():
    with pytest.raises(UserError, match="inside the grid"):
        planned_interval(grid(LAW, False), LAW, 1e18)
    with pytest.raises(UserError, match="8 runs|runs forecast nothing"):
        planned_interval(grid(LAW, False).take(np.arange(4)), LAW, TARGET)


MINI = ("study=mini", "~evaluation")


def test_plan_says_what_the_runs_will_tell(capsys):
    planned = ds.plan(*MINI)
    wide = ds.plan(*MINI, "prior.noise=0.05").precision
    assert planned.precision.target == 6.4e12 and wide.loss.width > planned.precision.loss.width
    assert planned.to_dict()["precision"]["loss"]["width"] == planned.precision.loss.width
    assert cli.main(["plan", "--dry-run", *MINI]) == 0
    text = capsys.readouterr().out
    assert f"±{planned.precision.loss.width / 2:.2%}" in text


BAD = {
    "a prior that fits no size": ([*MINI, "prior.alpha=2"], "study.prior"),
    "an interval without a unit": (["--dry-run", *MINI, "--target-interval", "2"], "as in 2%"),
    "--add alone": ([*MINI, "--add"], "--refine"),
    "--refine with settings": (["--refine", *MINI], "plan DIR --refine"),
    "--refine of no study": (["--refine"], "holds no study.yaml"),
}


@pytest.mark.parametrize("words, says", BAD.values(), ids=BAD)
def test_bad_input_is_one_line_and_writes_nothing(words, says, capsys, tmp_path):
    root = tmp_path / "s"
    assert cli.main(["plan", str(root), *words]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and says in error and not root.exists()


@pytest.mark.slow
def test_the_cheapest_design_is_a_study_that_keeps_its_promise():
    """The printed settings plan a study of that cost, and its own precision is what was asked."""
    given = ("study=paper", "prior=abra")
    found = ds.plan(*given, target_interval="2%,2x", unique_images=108e6).cheapest
    again = ds.plan(*given, *found.settings)
    assert again.flops == found.flops < ds.plan(*given).flops and len(again) == found.runs
    assert again.precision.loss.width / 2 <= 1.03 * math.log(1.02)
    assert again.precision.n_params.width / 2 <= 1.03 * math.log(2)
    assert 0 < found.without.cheaper < 1 and found.without.wider > 0
    with pytest.raises(UserError, match="no design of these budgets"):
        _ = ds.plan(*given, target_interval="0.1%").cheapest


@pytest.mark.slow
def test_refine_plans_runs_that_are_then_launched(ditscale, tmp_path):
    root = tmp_path / "s"
    assert ditscale("rehearse", root, *MINI, "--faults", "0", "--seconds", "0").returncode == 0
    study = ds.Study.open(root / "rehearsal")
    before = {row["run_id"] for row in study.runs()}
    found = study.refine("0.5%,1.1x")
    assert found.runs and {row["run_id"] for row in study.runs()} == before
    assert ditscale("plan", study.root, "--refine", "--target-interval", "0.5%,1.1x", "--add").returncode == 0
    added = {row["run_id"] for row in study.runs()} - before
    assert added == {run.run_id for run in found.runs}
    waiting = {row["run_id"] for row in study.status() if row["state"] != "finished"}
    assert waiting == added
    assert not added & {run.run_id for run in study.refine("0.5%,1.1x").runs}
    with pytest.raises(UserError, match="below one run"):
        study.refine("0.1%", gpu_hours=1e-9)
