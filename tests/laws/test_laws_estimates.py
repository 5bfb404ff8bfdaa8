import numpy as np
import pytest

from ditscale.laws.estimates import estimate, f_tail, residual_draws, t_quantile


def test_quantiles_and_tails_agree_with_scipy_stats():
    from scipy.stats import f, t

    for dof in (1, 2, 7, 30, 200):
        for p in (0.6, 0.975, 0.025):
            assert t_quantile(p, dof) == pytest.approx(t.ppf(p, dof), rel=1e-9)
        assert f_tail(2.3, 3, dof) == pytest.approx(f.sf(2.3, 3, dof), rel=1e-9)


def test_residual_draws_give_student_t():
    residuals = np.array([1.0, -1.0, 1.0, -1.0, 0.0])
    draws = residual_draws(np.zeros(5), residuals, 2, 40_000, seed=0)[:, 0]
    # s^2 = 4 / 3 with 3 degrees of freedom
    again, other = (residual_draws(np.zeros(5), residuals, 2, 40_000, seed=seed)[:, 0] for seed in (0, 1))
    assert (draws == again).all() and (draws != other).any()
    assert np.quantile(draws, 0.975) == pytest.approx(t_quantile(0.975, 3) * np.sqrt(4 / 3), rel=0.04)


def test_estimates_keep_infinite_tails_and_the_value_inside():
    draws = np.concatenate([np.linspace(0, 1, 900), np.full(100, np.inf)])
    e = estimate(0.5, draws)
    assert e.high is None and e.low == pytest.approx(0.027, abs=2e-3) and e.covers(1e9) and not e.covers(-1)
    assert estimate(2.0, np.linspace(0, 1, 100)).high == 2.0
    assert estimate(1.0, np.full(50, np.nan)).low is None
    assert estimate(2.0).to_dict() == {"value": 2.0, "low": None, "high": None}
