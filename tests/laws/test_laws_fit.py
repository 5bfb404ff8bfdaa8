import dataclasses
import json
import subprocess
import sys
import time

import numpy as np
import pytest
from laws_synthetic import ASYMMETRIC, CHINCHILLA, MINIATURE, best, study

from ditscale.errors import UserError
from ditscale.laws import CODES, Table, compare, fit, forecast

SIX = tuple(np.geomspace(1e18, 1e20, 6))


def codes(laws, *severities):
    return {f.code for f in laws.findings if not severities or f.severity in severities}


def test_layout_is_the_agreed_one():
    laws = fit(study(CHINCHILLA, SIX, sizes=9, noise=0.003), targets=["1.5e21", 3e21], bootstrap=200)
    found = json.loads(json.dumps(laws.to_dict(), allow_nan=False))
    assert found["layout"] == 1 and found["n_runs"] == 54 and len(found["budgets"]) == 6
    laws2 = [f"{law}_{part}" for law in ("model", "data", "loss") for part in ("exponent", "coefficient")]
    assert set(found["approach2"]) == set(laws2)
    assert set(found["approach3"]) == {"E", "A", "B", "alpha", "beta", "model_exponent", "loss_floor_exponent"}
    assert set(found["predictions"]) == {"1.5e21", "3e21"}
    for by in found["predictions"].values():
        assert set(by) == {"answer", "approach2", "approach3"}
        assert all(set(p) == {"n_params", "n_tokens", "loss"} for p in by.values())
    for number in (found["approach3"]["E"], found["predictions"]["1.5e21"]["approach2"]["n_params"]):
        assert set(number) == {"value", "low", "high"} and number["low"] <= number["value"] <= number["high"]
    extra = (
        "slices",
        "exclusions",
        "metric",
        "objective",
        "points",
        "backtests",
        "answer",
        "kappa",
        "bootstrap",
    )
    assert set(extra) < set(found)
    assert all(set(f) == {"code", "severity", "message", "runs", "slices", "value"} for f in found["findings"])
    assert "1.5e21" in laws.summary() and laws.given


def test_noise_free_truth_and_no_warnings_on_a_clean_study():
    laws = fit(study(CHINCHILLA, SIX, sizes=9), targets=["1.5e21"], bootstrap=200)
    assert not codes(laws, "warning", "refused")
    n, d, loss = best(CHINCHILLA, 1.5e21)
    said = laws.predictions["1.5e21"].approach3
    assert [getattr(said, k).value for k in ("n_params", "n_tokens", "loss")] == pytest.approx([n, d, loss], rel=1e-7)
    alpha, beta = CHINCHILLA[3:]
    assert laws.approach3.model_exponent.value == pytest.approx(beta / (alpha + beta), abs=1e-8)
    # Equal relative grids bias every slice's vertex alike, so the exponents of Approach 2 are exact too.
    assert laws.approach2.model_exponent.value == pytest.approx(beta / (alpha + beta), abs=1e-4)


@pytest.mark.parametrize("seed", range(6))
def test_noisy_clean_studies_raise_no_warning(seed):
    assert not codes(fit(study(CHINCHILLA, SIX, sizes=9, noise=0.003, seed=seed), bootstrap=300), "warning", "refused")


def test_seeded_and_without_bootstrap():
    table = study(noise=0.02)
    assert fit(table, seed=3, bootstrap=100).to_dict() == fit(table, seed=3, bootstrap=100).to_dict()
    assert fit(table, seed=4, bootstrap=100).to_dict() != fit(table, seed=3, bootstrap=100).to_dict()
    bare = fit(table, bootstrap=0).to_dict()
    assert bare["approach2"]["model_exponent"]["low"] is None


def changed(table, **columns):
    return dataclasses.replace(table, **columns)


def scaled(column, rows, factor):
    out = column.copy()
    out[rows] *= factor
    return out


BASE = study(CHINCHILLA, SIX, sizes=9, noise=0.002)


