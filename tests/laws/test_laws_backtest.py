"""Backtests: which budgets are held out, errors against fits made by hand, and intervals that hold."""

import numpy as np
import pytest
from laws_synthetic import CHINCHILLA, study

from ditscale.laws import fit, fit_approach2, fit_surface

SIX = tuple(np.geomspace(1e18, 1e20, 6))


def test_every_budget_among_the_largest_is_held_out_while_two_remain():
    table = study(CHINCHILLA, SIX, sizes=9, noise=0.002)
    tests = fit(table, bootstrap=100).backtests
    assert [(b.held_out, round(np.log10(b.budget_flops), 1)) for b in tests] == [
        (1, 20), (2, 19.6), (2, 20), (3, 19.2), (3, 19.6), (3, 20), (4, 18.8), (4, 19.2), (4, 19.6), (4, 20),
    ]  # fmt: skip
    assert all(b.factor == pytest.approx(b.budget_flops / SIX[-b.held_out - 1]) for b in tests)
    # Two budgets are left: errors, but no intervals.
    assert all((b.approach3.covered is None) == (b.held_out == 4) for b in tests)
    assert len(fit(study(CHINCHILLA, SIX[:4], sizes=9), bootstrap=0).backtests) == 3


def test_errors_are_those_of_a_fit_to_the_rest():
    table = study(CHINCHILLA, SIX, sizes=9, noise=0.002)
    b = next(b for b in fit(table, bootstrap=0).backtests if b.held_out == 2 and b.budget_flops == SIX[-1])
    rest = table.take(table.budget_flops < 0.9 * SIX[-2])
    surface = fit_surface(rest)
    held = table.take(table.budget_flops == SIX[-1])
    errors = surface.loss_at(held.n_params, held.n_tokens) / held.loss - 1
    assert b.approach3.row_error == pytest.approx(np.abs(errors).mean())
    assert b.approach3.row_bias == pytest.approx(errors.mean())
    own = fit_approach2(table, bootstrap=0).slices[-1]
    assert b.measured_loss == own.loss and b.measured_n_params == own.n_params
    n, _, loss = surface.optimum(SIX[-1])
    assert b.approach3.n_params_ratio == pytest.approx(n / own.n_params)
    assert b.approach3.loss_error == pytest.approx(loss / own.loss - 1)
    two = fit_approach2(rest, bootstrap=0)
    assert b.approach2.n_params_ratio == pytest.approx(two.predict(SIX[-1])["n_params"].value / own.n_params)


@pytest.mark.slow
def test_intervals_hold_the_held_out_budget():
    """The surface is the truth: its intervals and the answer's for the held-out largest budget cover."""
    held = []
    for seed in range(30):
        table = study(CHINCHILLA, SIX, sizes=10, noise=0.003, seed=seed)
        said = fit(table, bootstrap=200, seed=seed).backtest
        held.append([said.approach3.covered, said.answer.covered])
    # P(fewer than 24 of 30 | p = 0.95) is about 1e-3
    assert min(map(sum, zip(*held, strict=True))) >= 24


def test_why_there_is_none():
    def said(table):
        laws = fit(table, bootstrap=50)
        assert not laws.backtests and laws.backtest is None
        return next(f.message for f in laws.findings if f.code == "backtest_not_possible")

    assert "too few" in said(study(CHINCHILLA, SIX[:2], sizes=9))
    assert "no usable minimum" in said(study(CHINCHILLA, SIX, sizes=9, off=40.0))
