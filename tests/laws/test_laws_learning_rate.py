"""The learning-rate law against sweeps whose best rates are known: recovery, coverage, refusals, and the verb."""

import dataclasses
import json
import math

import numpy as np
import pytest

from ditscale.cli import main
from ditscale.errors import UserError
from ditscale.laws import Trial, fit_rates, read_trials

RATES = (0.25, 0.5, 1, 2, 4)


def sweep(b=-0.5, c=0.1, scale=3.0, budgets=(1e17, 1e18), sizes=6, rates=RATES, noise=0.0, seed=0, off=1.5, k=0.02):
    """Trials whose loss is (1 + k (log lr - log lr*)^2) times that of the size, at multiples of `off` times the best
    rate lr* = scale N^b D^c; D = C / 6 N."""
    rng, made = np.random.default_rng(seed), []
    for budget in budgets:
        for n in np.geomspace(1e6, 1e8, sizes).tolist():
            d = budget / 6 / n
            best = scale * n**b * d**c
            for m in rates:
                scatter = math.exp(noise * rng.standard_normal())
                loss = (0.3 + n**-0.3) * (1 + k * math.log(off * m) ** 2) * scatter
                made.append(Trial(f"r{len(made)}", n, d, budget, off * best * m, loss, m == 1))
    return made


def at(trials, i):
    """Indices of the trials of cell i, rising in rate."""
    return range(len(RATES) * i, len(RATES) * (i + 1))


def changed(trials, losses: dict):
    return [dataclasses.replace(t, loss=losses.get(i, t.loss)) for i, t in enumerate(trials)]


@pytest.mark.parametrize("rates", [RATES, (0.5, 1, 2), (0.3, 1, 1.7, 2.9)])
def test_both_exponents_are_recovered(rates):
    law = fit_rates(sweep(rates=rates, off=1.2))
    assert law.ok and not law.reasons and all(c.ok for c in law.cells)
    assert law.params.value == pytest.approx(-0.5, abs=1e-8) and law.tokens.value == pytest.approx(0.1, abs=1e-8)
    assert law.scale.value == pytest.approx(3.0, rel=1e-8) and law.scatter < 1e-8
    for cell in law.cells:
        best = 3.0 * cell.n_params**-0.5 * cell.n_tokens**0.1
        assert cell.rate.value == pytest.approx(best, rel=1e-8) and cell.factor == pytest.approx(1.2, rel=1e-8)
        assert cell.excess == pytest.approx(0.02 * math.log(1.2) ** 2, rel=1e-6)
        own = 0.02 * math.log(1.2) ** 2
        tried = min(0.02 * math.log(1.2 * m) ** 2 for m in rates)
        assert cell.measured_excess == pytest.approx((1 + own) / (1 + tried) - 1, abs=1e-12)
        assert cell.loss == pytest.approx(0.3 + cell.n_params**-0.3, rel=1e-9)
        assert law.rate_at(cell.n_params, cell.n_tokens) == pytest.approx(best, rel=1e-7)


def test_one_budget_identifies_one_exponent():
    """With D = C / 6 N, N^b D^c is N^(b - c) times a constant; the law says so and pastes it as an exponent of N."""
    law = fit_rates(sweep(budgets=(1e17,)))
    assert law.ok and law.tokens is None and law.params.value == pytest.approx(-0.6, abs=1e-8)
    assert law.scale.value == pytest.approx(3.0 * (1e17 / 6) ** 0.1, rel=1e-7)
    assert "cannot be told apart" in law.reasons[0]
    assert (
        law.overrides
        == f"recipe.lr_scale={law.scale.value:.6g} recipe.lr_width=0 recipe.lr_params=-0.6 recipe.lr_tokens=0"
    )


def test_one_size_identifies_the_exponent_of_tokens():
    law = fit_rates(sweep(budgets=(1e16, 1e17, 1e18), sizes=1))
    assert law.params is None and law.tokens.value == pytest.approx(0.1, abs=1e-8)


def test_the_pasted_law_plans_these_rates():
    """The overrides, given to `plan`, make runs with the best rates."""
    from ditscale.config import compose
    from ditscale.plan.grid import plan_grid

    law = fit_rates(sweep(b=-0.4, c=-0.2, scale=7.0))
    for run in plan_grid(compose(["study=mini", *law.overrides.split()])).runs:
        assert run.lr == pytest.approx(7.0 * run.n_params**-0.4 * run.n_tokens**-0.2, rel=1e-4)


def test_intervals_cover_the_truth():
    """95 % intervals of the exponents and of each best rate, at 0.5 % noise of a loss: nominal within the test's own
    error."""
    hits = {"params": [], "tokens": [], "cell": []}
    for seed in range(120):
        law = fit_rates(sweep(noise=0.005, seed=seed), bootstrap=200, seed=seed)
        hits["params"].append(law.params.covers(-0.5))
        hits["tokens"].append(law.tokens.covers(0.1))
        hits["cell"] += [c.rate.covers(c.recipe_rate / 1.5) for c in law.cells if c.ok]
    assert 0.89 <= np.mean(hits["params"]) <= 0.995 and 0.89 <= np.mean(hits["tokens"]) <= 0.995
    assert 0.92 <= np.mean(hits["cell"]) <= 0.975


def test_many_cells_narrow_the_law():
    law = fit_rates(sweep(noise=0.005, sizes=10, budgets=(1e17, 1e18, 1e19)))
    assert law.params.covers(-0.5) and law.params.high - law.params.low < 0.2


def first_cell(losses):
    return fit_rates(changed(sweep(), dict(zip(at(None, 0), losses)))).cells[0]


