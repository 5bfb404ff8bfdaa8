"""`decide` on a study with collected runs: its page, and the fitted predictors that it keeps."""

import json
import shutil
import sys

import pytest

from ditscale.cli import main
from ditscale.decision.decide import decide
from ditscale.laws import load_forecast, predict, read_table


@pytest.fixture
def copy(held, tmp_path):
    """A copy of a sealed study, in a place of its own."""
    shutil.copytree(held.root, tmp_path / "s")
    return type(held)(tmp_path / "s")


def test_a_sealed_study_is_asked_without_a_fit(copy, monkeypatch):
    """The kept predictors give what was fitted, to the last digit; the forecast's numbers are the decision's."""
    first = decide(copy.root, budget=7.2e12)
    sealed, said = load_forecast(copy.forecast), predict(copy.root, 7.2e12, n_params=float(first.model.n_params))
    assert (sealed.n_params, sealed.n_tokens, sealed.loss) == (first.n_params, first.n_tokens, first.one_run)
    assert said.choices[-1].loss == first.loss

    def never(*_, **__):
        raise AssertionError("a fit")

    monkeypatch.setattr(sys.modules["ditscale.laws.predictor.identify"], "predictor", never)
    assert decide(copy.root, budget=7.2e12) == first


@pytest.mark.parametrize("damage", ["", "{}", '{"predictors": {"loss": 3}}', "[", "cut"])
def test_a_damaged_or_older_file_is_fitted_again(copy, damage):
    first, kept = decide(copy.root, budget=7.2e12), copy.predictors_of("loss")
    kept.write_text(kept.read_text()[:-300] if damage == "cut" else damage)
    assert decide(copy.root, budget=7.2e12) == first
    assert json.loads(kept.read_text())["predictors"]["loss"]


def test_predictors_of_other_runs_are_not_used(copy):
    """A run less is another table: what was kept does not answer for it."""
    first = decide(copy.root, budget=7.2e12)
    table = read_table(copy.root)
    name = str(table.run_id[0])
    less = read_table(copy.root, exclude={name: "test"})
    found = decide(less, study=copy.root, own=True, budget=7.2e12)
    assert found.n_params != first.n_params
    assert found.n_params == predict(less, 7.2e12).choices[0].n_params


def test_the_page_of_a_study(copy, capsys):
    assert main(["decide", str(copy.root), "--budget", "7.2e12"]) == 0
    out, page = capsys.readouterr().out, copy.report / "decide.html"
    made = decide(copy.root, budget=7.2e12)
    text = page.read_text()
    assert str(page) in out and f"{made.model.width} x {made.model.depth}" in text
    assert made.train in out


@pytest.mark.parametrize(
    "words", [["--budget", "1e11"], ["--target-loss", "0.01"], ["--budget", "7.2e12", "--deadline", "1e-9"]]
)
def test_a_refused_question_writes_nothing(copy, words, capsys):
    (copy.report / "decide.html").unlink(missing_ok=True)
    assert main(["decide", str(copy.root), *words]) in (2, 3)
    assert capsys.readouterr().err.count("\n") == 1
    assert not (copy.report / "decide.html").exists()
