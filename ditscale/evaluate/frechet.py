"""The Frechet distance of two sets of features: its value, its bias with n, its standard error.

Heusel et al., arXiv 1706.08500, eq. 6, between Gaussians of the features' moments:

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2)

The trace of the root is taken from eigenvalues of a symmetric matrix, L' S2 L with S1 = L L': a general matrix root differs from one
version of scipy and BLAS to the next. It is the sum of the singular values of A B' as well, for S1 = A' A and S2 = B' B: where
there are fewer images than features, that is the smaller matrix. A distance from n samples is too large by about b / n; the
extrapolation to n without end is that of Chong and Forsyth (arXiv 1911.07023), from all samples and from halves of them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Moments(NamedTuple):
    """Of features [n, F]: their mean [F], and sum of squares about it [F, F]."""

    n: int
    mean: np.ndarray
    squares: np.ndarray

    @property
    def covariance(self) -> np.ndarray:
        return self.squares / (self.n - 1)


def distance(generated: np.ndarray, reference: np.ndarray) -> float:
    """Between features [n, F] and [m, F]."""
    x, y = (np.asarray(rows, dtype=np.float64) for rows in (generated, reference))
    if min(len(x), len(y)) > x.shape[1]:
        return _between(_moments(x), _moments(y))
    (m1, a), (m2, b) = ((rows.mean(0), (rows - rows.mean(0)) / (len(rows) - 1) ** 0.5) for rows in (x, y))
    cross = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return float((m1 - m2) @ (m1 - m2) + (a**2).sum() + (b**2).sum() - 2 * cross)


def gaussian_distance(m1: np.ndarray, s1: np.ndarray, m2: np.ndarray, s2: np.ndarray) -> float:
    """Between N(m1, s1) and N(m2, s2): means [F], covariances [F, F]."""
    try:
        root = np.linalg.cholesky(s1)
    except np.linalg.LinAlgError:  # of less than full rank
        values, vectors = np.linalg.eigh(s1)
        root = vectors * np.sqrt(values.clip(min=0))
    cross = np.sqrt(np.linalg.eigvalsh(root.T @ s2 @ root).clip(min=0)).sum()
    return float((m1 - m2) @ (m1 - m2) + np.trace(s1) + np.trace(s2) - 2 * cross)


def whole_and_half(generated: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """The distance of all, and the mean of the distances of the two halves, pair by pair: what n / 2 samples give."""
    half = min(len(generated), len(reference)) // 2
    halves = [[rows[:half], rows[half : 2 * half]] for rows in (generated, reference)]
    if half <= np.shape(generated)[1]:
        return distance(generated, reference), sum(distance(x, y) for x, y in zip(*halves, strict=True)) / 2
    sides = [[_moments(part) for part in (*parts, rows[2 * half :]) if len(part)] for parts, rows in zip(halves, (generated, reference), strict=True)]
    return _between(*(_merged(parts) for parts in sides)), sum(_between(sides[0][i], sides[1][i]) for i in (0, 1)) / 2


def extrapolated(at_n: float, at_half: float) -> float:
    """FID for n without end, where FID(n) = FID + b / n."""
    return 2 * at_n - at_half


def standard_errors(generated: np.ndarray, reference: np.ndarray, resamples: int, seed: int) -> tuple[float, float]:
    """Of the distance and of its extrapolation, by the bootstrap over images of both sets. The resamples' mean is not used:
    drawing with replacement adds to the bias."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(resamples):
        whole, half = whole_and_half(*(rows[rng.integers(0, len(rows), len(rows))] for rows in (generated, reference)))
        found.append((whole, extrapolated(whole, half)))
    return tuple(np.std(found, axis=0, ddof=1))


def _between(x: Moments, y: Moments) -> float:
    return gaussian_distance(x.mean, x.covariance, y.mean, y.covariance)


def _moments(features: np.ndarray) -> Moments:
    features = np.asarray(features, dtype=np.float64)
    mean = features.mean(0)
    about = features - mean
    return Moments(len(features), mean, about.T @ about)


def _merged(parts: list[Moments]) -> Moments:
    """Of all rows together (Chan et al., "Algorithms for computing the sample variance", 1983)."""
    whole = parts[0]
    for part in parts[1:]:
        n, apart = whole.n + part.n, part.mean - whole.mean
        squares = whole.squares + part.squares + np.outer(apart, apart) * (whole.n * part.n / n)
        whole = Moments(n, whole.mean + apart * (part.n / n), squares)
    return whole
