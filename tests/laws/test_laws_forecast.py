import dataclasses
import hashlib
import json

import numpy as np
import pytest
from ditscale.laws.sealed.forms import Form, admissible, mixture, widened
from ditscale.laws.sealed.prediction_interval import profile_interval
from laws_synthetic import MINIATURE, best, study, with_probe

from ditscale.errors import UserError
from ditscale.laws import Table, fit_surface, forecast, load_forecast, seal, verdict
from ditscale.laws.estimates import Estimate, t_quantile
from ditscale.laws.sealed.forecast import inputs_hash

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
    assert [f.n_params.value, f.n_tokens.value, f.forms[0].loss.value] == pytest.approx([n, d, loss], rel=1e-6)
    assert f.loss.value == pytest.approx(loss, rel=5e-3) and f.factor == pytest.approx(8)
    assert [form.law for form in f.forms] == ["surface", "power_law_with_floor", "power_law"]
    assert not f.forms[2].admissible and "reject" in f.forms[2].reasons[0]


def test_profile_interval_is_the_textbook_one_where_the_surface_is_nearly_linear():
    """With little noise the surface is linear within the interval: compare with yhat +- t s sqrt(1 + leverage)."""
    table = study(noise=0.001, seed=3, sizes=7)
    s = fit_surface(table, "ls_log")
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


@pytest.mark.slow
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
    path.write_text(json.dumps(body | {"loss": {"value": float("nan"), "low": None, "high": None}}))
    with pytest.raises(UserError, match="altered"):
        load_forecast(path)
    path.write_text(json.dumps(body | {"layout": 1}))
    with pytest.raises(UserError, match="layout 1"):
        load_forecast(path)
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


def test_a_budget_that_is_not_beyond_the_grid_is_refused(table):
    for budget in (6e11, 8.7e11):
        with pytest.raises(UserError, match=r"not above the largest budget of its runs, 9e11; .* example 7.2e12"):
            forecast(table, budget, bootstrap=40)


def test_an_optimum_that_no_size_speaks_for_is_said(tmp_path):
    def unseen(table, target=TARGET):
        made = forecast(table, target, bootstrap=40)
        return made, [f.message for f in made.findings if f.code == "optimum_unseen"]

    assert unseen(study())[1] == [] and unseen(study(off=0.3), 9e14)[1] == []
    made, (below, none) = unseen(study(off=30.0, width=2))
    assert "lies below all of the grid's sizes" in below and "none of the 3 slices has a usable minimum" in none
    assert f"warning: optimum_unseen: {below}" in made.summary()
    assert seal(tmp_path / "f.json", made) == load_forecast(tmp_path / "f.json")
    above, _ = unseen(study(off=1 / 60, width=2))[1]
    assert "above all of the grid's sizes" in above and "for a budget only 8x their largest" in above


def test_verdict_held_and_failed(sealed, table):
    good = verdict(sealed, with_probe(table, MINIATURE, TARGET))
    assert good.inside and good.inputs_unchanged and "The forecast held" in good.sentence
    assert good.relative_error == pytest.approx(best(MINIATURE, TARGET)[2] / sealed.loss.value - 1)
    bad = verdict(sealed, with_probe(table, MINIATURE, TARGET, loss=0.4))
    assert not bad.inside and "FAILED" in bad.sentence and "FAILED" in bad.summary()
    assert {law.law for law in bad.by_law} == {"surface", "power_law_with_floor", "power_law"}
    assert json.loads(json.dumps(bad.to_dict(), allow_nan=False))["measured"] == 0.4
    fewer = with_probe(table.take(np.arange(5, len(table))), MINIATURE, TARGET)
    assert not verdict(sealed, fewer).inputs_unchanged


