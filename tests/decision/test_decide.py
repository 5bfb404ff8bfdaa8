"""`decide` against surfaces whose optimum is known in closed form, and against `predict`, `fit` and `forecast`."""

import json
import math
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from ditscale.cli import main
from ditscale.config import compose
from ditscale.decision import decide as module
from ditscale.decision.decide import decide
from ditscale.errors import UserError
from ditscale.laws import fit, forecast, predict
from ditscale.laws.predictor.stored import checksum
from ditscale.laws.synthetic import synthetic_study
from ditscale.plan.grid import plan_runs
from ditscale.plan.run import make_run
from ditscale.plan.study import write_study
from ditscale.tables.table import Table

TARGET = 1.5e21
MINI = ["study=mini", "~evaluation", "budgets=[1e11,3e11,9e11]", "recipe.aspect=16", "recipe.min_steps=200"]
MINI += ["widths=[[24,32,40,48,64],[32,40,48,56,72],[40,48,56,72,88]]", "probe_budget=7.2e12"]
E, A, B, POWER = 0.05, 80.0, 300.0, 0.55  # of the loss E + A N^-POWER + B D^-POWER


@pytest.fixture(scope="module", autouse=True)
def fitted_once():
    """The fits of one table are the same for all tests; that they are is tested with the study's."""
    known, fit_all = {}, module.fitted_predictors

    def once(grid, path, kappa=None):
        key = (checksum(grid), *grid.columns)
        if key not in known:
            known[key] = fit_all(grid, path, kappa)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "fitted_predictors", once)
        yield


@pytest.fixture(scope="module")
def known():
    """{name: (table, truth)}"""
    return {name: synthetic_study(name, noise=0.003, seed=0) for name in ("chinchilla", "asymmetric")}


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """A planned study, and a table of its grid with the losses of a surface."""
    study, rng = compose(MINI), np.random.default_rng(2)
    paths = write_study(tmp_path_factory.mktemp("planned") / "s", study)
    runs = plan_runs(study).runs
    columns = {
        name: [float(getattr(r, name)) for r in runs] for name in ("n_params", "n_tokens", "budget_flops", "n_images")
    }
    n, d = (np.array(columns[name]) for name in ("n_params", "n_tokens"))
    loss = (E + A * n**-POWER + B * d**-POWER) * np.exp(0.002 * rng.standard_normal(len(n)))
    return paths, Table.of(loss=loss, run_id=[r.run_id for r in runs], **columns)


def size_of(truth, budget):
    """N* of E + A N^-alpha + B D^-beta with C = kappa N D, in closed form."""
    ratio = truth.alpha * truth.A / (truth.beta * truth.B)
    return (ratio * (budget / truth.kappa) ** truth.beta) ** (1 / (truth.alpha + truth.beta))


@pytest.mark.parametrize("case", ["chinchilla", "asymmetric"])
def test_a_decision_holds_the_truth(known, case):
    table, truth = known[case]
    size = size_of(truth, TARGET)
    tokens = TARGET / truth.kappa / size
    loss = truth.E + truth.A * size**-truth.alpha + truth.B * tokens**-truth.beta
    found = decide(table, budget=TARGET)
    assert found.n_params.covers(size) and found.n_tokens.covers(tokens) and found.optimum.covers(loss)
    assert found.factor == pytest.approx(TARGET / table.budget_flops.max())
    assert 0 <= found.regret < 0.05
    assert found.trained == found.n_params.value and found.model is found.cost is None
    assert decide(table, target_loss=loss).budget_flops.covers(TARGET)
    assert decide(table, n_params=size).budget_flops.covers(TARGET)
    assert decide(table, unique_images=tokens / 256, tokens_per_image=256).budget_flops.covers(TARGET)


def test_its_numbers_are_those_of_the_other_verbs(known):
    """To the last digit."""
    table, _ = known["chinchilla"]
    found, said = decide(table, budget=TARGET), predict(table, TARGET, n_params=6e8)
    assert [said.choices[0].n_params, said.choices[0].n_tokens] == [found.n_params, found.n_tokens]
    assert (said.choices[0].loss, said.choices[1].loss) == (found.optimum, found.one_run)
    assert said.choices[0].regret == found.regret
    given = decide(table, budget=TARGET, n_params=6e8)
    assert (given.loss, given.regret) == (said.choices[2].loss, said.choices[2].regret)
    laws, sealed = fit(table, targets=[TARGET], bootstrap=0), forecast(table, TARGET)
    answer = laws.predictions["1.5e21"].answer
    assert (answer.n_params, answer.n_tokens, answer.loss) == (found.n_params, found.n_tokens, found.optimum)
    assert (sealed.n_params, sealed.n_tokens, sealed.loss) == (found.n_params, found.n_tokens, found.one_run)
    assert decide(table, target_loss=2.4).budget_flops == predict(table, reach=2.4).choices[0].budget_flops


