"""What-if questions against the closed forms of a surface, directions of a metric, and what runs share."""

import dataclasses
import math
import re

import numpy as np
import pytest
from laws_synthetic import CHINCHILLA, best, loss_of, study

from ditscale.errors import UserError
from ditscale.laws import Table, compare, fit, forecast, predict, read_table
from ditscale.laws.predictor.identify import undetermined_design
from ditscale.laws.predictor.runs import group_labels, slice_labels
from ditscale.laws.questions import _worth
from ditscale.quantities import guess

BUDGETS = (1e18, 3e18, 1e19, 3e19, 1e20, 3e20)
TARGET = 1.5e22


@pytest.fixture(scope="module")
def table():
    made = study(CHINCHILLA, BUDGETS, sizes=9, noise=0.002, seed=1)
    more = {"n_params_total": 1.5 * made.n_params, "nll": made.loss - 5}
    return dataclasses.replace(made, columns=more, n_images=made.n_tokens / 256)


def by_what(answers):
    return {choice.what.split(" (")[0]: choice for choice in answers.choices}


def test_what_is_given_beside_a_budget(table):
    """Every answer against the surface's own value there."""
    n_star, d_star, loss = best(CHINCHILLA, TARGET)
    found = by_what(predict(table, TARGET, n_params="5e9", n_tokens=1e12, ratio=100, images=1e8))
    assert found["optimum"].n_params.covers(n_star) and found["optimum"].n_tokens.covers(d_star)
    assert found["optimum"].loss.covers(loss) and 0 <= found["optimum"].regret < 0.02
    for what, n in (("N = 5G", 5e9), ("D = 1T", TARGET / 6e12), ("D / N = 100", math.sqrt(TARGET / 600))):
        d = TARGET / 6 / n
        truth = loss_of(CHINCHILLA, n, d)
        assert (found[what].n_params.value, found[what].n_tokens.value) == pytest.approx((n, d), rel=1e-3)
        assert found[what].loss.covers(truth) and found[what].penalty.value == pytest.approx(truth / loss - 1, rel=0.2)
        needed = budget_of_loss(truth) / TARGET
        assert found[what].flops_share.value == pytest.approx(needed, rel=0.1)
        assert found[what].regret == pytest.approx(1 - needed, abs=0.03)
    once = found["each image once"]
    assert once.n_tokens.value == pytest.approx(2.56e10) and once.penalty.value > 0.02


def budget_of_loss(loss):
    grid = np.geomspace(TARGET / 100, TARGET, 2000)
    return float(np.interp(-loss, [-best(CHINCHILLA, c)[2] for c in grid], grid))


def test_repeats_cost_what_their_worth_says(table):
    """The best size with few images, against a search on the surface itself."""
    unique, repeats = 1e8 * 256, 4.0
    n = np.geomspace(3e9, 3e11, 4000)
    truth = loss_of(CHINCHILLA, n, _worth(TARGET / 6 / n, unique, repeats))
    (found,) = [c for c in predict(table, TARGET, images=1e8, repeats=repeats).choices if "passes" in c.what]
    assert found.n_params.value == pytest.approx(n[np.argmin(truth)], rel=0.15)
    assert found.loss.value == pytest.approx(truth.min(), rel=0.01)


def test_worth_of_repeats():
    """Muennighoff et al., equation 5: D = U + U R (1 - e^(-(passes - 1) / R)); new images are worth themselves."""
    assert _worth(np.array([5.0, 10.0]), 10.0, 15.0) == pytest.approx([5, 10])
    assert _worth(np.array([40.0]), 10.0, 15.0) == pytest.approx([10 + 150 * (1 - math.exp(-3 / 15))])
    assert _worth(np.array([1e9]), 10.0, 15.0) == pytest.approx([160])


