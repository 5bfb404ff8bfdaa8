import dataclasses
import json

import numpy as np
import pytest
from laws_synthetic import MINIATURE, best, study, with_probe

from ditscale.errors import UserError
from ditscale.laws import Table, fit_surface, forecast, load_forecast, seal, verdict
from ditscale.laws.forecast import _widen
from ditscale.laws.forms import Form, choose
from ditscale.laws.hashes import inputs_hash
from ditscale.laws.predictive import profile_interval
from ditscale.laws.uncertainty import Estimate, t_quantile

TARGET = 7.2e12


@pytest.fixture(scope="module")
def table():
    return study(noise=0.01, seed=1, sizes=6)


@pytest.fixture
def sealed(table, tmp_path):
    return seal(tmp_path / "forecast.json", forecast(table, "7.2e12", bootstrap=100))


def test_forecast_of_a_noise_free_study_is_exact():
    f = forecast(study(), TARGET, bootstrap=100)
    n, d, loss = best(MINIATURE, TARGET)
    assert [f.n_params.value, f.n_tokens.value, f.loss.value] == pytest.approx([n, d, loss], rel=1e-6)
    assert f.law == "surface" and f.factor == pytest.approx(8)
    assert [form.law for form in f.forms] == ["surface", "power_law_with_floor", "power_law"]
    assert not f.forms[2].admissible and "reject" in f.forms[2].reasons[0]


def test_profile_interval_is_the_textbook_one_where_the_surface_is_nearly_linear():
    """With little noise the surface is linear within the interval: compare with yhat +- t s sqrt(1 + leverage)."""
    table = study(noise=0.001, seed=3, sizes=7)
    s = fit_surface(table, "ls")
    n, d, _ = best(MINIATURE, TARGET)

    def gradient(n, d):
        u, v = s.A * n**-s.alpha, s.B * d**-s.beta
        parts = [np.ones_like(u), u, v, -u * np.log(n), -v * np.log(d)]
        return np.stack(parts, axis=-1) / (s.E + u + v)[..., None]

    jacobian = gradient(table.n_params, table.n_tokens)
    residuals = s.residuals
    dof = len(table) - 5
    scale = np.sqrt(residuals @ residuals / dof)
    at = np.linalg.lstsq(jacobian.T, gradient(np.array(n), np.array(d)), rcond=None)[0]
    half = t_quantile(0.975, dof) * scale * np.sqrt(1 + at @ at)
    low, high, scatter = profile_interval(table, s, n, d)
    assert scatter == pytest.approx(scale, rel=1e-6)
    middle = np.log(s.loss_at(n, d))
    assert middle - np.log(low) == pytest.approx(half, rel=0.05) and np.log(high) - middle == pytest.approx(
        half, rel=0.05
    )


def test_small_study_coverage_of_the_probe():
    """40 studies at 3 % noise: the binomial 0.1 % limit of 95 % coverage is 33 (the full table is in docs/laws.md)."""
    held = 0
    for seed in range(40):
        f = forecast(study(noise=0.03, seed=seed, sizes=6, width=5), TARGET, bootstrap=40, seed=seed)
        measured = best(MINIATURE, TARGET)[2] * np.exp(0.03 * np.random.default_rng([seed, 99]).standard_normal())
        held += f.loss.covers(measured)
    assert held >= 33


def test_seal_is_written_once(table, sealed, tmp_path):
    path = tmp_path / "forecast.json"
    text = path.read_text()
    assert load_forecast(path) == sealed and sealed.created.endswith("Z")
    assert seal(path, forecast(table, 7.2e12)) == sealed and path.read_text() == text
    # The same study with its probe measured, rows in another order: still the same inputs.
    later = with_probe(table, MINIATURE, TARGET)
    assert seal(path, forecast(later.take(np.arange(len(later))[::-1]), TARGET)) == sealed
    with pytest.raises(UserError, match="never overwritten"):
        seal(path, forecast(table, 9e12))
    with pytest.raises(UserError, match="never overwritten"):
        seal(path, forecast(table.without("row-1", "test"), TARGET))
    assert path.read_text() == text and [p.name for p in tmp_path.iterdir()] == ["forecast.json"]
    with pytest.raises(UserError, match="cannot be written"):
        seal(tmp_path / "absent" / "f.json", forecast(table, TARGET, bootstrap=40))


def test_altered_forecasts_are_refused(sealed, table, tmp_path):
    path = tmp_path / "forecast.json"
    body = json.loads(path.read_text())
    body["loss"]["high"] *= 2
    path.write_text(json.dumps(body))
    with pytest.raises(UserError, match="altered"):
        load_forecast(path)
    with pytest.raises(UserError, match="altered"):
        verdict(dataclasses.replace(sealed, target_budget_flops=8e12), with_probe(table, MINIATURE, TARGET))
    path.write_text("{}")
    with pytest.raises(UserError, match="not a sealed forecast"):
        load_forecast(path)
    path.write_text("no json")
    with pytest.raises(UserError, match="not readable"):
        load_forecast(path)
    with pytest.raises(UserError, match="no such file"):
        load_forecast(tmp_path / "other.json")