def test_few_images_are_a_larger_model(known):
    """Seen several times, they are worth less, so the best size is larger and the loss higher than without a limit."""
    table, _ = known["chinchilla"]
    free, few = decide(table, budget=TARGET), decide(table, budget=TARGET, unique_images=1e7, tokens_per_image=256)
    assert few.trained > free.trained and few.loss.value > free.optimum.value
    assert few.optimum == free.optimum
    enough = decide(table, budget=TARGET, unique_images=1e10, tokens_per_image=256)
    assert enough.loss is None and enough.trained == free.trained


def test_a_study_gives_what_its_recipe_builds(planned):
    paths, table = planned
    study = compose(MINI)
    found = decide(table, budget=7.2e12, study=paths.root)
    m = found.model
    run = make_run(study, "probe", 7.2e12, m.width, study.seeds[0])
    same = ("depth", "n_params", "n_tokens", "n_images", "steps")
    assert [getattr(m, name) for name in same] == [getattr(run, name) for name in same]
    assert m.lr.value == run.lr and m.lr_source == "the recipe"
    for width in (m.width - 8, m.width + 8):  # No other size is nearer.
        other = make_run(study, "probe", 7.2e12, width, 0)
        want = math.log(found.n_params.value)
        assert abs(math.log(m.n_params) - want) <= abs(math.log(other.n_params) - want)
    size = (A / B * (7.2e12 / table.kappa()) ** POWER) ** (0.5 / POWER)
    assert found.n_params.covers(size)
    assert found.loss.covers(E + A * m.n_params**-POWER + B * m.n_tokens**-POWER)
    assert found.loss == predict(table, 7.2e12, n_params=m.n_params).choices[-1].loss


@pytest.mark.parametrize("question, cost", [("gpu_hours", lambda c: c.device_hours), ("deadline", lambda c: c.days)])
def test_hours_and_days_buy_the_budget_that_costs_them(planned, question, cost):
    paths, table = planned
    for budget in (4e12, 1.1e13):
        there = decide(table, budget=budget, study=paths.root)
        back = decide(table, study=paths.root, **{question: cost(there.cost).value})
        assert back.budget_flops.value == pytest.approx(budget, rel=0.01)
        assert back.budget_flops.low < budget < back.budget_flops.high
        assert cost(back.cost).value == pytest.approx(cost(there.cost).value, rel=0.01)
    days = there.cost.days.value
    assert decide(table, budget=budget, deadline=1.1 * days, study=paths.root).model == there.model
    with pytest.raises(UserError, match="--deadline alone"):
        decide(table, budget=budget, deadline=0.5 * days, study=paths.root)


def test_a_run_that_the_cluster_cannot_hold_has_no_cost(planned, tmp_path):
    """The rest of the answer stands; what needs the cost is refused."""
    _, table = planned
    small = compose([*MINI, "cluster=slurm-cpu"])
    small = replace(small, cluster=replace(small.cluster, sizes=(replace(small.cluster.sizes[0], up_to_params=1e4),)))
    root = write_study(tmp_path / "small", small).root
    found = decide(table, budget=7.2e12, study=root)
    assert found.model and found.cost is None and "cluster.sizes" in found.notes[0]
    with pytest.raises(UserError, match="cluster.sizes"):
        decide(table, budget=7.2e12, deadline=3, study=root)


def test_the_rate_is_that_of_the_sweep(planned):
    paths, table = planned
    law = {"status": "ok", "reasons": [], "cells": [], "scale": {"value": 2.0, "low": 1.0, "high": 3.0}, "scatter": 0.1}
    paths.rates.write_text(json.dumps(law | {"params": {"value": -0.5, "low": -0.6, "high": -0.4}}))
    model = decide(table, budget=7.2e12, study=paths.root).model
    paths.rates.unlink()
    assert model.lr.value == pytest.approx(2 * model.n_params**-0.5) and "sweep" in model.lr_source
    assert math.log(model.lr.high / model.lr.low) == pytest.approx(2 * 1.96 * 0.1)


def test_what_would_change_the_answer(known):
    """Every form, and the table without its first and last budget, as one gets them by leaving these out."""
    table, _ = known["chinchilla"]
    changes = {c.what: c for c in decide(table, budget=TARGET).changes}
    less = table.take(table.budget_flops < 0.9 * table.budget_flops.max())
    said = predict(less, TARGET).choices[0]
    found = changes["without the budget 6e18"]
    assert (found.n_params, found.loss) == (said.n_params.value, said.loss.value)
    assert {"the form: surface", "the form: approach 2", "without the budget 1e17"} <= changes.keys()
    assert all(c.lost is None or 0 <= c.lost < 0.1 for c in changes.values())


