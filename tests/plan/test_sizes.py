"""Sizes about a prior's optimum: against a numerical minimum of its surface, and what is refused."""

import math

import pytest
from scipy.optimize import minimize_scalar

from ditscale.config import Prior, build, check, compose, configs_dir, plain
from ditscale.errors import UserError
from ditscale.pipeline import plan_study
from ditscale.plan.grid import plan_grid, plan_runs, table
from ditscale.plan.sizes import with_widths
from ditscale.plan.study import read_study

PRIORS = sorted(path.stem for path in (configs_dir() / "prior").glob("*.yaml"))
# A prior whose optimum at the miniature's budgets is where its sizes are.
SURFACE = ["prior.E=0.1", "prior.A=80", "prior.B=300", "prior.alpha=0.55", "prior.beta=0.5"]
MINI = ["study=mini", "widths=[]", *SURFACE]


def shipped(name):
    return compose(["study=paper", f"prior={name}"]).prior


def minimum(prior, budget, kappa=6.0):
    """(N*, L*) by numerical minimisation over ln N of the loss at D = C / (kappa N)."""
    loss = lambda log_n: prior.loss_at(math.exp(log_n), budget / kappa / math.exp(log_n))
    found = minimize_scalar(loss, bounds=(math.log(1e3), math.log(1e12)), method="bounded", options={"xatol": 1e-10})
    return math.exp(found.x), found.fun


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("budget, kappa", [(1e17, 6.0), (6e18, 6.0), (1.5e21, 6.9)])
def test_the_optimum_is_the_numerical_minimum(name, budget, kappa):
    n_params, _ = minimum(shipped(name), budget, kappa)
    assert shipped(name).optimum(budget, kappa) == pytest.approx(n_params, rel=1e-4)


def test_shipped_priors_have_the_published_constants():
    """arXiv 2410.08184: N* = .0009 C^.5681, D* = 186.8535 C^.4319, L* = 2.3943 C^-.0273, whose first coefficient is
    rounded to a digit; exponents .54, .46, -.0385 of cross-attention. arXiv 2608.17286: N* = .0301 C^.4951."""
    cross, exponent = shipped("liang-crossattention"), {}
    for budget in (1e17, 6e18, 1.5e21):
        n_params, loss = minimum(shipped("liang-incontext"), budget)
        assert budget / 6 / n_params == pytest.approx(186.8535 * budget**0.4319, rel=1e-4)
        assert loss == pytest.approx(2.3943 * budget**-0.0273, rel=1e-9)
        assert round(n_params / budget**0.5681, 4) == 0.0009
        assert minimum(shipped("abra"), budget)[0] == pytest.approx(0.0301 * budget**0.4951, rel=1e-4)
        exponent[budget] = minimum(cross, budget)
    (n_low, loss_low), _, (n_high, loss_high) = exponent.values()
    decades = math.log(1.5e21 / 1e17)
    assert math.log(n_high / n_low) / decades == pytest.approx(0.54, abs=1e-4)
    assert math.log(loss_high / loss_low) / decades == pytest.approx(-0.0385, abs=1e-8)


@pytest.mark.parametrize(
    "words", [["study=paper"], ["study=paper", "design=crossattention"], ["study=abra"],
              [*MINI, "around={span: 3, sizes: 6}"], [*MINI, "around={span: 12, sizes: 4}", "flops=6nd"]],
)  # fmt: skip
def test_slices_are_centred_on_the_prior(words):
    """At every budget as many sizes as asked for, two or more on either side of the numerical minimum along the study's
    own models, none of them 16x off; within the span wherever the multiples of the head size allow it."""
    study = compose(words)
    around, head = study.around, study.design.head_size
    runs = plan_grid(study).runs
    for budget in study.budgets:
        own = [run for run in runs if run.budget_flops == budget and run.role == "grid"]
        widths = [run.width for run in own]
        assert widths == sorted(set(widths)) and len(widths) == around.sizes and not any(w % head for w in widths)
        kappas = [budget / (run.n_params * run.n_tokens) for run in own]
        optima = [minimum(study.prior, budget, kappa)[0] for kappa in kappas]
        off = [run.n_params / optimum for run, optimum in zip(own, optima, strict=True)]
        assert sum(x < 1 for x in off) >= 2 and sum(x > 1 for x in off) >= 2
        assert 1 / 16 <= min(off) and max(off) <= 16
        beyond = [
            w for w, x in zip(widths, off, strict=True) if not 1 / around.span <= x * 1.001 <= 1.002 * around.span
        ]
        between = range(min(widths), max(widths) + head, head)
        assert not beyond or len(between) == len(widths), "sizes beyond the span although there are others inside"


