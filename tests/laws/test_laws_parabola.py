import numpy as np
import pytest
from laws_synthetic import best, study

from ditscale.laws import Table, fit_parabola
from ditscale.laws.minima.parabola import refit


def slice_of(x, y, budget=1e17):
    n = np.exp(np.asarray(x, dtype=float))
    return Table.of(n, budget / 6 / n, np.full(len(n), budget), y)


def test_exact_parabola_of_log_loss_is_recovered():
    x = np.linspace(13, 17, 7)
    p = fit_parabola(slice_of(x, np.exp(0.7 + 0.03 * (x - 15.2) ** 2)), np.arange(7), "log")
    assert p.ok and not p.findings
    assert np.log(p.n_params) == pytest.approx(15.2, abs=1e-10)
    assert p.loss == pytest.approx(np.exp(0.7), rel=1e-12)
    assert p.curvature == pytest.approx(0.03, rel=1e-10)
    assert p.n_tokens == pytest.approx(1e17 / 6 / p.n_params, rel=1e-9)
    # log 1.001 = 0.03 h^2
    half = np.sqrt(np.log(1.001) / 0.03)
    np.testing.assert_allclose(np.log(p.n_range), [15.2 - half, 15.2 + half], rtol=1e-10)


@pytest.mark.parametrize("response", ["log", "raw"])
def test_agrees_with_polyfit(response):
    table = study(noise=0.02, seed=3)
    rows = table.slices()[1][1]
    p = fit_parabola(table, rows, response)
    y = np.log(table.loss[rows]) if response == "log" else table.loss[rows]
    c2, c1, c0 = np.polyfit(np.log(table.n_params[rows]), y, 2)
    height = c0 - c1**2 / (4 * c2)
    assert np.log(p.n_params) == pytest.approx(-c1 / (2 * c2), rel=1e-9)
    assert p.loss == pytest.approx(np.exp(height) if response == "log" else height, rel=1e-9)
    curve = np.polyval([c2, c1, c0], np.log(2 * table.n_params[rows]))
    expected = np.exp(curve) if response == "log" else curve
    np.testing.assert_allclose(p.result().loss_at(2 * table.n_params[rows]), expected, rtol=1e-9)
    d2, d1, _ = np.polyfit(np.log(table.n_tokens[rows]), y, 2)
    assert np.log(p.n_tokens) == pytest.approx(-d1 / (2 * d2), rel=1e-9)


def test_a_slice_without_a_minimum_has_no_curve():
    x = np.linspace(13, 17, 7)
    p = fit_parabola(slice_of(x, 2 - 0.01 * (x - 15) ** 2), np.arange(7))
    assert not p.ok and np.isnan(p.result().loss_at(1e6))


def test_delta_method_agrees_with_monte_carlo():
    table = study(noise=0.005, seed=1, sizes=9)
    p = fit_parabola(table, table.slices()[0][1])
    scale = np.sqrt(np.sum(p.residuals**2) / 6)
    rng = np.random.default_rng(0)
    log_n, loss = [], []
    for _ in range(3000):
        c2, c1, c0 = np.polyfit(np.log(table.n_params[p.rows] / p.center), p.fitted + scale * rng.standard_normal(9), 2)
        log_n.append(-c1 / (2 * c2))
        loss.append(c0 - c1**2 / (4 * c2))
    assert p.log_n_se == pytest.approx(np.std(log_n), rel=0.06)
    assert p.loss_se == pytest.approx(np.std(loss), rel=0.06)


def test_refits_are_those_of_polyfit():
    x, y = np.linspace(-1, 1, 6), np.random.default_rng(0).standard_normal((5, 6))
    np.testing.assert_allclose(refit(x, y)[:, ::-1].T, np.polyfit(x, y.T, 2), atol=1e-9)


X = np.linspace(-2, 2, 7) + 15
WIGGLE = 1e-4 * np.array([1, -1, 1, -1, 1, -1, 1])


@pytest.mark.parametrize(
    ("x", "y", "code", "ok"),
    [
        (X, 3 - 0.05 * (X - 15) ** 2, "parabola_downward", False),
        (X, 3 + 0.004 * (X - 15) ** 2 + 500 * WIGGLE, "parabola_flat", True),
        (X, 3 + 0.05 * (X - 18) ** 2 + WIGGLE, "minimum_outside", False),
        (X[:3], 3 + 0.05 * (X[:3] - 14) ** 2, "too_few_runs", False),
        ([14, 14, 15, 15, 16, 16], [3.1, 3.11, 3, 3.01, 3.1, 3.12], "too_few_runs", False),
        (X, 3 + 0.05 * (X - 16.6) ** 2 + WIGGLE, "minimum_at_edge", True),
        (np.linspace(13, 17, 14), 3 + 0.05 * (np.linspace(13, 17, 14) - 13.8) ** 2, "one_sided_grid", True),
        (np.linspace(12, 18, 9), 3 + 0.05 * (np.linspace(12, 18, 9) - 15) ** 2, "wide_grid", True),
    ],
)
def test_refusals_and_warnings(x, y, code, ok):
    p = fit_parabola(slice_of(x, np.asarray(y)), np.arange(len(x)))
    assert p.ok is ok and code in [f.code for f in p.findings]
    assert all("\n" not in reason for reason in p.result().reasons) and len(p.result().reasons) == len(p.findings)
    assert p.result().status == ("ok" if ok else "refused")


def test_clean_slice_has_no_findings():
    table = study()
    for budget, rows in table.slices():
        p = fit_parabola(table, rows)
        assert p.ok and not p.findings
        assert p.n_params == pytest.approx(best((0.08, 40.0, 60.0, 0.5, 0.5), budget)[0], rel=0.01)
