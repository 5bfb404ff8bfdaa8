"""The Frechet distance against closed forms, its extrapolation and its standard error against repetition."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from ditscale.evaluate import frechet

FEATURES = 8


def gaussians(seed=0):
    rng = np.random.default_rng(seed)
    roots = [rng.normal(size=(FEATURES, FEATURES)) * 0.4 + np.eye(FEATURES) for _ in range(2)]
    return 0.2 * rng.normal(size=FEATURES), roots[0] @ roots[0].T, np.zeros(FEATURES), roots[1] @ roots[1].T


def draw(rng, mean, covariance, n):
    return rng.multivariate_normal(mean, covariance, n)


def test_gaussians_that_commute():
    """|m1 - m2|^2 + sum (a - b)^2 for standard deviations a and b along the same axes."""
    rng = np.random.default_rng(0)
    Q, _ = np.linalg.qr(rng.normal(size=(FEATURES, FEATURES)))
    a, b, m = rng.uniform(0, 2, FEATURES), rng.uniform(0, 2, FEATURES), rng.normal(size=FEATURES)
    found = frechet.gaussian_distance(m, (Q * a**2) @ Q.T, 0 * m, (Q * b**2) @ Q.T)
    assert found == pytest.approx(m @ m + ((a - b) ** 2).sum(), abs=1e-7)
    assert frechet.gaussian_distance(m, (Q * a**2) @ Q.T, m, (Q * a**2) @ Q.T) == pytest.approx(0, abs=1e-7)


def test_gaussians_that_do_not():
    m1, s1, m2, s2 = gaussians()
    truth = m1 @ m1 + np.trace(s1 + s2 - 2 * sqrtm(s1 @ s2).real)
    assert frechet.gaussian_distance(m1, s1, m2, s2) == pytest.approx(truth, rel=1e-9)


def test_bias_extrapolation_and_standard_error():
    """At n = 200 the distance is too large; extrapolated it is right; and both scatter as their bootstrap says."""
    law, rng = gaussians(), np.random.default_rng(1)
    truth, n, found, errors = frechet.gaussian_distance(*law), 200, [], []
    for k in range(300):
        x, y = draw(rng, *law[:2], n), draw(rng, *law[2:], n)
        at_n = frechet.distance(x, y)
        found.append((at_n, frechet.extrapolated(at_n, frechet.whole_and_half(x, y)[1])))
        if k < 20:
            errors.append(frechet.standard_errors(x, y, 60, k))
    mean, scatter = np.mean(found, 0), np.std(found, 0)
    bias = mean - truth
    assert bias[0] > 5 * scatter[0] / 300**0.5 and abs(bias[1]) < 4 * scatter[1] / 300**0.5
    assert np.mean(errors, 0) == pytest.approx(scatter, rel=0.25)


@pytest.mark.parametrize("n, m", [(5, 300), (300, 5), (8, 8), (9, 9), (61, 61), (60, 47)])
def test_few_images_and_halves(n, m):
    """Fewer images than features or more, odd numbers and unequal ones: always the definition's value."""
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=(n, FEATURES)), rng.normal(1, 2, size=(m, FEATURES))

    def by_definition(x, y):
        s1, s2 = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
        gap = x.mean(0) - y.mean(0)
        return gap @ gap + np.trace(s1 + s2) - 2 * np.sqrt(np.linalg.eigvals(s1 @ s2).real.clip(min=0)).sum()

    half = min(n, m) // 2
    whole, halves = frechet.whole_and_half(x, y)
    assert whole == pytest.approx(by_definition(x, y), rel=1e-6) and frechet.distance(x, y) == pytest.approx(
        whole, rel=1e-9
    )
    parts = [by_definition(x[i * half : (i + 1) * half], y[i * half : (i + 1) * half]) for i in (0, 1)]
    assert halves == pytest.approx(sum(parts) / 2, rel=1e-6)
