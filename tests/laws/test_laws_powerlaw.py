import json

import numpy as np
import pytest
from laws_synthetic import CHINCHILLA, study

from ditscale.laws import Table, fit, fit_approach2
from ditscale.laws.minima.line import line

C = np.array([1e17, 3e17, 6e17, 1e18, 3e18, 6e18])


def test_a_line_is_that_of_the_textbook():
    assert line(np.log(C), np.log(0.0009 * C**0.5681)) == pytest.approx([np.log(0.0009), 0.5681], abs=1e-11)
    y = 0.5 * np.log(C) + 0.1 * np.random.default_rng(0).standard_normal(6)
    assert line(np.log(C), y)[::-1] == pytest.approx(np.polyfit(np.log(C), y, 1))
    w = np.array([1.0, 2, 3, 1, 5, 0.5])
    assert line(np.log(C), y, w)[::-1] == pytest.approx(np.polyfit(np.log(C), y, 1, w=np.sqrt(w)))


def test_lines_leave_out_missing_points():
    y = np.stack([2 + 0.5 * np.log(C)] * 3)
    y[1, 2] = np.nan
    y[2, 1:] = np.nan
    found = line(np.log(C), y)
    np.testing.assert_allclose(found[:2], [[2, 0.5]] * 2, rtol=1e-10)
    assert np.isnan(found[2]).all()


def test_laws_go_through_the_minima_as_numpy_says():
    two = fit_approach2(study(CHINCHILLA, tuple(C), sizes=9, noise=0.003), bootstrap=0)
    at, found = two.predict(1e21), two.coefficients()
    for name, law in (("n_params", "model"), ("n_tokens", "data"), ("loss", "loss")):
        exponent, log_k = np.polyfit(np.log(C), np.log([getattr(p, name) for p in two.accepted]), 1)
        assert found[f"{law}_exponent"].value == pytest.approx(exponent)
        assert at[name].value == pytest.approx(np.exp(log_k + exponent * np.log(1e21)))


def test_a_metric_of_either_sign_gets_a_line_and_no_surface():
    """A negative log-likelihood that crosses zero: N* and D* as ever, the value by a line in log C."""
    table = study(CHINCHILLA, tuple(np.geomspace(1e18, 1e20, 6)), sizes=9)
    shifted = Table.of(table.n_params, table.n_tokens, table.budget_flops, table.loss - 2.6, metric="nll")
    laws = fit(shifted, targets=["1e21"], bootstrap=100)
    found = json.loads(json.dumps(laws.to_dict(), allow_nan=False))
    assert laws.approach2 and not laws.approach3 and laws.given
    assert found["approach2"]["loss_exponent"] is None and found["approach3"] is None
    slope, height = np.polyfit(np.log(laws.budgets), [s.loss for s in laws.slices], 1)
    assert laws.predictions["1e21"].approach2.loss.value == pytest.approx(height + slope * np.log(1e21))
    assert "metric_not_positive" in {f.code for f in laws.findings}
    plain = fit(table, bootstrap=0)
    assert laws.approach2.model_exponent.value == pytest.approx(plain.approach2.model_exponent.value, abs=1e-9)
    assert "metric_not_positive" in laws.summary()
