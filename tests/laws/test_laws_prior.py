"""The law of an earlier study or a table as the next study's prior."""

import csv
import json

import pytest

from ditscale import study as api
from ditscale.errors import UserError
from ditscale.laws import fit
from ditscale.laws.prior import prior_of
from ditscale.laws.synthetic import SYMMETRIC, synthetic_columns, write_csv
from ditscale.pipeline import compose_study, plan_study
from ditscale.plan.study import read_study


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A table without noise, on SYMMETRIC, as runs.csv, and its laws as laws.json in the directory `earlier`."""
    root = tmp_path_factory.mktemp("prior")
    write_csv(root / "runs.csv", "symmetric", noise=0)
    (root / "earlier").mkdir()
    text = json.dumps(fit(root / "runs.csv", bootstrap=0).to_dict())
    (root / "earlier" / "laws.json").write_text(text)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("source", ["runs.csv", "earlier", "earlier/laws.json"])
def test_the_surface_of_earlier_runs_is_the_prior(table, source):
    """The truth of the table, whatever holds it; the source is recorded."""
    prior = prior_of(str(table / source))
    for name in ("E", "A", "B", "alpha", "beta"):
        assert getattr(prior, name) == pytest.approx(getattr(SYMMETRIC, name), rel=1e-3)
    assert str(table / source) in prior.source and "84 runs at 6 budgets" in prior.source


@pytest.mark.slow
def test_a_study_is_planned_about_it(table, tmp_path):
    """prior.path replaces the shipped prior; study.yaml has its numbers and not the path's content to look up again."""
    words = ["study=paper", f"prior.path={table / 'runs.csv'}", "~evaluation"]
    plan_study(tmp_path / "s", words)
    study = read_study(tmp_path / "s")
    assert study.prior.optimum(1.5e21) == pytest.approx(958.3e6, rel=1e-3) and "path:" not in str(study.prior)
    middle = [row[len(row) // 2] for row in study.widths]
    for budget, width in zip(study.budgets, middle, strict=True):
        assert 0.5 < 12 * width**3 / 64 / SYMMETRIC.optimum(budget)[0] < 2
    assert api.plan(*words).rows[0]["width"] == study.widths[0][0]


@pytest.mark.parametrize(
    "spoil, says",
    [
        (lambda law: law | {"approach3": None}, "there is no surface L(N, D) to plan by"),
        (lambda law: law["approach3"]["alpha"].update(value=-0.3) or law, "alpha"),
        (lambda law: law["approach3"]["B"].update(value=0) or law, "B"),
        (lambda law: {"approach3": {}}, "laws.json"),
    ],
)
def test_a_law_that_is_none_is_refused_in_one_line(table, tmp_path, spoil, says):
    law = json.loads((table / "earlier" / "laws.json").read_text())
    (tmp_path / "laws.json").write_text(json.dumps(spoil(law)))
    with pytest.raises(UserError) as error:
        compose_study(["study=paper", f"prior.path={tmp_path / 'laws.json'}"])
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("case, says", [("one_budget", "they lie at one budget"), ("missing", "nowhere.csv")])
def test_a_table_without_a_law_is_refused_in_one_line(tmp_path, case, says):
    path = tmp_path / "nowhere.csv"
    if case != "missing":
        columns, _ = synthetic_columns(case, noise=0)
        with open(path, "w", newline="") as file:
            csv.writer(file).writerows([[*columns], *zip(*(c.tolist() for c in columns.values()), strict=True)])
    with pytest.raises(UserError) as error:
        compose_study(["study=paper", f"prior.path={path}"])
    assert says in str(error.value) and "\n" not in str(error.value) and error.value.status in (2, 3)
