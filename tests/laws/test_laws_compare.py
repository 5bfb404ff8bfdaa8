import dataclasses
import json

import numpy as np
import pytest
from laws_synthetic import CHINCHILLA, loss_of, study

from ditscale.errors import UserError
from ditscale.laws import Table, compare
from ditscale.laws.compare import RULE, _holm

SIX = (1e18, 3e18, 1e19, 3e19, 1e20, 3e20)


def design(truth, seed, noise=0.003):
    return study(truth, SIX, sizes=9, noise=noise, seed=seed)


def test_a_multiplier_built_in_is_found():
    """A and B divided by 0.8^gamma in FLOPs: scaling N and D by s changes C by s^2, losses equal at C / s^2."""
    floor, a, b, alpha, beta = CHINCHILLA
    s = 1.25**0.5
    better = (floor, a * s**-alpha, b * s**-beta, alpha, beta)
    pair = compare({"old": design(CHINCHILLA, 0, 0), "new": design(better, 1, 0)}, "1.5e21").pairs[0]
    assert pair.flop_multiplier.value == pytest.approx(1 / 1.25, rel=0.02)
    assert pair.loss_ratio.value < 1 and pair.model_exponent_difference.value == pytest.approx(0, abs=1e-3)
    noisy = compare({"old": design(CHINCHILLA, 2), "new": design(better, 3)}, "1.5e21").pairs[0]
    assert noisy.flop_multiplier.covers(0.8) and noisy.loss_ratio.low < noisy.loss_ratio.value < noisy.loss_ratio.high


def test_sentence_follows_the_numbers():
    floor, a, b, alpha, beta = CHINCHILLA
    other = (floor, a * 0.7, b * 0.7, alpha, beta)
    clear = compare({"plain": design(CHINCHILLA, 0), "good": design(other, 1)}, 3e21).pairs[0]
    assert "good is better than plain" in clear.sentence and clear.loss_p < 0.05
    m = clear.flop_multiplier
    said = f"good reaches the same loss with {m.value:.2f}x the FLOPs, 95 % {m.low:.2f} to {m.high:.2f}"
    assert said.replace("0.0", "0.0") in clear.sentence or m.low < 0.1
    turned = compare({"good": design(other, 1), "plain": design(CHINCHILLA, 0)}, 3e21).pairs[0]
    assert "plain is worse than good" in turned.sentence
    assert turned.flop_multiplier.low < 1 / m.value < turned.flop_multiplier.high
    assert turned.loss_ratio.value == pytest.approx(1 / clear.loss_ratio.value, rel=1e-6)
    null = compare({"one": design(CHINCHILLA, 4), "two": design(CHINCHILLA, 5)}, 1.5e21)
    assert "not distinguished" in null.pairs[0].sentence and "not significant" in null.pairs[0].sentence
    assert "do not differ significantly" in null.pairs[0].sentence
    json.dumps(null.to_dict(), allow_nan=False)
    assert "Compared at 1.5e21" in null.summary() and RULE in null.summary()


def test_criteria_of_the_paper():
    """More alpha and less beta: a smaller model exponent and a larger data exponent."""
    floor, a, b, alpha, beta = CHINCHILLA
    other = (floor, a * 8, b, alpha + 0.09, beta)
    tables = {"in-context": design(CHINCHILLA, 0, 0.001), "cross": design(other, 1, 0.001)}
    pair = compare(tables, 1.5e21).pairs[0]
    assert pair.model_exponent_difference.high < 0 < pair.data_exponent_difference.low
    found = {c.name: (c.favours, c.significant) for c in pair.criteria}
    assert found == {"model": ("cross", True), "data": ("in-context", True), "pipeline": ("cross", True)}
    assert (
        "cross has the smaller model and larger data exponent: of two designs the mark of a more efficient"
        in pair.sentence
    )
    assert "of two data sets in-context has the mark of better data" in pair.sentence
    turned = compare(dict(reversed(tables.items())), 1.5e21).pairs[0]
    assert {c.name: (c.favours, c.significant) for c in turned.criteria} == found


@pytest.mark.slow
def test_null_comparisons_are_rarely_rejected():
    wrong = 0
    for seed in range(30):
        tables = {"a": design(CHINCHILLA, 2 * seed), "b": design(CHINCHILLA, 2 * seed + 1)}
        wrong += compare(tables, 1.5e21).pairs[0].loss_p < 0.05
    # 30 trials at 6 %: 7 or more have a chance of 1 in 500.
    assert wrong <= 6


@pytest.mark.slow
def test_three_are_ranked():
    floor, a, b, alpha, beta = CHINCHILLA
    tables = {"worst": design((floor, a * 1.4, b * 1.4, alpha, beta), 0), "plain": design(CHINCHILLA, 1)}
    tables |= {"twin": design(CHINCHILLA, 2), "best": design((floor, a * 0.6, b * 0.6, alpha, beta), 3)}
    found = compare(tables, 1.5e21)
    assert len(found.pairs) == 6 and found.ranking[0] == "best" and found.ranking[-1] == "worst"
    assert "corrected for 6 comparisons" in found.ranking_sentence and "not distinguished" in found.ranking_sentence
    assert found.ranking_sentence in found.summary()
    lost = study(sizes=3, budgets=(1e11,))
    assert "No ranking: lost gave no law" in compare(tables | {"lost": lost}, 1.5e21).ranking_sentence