@pytest.mark.parametrize(
    ("table", "code"),
    [
        (changed(BASE, loss=scaled(BASE.loss, [12], 1.3)), "outlier_run"),
        (changed(BASE, n_params=BASE.n_params / 20), "units_mixed"),
        (changed(BASE, n_params=scaled(BASE.n_params, [3, 4], 1 / 20)), "units_mixed"),
        (changed(BASE, n_tokens=scaled(BASE.n_tokens, [3], 1.3)), "budget_mismatch"),
        (changed(BASE, budget_flops=scaled(BASE.budget_flops, range(0, 54, 2), 1.05)), "budget_mismatch"),
        (changed(BASE, achieved_flops=scaled(BASE.budget_flops, [7], 0.9)), "budget_mismatch"),
        (study(CHINCHILLA, SIX, sizes=9, off=30.0), "minimum_outside"),
        (study(CHINCHILLA, SIX, sizes=9, off=3.5), "minimum_at_edge"),
        (study(CHINCHILLA, SIX, sizes=9, off=2.5), "one_sided_grid"),
        (study(CHINCHILLA, SIX, sizes=9, width=30), "wide_grid"),
        (study(CHINCHILLA, SIX, sizes=3), "too_few_runs"),
        (study(CHINCHILLA, SIX[:1], sizes=9), "too_few_budgets"),
        (study(CHINCHILLA, SIX[:2], sizes=9), "saturated_fit"),
        (study(ASYMMETRIC, (1e11, 3e11, 9e11), sizes=9, width=16), "asymmetric_surface"),
        (study(MINIATURE, (1e11, 3e11, 9e11)), "backtest_without_interval"),
        (study((0.0, 40.0, 60.0, 0.5, 0.5), (1e11, 3e11, 9e11), noise=0.01, seed=1), "no_floor"),
    ],
)
def test_findings_are_raised(table, code):
    laws = fit(table, bootstrap=200)
    raised = [f for f in laws.findings if f.code == code]
    assert raised and all(f.severity == CODES[code] for f in raised)
    json.dumps(laws.to_dict(), allow_nan=False)
    assert code in laws.summary()


def test_wrong_units_are_refused_unless_they_are_meant():
    millions = changed(BASE, n_params=BASE.n_params / 1e6)
    for verb in (fit, lambda t: forecast(t, 1e22), lambda t: compare({"a": t, "b": t}, 1e22)):
        with pytest.raises(UserError, match=r"C / \(N D\) is 6e6 in the median, .*--columns 'n_params=n_params\*1e6'"):
            verb(millions)
        with pytest.raises(UserError, match=r"of 2 runs \(row-4, row-5\) is 6e6, of the others 6"):
            verb(changed(BASE, n_params=scaled(BASE.n_params, [3, 4], 1e-6)))
    meant = fit(millions, kappa=6e6, bootstrap=0)
    assert meant.approach3.alpha.value == pytest.approx(fit(BASE, bootstrap=0).approach3.alpha.value, rel=1e-6)


@pytest.mark.filterwarnings("error")
def test_numbers_beyond_any_float_are_no_warnings():
    """The steps of the delta method reach exponents below 0 here; sizes of which N D is infinite are wrong units."""
    loose = study(noise=0.05, seed=2, sizes=4, off=0.1, width=2)
    json.dumps(fit(loose, bootstrap=50, targets=("1e13",)).to_dict(), allow_nan=False)
    few = changed(BASE, n_params=scaled(BASE.n_params, [0], 1e200), n_tokens=scaled(BASE.n_tokens, [0], 1e200))
    for verb in (fit, lambda t: forecast(t, 1e22), lambda t: fit(t, kappa=6)):
        with pytest.raises(UserError, match="of run row-1 is 0, of the others 6"):
            verb(few)
        with pytest.raises(UserError, match="too large or too small for their budget_flops"):
            verb(changed(BASE, n_params=BASE.n_params * 1e200, n_tokens=BASE.n_tokens * 1e200))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("objective", ["huber", "ls", "ls_log"])