def test_budgets_that_a_value_or_a_size_needs(table):
    n_star, d_star, loss = best(CHINCHILLA, 1e21)
    found = predict(table, reach=loss, n_params=n_star, n_tokens=d_star).choices
    for choice in found:
        assert choice.budget_flops.covers(1e21) and choice.budget_flops.value == pytest.approx(1e21, rel=0.15)
    for goal, says in ((1.0, "no budget"), (1e6, "any budget")):
        (choice,) = predict(table, reach=goal).choices
        assert choice.budget_flops is None and says in choice.what
    two = predict(table.take(table.budget_flops < 5e18), reach=2.0)
    assert not two.given and [f.code for f in two.findings] == ["not_identified"]


def test_metrics_and_countings(table):
    found = predict(table, TARGET, metrics=["nll"], countings=["n_params_total"])
    n_star, d_star, loss = best(CHINCHILLA, TARGET)
    assert found.metrics["nll"].covers(loss - 5)
    (counted,) = found.countings
    assert counted.n_params.value == pytest.approx(1.5 * found.choices[0].n_params.value, rel=0.02)
    assert counted.n_tokens.value == pytest.approx(found.choices[0].n_tokens.value, rel=0.02)
    again = type(found).from_dict(found.to_dict())
    assert again == found and "Metrics at N*" in found.summary()


@pytest.mark.slow
def test_spread_over_analyses(table):
    found = predict(table, TARGET, spread=True)
    assert len(found.analyses) == 64 == len({(a.table, a.form) for a in found.analyses})
    n_star, _, loss = best(CHINCHILLA, TARGET)
    surfaces = [a for a in found.analyses if a.form.startswith("approach 3")]
    assert len(surfaces) == 24 and all(abs(math.log(a.n_params / n_star)) < 0.3 for a in surfaces)
    floored = [a for a in found.analyses if a.form != "approach 2"]
    assert all(abs(a.loss / loss - 1) < 0.03 for a in floored) and "64 analyses" in found.summary()


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({}, "ask something"), ({"reach": 2, "spread": True}, "asked at a budget"), ({"ratio": 20}, "at a budget"),
        ({"budget": "1e21", "images": 1e6, "table": "bare"}, "tokens_per_image"), ({"budget": -1}, "budget"),
        ({"budget": 1e21, "countings": ["width"]}, "without 'width'"), ({"budget": "x"}, "'x' is not a number"),
        ({"reach": 0}, "not positive"), ({"reach": "-2"}, "not positive"), ({"budget": 1e21, "images": 0.5}, "images"),
    ],
)  # fmt: skip
def test_questions_that_cannot_be_asked(table, how, says):
    source = table if how.pop("table", "") != "bare" else dataclasses.replace(table, n_images=None)
    with pytest.raises(UserError, match=says):
        predict(source, **how)


@pytest.mark.slow
def test_higher_is_better(table):
    """accuracy = 1 - loss / 10: everything of the loss, turned."""
    up = dataclasses.replace(table, loss=1 - table.loss / 10, metric="accuracy")
    n_star, _, loss = best(CHINCHILLA, TARGET)
    laws = fit(up, targets=[TARGET], bootstrap=100)
    at = laws.predictions["1.5e22"]
    assert at.answer.n_params.covers(n_star) and at.answer.loss.covers(1 - loss / 10)
    assert at.approach2.n_params.value == pytest.approx(n_star, rel=0.3) and laws.approach2.loss_exponent is None
    assert at.approach2.loss.value > 0.5 and all(s.loss > 0.5 for s in laws.slices if s.ok) and laws.approach3 is None
    assert forecast(up, TARGET).loss.covers(1 - loss / 10)
    assert {b.answer.covered for b in laws.backtests if b.answer} == {True}
    worse = dataclasses.replace(up, loss=up.loss - 0.02)
    (pair,) = compare({"good": up, "worse": worse}, TARGET).pairs
    assert pair.metric_difference.high < 0 and "worse than good" in pair.sentence


@pytest.mark.parametrize(("metric", "better", "says"), [("metric", "", "add"), ("loss", "higher", "leave out")])
def test_a_metric_of_the_wrong_direction_is_named(table, metric, better, says):
    values = 1 - table.loss / 10 if metric == "metric" else table.loss
    laws = fit(dataclasses.replace(table, loss=values, metric=metric, better=better), targets=[TARGET], bootstrap=0)
    (found,) = [f for f in laws.findings if f.code == "wrong_direction"]
    assert f"{says} --higher-is-better" in found.message or says in found.message and not laws.given
    with pytest.raises(UserError, match="higher-is-better"):
        forecast(dataclasses.replace(table, loss=values, metric=metric, better=better), TARGET)


