import numpy as np
import pytest

from ditscale.laws.estimates import estimate, f_tail, resample_counts, residual_draws, scheme, t_quantile


def test_quantiles_and_tails_agree_with_scipy_stats():
    from scipy.stats import f, t

    for dof in (1, 2, 7, 30, 200):
        for p in (0.6, 0.975, 0.025):
            assert t_quantile(p, dof) == pytest.approx(t.ppf(p, dof), rel=1e-9)
        assert f_tail(2.3, 3, dof) == pytest.approx(f.sf(2.3, 3, dof), rel=1e-9)


def test_the_scheme_follows_the_size_of_the_slices():
    assert scheme([9, 8, 8]) == "stratified" and scheme([5, 6, 9]) == "residual"


def test_resampling_is_stratified_and_seeded():
    groups = [np.array([0, 2, 4]), np.array([1, 3])]
    counts = resample_counts(groups, 5, 200, seed=7)
    assert (counts[:, groups[0]].sum(1) == 3).all() and (counts[:, groups[1]].sum(1) == 2).all()
    np.testing.assert_array_equal(counts, resample_counts(groups, 5, 200, seed=7))
    assert not np.array_equal(counts, resample_counts(groups, 5, 200, seed=8))
    assert counts.mean(0) == pytest.approx(np.ones(5), abs=0.2)


def test_residual_draws_give_student_t():
    residuals = np.array([1.0, -1.0, 1.0, -1.0, 0.0])
    draws = residual_draws(np.zeros(5), residuals, 2, 40_000, seed=0)[:, 0]
    # s^2 = 4 / 3 with 3 degrees of freedom
    assert np.quantile(draws, 0.975) == pytest.approx(t_quantile(0.975, 3) * np.sqrt(4 / 3), rel=0.04)


def test_estimates_keep_infinite_tails_and_the_value_inside():
    draws = np.concatenate([np.linspace(0, 1, 900), np.full(100, np.inf)])
    e = estimate(0.5, draws)
    assert e.high is None and e.low == pytest.approx(0.027, abs=2e-3) and e.covers(1e9) and not e.covers(-1)
    assert estimate(2.0, np.linspace(0, 1, 100)).high == 2.0
    assert estimate(1.0, np.full(50, np.nan)).low is None
    assert estimate(2.0).to_dict() == {"value": 2.0, "low": None, "high": None}