def test_hindsight_is_refused(table, tmp_path):
    with pytest.raises(UserError, match="measured already"):
        seal(tmp_path / "late.json", forecast(with_probe(table, MINIATURE, TARGET), TARGET, bootstrap=40))
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="already lies at the target"):
        forecast(table, 9.04e11)
    # A probe that is planned but not measured is no obstacle.
    seal(tmp_path / "f.json", forecast(with_probe(table, MINIATURE, TARGET, loss=np.nan), TARGET, bootstrap=40))
    with pytest.raises(UserError, match="no law can be fitted") as caught:
        forecast(study(sizes=3, budgets=(1e11,)), TARGET)
    assert caught.value.status == 3


def test_verdict_held_and_failed(sealed, table):
    good = verdict(sealed, with_probe(table, MINIATURE, TARGET))
    assert good.inside and good.inputs_unchanged and "The forecast held" in good.sentence
    assert good.relative_error == pytest.approx(best(MINIATURE, TARGET)[2] / sealed.loss.value - 1)
    bad = verdict(sealed, with_probe(table, MINIATURE, TARGET, loss=0.4))
    assert not bad.inside and "FAILED" in bad.sentence and "FAILED" in bad.summary()
    assert {law["law"] for law in bad.by_law} == {"surface", "power_law_with_floor", "power_law"}
    assert json.loads(json.dumps(bad.to_dict(), allow_nan=False))["measured"] == 0.4
    fewer = with_probe(table.take(np.arange(5, len(table))), MINIATURE, TARGET)
    assert not verdict(sealed, fewer).inputs_unchanged


def test_verdicts_that_are_refused(sealed, table):
    with pytest.raises(UserError, match="never sealed"):
        verdict(dataclasses.replace(sealed, sha256=None), with_probe(table, MINIATURE, TARGET))
    with pytest.raises(UserError, match="no run has role probe"):
        verdict(sealed, table)
    with pytest.raises(UserError, match="more than 1 % off"):
        verdict(sealed, with_probe(table, MINIATURE, 1.03 * TARGET))
    with pytest.raises(UserError, match="saw the probe"):
        verdict(sealed, with_probe(table, MINIATURE, TARGET), run_id="row-1")
    with pytest.raises(UserError, match="saw the probe"):
        verdict(sealed, with_probe(table.take(np.arange(1, 18)), MINIATURE, TARGET, run_id="row-1"))
    with pytest.raises(UserError, match="no measured"):
        verdict(sealed, with_probe(table, MINIATURE, TARGET, loss=np.nan))
    with pytest.raises(UserError, match="same metric"):
        verdict(sealed, dataclasses.replace(with_probe(table, MINIATURE, TARGET), metric="fid"))


def test_inputs_hash_sees_every_number_but_not_the_order(table):
    base = inputs_hash(table)
    assert inputs_hash(table.take(np.arange(len(table))[::-1])) == base
    loss = table.loss.copy()
    loss[3] = np.nextafter(loss[3], 1)
    assert inputs_hash(Table.of(table.n_params, table.n_tokens, table.budget_flops, loss)) != base


def test_rule_of_choice():
    def form(name, error, se, admissible=True):
        return Form(name, Estimate(1.0, 0.9, 1.1), error, se, admissible, ())

    forms = [form("surface", 0.03, 0.005), form("power_law_with_floor", 0.001, 0.004), form("power_law", 0.002, 0.001)]
    by = {f.law: f for f in forms}
    assert choose(by)[0] == "power_law_with_floor"
    by["surface"] = form("surface", 0.008, 0.005)
    assert choose(by)[0] == "surface"
    by["surface"] = form("surface", None, None, admissible=False)
    by["power_law_with_floor"] = form("power_law_with_floor", 0.03, 0.005)
    assert choose(by)[0] == "power_law"


def test_interval_is_widened_for_a_missed_held_out_budget_and_for_other_forms():
    alone = {"surface": Form("surface", Estimate(1.0, 0.8, 1.25), None, None, True, ())}
    assert _widen(alone, "surface")[0] == alone["surface"].loss
    missed = {"surface": dataclasses.replace(alone["surface"], held_out_error=-0.1, held_out_se=0.05)}
    wider, why = _widen(missed, "surface")
    assert wider.low == pytest.approx(0.8) and np.log(wider.high) == pytest.approx(
        np.hypot(np.log(1.25), np.log(1 / 0.9))
    )
    assert why["held_out"][0] == 0 and why["other_forms"] == [0, 0]
    other = Form("power_law", Estimate(1.5, 1.3, 1.7), None, None, True, ())
    assert _widen(alone | {"power_law": other}, "surface")[1]["other_forms"] == [0, pytest.approx(np.log(1.3))]
    assert _widen(alone | {"power_law": dataclasses.replace(other, admissible=False)}, "surface")[0].high == 1.25