def test_two_budgets_give_a_size_and_no_loss(table):
    laws = fit(table.take(table.budget_flops < 5e18), targets=[1e20], bootstrap=0)
    at = laws.predictions["1e20"]
    assert at.answer.n_params and at.answer.loss is None and at.approach2.loss is None and at.approach3.loss is None
    (found,) = [f for f in laws.findings if f.code == "not_identified"]
    assert "two budgets" in found.message and "add N = " in found.message


def nested(rng, share):
    ladder = best(CHINCHILLA, 1.7e19)[0] * 2.0 ** (np.arange(-10, 11) / 2)
    cells = [(c, n) for c in BUDGETS for n in ladder if abs(math.log(n / best(CHINCHILLA, c)[0])) < math.log(8)]
    c, n = np.array(cells).T
    own = rng.standard_normal(len(ladder))[np.searchsorted(ladder, n)]
    error = 0.003 * (math.sqrt(share) * own + math.sqrt(1 - share) * rng.standard_normal(len(n)))
    return n, c, loss_of(CHINCHILLA, n, c / 6 / n) * np.exp(error)


@pytest.mark.parametrize(
    ("share", "recorded", "said"), [(0.9, False, "warning"), (0.9, True, "info"), (0, False, None)]
)
def test_what_sizes_share_is_said(share, recorded, said):
    n, c, loss = nested(np.random.default_rng(3), share)
    shared = {"trajectory": [f"{v:.3g}" for v in n]} if recorded else {}
    laws = fit(Table.of(n, c / 6 / n, c, loss, shared=shared), bootstrap=0)
    found = [f.severity for f in laws.findings if f.code == "shared_errors"]
    assert found == ([said] if said else [])


def test_labels_that_a_table_records():
    n, c = np.tile([1e8, 2e8, 4e8], 4), np.repeat([1e18, 1e18, 3e18, 3e18], 3)
    seed = np.repeat([0, 1, 0, 1], 3)
    made = Table.of(n, c / 6 / n, c, 3 + 0 * n, shared={"seed": seed, "data_seed": seed})
    groups = group_labels(made, slice_labels(made))
    assert len(np.unique(groups["trajectory"])) == 6 and len(np.unique(groups["size"])) == 3
    assert len(np.unique(groups["shared"])) == 4  # 2 budgets x 2 orders of the data
    alone = dataclasses.replace(made, shared={"trajectory": np.arange(12)})  # Each run its own training.
    assert set(group_labels(alone, slice_labels(alone))) == {"size"}


def test_readings_of_one_training_are_recognised(tmp_path):
    """A run_id at several D and one N, as tables of checkpoints have it; with another N it is a mistake."""
    rows = [f"run-{k},{n},{d},{6 * n * d},3.{k}{i}" for k, n in enumerate((1e8, 2e8)) for i, d in enumerate((1e9, 2e9))]
    path = tmp_path / "checkpoints.csv"
    path.write_text("\n".join(["run_id,n_params,n_tokens,budget_flops,loss", *rows]))
    made = read_table(path)
    assert made.run_id.tolist() == ["run-0@1G", "run-0@2G", "run-1@1G", "run-1@2G"]
    assert made.shared["trajectory"].tolist() == ["run-0", "run-0", "run-1", "run-1"]
    path.write_text(path.read_text().replace("run-1", "run-0"))
    with pytest.raises(UserError, match="appears twice"):
        read_table(path)