@pytest.mark.parametrize(
    "losses, says",
    [
        ((0.2, 0.3, 0.4, 0.5, 0.6), "lowest at the lowest rate tried"),
        ((0.6, 0.5, 0.4, 0.3, 0.2), "lowest at the highest rate tried"),
        ((0.3, 0.4, 0.29, 0.4, 0.3), "not convex"),
        ((0.5, 0.4, None, 0.4, 0.5), "2 rates finished, below"),
        ((None, None, None, None, None), "0 rates finished"),
        ((0.9, 0.301, 0.300, 0.3005, None), None),
    ],
)
def test_refusals(losses, says):
    """What is not a minimum is refused with what to do; a law is fitted through the other cells."""
    cell = first_cell(losses)
    if says is None:  # bounded by divergence instead
        assert cell.ok and cell.rate.value < cell.diverged[0] and "diverge" in cell.reasons[0]
        return
    assert not cell.ok and says in cell.reasons[0] and cell.rate is None and cell.excess is None
    if "convex" not in says:
        assert "extend rates" in cell.reasons[0]


def test_a_minimum_that_is_no_more_than_noise_is_refused():
    law = fit_rates(sweep(noise=0.01, k=1e-5, budgets=(1e17,)))
    assert not law.ok and any("no more than its noise" in c.reasons[0] for c in law.cells if not c.ok)


def test_diverged_runs_bound_and_never_enter():
    """Rates from the lowest diverged one on change nothing in the parabola, whatever the losses of those that
    finished."""
    trials = sweep(off=1.0)
    with_high = changed(trials, {i: (None if i % 5 == 3 else 99.0) for i in range(len(trials)) if i % 5 >= 3})
    law = fit_rates(with_high)
    assert law.ok and law.params.value == pytest.approx(-0.5, abs=1e-8)
    assert all(c.diverged == (pytest.approx(2 * c.rate.value),) for c in law.cells)


def test_no_law_through_too_few():
    law = fit_rates(sweep(budgets=(1e17,), sizes=2)[:10])
    assert not law.ok and "a law takes 3" in law.reasons[0] and law.overrides == ""
    with pytest.raises(UserError, match="no learning-rate law"):
        law.rate_at(1e6, 1e9)
    with pytest.raises(UserError, match="no run of a learning-rate sweep has ended"):
        fit_rates([])


# ------------------------------------------------------------------------------------------------------------- the verb


def write(path, trials, head="run_id,role,n_params,n_tokens,budget_flops,lr,loss"):
    rows = [
        f"{t.run_id},{'grid' if t.recipe else 'rate'},{t.n_params!r},{t.n_tokens!r},{t.budget_flops!r},{t.lr!r},"
        f"{'' if t.loss is None else t.loss}"
        for t in trials
    ]
    path.write_text("\n".join([head, *rows]) + "\n")
    return path


def test_a_table_of_a_sweep(tmp_path, capsys):
    trials = changed(sweep(), {4: None})
    table = write(tmp_path / "sweep.csv", trials)
    assert read_trials(table)[0] == trials
    assert main(["rates", str(table), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["params"]["value"] == pytest.approx(-0.5, abs=1e-8) and len(found["cells"]) == 12
    assert found["cells"][0]["diverged"] == [pytest.approx(trials[4].lr)]
    assert main(["rates", str(table)]) == 0
    said = capsys.readouterr().out
    assert "recipe.lr_scale=3 recipe.lr_width=0 recipe.lr_params=-0.5 recipe.lr_tokens=0.1" in said and "1.50" in said
    assert not (tmp_path / "rates.json").exists()


def test_a_table_with_other_names_and_no_budget(tmp_path, capsys):
    table = tmp_path / "t.csv"
    rows = [f"{t.n_params!r},{t.n_tokens!r},{t.lr!r},{t.loss!r}" for t in sweep()]
    table.write_text("\n".join(["size,n_tokens,eta,loss", *rows]))
    assert main(["rates", str(table), "--columns", "n_params=size,lr=eta", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tokens"]["value"] == pytest.approx(0.1, abs=1e-8) and found["cells"][0]["recipe_rate"] is None


@pytest.mark.parametrize("text, says", [
    ("n_params,n_tokens,loss\n1,2,3\n", "there is no column 'lr'"),
    ("n_params,n_tokens,lr,loss\n1e6,2e7,fast,3\n", "row 2, column lr: 'fast' is not a number"),
    ("n_params,n_tokens,lr,loss\n1e6,2e7,-1,3\n", "row 2, column lr: -1 is not a positive number"),
    ("n_params,n_tokens,lr,loss\n1e6,2e7,1,0\n", "column loss: 0 is not positive"),
    ("n_params,n_tokens,lr,loss\n", "no rows"),
    ("", "is empty"),
])  # fmt: skip
def test_mistakes_in_a_table_are_one_line(tmp_path, capsys, text, says):
    (tmp_path / "t.csv").write_text(text)
    assert main(["rates", str(tmp_path / "t.csv")]) == 2
    err = capsys.readouterr().err
    assert says in err and len(err.strip().splitlines()) == 1


def test_other_mistakes(tmp_path, capsys):
    for words, says in (
        (["nowhere.csv"], "no such file"),
        ([str(tmp_path)], "plans no sweep"),
        ([str(tmp_path), "--columns", "lr=eta"], "--columns is for tables"),
    ):
        assert main(["rates", *words]) == 2
        err = capsys.readouterr().err
        assert says in err and len(err.strip().splitlines()) == 1
