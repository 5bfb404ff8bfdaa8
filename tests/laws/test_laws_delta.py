"""Delta-method intervals against linear algebra, scipy's curve_fit and simulation."""

import numpy as np
import pytest
from laws_synthetic import CHINCHILLA, study

from ditscale.laws import fit, fit_approach3, fit_surface
from ditscale.laws.delta import surface_covariance, through

SIX = tuple(np.geomspace(1e18, 1e20, 6))


def test_through_a_linear_map_it_is_exact():
    covariance = np.array([[0.04, 0.01], [0.01, 0.09]])
    found = through(lambda p: {"sum": p[..., 0] + 2 * p[..., 1]}, np.array([1.0, 3.0]), covariance, 1e9)
    half = 1.959964 * np.sqrt(0.04 + 4 * 0.09 + 4 * 0.01)
    assert [found["sum"].low, found["sum"].high] == pytest.approx([7 - half, 7 + half], rel=1e-5)
    positive = through(lambda p: {"loss": np.exp(p[..., 0])}, np.array([1.0, 3.0]), covariance, 1e9)["loss"]
    assert np.log([positive.low, positive.high]) == pytest.approx([1 - 0.392, 1 + 0.392], abs=1e-3)


@pytest.mark.parametrize("objective", ["ls", "ls_log"])
def test_covariance_agrees_with_curve_fit(objective):
    from scipy.optimize import curve_fit

    table = study(CHINCHILLA, SIX, sizes=9, noise=0.005, seed=2)
    s = fit_surface(table, objective)

    def surface(nd, e, log_a, log_b, alpha, beta):
        loss = e + np.exp(log_a - alpha * np.log(nd[0])) + np.exp(log_b - beta * np.log(nd[1]))
        return np.log(loss) if objective == "ls_log" else loss

    y = np.log(table.loss) if objective == "ls_log" else table.loss
    _, theirs = curve_fit(surface, (table.n_params, table.n_tokens), y, p0=s.parameters, method="lm")
    ours = surface_covariance(s, table)
    np.testing.assert_allclose(np.sqrt(np.diag(ours)), np.sqrt(np.diag(theirs)), rtol=0.02)


@pytest.mark.parametrize("noise", [0.001, 0.003, 0.01])
def test_huber_errors_agree_with_simulation(noise):
    """Standard deviation of the exponents over 120 studies, from nearly least squares to nearly least deviations."""
    fits = [fit_surface(study(CHINCHILLA, SIX, sizes=14, noise=noise, seed=k)) for k in range(120)]
    tables = [study(CHINCHILLA, SIX, sizes=14, noise=noise, seed=k) for k in range(0, 120, 6)]
    said = [np.sqrt(np.diag(surface_covariance(s, t)))[3:] for s, t in zip(fits[::6], tables, strict=True)]
    spread = np.std([s.parameters[3:] for s in fits], axis=0)
    np.testing.assert_allclose(np.median(said, axis=0), spread, rtol=0.25)


def test_beside_the_bootstrap():
    """Two routes to the same interval: ends within a third of the width of each other, for every number."""
    laws = fit(study(CHINCHILLA, SIX, sizes=14, noise=0.003, seed=4), targets=["1.5e21"], bootstrap=1000)
    pairs = [(laws.approach2, laws.delta.approach2), (laws.approach3, laws.delta.approach3)]
    pairs.append((laws.predictions["1.5e21"].approach3, laws.delta.predictions["1.5e21"].approach3))
    for resampled, delta in pairs:
        for name, a in vars(resampled).items():
            b, width = getattr(delta, name), np.log(a.high / a.low) if a.low > 0 else None
            ends = [np.log([e.low, e.high]) if width else np.array([e.low, e.high]) for e in (a, b)]
            assert np.abs(ends[0] - ends[1]).max() < 0.34 * abs(width or a.high - a.low), name


def test_bca_is_close_to_percentile_where_nothing_is_skewed_and_covers_the_value():
    table = study(CHINCHILLA, SIX, sizes=14, noise=0.003, seed=4)
    plain, bca = (
        fit_approach3(table, "ls_log", 1000, 0, interval=i).predict(1e21)["loss"] for i in ("percentile", "bca")
    )
    width = plain.high - plain.low
    assert abs(bca.low - plain.low) < 0.25 * width and abs(bca.high - plain.high) < 0.25 * width
    assert bca.low < bca.value < bca.high