def test_sizes_given_replace_those_about_the_prior():
    study = with_widths(compose(["study=paper", "widths=[256,320,384,448]", "levers=[]"]))
    assert study.widths == (256, 320, 384, 448) and study.around is None and study.prior is not None
    assert {run.width for run in plan_grid(study).runs} == {256, 320, 384, 448}


def test_the_study_file_holds_numbers(tmp_path):
    """The widths of each budget and the prior's constants; planned again by the same words it is the same study."""
    words = [*MINI, "~evaluation", "around={span: 3, sizes: 5}", "levers=[120]"]
    _, planned = plan_study(tmp_path / "s", words)
    text, study = (tmp_path / "s" / "study.yaml").read_text(), read_study(tmp_path / "s")
    assert "around" not in text and study.prior == build(Prior, plain(compose(words).prior), "prior")
    for budget, widths in zip(study.budgets, study.widths, strict=True):
        assert widths == tuple(r.width for r in planned.runs if r.budget_flops == budget and r.role == "grid")
    assert plan_study(tmp_path / "s", words)[1] == planned == plan_study(tmp_path / "s")[1]
    assert (tmp_path / "s" / "study.yaml").read_text() == text
    with pytest.raises(UserError, match="holds another study .widths"):
        plan_study(tmp_path / "s", [*words, "around.span=8"])


def test_the_table_of_a_plan_shows_where_sizes_lie_and_what_a_study_lacks():
    plan = plan_runs(compose(["study=abra"]))
    lines = table(plan).splitlines()
    assert lines[0].split()[-1] == "N/N*"
    for run, line in zip(plan.runs, lines[1:], strict=False):
        assert float(line.split()[-1]) == pytest.approx(
            run.n_params / minimum(plan.prior, run.budget_flops)[0], rel=6e-3
        )
    assert sum(line.startswith("note: ") for line in lines) == len(plan.notes) > 5
    assert any("2608.17286" in line for line in lines)


REFUSED = [
    (["study=paper", "prior=liang"], "prior=liang: there is no such prior"),
    (["study=paper", "prior.alpha=0"], "study.prior.alpha: 0 is too small; it must be above 0"),
    (["study=paper", "prior.beta=-0.3"], "study.prior.beta: -0.3 is too small; it must be above 0"),
    (["study=paper", "prior.gamma=1"], "prior.gamma: there is no such setting"),
    (
        ["study=paper", "prior=null"],
        "prior=null: is not the name of a file in configs/prior/; give one, or ~prior for none",
    ),
    (["study=paper", "~prior"], "study.around: is about the optimum of a prior; add one"),
    (["study=mini", "widths=[]"], "study.widths: the list is empty"),
    (["study=paper", "around.span=1"], "study.around.span: 1 is too small"),
    (["study=paper", "around.sizes=3"], "study.around.sizes: 3 is too small"),
    (["study=paper", "budgets=[1e17,3e17]"], "study.levers: give one list of widths, or 2 lists"),
    (["study=mini", "levers=[30]"], "study.levers: 30 is not a multiple of the head size 8; use 32"),
    (["study=mini", "levers=[32,32]"], "study.levers: [32, 32]: give each width"),
    (["study=paper", "budgets=[1e15]", "levers=[]"], "optimum of 1e15 FLOPs has 296k parameters, and fewer than 2 of"),
    (["study=paper", "budgets=[1e22]", "levers=[]", "probe_budget=1e23", "recipe.min_steps=3e6"], "lie above it"),
]


@pytest.mark.parametrize("words, says", REFUSED, ids=lambda x: " ".join(x) if isinstance(x, list) else "")
def test_a_prior_that_does_not_fit_is_refused_in_one_line(tmp_path, words, says):
    with pytest.raises(UserError) as error:
        plan_study(tmp_path / "s", words)
    assert says in str(error.value) and "\n" not in str(error.value) and not (tmp_path / "s").exists()


def test_a_prior_is_checked_wherever_it_is_from():
    with pytest.raises(UserError, match="prior.noise: 0.5 is too large"):
        check(Prior(E=0.1, A=1, B=1, alpha=0.3, beta=0.3, noise=0.5), "prior")