def test_verdicts_that_are_refused(sealed, table):
    with pytest.raises(UserError, match="never sealed"):
        verdict(dataclasses.replace(sealed, sha256=None), with_probe(table, MINIATURE, TARGET))
    with pytest.raises(UserError, match="no run has role probe or lies at the target"):
        verdict(sealed, table)
    with pytest.raises(UserError, match="more than 1 % off"):
        verdict(sealed, with_probe(table, MINIATURE, 1.03 * TARGET))
    with pytest.raises(UserError, match="saw the probe"):
        verdict(sealed, with_probe(table, MINIATURE, TARGET), run_id="row-1")
    with pytest.raises(UserError, match="saw the probe"):
        verdict(sealed, with_probe(table.take(np.arange(1, 18)), MINIATURE, TARGET, run_id="row-1"))
    with pytest.raises(UserError, match="2 runs lie at the target; name one by --run: probe, twin"):
        verdict(sealed, with_probe(with_probe(table, MINIATURE, TARGET), MINIATURE, TARGET, run_id="twin"))
    with pytest.raises(UserError, match="no measured"):
        verdict(sealed, with_probe(table, MINIATURE, TARGET, loss=np.nan))
    with pytest.raises(UserError, match="same metric"):
        verdict(sealed, dataclasses.replace(with_probe(table, MINIATURE, TARGET), metric="fid"))


def test_a_probe_under_another_name_or_role_is_known_again(table, tmp_path):
    """The row of the probe was among the inputs: as a grid run, at another budget's side, or renamed."""
    seen = with_probe(table, MINIATURE, TARGET / 2, loss=0.14, run_id="big")
    seen = dataclasses.replace(seen, role=np.array(["grid"] * len(seen), dtype=object))
    made = seal(tmp_path / "f.json", forecast(seen, TARGET, bootstrap=40))
    row = next(r for r in made.inputs.rows if r.run_id == "big")
    # The same run, said to have had the target's budget, under its own name ...
    moved = dataclasses.replace(seen, budget_flops=np.where(seen.run_id == "big", TARGET, seen.budget_flops))
    with pytest.raises(UserError, match="saw the probe: run big is among"):
        verdict(made, moved, "big")
    # ... and unchanged, under a new one.
    renamed = dataclasses.replace(seen, run_id=np.where(seen.run_id == "big", "new", seen.run_id))
    with pytest.raises(UserError, match="saw the probe: its input big has the very numbers of run new"):
        verdict(made, renamed, "new")
    assert row.loss == 0.14
    with pytest.raises(UserError, match="run big already lies at the target"):
        forecast(moved, TARGET, bootstrap=40)


def test_an_earlier_probe_at_another_budget_is_no_hindsight(table, tmp_path):
    later = with_probe(table, MINIATURE, TARGET / 3, run_id="earlier")
    sealed = seal(tmp_path / "f.json", forecast(later, TARGET, bootstrap=40))
    assert sealed.inputs.measured_probes == () and len(sealed.inputs.rows) == len(table)
    near = with_probe(table, MINIATURE, 0.95 * TARGET, run_id="near")
    with pytest.raises(UserError, match="probe near has been measured already"):
        seal(tmp_path / "g.json", forecast(near, TARGET, bootstrap=40))


def test_a_table_without_roles_takes_its_run_at_the_target(table, sealed):
    bare = with_probe(table, MINIATURE, TARGET)
    bare = dataclasses.replace(bare, role=np.array(["grid"] * len(bare), dtype=object))
    found = verdict(sealed, bare)
    assert found.run_id == "probe" and found.inputs_unchanged
    assert found.measured == verdict(sealed, with_probe(table, MINIATURE, TARGET)).measured


def test_runs_left_out_by_name_stay_out_of_the_inputs(table, tmp_path):
    made = seal(tmp_path / "f.json", forecast(table.without("row-1", "diverged"), TARGET, bootstrap=40))
    assert made.inputs.exclusions == (("row-1", "diverged"),)
    assert verdict(made, with_probe(table, MINIATURE, TARGET)).inputs_unchanged


def test_the_sealed_coefficients_give_the_forecast_again(table, tmp_path):
    """From the numbers in the file alone, by the equations: L*(C) of each form at the target, and N*."""
    made = seal(tmp_path / "f.json", forecast(table, TARGET, bootstrap=100))
    said = {form.law: form.loss.value for form in made.forms if form.loss}
    c = made.coefficients
    s = c["surface"]
    g = (s["alpha"] * s["A"] / (s["beta"] * s["B"])) ** (1 / (s["alpha"] + s["beta"]))
    n = g * (TARGET / s["kappa"]) ** (s["beta"] / (s["alpha"] + s["beta"]))
    d = TARGET / s["kappa"] / n
    assert said["surface"] == pytest.approx(s["E"] + s["A"] * n ** -s["alpha"] + s["B"] * d ** -s["beta"], rel=1e-9)
    assert made.n_params.value == pytest.approx(n, rel=1e-9)
    pure = c["power_law"]
    assert said["power_law"] == pytest.approx(pure["coefficient"] * TARGET ** pure["exponent"], rel=1e-9)
    if "power_law_with_floor" in c:
        floor = c["power_law_with_floor"]
        at = floor["E"] + floor["coefficient"] * TARGET ** floor["exponent"]
        assert said["power_law_with_floor"] == pytest.approx(at, rel=1e-9)


