"""The Frechet distance of two sets of features: its value, its bias with n, its standard error.

Heusel et al., arXiv 1706.08500, eq. 6, between Gaussians of the features' moments:

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2)

The trace of the root is taken from eigenvalues of a symmetric matrix, L' S2 L with S1 = L L': a general matrix root
differs from one version of scipy and BLAS to the next. It is the sum of the singular values of A B' as well, for S1 =
A' A and S2 = B' B: where there are fewer images than features, that is the smaller matrix. A distance from n samples is
too large by about b / n; the extrapolation to n without end is that of Chong and Forsyth (arXiv 1911.07023), from all
samples and from halves of them.
"""

from __future__ import annotations

from typing import Iterable, NamedTuple

import numpy as np

PIECE = 4096  # images whose features are in float64 at a time


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
    if min(len(generated), len(reference)) > generated.shape[1]:
        return _between(*(_moments(rows, np.arange(len(rows))) for rows in (generated, reference)))
    x, y = (rows.astype(np.float64) for rows in (generated, reference))
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


def whole_and_half(
    generated: np.ndarray, reference: np.ndarray, taken: tuple[np.ndarray, np.ndarray] | None = None
) -> tuple[float, float]:
    """The distance of all, and the mean of the distances of the two halves, pair by pair: what n / 2 samples give.

    taken: the rows of each that count, as often as they are named; None: each once.
    """
    sides = generated, reference
    taken = taken or tuple(np.arange(len(rows)) for rows in sides)
    half = min(map(len, taken)) // 2
    if half <= np.shape(generated)[1]:  # few images: they may as well be copied
        x, y = (rows[at] for rows, at in zip(sides, taken, strict=True))
        halves = [distance(x[part], y[part]) for part in (slice(half), slice(half, 2 * half))]
        return distance(x, y), sum(halves) / 2
    parts = [
        [_moments(rows, part) for part in np.split(at, [half, 2 * half]) if len(part)]
        for rows, at in zip(sides, taken, strict=True)
    ]
    return _between(*map(_merged, parts)), sum(_between(parts[0][i], parts[1][i]) for i in (0, 1)) / 2


def extrapolated(at_n: float, at_half: float) -> float:
    """FID for n without end, where FID(n) = FID + b / n."""
    return 2 * at_n - at_half


def standard_errors(generated: np.ndarray, reference: np.ndarray, resamples: int, seed: int) -> tuple[float, float]:
    """Of the distance and of its extrapolation, by the bootstrap over images of both sets. The resamples' mean is not
    used: drawing with replacement adds to the bias."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(resamples):
        taken = tuple(rng.integers(0, len(rows), len(rows)) for rows in (generated, reference))
        whole, half = whole_and_half(generated, reference, taken)
        found.append((whole, extrapolated(whole, half)))
    return tuple(np.std(found, axis=0, ddof=1))


def _between(x: Moments, y: Moments) -> float:
    return gaussian_distance(x.mean, x.covariance, y.mean, y.covariance)


def _moments(features: np.ndarray, taken: np.ndarray) -> Moments:
    """Of the rows `taken`, in float64, a PIECE of them at a time."""
    pieces = (features[taken[i : i + PIECE]].astype(np.float64) for i in range(0, len(taken), PIECE))
    return _merged(Moments(len(piece), mean := piece.mean(0), (piece - mean).T @ (piece - mean)) for piece in pieces)


def _merged(parts: Iterable[Moments]) -> Moments:
    """Of all rows together (Chan et al., "Algorithms for computing the sample variance", 1983)."""
    parts = iter(parts)
    whole = next(parts)
    for part in parts:
        n, apart = whole.n + part.n, part.mean - whole.mean
        squares = whole.squares + part.squares + np.outer(apart, apart) * (whole.n * part.n / n)
        whole = Moments(n, whole.mean + apart * (part.n / n), squares)
    return whole
