"""The Frechet distance of two sets of features: its value, its bias from finite n, its standard error.

Heusel et al., arXiv 1706.08500, eq. 6, between Gaussians of the features' moments:
    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2)
The trace of the root is of the eigenvalues of L' S2 L, S1 = L L'; with fewer images than features, of the singular
values of A B', S1 = A' A and S2 = B' B. A distance from n samples is too large by about b / n, so Chong and Forsyth
(arXiv 1911.07023) extrapolate to infinite n from all samples and from halves of them."""

from typing import Iterable, NamedTuple, Sequence

import numpy as np

CHUNK = 4096  # Images whose features are in float64 at a time.


class Moments(NamedTuple):  # of features [n, F]
    n: int
    mean: np.ndarray  # [F]
    squares: np.ndarray  # the sum of those about the mean [F, F]


def distance(generated: np.ndarray, reference: np.ndarray) -> float:
    if min(len(generated), len(reference)) > generated.shape[1]:
        return _of_moments(*(_moments(rows, np.arange(len(rows))) for rows in (generated, reference)))
    x, y = (rows.astype(np.float64) for rows in (generated, reference))
    (m1, a), (m2, b) = ((rows.mean(0), (rows - rows.mean(0)) / (len(rows) - 1) ** 0.5) for rows in (x, y))
    cross = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return float((m1 - m2) @ (m1 - m2) + (a**2).sum() + (b**2).sum() - 2 * cross)


def gaussian_distance(m1: np.ndarray, s1: np.ndarray, m2: np.ndarray, s2: np.ndarray) -> float:
    """The distance between N(m1, s1) and N(m2, s2): means [F], covariances [F, F]."""
    try:
        root = np.linalg.cholesky(s1)
    except np.linalg.LinAlgError:  # s1 has less than full rank.
        values, vectors = np.linalg.eigh(s1)
        root = vectors * np.sqrt(values.clip(min=0))
    cross = np.sqrt(np.linalg.eigvalsh(root.T @ s2 @ root).clip(min=0)).sum()
    return float((m1 - m2) @ (m1 - m2) + np.trace(s1) + np.trace(s2) - 2 * cross)


def whole_and_half(
    generated: np.ndarray, reference: np.ndarray, resample: Sequence[np.ndarray] = ()
) -> tuple[float, float]:
    """The distance of all rows, and the mean distance of the two halves, pair by pair: what n / 2 samples give.
    resample: indices of the rows of each set that count, with repetitions; empty: each row once."""
    sets = generated, reference
    indices = resample or [np.arange(len(rows)) for rows in sets]
    half = min(map(len, indices)) // 2
    if half <= np.shape(generated)[1]:  # There are few images, so copies of their features are cheap.
        x, y = (rows[index] for rows, index in zip(sets, indices, strict=True))
        halves = [distance(x[part], y[part]) for part in (slice(half), slice(half, 2 * half))]
        return distance(x, y), sum(halves) / 2
    moments = lambda rows, index: [_moments(rows, part) for part in np.split(index, [half, 2 * half]) if len(part)]
    parts = [*map(moments, sets, indices)]
    return _of_moments(*map(_merged, parts)), sum(_of_moments(parts[0][i], parts[1][i]) for i in (0, 1)) / 2


def extrapolated(at_n: float, at_half: float) -> float:
    """FID for infinite n, where FID(n) = FID + b / n."""
    return 2 * at_n - at_half


def standard_errors(generated: np.ndarray, reference: np.ndarray, resamples: int, seed: int) -> tuple[float, float]:
    """Standard errors of the distance and of its extrapolation, by the bootstrap over images of both sets."""
    rng, values = np.random.default_rng(seed), []
    for _ in range(resamples):
        indices = [rng.integers(0, len(rows), len(rows)) for rows in (generated, reference)]
        whole, half = whole_and_half(generated, reference, indices)
        values.append((whole, extrapolated(whole, half)))
    of_whole, of_extrapolated = np.std(values, axis=0, ddof=1)
    return of_whole, of_extrapolated


def _of_moments(x: Moments, y: Moments) -> float:
    return gaussian_distance(x.mean, x.squares / (x.n - 1), y.mean, y.squares / (y.n - 1))


def _moments(features: np.ndarray, index: np.ndarray) -> Moments:
    """Moments of the rows `index`, in float64, a CHUNK of them at a time."""
    chunks = (features[index[i : i + CHUNK]].astype(np.float64) for i in range(0, len(index), CHUNK))
    return _merged(Moments(len(chunk), mean := chunk.mean(0), (chunk - mean).T @ (chunk - mean)) for chunk in chunks)


def _merged(parts: Iterable[Moments]) -> Moments:
    """Moments of all rows together (Chan et al., "Algorithms for computing the sample variance", 1983)."""
    parts = iter(parts)
    whole = next(parts)
    for part in parts:
        n, shift = whole.n + part.n, part.mean - whole.mean
        squares = whole.squares + part.squares + np.outer(shift, shift) * (whole.n * part.n / n)
        whole = Moments(n, whole.mean + shift * (part.n / n), squares)
    return whole
