"""Robust linear regression of a handful of points: least trimmed squares to start, Tukey's bisquare to finish.

Huber weights do not help here: a diverged run at the end of a grid of 5 to 9 has so much leverage that it has hardly
any residual. Trimming one point exactly (by its deleted residual) finds it; the bisquare then weighs all points and is
95 % efficient where there is nothing to find (Rousseeuw and Leroy 1987, chapters 3 and 5)."""

import numpy as np

TUNING = 4.685  # bisquare zero-weight point in standard deviations, for 95 % efficiency under normal noise


def trimmed(basis: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Coefficients (p,) of the least-squares fit of y (n,) on basis (n, p) without the one point that costs most.
    Leaving point i out lowers the sum of squares by r_i^2 / (1 - h_i), with h its leverage. Needs n > p + 1; with fewer
    points it is the plain fit."""
    n, p = basis.shape
    keep = np.ones(n, dtype=bool)
    if n > p + 1:
        pseudo = np.linalg.pinv(basis)
        leverage = np.einsum("ij,ji->i", basis, pseudo)
        residuals = y - basis @ (pseudo @ y)
        keep[np.argmax(residuals**2 / np.maximum(1 - leverage, 1e-9))] = False
    return np.linalg.lstsq(basis[keep], y[keep], rcond=None)[0]


def scale_of(residuals: np.ndarray, n_parameters: int) -> float:
    """Standard deviation from the median absolute residual, corrected for n_parameters fitted ones."""
    n = len(residuals)
    return float(1.4826 * np.median(np.abs(residuals)) * np.sqrt(n / max(n - n_parameters, 1)))


def bisquare(
    basis: np.ndarray, y: np.ndarray, scale: float, start: np.ndarray, weights: np.ndarray | None = None,
    steps: int = 30,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """(coefficients (R, p), weights (R, n)) of bisquare regressions of y (R, n) on basis (n, p), reweighted from
    `start`. scale: standard deviation of the noise, fixed; weights (R, n) multiply (run counts of a resample). start:
    (p,)."""
    y = np.atleast_2d(y)
    prior = np.ones_like(y) if weights is None else weights
    y = np.broadcast_to(y, prior.shape)
    coefficients = np.broadcast_to(start, (len(y), basis.shape[1]))
    products = basis[:, :, None] * basis[:, None, :]
    scale = max(scale, 1e-12 * float(np.abs(y).max()))
    for _ in range(steps):
        off = (y - coefficients @ basis.T) / (TUNING * scale)
        taper = np.where(np.abs(off) < 1, (1 - np.minimum(off * off, 1)) ** 2, 0.0)
        w = prior * taper
        normal = np.einsum("rn,npq->rpq", w, products)
        # A resample may leave fewer points than parameters with weight; the ridge keeps the solve defined.
        ridge = 1e-12 * np.einsum("rpp->r", normal)[:, None, None] + 1e-300
        right = (w * y) @ basis
        coefficients = np.linalg.solve(normal + ridge * np.eye(basis.shape[1]), right[..., None])[..., 0]
    return coefficients, taper
