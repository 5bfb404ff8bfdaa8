"""The Frechet distance of two sets of features: its value, its bias with n, its standard error.

Heusel et al., arXiv 1706.08500, eq. 6, between Gaussians of the features' moments:

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2)

The trace of the root is taken from eigenvalues of a symmetric matrix: a general matrix root differs from one version of
scipy and BLAS to the next. A distance from n samples is too large by about b / n; the extrapolation to n without end is
that of Chong and Forsyth (arXiv 1911.07023), from all samples and from halves of them.
"""

from __future__ import annotations

import numpy as np


def distance(generated: np.ndarray, reference: np.ndarray) -> float:
    """Between features [n, F] and [m, F]."""
    return gaussian_distance(*_moments(generated), *_moments(reference))


def gaussian_distance(m1: np.ndarray, s1: np.ndarray, m2: np.ndarray, s2: np.ndarray) -> float:
    """Between N(m1, s1) and N(m2, s2): means [F], covariances [F, F]."""
    values, vectors = np.linalg.eigh(s1)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ s2 @ root).clip(min=0)).sum()
    return float((m1 - m2) @ (m1 - m2) + np.trace(s1) + np.trace(s2) - 2 * cross)


def half_distance(generated: np.ndarray, reference: np.ndarray) -> float:
    """Mean of the distances of the two halves, pair by pair: what n / 2 samples give."""
    half = min(len(generated), len(reference)) // 2
    return (distance(generated[:half], reference[:half]) + distance(generated[half : 2 * half], reference[half : 2 * half])) / 2


def extrapolated(at_n: float, at_half: float) -> float:
    """FID for n without end, where FID(n) = FID + b / n."""
    return 2 * at_n - at_half


def standard_errors(generated: np.ndarray, reference: np.ndarray, resamples: int, seed: int) -> tuple[float, float]:
    """Of the distance and of its extrapolation, by the bootstrap over images of both sets. The resamples' mean is not used:
    drawing with replacement adds to the bias."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(resamples):
        x, y = (rows[rng.integers(0, len(rows), len(rows))] for rows in (generated, reference))
        whole = distance(x, y)
        found.append((whole, extrapolated(whole, half_distance(x, y))))
    return tuple(np.std(found, axis=0, ddof=1))


def _moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    features = np.asarray(features, dtype=np.float64)
    return features.mean(0), np.cov(features, rowvar=False)