@pytest.mark.parametrize(
    ("budgets", "factors", "says"),
    [
        (BUDGETS, np.geomspace(0.2, 5, 7), ""), ((1e18, 1e19, 1e20), (0.25, 0.6, 1.6, 4), ""),
        ((1e19,), np.geomspace(0.2, 5, 9), "one budget"), ((1e19, 3e19), np.geomspace(0.2, 5, 9), "two budgets"),
        (BUDGETS, (0.8, 1.2), "fewer than 3 sizes"),
    ],
)  # fmt: skip
def test_a_design_is_checked_without_losses(budgets, factors, says):
    n = np.concatenate([best(CHINCHILLA, c)[0] * np.asarray(factors) for c in budgets])
    c = np.repeat(budgets, len(factors))
    found = undetermined_design(n, c / 6 / n, c, 100 * max(budgets))
    assert says in found and bool(found) == bool(says)


def test_a_ratio_is_no_design():
    n = 4e6 * 1.5 ** np.arange(14)
    assert "one ratio D / N, 20" in undetermined_design(n, 20 * n, 120 * n * n, 1e22)


def test_a_question_is_refused_where_its_own_budget_is(table):
    """Budgets within 1.7x speak for no optimum 100 times beyond them: not for `budget`, so not for a size or a value
    whose optimum lies there; a far value leaves a near budget its answer."""
    near = study(CHINCHILLA, (1e18, 1.2e18, 1.44e18, 1.73e18), sizes=8, noise=0.003, seed=1)
    far_n, _, far_loss = best(CHINCHILLA, 1e21)
    for how in ({"budget": 1e21}, {"n_params": far_n}, {"reach": far_loss}):
        found = predict(near, **how)
        assert not found.given and [f.code for f in found.findings] == ["not_identified"]
    both = by_what(predict(near, 4e18, reach=far_loss))
    assert both["optimum"].loss.covers(best(CHINCHILLA, 4e18)[2]) and list(both)[0] == "optimum"
    assert both["optimum"] == by_what(predict(near, 4e18))["optimum"]


@pytest.mark.parametrize("wrong", ["constant", "a million", "exaFLOPs"])
def test_what_one_command_refuses_all_refuse(table, wrong):
    n, c, loss = table.n_params.copy(), table.budget_flops, table.loss
    if wrong == "a million":
        n[3] /= 1e6
    bad = dataclasses.replace(
        table, n_params=n, loss=np.full(len(n), 2.0) if wrong == "constant" else loss,
        budget_flops=c / 1e18 if wrong == "exaFLOPs" else c,
    )  # fmt: skip
    asked = (
        lambda: fit(bad, targets=[TARGET]), lambda: predict(bad, TARGET), lambda: forecast(bad, TARGET),
        lambda: compare({"a": bad, "b": bad}, TARGET),
    )  # fmt: skip
    said = set()
    for ask in asked:
        with pytest.raises(UserError) as error:
            ask()
        said.add(str(error.value))
    assert len(said) == 1


def test_kappa_is_one_in_all_commands(table):
    laws, kappa = fit(table, targets=[TARGET], kappa=7.0, bootstrap=0), {"kappa": 7.0}
    answer = laws.predictions["1.5e22"].answer
    assert answer.n_tokens.value == pytest.approx(TARGET / 7 / answer.n_params.value, rel=1e-3)
    assert forecast(table, TARGET, **kappa).n_tokens == answer.n_tokens
    assert predict(table, TARGET, **kappa).choices[0].n_tokens == answer.n_tokens
    units = dataclasses.replace(table, budget_flops=table.budget_flops * 1e4)
    for far in (None, 6.0):
        with pytest.raises(UserError, match="--kappa 6e4"):
            fit(units, kappa=far)
    meant = compare({"a": units, "b": units}, TARGET * 1e4, kappa=6e4, bootstrap=0)
    assert meant.losses["a"] == predict(units, TARGET * 1e4, kappa=6e4).choices[0].loss


def test_what_is_not_determined_is_withheld_from_metrics_and_spread(table):
    """Two budgets: an N*, and no loss, FID or spread of losses beyond them."""
    two = table.take(table.budget_flops < 5e18)
    found = predict(two, 1e20, metrics=["nll"], spread=True)
    assert found.choices[0].n_params and found.choices[0].loss is None and not found.metrics
    assert all(a.loss is None for a in found.analyses) and any(a.n_params for a in found.analyses)
    gone = np.where(table.budget_flops < 5e18, table.loss, np.nan)
    with pytest.raises(UserError, match="no law of other"):
        predict(dataclasses.replace(table, columns={"other": gone}), TARGET, metrics=["other"])


