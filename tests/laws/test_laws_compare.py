import dataclasses
import json

import numpy as np
import pytest
import scipy.stats
from laws_synthetic import CHINCHILLA, loss_of, study

from ditscale.errors import UserError
from ditscale.laws import Table, compare
from ditscale.laws.compare import RULE, _holm, two_sided_p

SIX = (1e18, 3e18, 1e19, 3e19, 1e20, 3e20)


def design(truth, seed, noise=0.003):
    return study(truth, SIX, sizes=9, noise=noise, seed=seed)


def test_a_multiplier_built_in_is_found():
    """A and B divided by 0.8^gamma in FLOPs: scaling N and D by s changes C by s^2, losses equal at C / s^2."""
    floor, a, b, alpha, beta = CHINCHILLA
    s = 1.25**0.5
    better = (floor, a * s**-alpha, b * s**-beta, alpha, beta)
    pair = compare({"old": design(CHINCHILLA, 0, 0), "new": design(better, 1, 0)}, "1.5e21", bootstrap=0).pairs[0]
    assert pair.flop_multiplier.value == pytest.approx(1 / 1.25, rel=1e-6)
    assert pair.loss_ratio.value < 1 and pair.model_exponent_difference.value == pytest.approx(0, abs=1e-3)
    noisy = compare({"old": design(CHINCHILLA, 2), "new": design(better, 3)}, "1.5e21", bootstrap=300).pairs[0]
    assert noisy.flop_multiplier.covers(0.8) and noisy.loss_ratio.low < noisy.loss_ratio.value < noisy.loss_ratio.high


def test_sentence_follows_the_numbers():
    floor, a, b, alpha, beta = CHINCHILLA
    other = (floor, a * 0.9, b * 0.9, alpha, beta)
    clear = compare({"plain": design(CHINCHILLA, 0), "good": design(other, 1)}, 1.5e21).pairs[0]
    assert "good is better than plain" in clear.sentence and clear.loss_p == pytest.approx(2 / 1001)
    m = clear.flop_multiplier
    assert (
        f"good reaches the same loss with {m.value:.2f}x the FLOPs, 95 % {m.low:.2f} to {m.high:.2f}" in clear.sentence
    )
    turned = compare({"good": design(other, 1), "plain": design(CHINCHILLA, 0)}, 1.5e21).pairs[0]
    assert "plain is worse than good" in turned.sentence
    assert turned.flop_multiplier.value == pytest.approx(1 / m.value, rel=0.05)
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


def test_p_is_the_share_of_draws_on_the_rarer_side():
    draws = np.concatenate([-np.ones(4), np.ones(995)])
    assert two_sided_p(draws) == pytest.approx(2 * 5 / 1000) and two_sided_p(-draws) == two_sided_p(draws)
    assert two_sided_p(np.ones(999)) == pytest.approx(2 / 1000) and two_sided_p(np.zeros(99)) == 1
    assert two_sided_p(draws + 1, 1.0) == two_sided_p(draws)
    assert two_sided_p(None) is None and two_sided_p(np.array([np.nan] * 90 + [1.0] * 10)) is None


def test_p_agrees_with_a_z_test_of_the_draws():
    """Where draws are normal, the p of the rule is the normal tail beyond (difference / spread)."""
    draws = 1.5 + np.random.default_rng(0).standard_normal(200_000)
    assert two_sided_p(draws) == pytest.approx(2 * scipy.stats.norm.sf(1.5), rel=0.02)


@pytest.mark.slow
def test_null_comparisons_are_rarely_rejected():
    wrong = 0
    for seed in range(30):
        tables = {"a": design(CHINCHILLA, 2 * seed), "b": design(CHINCHILLA, 2 * seed + 1)}
        wrong += compare(tables, 1.5e21, bootstrap=200).pairs[0].loss_p < 0.05
    # 30 trials at 6 %: 7 or more have a chance of 1 in 500.
    assert wrong <= 6


