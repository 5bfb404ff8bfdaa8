"""Robust regressions against a grid search of the same objective, and a diverged run that must not move the fit."""

import numpy as np
import pytest
from laws_synthetic import CHINCHILLA, best, study

from ditscale.laws import Table, fit_approach2, fit_parabola, power_law
from ditscale.laws.minima.robust import TUNING, bisquare, trimmed

SIX = tuple(np.geomspace(1e18, 1e20, 6))


def rho(u):
    """Tukey's bisquare loss, in units of TUNING^2 / 6."""
    return np.where(np.abs(u) < 1, 1 - (1 - np.minimum(u * u, 1)) ** 3, 1.0)


def test_trimming_finds_the_point_that_costs_most():
    rng = np.random.default_rng(0)
    basis = np.stack([np.ones(9), np.linspace(-1, 1, 9), np.linspace(-1, 1, 9) ** 2], axis=1)
    for bad in range(9):
        y = basis @ [1.0, 0.2, 0.5] + 1e-3 * rng.standard_normal(9)
        y[bad] += 0.3
        without = np.delete(np.arange(9), bad)
        np.testing.assert_allclose(trimmed(basis, y), np.linalg.lstsq(basis[without], y[without], rcond=None)[0])


def test_bisquare_is_the_minimum_of_its_objective():
    from scipy.optimize import minimize

    rng = np.random.default_rng(1)
    x = np.linspace(-1, 1, 12)
    basis = np.stack([np.ones(12), x, x * x], axis=1)
    y = basis @ [2.0, -0.3, 0.7] + 0.05 * rng.standard_normal(12)
    y[2] += 0.4
    found, weights = bisquare(basis, y, 0.05, trimmed(basis, y), steps=200)
    other = minimize(lambda c: rho((y - basis @ c) / (TUNING * 0.05)).sum(), found[0] + 0.02, method="Nelder-Mead",
                     options={"xatol": 1e-9, "fatol": 1e-14, "maxiter": 5000})  # fmt: skip
    np.testing.assert_allclose(found[0], other.x, atol=1e-6)
    assert weights[0, 2] == 0 and (np.delete(weights[0], 2) > 0.2).all()


def test_on_clean_normal_data_it_is_near_least_squares():
    table = study(CHINCHILLA, SIX, sizes=14, noise=0.003, seed=3)
    plain, robust = fit_approach2(table, bootstrap=0), fit_approach2(table, bootstrap=0, robust=True)
    assert robust.model.exponent == pytest.approx(plain.model.exponent, abs=0.01)
    # 95 % efficient: the errors of the vertices are alike too.
    for a, b in zip(plain.slices, robust.slices, strict=True):
        assert b.log_n_se == pytest.approx(a.log_n_se, rel=0.6)


@pytest.mark.parametrize("place", [0, 3, 8])
def test_a_diverged_run_does_not_move_the_vertex(place):
    clean = study(CHINCHILLA, SIX, sizes=9, noise=0.001, seed=1)
    loss = clean.loss.copy()
    loss[9 * 2 + place] *= 1.3
    table = Table.of(clean.n_params, clean.n_tokens, clean.budget_flops, loss)
    laws = fit_approach2(table, bootstrap=200, robust=True)
    n_star, _, _ = best(CHINCHILLA, SIX[2])
    assert laws.slices[2].n_params == pytest.approx(n_star, rel=0.05)
    assert laws.coefficients()["model_exponent"].covers(fit_approach2(clean, bootstrap=0).model.exponent)
    plain = fit_parabola(table, table.slices()[2][1])
    assert np.isnan(plain.n_params) or abs(np.log(plain.n_params / n_star)) > 0.2


def test_power_law_shrugs_off_one_slice():
    c = np.geomspace(1e17, 1e20, 7)
    y = 0.1 * c**0.5 * np.exp(1e-3 * np.random.default_rng(0).standard_normal(7))
    y[5] *= 2
    assert power_law(c, y, robust=True).exponent == pytest.approx(0.5, abs=2e-3)
    assert abs(power_law(c, y).exponent - 0.5) > 0.01
    # Four points cannot outvote one: there it is the plain line.
    assert power_law(c[:4], y[:4], robust=True).exponent == power_law(c[:4], y[:4]).exponent