@pytest.mark.parametrize("metric", ["loss", "accuracy", "score"])
def test_a_wrong_direction_says_what_can_be_typed_and_nothing_else_is_advised(table, metric):
    """A name that says higher is better was not said by an option; no advice to widen a grid stands beside it."""
    turned = dataclasses.replace(table, metric=metric, loss=table.loss if metric != "loss" else 10 / table.loss)
    laws = fit(turned, targets=[TARGET], bootstrap=0)
    severe = [f for f in laws.findings if f.severity != "info"]
    assert [f.code for f in severe] == ["wrong_direction"] and not laws.given
    assert ("leave out" in severe[0].message) is False
    assert ("--columns" in severe[0].message) == (metric != "loss")
    if metric != "loss":
        renamed = dataclasses.replace(turned, metric="value")
        assert fit(renamed, targets=[TARGET], bootstrap=0).predictions["1.5e22"].answer.loss


@pytest.mark.parametrize(
    ("name", "higher", "positive"),
    [
        ("accuracy", True, False), ("eval/accuracy", True, False), ("eval/clip score", True, False),
        ("CLIP", True, False), ("f1", True, False), ("negative_log_likelihood", False, False),
        ("kid_score", False, False),
        ("clip-fid", False, True), ("eval/fid", False, True), ("FID50k", False, True), ("eval/loss", False, True),
        ("lpips", False, False), ("nll", False, False), ("width", False, False),
    ],
)  # fmt: skip
def test_direction_and_sign_by_name(name, higher, positive):
    assert (guess(name).higher_is_better, guess(name).positive) == (higher, positive)


def test_many_slices_without_sizes_are_one_finding():
    """Runs along one ratio: a budget each."""
    n = np.geomspace(1e7, 2e9, 12)
    made = Table.of(n, 20 * n, 120 * n**2, loss_of(CHINCHILLA, n, 20 * n))
    found = [f for f in fit(made, bootstrap=0).findings if f.code == "too_few_runs"]
    assert len(found) == 1 and len(found[0].slices) == 12


@pytest.mark.parametrize("design", ["one ratio", "two ratios", "below", "two budgets"])
def test_the_runs_that_a_refusal_names_mend_it(design):
    """Train the runs that are named, on the surface that made the others, and ask again: given, and true."""
    rng, n = np.random.default_rng(2), np.geomspace(1e7, 2e9, 10)
    if "ratio" in design:
        n = np.repeat(n, 2)
        d = n * np.where(np.arange(len(n)) % 2 & ("two" in design), 30, 15)
        d = d * np.exp(0.02 * rng.standard_normal(len(n)))
    else:
        budgets = np.repeat(BUDGETS[:4:2] if design == "two budgets" else BUDGETS[:5], 8)
        n = best(CHINCHILLA, budgets)[0] * np.tile(np.geomspace(0.4, 2.5, 8), len(budgets) // 8)
        n = n / 8 if design == "below" else n
        d = budgets / 6 / n

    def trained(n, d):
        return Table.of(n, d, 6 * n * d, loss_of(CHINCHILLA, n, d) * np.exp(0.003 * rng.standard_normal(len(n))))

    before, target = trained(n, d), 300 * float(np.max(n * d))
    (refused,) = predict(before, target).findings
    units = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
    named = re.findall(r"N = ([\d.]+)(\w?), D = ([\d.]+)(\w?) tokens", refused.message)
    assert refused.code == "not_identified" and len(named) in (2, 4, 6)
    more = np.array([[float(a) * units.get(u, 1), float(b) * units.get(v, 1)] for a, u, b, v in named]).T
    after = predict(trained(*np.append([n, d], more, axis=1)), target)
    assert not after.findings and after.choices[0].n_params.covers(best(CHINCHILLA, target)[0])