def test_three_are_ranked():
    floor, a, b, alpha, beta = CHINCHILLA
    tables = {"worst": design((floor, a * 1.4, b * 1.4, alpha, beta), 0), "plain": design(CHINCHILLA, 1)}
    tables |= {"twin": design(CHINCHILLA, 2), "best": design((floor, a * 0.6, b * 0.6, alpha, beta), 3)}
    found = compare(tables, 1.5e21, bootstrap=400)
    assert len(found.pairs) == 6 and found.ranking[0] == "best" and found.ranking[-1] == "worst"
    assert "corrected for 6 comparisons" in found.ranking_sentence and "not distinguished" in found.ranking_sentence
    assert found.ranking_sentence in found.summary()
    lost = study(sizes=3, budgets=(1e11,))
    assert "No ranking: lost gave no law" in compare(tables | {"lost": lost}, 1.5e21, bootstrap=0).ranking_sentence


def test_holm_is_the_textbook_correction():
    """Holm 1979: sorted p times (m, m - 1, ...), made monotone; against the worked numbers .01, .04, .03, .005."""
    assert _holm(dict(zip("abcd", (0.01, 0.04, 0.03, 0.005), strict=True))) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}
    )
    assert _holm({"a": None, "b": 0.1}) == {"a": None, "b": None}


def test_exponents_of_the_surface_where_there_are_no_slices():
    rng = np.random.default_rng(0)
    n, d = np.exp(rng.uniform(np.log([1e7, 1e9]), np.log([1e9, 1e11]), (60, 2))).T
    loss = loss_of(CHINCHILLA, n, d) * np.exp(0.001 * rng.standard_normal(60))
    scattered = Table.of(n, d, 6 * n * d, loss)
    pair = compare({"scattered": scattered, "grid": design(CHINCHILLA, 1, 0.001)}, 1.5e21, bootstrap=300).pairs[0]
    assert pair.exponents_from == "surface" and pair.law == "surface"
    assert (
        pair.model_exponent_difference.value == pytest.approx(0, abs=0.02) and "as the surfaces imply" in pair.sentence
    )


def test_tables_that_are_hard_to_compare_are_flagged():
    short = study(CHINCHILLA, SIX[:4], sizes=9, noise=0.003, seed=1)
    found = compare({"long": design(CHINCHILLA, 0), "short": short}, 1.5e21, bootstrap=0)
    assert [f.severity for f in found.findings if f.code == "extrapolation"] == ["info", "warning"]
    assert "short" in found.findings[-1].message and "extrapolated 10x further" in found.findings[-1].message
    flops = dataclasses.replace(short, budget_flops=2 * short.budget_flops)
    counted = compare({"six": short, "twelve": flops}, 1e20, bootstrap=0).findings
    assert [f.code for f in counted] == ["units_mixed"] and "twelve" in counted[0].message
    assert not compare({"a": design(CHINCHILLA, 0), "b": design(CHINCHILLA, 1)}, 1e21, bootstrap=0).findings


def test_refusals():
    with pytest.raises(UserError, match="two or more"):
        compare({"a": design(CHINCHILLA, 0)}, 1e21)
    fid = dataclasses.replace(design(CHINCHILLA, 0), metric="fid")
    with pytest.raises(UserError, match="different metrics .a loss, b fid."):
        compare({"a": design(CHINCHILLA, 0), "b": fid}, 1e21)
    lost = compare({"a": design(CHINCHILLA, 0), "b": study(sizes=3, budgets=(1e11,))}, 1e21, bootstrap=50)
    assert lost.pairs[0].law is None and "cannot be compared" in lost.pairs[0].sentence
    assert lost.losses["b"] is None and "refused" in lost.summary()
    json.dumps(lost.to_dict(), allow_nan=False)
    bare = compare({"a": design(CHINCHILLA, 0), "b": design(CHINCHILLA, 1)}, 1e21, bootstrap=0).pairs[0]
    assert bare.loss_p is None and "no interval" in bare.sentence
