"""The forms of a law in C: a power law k C^a, a power law with a floor E + k C^a, and a line in log C.

Each fits many rows of values at once, so that a law and its thousands of replicates go through the same code."""

import math
from dataclasses import dataclass
from typing import Callable, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .robust import bisquare, scale_of, trimmed

MAX_EXPONENT = 3.0


class Curve(NamedTuple):
    """parameters: their names; fit: log C (K,) and values (R, K) to parameters (R, P); at: parameters (..., P) and
    log C (k,) to values (..., k)."""

    parameters: tuple[str, ...]
    fit: Callable[[np.ndarray, np.ndarray], np.ndarray]
    at: Callable[[np.ndarray, np.ndarray], np.ndarray]


def line(log_c: np.ndarray, log_y: np.ndarray) -> np.ndarray:
    """(log coefficient, exponent) by least squares for each row of log_y (..., K) on log_c (K,). NaN entries of log_y
    (a slice whose refit has no minimum) are left out of their row; fewer than 2 left give NaN."""
    use = np.isfinite(log_y)
    w = use.astype(float)
    y = np.where(use, log_y, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_c = (w @ log_c) / w.sum(-1)
        mean_y = y.sum(-1) / w.sum(-1)
        off = w * (log_c - mean_c[..., None])
        slope = (off * y).sum(-1) / (off * off).sum(-1)
    slope = np.where(w.sum(-1) >= 2, slope, np.nan)
    return np.stack([mean_y - slope * mean_c, slope], axis=-1)


def lines(log_c: np.ndarray, log_y: np.ndarray, like: np.ndarray | None = None) -> np.ndarray:
    """(log coefficient, exponent) by bisquare for each row of log_y (..., K); plain lines with fewer than 5 points. The
    noise scale and the start are those of `like` (K,), of which the rows are replicates. Rows with NaN fall back to the
    plain line of what is left."""
    out = line(log_c, log_y)
    if like is None or len(log_c) < 5:
        return out
    basis = np.stack([np.ones_like(log_c), log_c - log_c.mean()], axis=1)
    start = trimmed(basis, like)
    whole = np.isfinite(log_y).all(axis=-1)
    found, _ = bisquare(basis, log_y[whole], scale_of(like - basis @ start, 2), start)
    found[:, 0] -= found[:, 1] * log_c.mean()
    out[whole] = found
    return out


def _fit_power(log_c: np.ndarray, y: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return line(log_c, np.log(np.where(y > 0, y, np.nan)))


def _fit_linear(log_c: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(a, b) of y = a + b log C with weights 1 / y^2, or plain least squares where a value is not positive."""
    w = np.where((y > 0).all(axis=-1, keepdims=True), 1 / np.where(y == 0, 1, y) ** 2, 1.0)
    total = w.sum(-1, keepdims=True)
    mean_c, mean_y = (w * log_c).sum(-1, keepdims=True) / total, (w * y).sum(-1, keepdims=True) / total
    off = w * (log_c - mean_c)
    slope = (off * y).sum(-1, keepdims=True) / (off * (log_c - mean_c)).sum(-1, keepdims=True)
    return np.concatenate([mean_y - slope * mean_c, slope], axis=-1)


def _explained(
    s: np.ndarray, sx: np.ndarray, sxx: np.ndarray, sy: np.ndarray, sxy: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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


def floor_laws(log_c: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """(E, log k, exponent) of L = E + k C^exponent for each row of loss (R, K), by variable projection; shape (R, 3).
    Residuals are relative, (fit - L) / L, which is the log residual to first order. For each exponent the pair (E, k)
    >= 0 is the closed-form weighted least squares; the exponent is found on a grid, then by golden section. Rows with
    NaN give NaN."""
    # Scaling C by its geometric mean keeps k near L: k itself spans tens of decades with the exponent.
    mean = log_c.mean()
    good = (np.isfinite(loss) & (loss > 0)).all(axis=-1)  # a replicate's loss can underflow to 0
    y = np.where(good[:, None], loss, 1.0)
    weights = 1 / (y * y)
    grid = np.geomspace(1e-3, MAX_EXPONENT, 81)

    def pair(a: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The best (E, k) for falling exponents a (R,), and their misfit."""
        x = np.exp(-a[..., None] * (log_c - mean))
        moments = (m.sum(-1) for m in (weights, weights * x, weights * x * x, weights * y, weights * x * y))
        floor, k, _ = _explained(*moments)
        residual = floor[..., None] + k[..., None] * x - y
        return floor, k, (weights * residual * residual).sum(-1)

    # The grid shares its abscissae between rows, so its moments are matrix products.
    x = np.exp(-grid[:, None] * (log_c - mean))
    s, sx, sxx = weights.sum(-1)[:, None], weights @ x.T, weights @ (x * x).T
    sy, sxy = (weights * y).sum(-1)[:, None], (weights * y) @ x.T
    best = np.argmax(_explained(s, sx, sxx, sy, sxy)[2], axis=1)
    low, high = np.log(grid[np.maximum(best - 1, 0)]), np.log(grid[np.minimum(best + 1, len(grid) - 1)])
    golden = (math.sqrt(5) - 1) / 2
    c, d = high - golden * (high - low), low + golden * (high - low)
    at_c, at_d = pair(np.exp(c))[2], pair(np.exp(d))[2]
    for _ in range(45):
        left = at_c < at_d
        low, high = np.where(left, low, c), np.where(left, d, high)
        new_c, new_d = high - golden * (high - low), low + golden * (high - low)
        fresh = pair(np.exp(np.where(left, new_c, new_d)))[2]
        at_c, at_d = np.where(left, fresh, at_d), np.where(left, at_c, fresh)
        c, d = new_c, new_d
    a = np.exp((low + high) / 2)
    floor, k, _ = pair(a)
    with np.errstate(divide="ignore"):
        out = np.stack([floor, np.log(k) + a * mean, -a], axis=-1)
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


def law_at(form: str, parameters: np.ndarray, budget_flops: float) -> np.ndarray:
    """Values (...) of parameters (..., P) of a form at one budget."""
    return FORMS[form].at(parameters, np.array([math.log(budget_flops)]))[..., 0]


@dataclass(frozen=True)
class PowerLaw:
    """y = coefficient * C^exponent."""

    coefficient: float
    exponent: float

    def at(self, budget_flops: ArrayLike) -> np.ndarray:
        return self.coefficient * np.asarray(budget_flops, dtype=float) ** self.exponent


def power_law(budget_flops: ArrayLike, y: ArrayLike, robust: bool = False) -> PowerLaw:
    """Least squares of log y on log C, all points alike; with `robust` and 5 points or more, a bisquare regression.
    Needs 2 points."""
    log_c, log_y = np.log(np.asarray(budget_flops, dtype=float)), np.log(np.asarray(y, dtype=float))
    log_k, exponent = lines(log_c, log_y[None], log_y)[0] if robust else line(log_c, log_y)
    return PowerLaw(math.exp(log_k), float(exponent))


@dataclass(frozen=True)
class FloorLaw:
    """L = floor + coefficient * C^exponent (exponent < 0); refused where there are `reasons`."""

    floor: float
    coefficient: float
    exponent: float
    reasons: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.reasons

    @classmethod
    def refused(cls, reason: str) -> "FloorLaw":
        return cls(math.nan, math.nan, math.nan, (reason,))

    def at(self, budget_flops: ArrayLike) -> np.ndarray:
        return self.floor + self.coefficient * np.asarray(budget_flops, dtype=float) ** self.exponent


def floor_law(budget_flops: ArrayLike, loss: ArrayLike) -> FloorLaw:
    """L = E + k C^a through (C, L*). Refused with fewer than 3 points, with E at 0, or when the loss does not fall."""
    log_c, loss = np.log(np.asarray(budget_flops, dtype=float)), np.asarray(loss, dtype=float)
    if len(log_c) < 3:
        return FloorLaw.refused(f"a law with a floor has 3 parameters; {len(log_c)} budgets cannot fix them")
    floor, log_k, exponent = (float(v) for v in floor_laws(log_c, loss[None])[0])
    reasons: tuple[str, ...] = ()
    if not math.isfinite(log_k):
        reasons = ("the loss does not fall with compute",)
    elif floor <= 1e-6 * loss.min():
        reasons = ("the floor E sits on its bound 0: the minima show no floor",)
    elif not 2e-3 <= -exponent <= 0.98 * MAX_EXPONENT:
        reasons = (f"the exponent sits on its bound ({-exponent:.3g})",)
    return FloorLaw(floor, math.exp(log_k) if math.isfinite(log_k) else 0.0, exponent, reasons)