def test_both_hashes_can_be_computed_again_from_the_file(table, tmp_path):
    """With json and hashlib alone: sorted keys, no spaces; of the input rows, and of all but the hash itself."""
    made = seal(tmp_path / "f.json", forecast(table, TARGET, bootstrap=40))
    body = json.loads((tmp_path / "f.json").read_text())

    def digest(content):
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    assert digest({"metric": "loss", "rows": body["inputs"]["rows"]}) == body["inputs_sha256"] == made.inputs_sha256
    assert digest({k: v for k, v in body.items() if k != "sha256"}) == body["sha256"]


def test_metrics_that_are_not_positive_get_no_forecast():
    table = study(sizes=6)
    negative = dataclasses.replace(table, loss=-table.loss, metric="loglik")
    with pytest.raises(UserError, match="loglik is not positive everywhere"):
        forecast(negative, TARGET)
    with pytest.raises(UserError, match="bootstrap"):
        forecast(table, TARGET, bootstrap=0)


def test_inputs_hash_sees_every_number_but_not_the_order(table):
    base = inputs_hash(table)
    assert inputs_hash(table.take(np.arange(len(table))[::-1])) == base
    loss = table.loss.copy()
    loss[3] = np.nextafter(loss[3], 1)
    assert inputs_hash(Table.of(table.n_params, table.n_tokens, table.budget_flops, loss)) != base


def test_rule_of_choice():
    def form(name, error, se, admissible=True):
        return Form(name, Estimate(1.0, 0.9, 1.1), error, se, admissible, ())

    def kept(*forms):
        return [f.law for f in admissible({f.law: f for f in forms})[0]]

    surface, floor, pure = "surface", "power_law_with_floor", "power_law"
    assert kept(form(surface, 0.03, 0.005), form(floor, 0.001, 0.004), form(pure, 0.002, 0.001)) == [floor, pure]
    assert kept(form(surface, 0.008, 0.005), form(floor, 0.001, 0.004), form(pure, 0.02, 0.001)) == [surface, floor]
    assert kept(form(surface, None, None, False), form(floor, None, None), form(pure, 0.002, 0.001)) == [floor, pure]
    assert kept(form(surface, None, None, False), form(floor, None, None, False), form(pure, 0.1, 0.1, False)) == [
        surface,
        floor,
        pure,
    ]


def test_interval_is_widened_for_a_missed_held_out_budget():
    alone = Estimate(1.0, 0.8, 1.25)
    assert widened(alone, None) == alone
    wider = widened(alone, -0.1)
    assert wider.low == pytest.approx(0.8)
    assert np.log(wider.high) == pytest.approx(np.hypot(np.log(1.25), np.log(1 / 0.9)))


def test_the_mixture_of_forms_against_sampling():
    """Quantiles of the equal mixture of two-sided log-normals: closed form against a million draws."""
    parts = [Estimate(1.0, 0.9, 1.2), Estimate(1.3, 1.25, 1.5), Estimate(0.8, 0.7, 0.85)]
    rng = np.random.default_rng(0)
    draws = []
    for p in parts:
        z = rng.standard_normal(400_000)
        sigma = np.where(z < 0, np.log(p.value / p.low), np.log(p.high / p.value)) / 1.959964
        draws.append(p.value * np.exp(sigma * z))
    low, middle, high = np.quantile(np.concatenate(draws), [0.025, 0.5, 0.975])
    found = mixture(parts)
    assert [found.low, found.value, found.high] == pytest.approx([low, middle, high], rel=2e-3)
    assert mixture(parts[:1]) == parts[0]
    opened = mixture([parts[0], Estimate(1.1, None, 1.3)])
    assert opened.low is None and opened.high > 1.2
