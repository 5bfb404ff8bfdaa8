"""A metric along the optimum of the loss, against metrics whose law is known."""

from dataclasses import replace

import numpy as np
import pytest
from laws_synthetic import MINIATURE, best, loss_of

from ditscale.errors import UserError
from ditscale.laws import Table, fit_trend, predictor

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
    assert found.exponent.value == pytest.approx(-0.2, abs=1e-4)
    assert [e.value for e in found.at] == pytest.approx(30 * (np.array(BUDGETS) / 1e11) ** -0.2, rel=1e-3)
    assert found.predict(1e14).value == pytest.approx(30 * 1e3**-0.2, rel=1e-3)
    assert found.budgets == pytest.approx(BUDGETS) and "C^-0.2" in found.sentence


@pytest.mark.slow
def test_intervals_cover():
    hits = []
    for seed in range(60):
        found = fit_trend(with_metric(tilted, 0.05, seed), "fid")
        hits.append(found.exponent.low <= -0.2 <= found.exponent.high)
    assert 0.85 <= np.mean(hits) <= 1.0


@pytest.mark.parametrize("sign", [1, -1])
def test_values_of_either_sign_have_no_exponent(sign):
    """A likelihood that crosses zero, lower (nll) or higher is better."""

    def metric(ratio, c):
        return sign * (2e3 * c**-0.3 + 0.02 * np.log(ratio) ** 2 - 0.6)

    found = fit_trend(with_metric(metric, name="nll"), "nll")
    assert found.exponent is None
    assert [e.value for e in found.at] == pytest.approx([metric(1, c) for c in BUDGETS], abs=0.002)
    assert found.predict(1e14).value == pytest.approx(metric(1, 1e14), abs=0.01)


def test_where_the_loss_has_its_optimum_is_not_known_either():
    """A metric that is steep in N, without noise of its own: what is not known of it is where to read it."""
    table = with_metric(lambda ratio, c: 30 * (c / 1e11) ** -0.2 * ratio**-0.5)
    steep = fit_trend(table, "fid").at[0]
    noisy = table.loss * np.exp(0.01 * np.random.default_rng(0).standard_normal(len(table)))
    loose = fit_trend(replace(table, loss=noisy), "fid").at[0]
    place = predictor(replace(table, loss=noisy)).optimum(BUDGETS[0]).n_params
    assert loose.high / loose.low > 10 * steep.high / steep.low - 9
    assert np.log(loose.high / loose.low) == pytest.approx(0.5 * np.log(place.high / place.low), rel=0.2)


def test_a_fid_is_never_forecast_below_zero():
    """Few budgets that fall as a line in log C does, and much scatter: a line would be at -1.3, and a bound would be no
    FID."""
    table = with_metric(lambda ratio, c: 9 - 0.3 * 9 * np.log10(c / 1e11), 0.2, name="fid_coco").take(np.arange(24))
    found = fit_trend(table, "fid_coco")
    far = found.predict(1e15)
    assert 0 < far.low < far.value < far.high
    assert all(0 < e.low < e.value < e.high for e in found.at)


def test_refusals():
    table = with_metric(tilted)
    with pytest.raises(UserError, match="read_table"):
        fit_trend(table, "vlb")
    table.columns["fid"][8:] = np.nan
    with pytest.raises(UserError, match="8 runs at 1 budget") as caught:
        fit_trend(table, "fid")
    assert caught.value.status == 3
    one_ratio = replace(table, n_tokens=20 * table.n_params, budget_flops=120 * table.n_params**2)
    one_ratio.columns["fid"][:] = 3.0
    with pytest.raises(UserError, match="no trend of fid.*do not determine") as caught:
        fit_trend(one_ratio, "fid")
    assert caught.value.status == 3
