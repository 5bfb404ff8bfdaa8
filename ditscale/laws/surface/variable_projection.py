"""Where a surface fit starts: E, A, B >= 0 in closed form for every pair of exponents on a grid.

Golub and Pereyra 1973; for given (alpha, beta) the problem is linear, so only two of five parameters need a search."""

import numpy as np


def _linear_part(gram: np.ndarray, moment: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Non-negative least squares in 3 unknowns for a stack of problems: gram (..., 3, 3), moment (..., 3).

    Returns (solution, decrease of half the sum of squares). All 7 supports are tried; among the feasible ones the
    largest decrease is the constrained optimum. A and B may not leave (without them alpha or beta mean nothing), but
    their supports are tried all the same so that the grid sees how poor they are."""
    best = np.zeros_like(moment)
    gain = np.zeros(moment.shape[:-1])
    for support in ([0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2]):
        sub = gram[..., support, :][..., :, support]
        # A ridge at rounding level: with alpha near 0 a column is nearly the constant one.
        sub = sub + 1e-14 * np.trace(sub, axis1=-2, axis2=-1)[..., None, None] * np.eye(len(support))
        solution = np.linalg.solve(sub, moment[..., support][..., None])[..., 0]
        better = (solution >= 0).all(-1) & ((solution * moment[..., support]).sum(-1) > gain)
        gain = np.where(better, (solution * moment[..., support]).sum(-1), gain)
        full = np.zeros_like(moment)
        full[..., support] = solution
        best = np.where(better[..., None], full, best)
    return best, gain


def seeds(x: np.ndarray, z: np.ndarray, loss: np.ndarray, weights: np.ndarray, keep: int = 4) -> np.ndarray:
    """Starting points (keep, 5) in centered form by variable projection on a grid of (alpha, beta).

    x, z: centered log N, log D (n,). weights (n,) multiply squared residuals of the raw loss; 1 / loss^2 makes them
    relative. All Gram matrices of the grid come from a few matrix products."""
    exponents = np.geomspace(0.03, 2.5, 24)
    u, v = np.exp(-exponents[:, None] * x), np.exp(-exponents[:, None] * z)
    gram = np.empty((len(u), len(v), 3, 3))
    gram[..., 0, 0] = weights.sum()
    gram[..., 0, 1] = gram[..., 1, 0] = (u @ weights)[:, None]
    gram[..., 0, 2] = gram[..., 2, 0] = (v @ weights)[None, :]
    gram[..., 1, 1] = ((u * u) @ weights)[:, None]
    gram[..., 2, 2] = ((v * v) @ weights)[None, :]
    gram[..., 1, 2] = gram[..., 2, 1] = (u * weights) @ v.T
    wy = weights * loss
    moment = np.stack(np.broadcast_arrays(wy.sum(), (u @ wy)[:, None], (v @ wy)[None, :]), axis=-1)
    linear, gain = _linear_part(gram, moment)
    # Local minima of the grid only: the neighbours of the best are the same valley.
    padded = np.pad(gain, 1, constant_values=-np.inf)
    around = [padded[1 + i : 1 + i + gain.shape[0], 1 + j : 1 + j + gain.shape[1]]
              for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j]  # fmt: skip
    peak = (gain >= np.max(around, axis=0)) & (linear[..., 1] > 0) & (linear[..., 2] > 0)
    score = np.where(peak, gain, gain - 1e3 * abs(gain).max(initial=0, where=np.isfinite(gain)))
    picks = np.argsort(-score, axis=None)[: min(keep, int(np.isfinite(score).sum()))]
    i, j = np.unravel_index(picks, gain.shape)
    floor, a, b = np.moveaxis(linear[i, j], -1, 0)
    tiny = 1e-3 * float(np.median(loss))
    logs = np.log(np.maximum(a, tiny)), np.log(np.maximum(b, tiny))
    return np.stack([floor, *logs, exponents[i], exponents[j]], axis=-1)
