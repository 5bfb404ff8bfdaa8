"""A metric along the optimum of the loss, against metrics whose law is known."""

import numpy as np
import pytest
from laws_synthetic import MINIATURE, best, loss_of

from ditscale.errors import UserError
from ditscale.laws import Table, fit_trend

BUDGETS = (1e11, 3e11, 9e11, 2.7e12, 8.1e12)


def with_metric(metric, noise=0.0, seed=0, sizes=8, width=4.0, name="fid"):
    """Runs of a known surface, and a metric(N / N*(C), C) of each, with a log-normal scatter of its own."""
    rng = np.random.default_rng(seed)
    ratio = np.tile(np.geomspace(1 / width, width, sizes), len(BUDGETS))
    n = np.concatenate([best(MINIATURE, c)[0] * np.geomspace(1 / width, width, sizes) for c in BUDGETS])
    c = np.repeat(BUDGETS, sizes)
    values = metric(ratio, c) * np.exp(noise * rng.standard_normal(len(n)))
    return Table.of(n, c / 6 / n, c, loss_of(MINIATURE, n, c / 6 / n), columns={name: values})


def tilted(ratio, c):
    """A power law in C that falls with N as well: its own optimum is not the loss's."""
    return 30 * (c / 1e11) ** -0.2 * np.exp(-0.3 * np.log(ratio) + 0.05 * np.log(ratio) ** 2)


def test_a_noise_free_law_is_found():
    found = fit_trend(with_metric(tilted), "fid")
    # the slices' minima are a parabola's, near the surface's own
    assert found.exponent.value == pytest.approx(-0.2, abs=2e-3)
    assert [e.value for e in found.at] == pytest.approx(30 * (np.array(BUDGETS) / 1e11) ** -0.2, rel=0.02)
    assert found.law.chosen == "power_law"
    assert found.predict(1e14).value == pytest.approx(30 * 1e3**-0.2, rel=0.05)
    assert "C^-0.2" in found.sentence


@pytest.mark.slow
def test_intervals_cover():
    hits = []
    for seed in range(60):
        found = fit_trend(with_metric(tilted, 0.05, seed), "fid")
        hits.append(found.exponent.low <= -0.2 <= found.exponent.high)
    assert 0.85 <= np.mean(hits) <= 1.0


def test_a_line_in_log_c_and_values_of_either_sign():
    found = fit_trend(with_metric(lambda ratio, c: 1 - 0.3 * np.log(c / 1e11), name="nll"), "nll")
    assert found.exponent is None and found.law.chosen == "linear_in_log_c"
    assert found.law.at(1e14) == pytest.approx(1 - 0.3 * np.log(1e3), abs=0.01)


def test_a_fid_is_never_forecast_below_zero():
    """Few budgets that fall as a line in log C does, and much scatter: a line would be at -1.3, and a bound would be no
    FID."""
    table = with_metric(lambda ratio, c: 9 - 0.3 * 9 * np.log10(c / 1e11), 0.2, name="fid_coco").take(np.arange(24))
    found = fit_trend(table, "fid_coco")
    assert found.law.chosen == "power_law" and {f.form for f in found.law.forms} == {
        "power_law",
        "power_law_with_floor",
    }
    far = found.predict(1e15)
    assert 0 < far.low < far.value < far.high
    assert all(0 < e.low < e.value < e.high for e in found.at)


def test_refusals():
    table = with_metric(tilted)
    with pytest.raises(UserError, match="read_table"):
        fit_trend(table, "vlb")
    table.columns["fid"][8:] = np.nan
    with pytest.raises(UserError, match="2 usable slices"):
        fit_trend(table, "fid")
