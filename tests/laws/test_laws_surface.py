import math

import numpy as np
import pytest
from laws_synthetic import ASYMMETRIC, CHINCHILLA, MINIATURE, best, loss_of, study

from ditscale.errors import UserError
from ditscale.laws import Table, fit_approach3, fit_surface
from ditscale.laws.estimates import Replicates
from ditscale.laws.surface.descent import descend
from ditscale.laws.surface.fit_surface import optimum, refit_surfaces


@pytest.mark.parametrize("truth", [MINIATURE, ASYMMETRIC, CHINCHILLA])
@pytest.mark.parametrize("objective", ["huber", "ls", "ls_log"])
def test_noise_free_surfaces_are_recovered_to_1e_8(truth, objective):
    budgets = (1e11, 3e11, 9e11) if truth[0] < 1 else (1e18, 1e19, 1e20)
    s = fit_surface(study(truth, budgets, sizes=6), objective)
    assert s.ok and s.kappa == pytest.approx(6)
    np.testing.assert_allclose([s.E, s.A, s.B, s.alpha, s.beta], truth, rtol=1e-8)


def test_optimum_in_closed_form_is_a_minimum_and_a_power_law():
    parameters = np.array([MINIATURE[0], math.log(40), math.log(60), 0.5, 0.7])
    truth = (0.08, 40.0, 60.0, 0.5, 0.7)
    for budget in (1e11, 1e15, 1e21):
        log_n, log_d, loss = optimum(parameters, 6.0, budget)
        near = np.exp(log_n + np.linspace(-0.1, 0.1, 2001))
        values = loss_of(truth, near, budget / 6 / near)
        assert np.log(near[np.argmin(values)]) == pytest.approx(log_n, abs=1e-4) and loss <= values.min() + 1e-12
        np.testing.assert_allclose([np.exp(log_n), np.exp(log_d), loss], best(truth, budget), rtol=1e-10)
        falls = (loss - 0.08) * (budget / 1e11) ** (0.5 * 0.7 / (0.5 + 0.7))
        assert falls == pytest.approx(best(truth, 1e11)[2] - 0.08, rel=1e-10)


@pytest.mark.parametrize("objective", ["huber", "ls_log"])
def test_no_general_optimiser_finds_a_better_minimum(objective):
    from scipy.optimize import minimize

    table = study(CHINCHILLA, (1e18, 1e19, 1e20), sizes=8, noise=0.01, seed=4)
    s = fit_surface(table, objective)

    def value(p):
        r = np.abs(
            np.log(p[0] + np.exp(p[1]) * table.n_params ** -p[3] + np.exp(p[2]) * table.n_tokens ** -p[4])
            - np.log(table.loss)
        )
        return np.sum(np.where(r < 1e-3, 0.5 * r * r, 1e-3 * (r - 5e-4)) if objective == "huber" else 0.5 * r * r)

    assert value(s.parameters) == pytest.approx(s.objective_value, rel=1e-9)
    others = [
        minimize(value, s.parameters * f, method="Nelder-Mead", options={"maxiter": 4000}).fun for f in (1.0, 1.01)
    ]
    assert s.objective_value <= min(others) * (1 + 1e-7)


def test_huber_shrugs_off_a_diverged_run():
    table = study(noise=0.002, seed=2)
    loss = table.loss.copy()
    loss[5] *= 1.5
    s = fit_surface(Table.of(table.n_params, table.n_tokens, table.budget_flops, loss))
    assert s.optimum(7.2e12)[2] == pytest.approx(best(MINIATURE, 7.2e12)[2], rel=0.02)


@pytest.mark.parametrize("objective", ["huber", "ls", "ls_log"])
def test_batched_refits_equal_single_fits(objective):
    table = study(noise=0.02, seed=5)
    s = fit_surface(table, objective)
    losses = table.loss * np.exp(0.01 * np.random.default_rng(1).standard_normal((3, len(table))))
    for found, loss in zip(refit_surfaces(s, table, Replicates(np.log(losses), None)), losses, strict=True):
        alone = fit_surface(Table.of(table.n_params, table.n_tokens, table.budget_flops, loss), objective)
        target = [optimum(p, 6.0, 1e12)[2] for p in (found, alone.parameters)]
        assert target[0] == pytest.approx(target[1], rel=1e-4)


def test_descent_keeps_its_bounds():
    table = study((0.0, 40.0, 60.0, 0.5, 0.5), noise=0.03, seed=1)
    x, z = np.log(table.n_params), np.log(table.n_tokens)
    result = descend(
        np.tile([0.1, 0.0, 0.0, 0.4, 0.4], (4, 1)),
        np.stack([x - x.mean(), z - z.mean()]),
        np.log(table.loss),
        limits=(0.3, 0.45),
    )
    assert (result.parameters[:, 0] >= 0).all() and (result.parameters[:, 3:] <= 0.45).all() and result.converged.all()


def test_refusals():
    few = fit_surface(study(sizes=5, budgets=(1e11,)))
    assert not few.ok and few.findings[0].code == "too_few_runs"
    one = fit_surface(study(sizes=8, budgets=(1e11,)))
    assert not one.ok and one.findings[0].code == "too_few_budgets"
    n = np.full(12, 1e6)
    one_size = fit_surface(
        Table.of(n, np.geomspace(1e7, 1e9, 12), 6e6 * np.geomspace(1e7, 1e9, 12), np.linspace(3, 2, 12))
    )
    assert not one_size.ok and one_size.findings[0].code == "too_few_runs"
    # The loss bends the wrong way for a floor: E is driven to 0.
    table = study((0.0, 40.0, 60.0, 0.5, 0.5))
    bound = fit_surface(Table.of(table.n_params, table.n_tokens, table.budget_flops, table.loss - 0.02))
    assert bound.ok and bound.E == 0 and bound.findings[0].code == "no_floor"
    no_d = study((0.5, 40.0, 1e-12, 0.5, 0.5), width=4)
    n = np.tile(np.geomspace(1e4, 1e6, 7), 3)
    no_d = Table.of(n, no_d.budget_flops / 6 / n, no_d.budget_flops, 0.5 + 40 * n**-0.5)
    assert "parameter_on_bound" in [f.code for f in fit_surface(no_d).findings]
    with pytest.raises(UserError, match="choose one of: huber"):
        fit_surface(study(), "hubert")


def test_kappa_may_be_given():
    """On a table whose D is counted otherwise, C = kappa N D moves the optimum along the same surface."""
    table = study(CHINCHILLA, (1e18, 1e19, 1e20), sizes=8)
    s = fit_surface(table, kappa=12.0)
    assert s.kappa == 12 and s.optimum(2e21)[0] == pytest.approx(best(CHINCHILLA, 1e21)[0], rel=1e-6)


def test_range_within_a_tenth_of_a_per_cent():
    from scipy.optimize import brentq

    fitted = fit_approach3(study(CHINCHILLA, (1e18, 1e19, 1e20), sizes=8, noise=0.003), "huber", 100, 0)
    s = fitted.surface
    n, _, loss = s.optimum(1e21)
    ends = [
        np.exp(
            brentq(
                lambda x: s.loss_at(np.exp(x), 1e21 / s.kappa / np.exp(x)) - 1.001 * loss, np.log(n), np.log(n) + side
            )
        )
        for side in (-3, 3)
    ]
    low, high = fitted.n_range(1e21)
    assert [low.value, high.value] == pytest.approx(ends, rel=1e-8)
    assert low.low < low.value < low.high < high.low < high.value < high.high
