"""The choice of form: exact recovery, AICc against its textbook formula, and how often the truth is chosen."""

import json
import math

import numpy as np
import pytest
from laws_synthetic import CHINCHILLA, study

from ditscale.laws import Table, fit, metric_law
from ditscale.laws.minima.metric_law import Errors

C = np.geomspace(1e17, 1e20, 8)
TRUTHS = {
    "power_law": 2.2566e6 * C**-0.234,
    "power_law_with_floor": 3.0 + 2.2566e6 * C**-0.234,
    "linear_in_log_c": 30.0 - 0.5 * np.log(C),
}


@pytest.mark.parametrize("name", TRUTHS)
def test_each_form_is_recovered_and_chosen(name):
    law = metric_law(C, TRUTHS[name])
    assert law.chosen == name and law.why
    fitted = next(f for f in law.forms if f.form == name)
    # The floor's exponent comes from a golden section, good to half the digits.
    np.testing.assert_allclose(fitted.at(C), TRUTHS[name], rtol=1e-7)
    wanted = {
        "power_law": [math.log(2.2566e6), -0.234],
        "power_law_with_floor": [3.0, math.log(2.2566e6), -0.234],
        "linear_in_log_c": [30.0, -0.5],
    }[name]
    np.testing.assert_allclose(list(fitted.parameters.values()), wanted, rtol=1e-4)
    json.dumps(law.to_dict(), allow_nan=False)


def test_aicc_is_the_textbook_one():
    y = TRUTHS["power_law"] * np.exp(0.02 * np.random.default_rng(0).standard_normal(8))
    law = metric_law(C, y)
    for form in law.forms:
        k = len(form.parameters) + 1
        rss = float(np.sum((form.at(C) / y - 1) ** 2))
        assert form.aicc == pytest.approx(8 * math.log(rss / 8) + 2 * k + 2 * k * (k + 1) / (8 - k - 1))


def test_held_out_error_is_that_of_a_fit_without_the_largest_budget():
    y = TRUTHS["power_law"] * np.exp(0.02 * np.random.default_rng(0).standard_normal(8))
    (form,) = (f for f in metric_law(C, y).forms if f.form == "power_law")
    slope, height = np.polyfit(np.log(C[:-1]), np.log(y[:-1]), 1)
    assert form.held_out_error == pytest.approx(math.exp(height + slope * math.log(C[-1])) / y[-1] - 1)


@pytest.mark.parametrize("name", ["power_law", "power_law_with_floor"])
def test_with_known_errors_the_truth_is_chosen(name):
    """A floor of a third of the value, 1 % noise: the pure law must lose nearly always, and win where it is true."""
    c = np.geomspace(1e17, 6e18, 6)
    truth = 30.0 * (c / 1e18) ** -0.2 + (15.0 if name == "power_law_with_floor" else 0.0)
    rng = np.random.default_rng(1)
    right = 0
    for _ in range(200):
        y = truth * np.exp(0.005 * rng.standard_normal(6))
        law = metric_law(c, y, ("power_law", "power_law_with_floor"), Errors(0.005 * y, 60))
        right += law.chosen == name
    assert right >= 160


def test_choosing_again_keeps_the_uncertainty_of_the_choice():
    c = np.geomspace(1e17, 6e18, 6)
    y = 30.0 * (c / 1e18) ** -0.2 * np.exp(0.01 * np.random.default_rng(5).standard_normal(6))
    law = metric_law(c, y, errors=Errors(0.01 * y, 60))
    draws = law.refit(y * np.exp(0.01 * np.random.default_rng(6).standard_normal((500, 6))))
    assert len(set(draws.pick)) > 1
    at = draws.at(1e20)
    assert at.min() < law.at(1e20) < at.max()


def test_few_budgets_and_values_that_are_not_positive():
    two = metric_law(C[:2], TRUTHS["power_law"][:2])
    assert two.chosen == "power_law" and "2 budgets" in two.why
    three = metric_law(C[:3], TRUTHS["power_law_with_floor"][:3])
    assert three.chosen != "power_law_with_floor" and any("cannot show a floor" in f.reason for f in three.forms)
    signed = metric_law(C, 3.0 - 0.08 * np.log(C))
    assert [f.form for f in signed.forms] == ["linear_in_log_c"] and signed.at(1e22) == pytest.approx(
        3 - 0.08 * math.log(1e22)
    )
    with pytest.raises(ValueError, match="2 budgets"):
        metric_law(C[:1], [1.0])
    with pytest.raises(ValueError, match="rise"):
        metric_law(C[::-1], TRUTHS["power_law"])


def test_a_metric_of_either_sign_gets_a_line_and_no_surface():
    """A negative log-likelihood that crosses zero: N* and D* as ever, the value by a line in log C."""
    table = study(CHINCHILLA, tuple(np.geomspace(1e18, 1e20, 6)), sizes=9)
    shifted = Table.of(table.n_params, table.n_tokens, table.budget_flops, table.loss - 2.6, metric="nll")
    laws = fit(shifted, targets=["1e21"], bootstrap=100)
    found = json.loads(json.dumps(laws.to_dict(), allow_nan=False))
    assert laws.approach2 and not laws.approach3 and laws.given
    assert found["approach2"]["loss_exponent"] is None and found["approach3"] is None
    assert found["loss_law"]["chosen"] == "linear_in_log_c"
    assert "metric_not_positive" in {f.code for f in laws.findings}
    plain = fit(table, bootstrap=0)
    assert laws.approach2.model_exponent.value == pytest.approx(plain.approach2.model_exponent.value, abs=1e-9)
    assert "metric_not_positive" in laws.summary()
