"""The forms of a law in C: a power law k C^a, a power law with a floor E + k C^a, and a line in log C.

Each fits many rows of values at once, so that a law and its thousands of replicates go through the same code."""

import math
from dataclasses import dataclass
from typing import Callable, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

MAX_EXPONENT = 3.0
GOLDEN = (math.sqrt(5) - 1) / 2


class Curve(NamedTuple):
    """fit: log C (K,) and values (R, K) to parameters (R, P); at: those (..., P) and log C (k,) to values (..., k)."""

    parameters: tuple[str, ...]
    fit: Callable[[np.ndarray, np.ndarray], np.ndarray]
    at: Callable[[np.ndarray, np.ndarray], np.ndarray]


def line(log_c: np.ndarray, y: np.ndarray, weights: ArrayLike = 1.0) -> np.ndarray:
    """(height, slope) (..., 2) by weighted least squares for each row of y (..., K) on log_c (K,). NaN entries of y (a
    slice whose refit has no minimum) are left out of their row; fewer than 2 left give NaN."""
    use = np.isfinite(y)
    w, y = np.where(use, weights, 0.0), np.where(use, y, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        total = w.sum(-1, keepdims=True)
        mean_c, mean_y = ((w * v).sum(-1, keepdims=True) / total for v in (log_c, y))
        off = w * (log_c - mean_c)
        slope = (off * y).sum(-1, keepdims=True) / (off * (log_c - mean_c)).sum(-1, keepdims=True)
    slope = np.where(use.sum(-1, keepdims=True) >= 2, slope, np.nan)
    return np.concatenate([mean_y - slope * mean_c, slope], axis=-1)


def _fit_power(log_c: np.ndarray, y: np.ndarray) -> np.ndarray:
    return line(log_c, np.log(np.where(y > 0, y, np.nan)))


def _fit_linear(log_c: np.ndarray, y: np.ndarray) -> np.ndarray:
    """With weights 1 / y^2, or plain least squares where a value is not positive."""
    return line(log_c, y, np.where((y > 0).all(axis=-1, keepdims=True), 1 / np.where(y == 0, 1, y) ** 2, 1.0))


def floor_laws(log_c: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """(E, log k, exponent) (R, 3) of L = E + k C^exponent for each row of loss (R, K), by variable projection; NaN for
    rows with NaN. Residuals are relative, (fit - L) / L, the log residual to first order. For each exponent the pair
    (E, k) >= 0 is the closed-form least squares; the exponent is found on a grid, then by golden section."""
    # Scaling C by its geometric mean keeps k near L: k itself spans tens of decades with the exponent.
    mean = log_c.mean()
    good = (np.isfinite(loss) & (loss > 0)).all(axis=-1)  # a replicate's loss can underflow to 0
    u = 1 / np.where(good[:, None], loss, 1.0)[:, None]

    def pair(log_a: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The best (E, k) for falling exponents (R, G), and their misfit."""
        v = np.exp(-np.exp(log_a)[..., None] * (log_c - mean)) * u
        s, sx, sxx, sy, sxy = (m.sum(-1) for m in (u * u, u * v, v * v, u, v))
        with np.errstate(divide="ignore", invalid="ignore"):
            determinant = s * sxx - sx * sx
            floor, k = (sy * sxx - sx * sxy) / determinant, (s * sxy - sx * sy) / determinant
            inside, flat = (floor > 0) & (k > 0), (k <= 0) & (floor > 0)
            floor = np.where(inside, floor, np.where(flat, sy / s, 0.0))
            k = np.where(inside, k, np.where(flat, 0.0, sxy / sxx))
        return floor, k, ((floor[..., None] * u + k[..., None] * v - 1) ** 2).sum(-1)

    grid = np.log(np.geomspace(1e-3, MAX_EXPONENT, 81))
    best = np.argmin(pair(grid[None])[2], axis=1)[:, None]
    low, high = grid[np.maximum(best - 1, 0)], grid[np.minimum(best + 1, len(grid) - 1)]
    for _ in range(45):
        c, d = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        left = pair(c)[2] < pair(d)[2]
        low, high = np.where(left, low, c), np.where(left, d, high)
    floor, k, _ = pair((low + high) / 2)
    a = np.exp((low + high) / 2)
    with np.errstate(divide="ignore"):
        out = np.concatenate([floor, np.log(k) + a * mean, -a], axis=-1)
    out[~good] = np.nan
    return out


def _exp(p: np.ndarray, log_c: np.ndarray) -> np.ndarray:
    # A replicate whose slice is almost flat sends N* beyond any float; infinity is the right word for it.
    with np.errstate(over="ignore"):
        return np.exp(p[..., 0:1] + p[..., 1:2] * log_c)


FORMS = {
    "power_law": Curve(("log_coefficient", "exponent"), _fit_power, _exp),
    "power_law_with_floor": Curve(
        ("floor", "log_coefficient", "exponent"), floor_laws, lambda p, log_c: p[..., 0:1] + _exp(p[..., 1:], log_c)
    ),
    "linear_in_log_c": Curve(("intercept", "slope"), _fit_linear, lambda p, log_c: p[..., 0:1] + p[..., 1:2] * log_c),
}
POSITIVE_FORMS = ("power_law", "power_law_with_floor")  # a line in log C crosses zero, which a loss or a FID never does


def law_at(form: str, parameters: np.ndarray, budget_flops: ArrayLike) -> np.ndarray:
    """Values (R,) of parameters (R, P) of a form at one budget, or (...) of one set (P,) at budgets (...)."""
    return FORMS[form].at(parameters, np.log(np.asarray(budget_flops, dtype=float))[..., None])[..., 0]


@dataclass(frozen=True)
class PowerLaw:
    """y = floor + coefficient * C^exponent; refused where there are `reasons`."""

    coefficient: float
    exponent: float
    floor: float = 0.0
    reasons: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.reasons

    @classmethod
    def refused(cls, reason: str) -> "PowerLaw":
        return cls(math.nan, math.nan, math.nan, (reason,))

    def at(self, budget_flops: ArrayLike) -> np.ndarray:
        return self.floor + self.coefficient * np.asarray(budget_flops, dtype=float) ** self.exponent


def power_law(budget_flops: ArrayLike, y: ArrayLike) -> PowerLaw:
    """Least squares of log y on log C, all points alike. Needs 2 points."""
    log_k, exponent = line(np.log(np.asarray(budget_flops, dtype=float)), np.log(np.asarray(y, dtype=float)))
    return PowerLaw(math.exp(log_k), float(exponent))


def floor_law(budget_flops: ArrayLike, loss: ArrayLike) -> PowerLaw:
    """L = E + k C^a through (C, L*). Refused with fewer than 3 points, with E at 0, or when the loss does not fall."""
    log_c, loss = np.log(np.asarray(budget_flops, dtype=float)), np.asarray(loss, dtype=float)
    if len(log_c) < 3:
        return PowerLaw.refused(f"a law with a floor has 3 parameters; {len(log_c)} budgets cannot fix them")
    floor, log_k, exponent = floor_laws(log_c, loss[None])[0].tolist()
    wrong = {
        "the loss does not fall with compute": not math.isfinite(log_k),
        "the floor E sits on its bound 0: the minima show no floor": floor <= 1e-6 * loss.min(),
        f"the exponent sits on its bound ({-exponent:.3g})": not 2e-3 <= -exponent <= 0.98 * MAX_EXPONENT,
    }
    reasons = tuple(reason for reason, holds in wrong.items() if holds)[:1]
    return PowerLaw(math.exp(log_k) if math.isfinite(log_k) else 0.0, exponent, floor, reasons)
