"""Power laws of one variable: y = k C^a, and L = E + k C^-a with an irreducible floor E >= 0."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .robust import bisquare, scale_of, trimmed

MAX_EXPONENT = 3.0


@dataclass(frozen=True)
class PowerLaw:
    """y = coefficient * C^exponent. covariance (2, 2) is of (log coefficient, exponent); None with 2 points.

    residual_rms is of log y.
    """

    coefficient: float
    exponent: float
    covariance: np.ndarray | None
    residual_rms: float
    n_points: int

    def at(self, budget_flops):
        return self.coefficient * np.asarray(budget_flops, dtype=float) ** self.exponent


def line(log_c: np.ndarray, log_y: np.ndarray) -> np.ndarray:
    """(log coefficient, exponent) by least squares for each row of log_y (..., K) on log_c (K,).

    NaN entries of log_y (a slice whose refit has no minimum) are left out of their row; fewer than 2 left give NaN.
    """
    use = np.isfinite(log_y)
    w = use.astype(float)
    y = np.where(use, log_y, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_c = (w @ log_c) / w.sum(-1)
        mean_y = y.sum(-1) / w.sum(-1)
        offset = w * (log_c - mean_c[..., None])
        slope = (offset * y).sum(-1) / (offset * offset).sum(-1)
    slope = np.where(w.sum(-1) >= 2, slope, np.nan)
    return np.stack([mean_y - slope * mean_c, slope], axis=-1)


def robust_line(log_c: np.ndarray, log_y: np.ndarray, like: np.ndarray | None = None) -> np.ndarray:
    """(log coefficient, exponent) by bisquare for each row of log_y (..., K); plain lines with fewer than 5 points.

    The noise scale and the start are those of `like` (K,), of which the rows are replicates; None: log_y (K,) itself.
    Rows with NaN fall back to the plain line of what is left.
    """
    out = line(log_c, log_y)
    if len(log_c) < 5:
        return out
    like = log_y if like is None else like
    basis = np.stack([np.ones_like(log_c), log_c - log_c.mean()], axis=1)
    start = trimmed(basis, like)
    whole = np.isfinite(log_y).all(axis=-1)
    found, _ = bisquare(basis, log_y[whole], scale_of(like - basis @ start, 2), start)
    found[:, 0] -= found[:, 1] * log_c.mean()
    out[whole] = found
    return out


def power_law(budget_flops, y, robust: bool = False) -> PowerLaw:
    """Least squares of log y on log C, all points alike; with `robust` and 5 points or more, a bisquare regression.

    Needs 2 points; the covariance needs 3.
    """
    log_c, log_y = np.log(np.asarray(budget_flops, dtype=float)), np.log(np.asarray(y, dtype=float))
    log_k, exponent = robust_line(log_c, log_y[None], log_y)[0] if robust else line(log_c, log_y)
    residuals = log_y - log_k - exponent * log_c
    covariance = None
    if len(log_c) > 2:
        basis = np.stack([np.ones_like(log_c), log_c], axis=1)
        covariance = residuals @ residuals / (len(log_c) - 2) * np.linalg.inv(basis.T @ basis)
    rms = float(np.sqrt(np.mean(residuals**2)))
    return PowerLaw(math.exp(log_k), float(exponent), covariance, rms, len(log_c))


@dataclass(frozen=True)
class FloorLaw:
    """L = floor + coefficient * C^exponent (exponent < 0). status "ok" or "refused"; residual_rms is of log L."""

    floor: float
    coefficient: float
    exponent: float
    residual_rms: float
    n_points: int
    status: str
    reasons: tuple[str, ...]

    def at(self, budget_flops):
        return self.floor + self.coefficient * np.asarray(budget_flops, dtype=float) ** self.exponent


def _explained(s, sx, sxx, sy, sxy):
    """Non-negative (E, k) of E + k x ~ y from weighted moments, and the sum of squares they explain."""
    with np.errstate(divide="ignore", invalid="ignore"):
        determinant = s * sxx - sx * sx
        floor = (sy * sxx - sx * sxy) / determinant
        k = (s * sxy - sx * sy) / determinant
        inside = (floor > 0) & (k > 0)
        flat = (k <= 0) & (floor > 0)
        floor = np.where(inside, floor, np.where(flat, sy / s, 0.0))
        k = np.where(inside, k, np.where(flat, 0.0, sxy / sxx))
        return floor, k, floor * sy + k * sxy


def _linear_part(x: np.ndarray, y: np.ndarray, weights: np.ndarray):
    """Non-negative (E, k) minimising sum w (E + k x - y)^2 and that sum, for x, y and weights (..., K)."""
    moments = (weights, weights * x, weights * x * x, weights * y, weights * x * y)
    floor, k, _ = _explained(*(m.sum(-1) for m in moments))
    residual = floor[..., None] + k[..., None] * x - y
    return floor, k, (weights * residual * residual).sum(-1)


def floor_laws(log_c: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """(E, log k, a) of L = E + k C^-a for each row of loss (R, K), by variable projection; shape (R, 3).

    Residuals are relative, (fit - L) / L, which is the log residual to first order. For each a the pair (E, k) >= 0 is
    the closed-form weighted least squares; a is found on a grid, then by golden section. Rows with NaN give NaN.
    """
    # Scaling C by its geometric mean keeps k near L: k itself spans tens of decades with a.
    mean = log_c.mean()
    good = (np.isfinite(loss) & (loss > 0)).all(axis=-1)  # a replicate's loss can underflow to 0
    y = np.where(good[:, None], loss, 1.0)
    weights = 1 / (y * y)
    grid = np.geomspace(1e-3, MAX_EXPONENT, 81)

    def misfit(a):
        return _linear_part(np.exp(-a[..., None] * (log_c - mean)), y, weights)[2]

    # The grid shares its abscissae between rows, so its moments are matrix products.
    x = np.exp(-grid[:, None] * (log_c - mean))
    s, sx, sxx = weights.sum(-1)[:, None], weights @ x.T, weights @ (x * x).T
    sy, sxy = (weights * y).sum(-1)[:, None], (weights * y) @ x.T
    best = np.argmax(_explained(s, sx, sxx, sy, sxy)[2], axis=1)
    low, high = np.log(grid[np.maximum(best - 1, 0)]), np.log(grid[np.minimum(best + 1, len(grid) - 1)])
    golden = (math.sqrt(5) - 1) / 2
    c, d = high - golden * (high - low), low + golden * (high - low)
    at_c, at_d = misfit(np.exp(c)), misfit(np.exp(d))
    for _ in range(45):
        left = at_c < at_d
        low, high = np.where(left, low, c), np.where(left, d, high)
        new_c, new_d = high - golden * (high - low), low + golden * (high - low)
        fresh = misfit(np.exp(np.where(left, new_c, new_d)))
        at_c, at_d = np.where(left, fresh, at_d), np.where(left, at_c, fresh)
        c, d = new_c, new_d
    a = np.exp((low + high) / 2)
    floor, k, _ = _linear_part(np.exp(-a[..., None] * (log_c - mean)), y, weights)
    with np.errstate(divide="ignore"):
        out = np.stack([floor, np.log(k) + a * mean, a], axis=-1)
    out[~good] = np.nan
    return out


def floor_law(budget_flops, loss) -> FloorLaw:
    """L = E + k C^-a through (C, L*). Refused with fewer than 3 points, with E at 0, or when the loss does not fall."""
    log_c, loss = np.log(np.asarray(budget_flops, dtype=float)), np.asarray(loss, dtype=float)
    if len(log_c) < 3:
        reason = f"a law with a floor has 3 parameters; {len(log_c)} budgets cannot fix them"
        return FloorLaw(math.nan, math.nan, math.nan, math.nan, len(log_c), "refused", (reason,))
    floor, log_k, a = (float(v) for v in floor_laws(log_c, loss[None])[0])
    reasons = []
    if not math.isfinite(log_k):
        reasons.append("the loss does not fall with compute")
    elif floor <= 1e-6 * loss.min():
        reasons.append("the floor E sits on its bound 0: the minima show no floor")
    elif a < 2e-3 or a > 0.98 * MAX_EXPONENT:
        reasons.append(f"the exponent sits on its bound ({a:.3g})")
    fitted = floor + np.exp(log_k - a * log_c)
    rms = float(np.sqrt(np.mean(np.log(fitted / loss) ** 2)))
    k = math.exp(log_k) if math.isfinite(log_k) else 0.0
    return FloorLaw(floor, k, -a, rms, len(log_c), "refused" if reasons else "ok", tuple(reasons))