@pytest.mark.parametrize("scale", [1e-12, 1e12, 1e290])
def test_the_unit_of_the_loss_changes_nothing(scale, objective):
    one, other = (
        fit(changed(BASE, loss=BASE.loss * factor), objective=objective, bootstrap=100, targets="1.5e21")
        for factor in (1.0, scale)
    )
    for name, a in vars(one.approach2).items():
        b = getattr(other.approach2, name)
        ends = (e * (scale if name == "loss_coefficient" else 1) for e in (a.value, a.low, a.high))
        assert [b.value, b.low, b.high] == pytest.approx([*ends], rel=1e-9)
    for name, a in vars(one.approach3).items():
        b = getattr(other.approach3, name)
        assert b.value == pytest.approx(a.value * (scale if name in "EAB" else 1), rel=1e-8)
        assert [b.low, b.high] == pytest.approx(
            [e * (scale if name in "EAB" else 1) for e in (a.low, a.high)], rel=1e-5
        )
    for approach in ("approach2", "approach3", "answer"):
        a, b = (getattr(laws.predictions["1.5e21"], approach) for laws in (one, other))
        tight = 1e-9 if approach != "answer" else 1e-6
        assert b.n_params.value == pytest.approx(a.n_params.value, rel=tight)
        assert b.loss.value == pytest.approx(a.loss.value * scale, rel=tight)
    assert [f.code for f in one.findings] == [f.code for f in other.findings]
    assert [s.loss_se for s in other.slices] == pytest.approx([s.loss_se * scale for s in one.slices], rel=1e-9)
    assert other.summary()


def test_broken_power_law_of_n_is_lack_of_fit():
    parts = [
        study(CHINCHILLA, (c,), sizes=9, noise=0.001, off=off) for c, off in zip(SIX, (1, 1, 1, 1, 1, 1), strict=True)
    ]
    # One slice whose sizes were recorded 1.6x too large: its minimum leaves the line.
    parts[2] = changed(parts[2], n_params=parts[2].n_params * 1.6, n_tokens=parts[2].n_tokens / 1.6)
    columns = [np.concatenate([getattr(p, c) for p in parts]) for c in ("n_params", "n_tokens", "budget_flops", "loss")]
    assert "lack_of_fit" in codes(fit(Table.of(*columns), bootstrap=400))


def test_refused_parts_are_null_and_say_why():
    laws = fit(study(CHINCHILLA, (1e18,), sizes=5), targets=["1e21"])
    found = laws.to_dict()
    assert not laws.given and found["approach2"] is None and found["approach3"] is None
    assert found["predictions"]["1e21"] == {"answer": None, "approach2": None, "approach3": None}
    assert {"too_few_budgets", "too_few_runs", "backtest_not_possible"} <= codes(laws)
    assert "refused" in laws.summary()


def test_probes_and_exclusions_are_listed():
    table = study(CHINCHILLA, SIX, sizes=9)
    role = table.role.copy()
    role[-1] = "probe"
    laws = fit(changed(table, role=role).without("row-3", "diverged"), bootstrap=0)
    found = laws.to_dict()
    assert found["n_runs"] == 52 and found["exclusions"] == [{"run_id": "row-3", "reason": "diverged"}]
    assert {"probe_left_out", "excluded_runs"} <= codes(laws)
    assert "row-54" not in [p["run_id"] for p in found["points"]]


def test_bad_arguments():
    with pytest.raises(UserError, match="choose one of: huber, ls"):
        fit(study(), objective="l2")
    with pytest.raises(UserError, match="target"):
        fit(study(), targets=["much"])
    with pytest.raises(UserError, match="every run is a probe"):
        fit(changed(study(), role=np.array(["probe"] * 21, dtype=object)))


def test_the_fit_is_quick_and_imports_neither_torch_nor_scipy():
    code = "import sys, ditscale.laws; sys.exit(any(m in sys.modules for m in ('torch', 'scipy', 'h5py', 'yaml')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    table = study(CHINCHILLA, SIX, sizes=17, noise=0.003)
    fit(table, bootstrap=10)
    begin = time.process_time()
    fit(table)
    # About 0.2 s; the limit only catches a lost vectorisation.
    assert time.process_time() - begin < 3


@pytest.mark.parametrize(("floor", "given"), [(0.0, True), (1.8172, False)])
def test_a_law_without_a_floor_has_an_interval_where_its_backtests_held(floor, given):
    """Approach 2 at 250 times the largest budget: without a floor its L* holds, with one it is far too low."""
    truth = (floor, *CHINCHILLA[1:])
    at = fit(study(truth, SIX, sizes=9, noise=0.003, seed=2), targets=["1e22"], bootstrap=200).predictions["1e22"]
    said, loss = at.approach2.loss, best(truth, 1e22)[2]
    assert (said.low is not None) == given and at.answer.loss.covers(loss)
    assert said.covers(loss) if given else said.value < 0.95 * loss