def test_holm_is_the_textbook_correction():
    """Holm 1979: sorted p times (m, m - 1, ...), made monotone; against the worked numbers .01, .04, .03, .005."""
    assert _holm(dict(zip("abcd", (0.01, 0.04, 0.03, 0.005), strict=True))) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}
    )


def test_exponents_of_the_surface_where_there_are_no_slices():
    rng = np.random.default_rng(0)
    n, d = np.exp(rng.uniform(np.log([1e7, 1e9]), np.log([1e9, 1e11]), (60, 2))).T
    loss = loss_of(CHINCHILLA, n, d) * np.exp(0.001 * rng.standard_normal(60))
    scattered = Table.of(n, d, 6 * n * d, loss)
    pair = compare({"scattered": scattered, "grid": design(CHINCHILLA, 1, 0.001)}, 1.5e21).pairs[0]
    assert pair.exponents_from == pair.law == "mixture"
    assert pair.model_exponent_difference.covers(0) and pair.loss_ratio.covers(1)


@pytest.mark.slow
def test_tables_that_are_hard_to_compare_are_flagged():
    short = study(CHINCHILLA, SIX[:4], sizes=9, noise=0.003, seed=1)
    found = compare({"long": design(CHINCHILLA, 0), "short": short}, 1.5e21)
    assert [f.severity for f in found.findings if f.code == "extrapolation"] == ["info", "warning"]
    assert "short" in found.findings[-1].message and "extrapolated 10x further" in found.findings[-1].message
    flops = dataclasses.replace(short, budget_flops=2 * short.budget_flops)
    counted = compare({"six": short, "twelve": flops}, 1e20).findings
    assert [f.code for f in counted] == ["units_mixed"] and "twelve" in counted[0].message
    assert not compare({"a": design(CHINCHILLA, 0), "b": design(CHINCHILLA, 1)}, 1e21).findings


def test_refusals():
    with pytest.raises(UserError, match="two or more"):
        compare({"a": design(CHINCHILLA, 0)}, 1e21)
    fid = dataclasses.replace(design(CHINCHILLA, 0), metric="fid")
    with pytest.raises(UserError, match="different metrics .a loss, b fid."):
        compare({"a": design(CHINCHILLA, 0), "b": fid}, 1e21)
    lost = compare({"a": design(CHINCHILLA, 0), "b": study(sizes=3, budgets=(1e11,))}, 1e21)
    assert lost.pairs[0].law is None and "cannot be compared" in lost.pairs[0].sentence
    assert lost.losses["b"] is None and "refused" in lost.summary()
    json.dumps(lost.to_dict(), allow_nan=False)


def test_the_paper_s_multiplier_is_covered():
    """Laws of arXiv 2410.08184 as parabolas at 60 runs a design, 0.3 % noise: L*(C) of both in closed form."""
    sizes, budgets = 49152.0 * np.arange(2, 16) ** 3, (1e17, 3e17, 6e17, 1e18, 3e18, 6e18)
    laws = {
        "in-context": (lambda c: 0.0009 * c**0.5681, lambda c: 2.3943 * c**-0.0273),
        "cross": (lambda c: 0.0009 * 1e18**0.0281 * c**0.54, lambda c: 2.3943 * 1e17**0.0112 * c**-0.0385),
    }
    target = 1.5e21
    goal = laws["in-context"][1](target)
    truth = (goal / (2.3943 * 1e17**0.0112)) ** (1 / -0.0385) / target
    assert truth == pytest.approx(0.061, abs=1e-3)
    rng, tables = np.random.default_rng(0), {}
    for name, (n_star, loss) in laws.items():
        n = np.concatenate([np.sort(sizes[np.argsort(abs(np.log(sizes / n_star(c))))[:10]]) for c in budgets])
        c = np.repeat(budgets, 10)
        noise = np.exp(0.008 * np.log(n / n_star(c)) ** 2 + 0.003 * rng.standard_normal(60))
        tables[name] = Table.of(n, c / 6 / n, c, loss(c) * noise)
    pair = compare(tables, target).pairs[0]
    assert pair.flop_multiplier.covers(truth) and pair.loss_ratio.covers(laws["cross"][1](target) / goal)


def test_keywords_of_older_scripts_are_taken():
    tables = {"a": design(CHINCHILLA, 0), "b": design(CHINCHILLA, 1)}
    assert compare(tables, 1e21, bootstrap=200, seed=3) == compare(tables, 1e21)


def test_losses_that_do_not_compare_are_said():
    tables = {"a": design(CHINCHILLA, 0), "b": design(CHINCHILLA, 1)}
    own = {
        name: dataclasses.replace(table, recorded=(("evaluation", f"10k images of {name}"),))
        for name, table in tables.items()
    }
    (found,) = [f for f in compare(own, 1e21).findings if f.code == "unlike_losses"]
    assert "held-out data (a: 10k images of a; b: 10k images of b)" in found.message and "loss_coco" in found.message
    assert not [f for f in compare(tables, 1e21).findings if f.code == "unlike_losses"]


def test_metrics_of_either_sign_differ_by_an_amount():
    tables = {
        name: dataclasses.replace(design(CHINCHILLA, seed), metric="nll") for seed, name in enumerate(("one", "two"))
    }
    better = dataclasses.replace(tables["two"], loss=tables["two"].loss - 0.3)
    pair = compare({"one": tables["one"], "two": better}, 1e21).pairs[0]
    assert pair.loss_ratio is None and pair.metric_difference.covers(-0.3) and "two is better than one" in pair.sentence
    assert {c.name for c in pair.criteria} == {"model", "data"}