@pytest.mark.parametrize(
    "words, status, said",
    [
        ([], 2, "--budget"),
        (["--budget", "1e21", "--gpu-hours", "3"], 2, "two questions"),
        (["--budget", "1e21", "--n-params", "1e9", "--unique-images", "1e9"], 2, "two questions"),
        (["--target-loss", "2", "--n-params", "1e9"], 2, "--budget with --n-params"),
        (["--budget", "-3"], 2, "--budget"),
        (["--budget", "1e18"], 2, "inside the grid"),
        (["--target-loss", "3.2"], 2, "inside the grid"),
        (["--target-loss", "1"], 2, "floor"),
        (["--target-loss", "-1"], 2, "above 0"),
        (["--budget", "1e21", "--metric", "foo"], 2, "foo"),
        (["--budget", "1e21", "--also", "foo"], 2, "foo"),
        (["--gpu-hours", "100"], 2, "--study DIR"),
        (["--budget", "1e21", "--deadline", "3"], 2, "--study DIR"),
        (["--budget", "1e21", "--unique-images", "1e8"], 2, "tokens"),
        (["--budget", "1e21", "--study", "nowhere"], 2, "nowhere"),
    ],
)
def test_bad_questions_are_one_line(known, tmp_path, capsys, words, status, said):
    table, _ = known["chinchilla"]
    rows = zip(table.n_params, table.n_tokens, table.budget_flops, table.loss, strict=True)
    file, page = tmp_path / "runs.csv", tmp_path / "page.html"
    file.write_text(
        "n_params,n_tokens,budget_flops,loss\n" + "".join(",".join(map(repr, map(float, r))) + "\n" for r in rows)
    )
    assert main(["decide", str(file), *words, "--out", str(page)]) == status
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and said in err and "Traceback" not in err
    assert [*tmp_path.iterdir()] == [file]


def test_runs_that_do_not_decide(known):
    """Two noisy budgets; every run at one ratio; a metric without a law: status 3, and the run that would help."""
    table, truth = known["chinchilla"]
    rng = np.random.default_rng(0)
    budgets, factors = np.repeat([1e17, 3e17, 1e18], 5), np.tile([0.25, 0.5, 1, 2, 4], 3)
    n = np.array([size_of(truth, c) for c in budgets]) * factors
    d = budgets / truth.kappa / n
    loss = (truth.E + truth.A * n**-truth.alpha + truth.B * d**-truth.beta) * np.exp(0.1 * rng.standard_normal(15))
    noisy = Table.of(n, d, budgets, loss)
    with pytest.raises(
        UserError, match=r"do not decide it: N\* at .* is between .* and .*run that would narrow"
    ) as caught:
        decide(noisy, budget=5e18)
    assert caught.value.status == 3
    line = table.take(np.abs(np.log(table.n_tokens / table.n_params / 20)) < 0.3)
    for some in (line, table.take(slice(0, 4))):
        with pytest.raises(UserError, match="do not decide it") as caught:
            decide(some, budget=TARGET)
        assert caught.value.status == 3


def test_the_page_and_the_json_say_the_same(known, tmp_path, capsys):
    table, _ = known["chinchilla"]
    file, page = tmp_path / "runs.json", tmp_path / "page.html"
    names = ("n_params", "n_tokens", "budget_flops", "loss")
    file.write_text(json.dumps({name: getattr(table, name).tolist() for name in names}))
    words = ["decide", str(file), "--budget", "1e21", "--out", str(page)]
    assert main([*words, "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["layout"] == 1 and value["n_params"]["low"] < value["trained"] < value["n_params"]["high"]
    text = page.read_text()
    assert not re.search(r"(src|href)=|url\(|@import", text) and text.count("<svg") == 2
    assert main(words) == 0
    for row in capsys.readouterr().out.splitlines():
        if row.startswith("  N* "):
            assert all(part in text for part in row.split()[1:])


def test_a_decision_loads_neither_torch_nor_figures(planned, tmp_path):
    paths, table = planned
    file = tmp_path / "runs.json"
    names = ("n_params", "n_tokens", "budget_flops", "loss")
    file.write_text(json.dumps({name: getattr(table, name).tolist() for name in names}))
    code = f"import sys; from ditscale.cli import main; main(['decide', '{file}', '--budget', '7.2e12', '--study', "
    code += f"'{paths.root}', '--out', '{tmp_path / 'p.html'}']); "
    code += "assert not {'torch', 'hydra', 'omegaconf', 'matplotlib', 'submitit'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
