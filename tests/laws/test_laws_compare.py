import json

import pytest
from laws_synthetic import CHINCHILLA, study

from ditscale.errors import UserError
from ditscale.laws import compare

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
    clear = compare({"plain": design(CHINCHILLA, 0), "good": design((floor, a * 0.6, b * 0.6, alpha, beta), 1)}, 1.5e21)
    assert "good is better than plain" in clear.pairs[0].sentence
    turned = compare(
        {"good": design((floor, a * 0.6, b * 0.6, alpha, beta), 1), "plain": design(CHINCHILLA, 0)}, 1.5e21
    )
    assert "plain is worse than good" in turned.pairs[0].sentence
    null = compare({"one": design(CHINCHILLA, 4), "two": design(CHINCHILLA, 5)}, 1.5e21)
    assert "not distinguished" in null.pairs[0].sentence
    assert "do not differ significantly" in null.pairs[0].sentence
    json.dumps(null.to_dict(), allow_nan=False)
    assert "Compared at 1.5e21" in null.summary()


def test_criteria_of_the_paper():
    """More alpha and less beta: a smaller model exponent and a larger data exponent."""
    floor, a, b, alpha, beta = CHINCHILLA
    other = (floor, a * 8, b, alpha + 0.09, beta)
    pair = compare({"in-context": design(CHINCHILLA, 0, 0.001), "cross": design(other, 1, 0.001)}, 1.5e21).pairs[0]
    assert pair.model_exponent_difference.high < 0 < pair.data_exponent_difference.low
    assert "smaller model and larger data exponent, the mark of a more efficient model" in pair.sentence


def test_null_comparisons_are_rarely_rejected():
    wrong = 0
    for seed in range(30):
        pair = compare(
            {"a": design(CHINCHILLA, 2 * seed), "b": design(CHINCHILLA, 2 * seed + 1)}, 1.5e21, bootstrap=200
        ).pairs[0]
        wrong += not pair.loss_ratio.covers(1.0)
    # 30 trials at 6 %: 7 or more have a chance of 1 in 500.
    assert wrong <= 6


def test_refusals():
    with pytest.raises(UserError, match="two or more"):
        compare({"a": design(CHINCHILLA, 0)}, 1e21)
    lost = compare({"a": design(CHINCHILLA, 0), "b": study(sizes=3, budgets=(1e11,))}, 1e21, bootstrap=50)
    assert lost.pairs[0].law is None and "cannot be compared" in lost.pairs[0].sentence
    assert lost.losses["b"] is None and "refused" in lost.summary()
