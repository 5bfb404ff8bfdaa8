"""Many small surface fits at once: damped Gauss-Newton on (E, log A, log B, alpha, beta), a row per fit.

The damping matrix is that of iteratively reweighted least squares (weights min(1, delta/|r|)). It majorises the Huber
objective: heavy damping always descends, light damping converges like Newton, whatever the scale of parameters."""

import math
from typing import NamedTuple

import numpy as np

# The exponents are searched within these limits; a fit that ends on one is refused.
EXPONENT_LIMITS = (5e-3, 4.0)
# A wild step in a log coefficient or an exponent only costs evaluations.
LARGEST_STEP = np.array([np.inf, 3.0, 3.0, 0.5, 0.5])


class Descent(NamedTuple):
    parameters: np.ndarray  # (R, 5)
    value: np.ndarray  # (R,) of the objective
    converged: np.ndarray  # (R,)


def powers_of(parameters: np.ndarray, logs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(A N^-alpha and B D^-beta (R, 2, n), the loss (R, n)) of parameters (R, 5) at (log N, log D) (2, n)."""
    powers = np.exp(parameters[:, 1:3, None] - parameters[:, 3:, None] * logs)
    return powers, parameters[:, :1] + powers.sum(axis=1)


Evaluated = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _evaluate(p: np.ndarray, x: np.ndarray, y: np.ndarray, weights: np.ndarray, delta: float, raw: bool) -> Evaluated:
    """Objective (R,), residuals (R, n), power terms (R, 2, n) and fitted loss (R, n) at parameters (R, 5)."""
    powers, predicted = powers_of(p, x)
    residuals = (predicted if raw else np.log(predicted)) - y
    size = np.abs(residuals)
    inner = np.minimum(size, delta)
    value = (weights * inner * (size - 0.5 * inner)).sum(-1)
    return np.where(np.isfinite(value), value, np.inf), residuals, powers, predicted


def jacobian_of(powers: np.ndarray, predicted: np.ndarray, x: np.ndarray, raw: bool) -> np.ndarray:
    """d residual / d parameters, (R, n, 5)."""
    out = np.empty((*predicted.shape, 5))
    inverse = 1.0 if raw else 1 / predicted
    out[..., 0] = inverse
    for j in (0, 1):
        out[..., 1 + j] = powers[:, j] * inverse
        out[..., 3 + j] = -x[j] * out[..., 1 + j]
    return out


def descend(
    start: np.ndarray, x: np.ndarray, y: np.ndarray, *, weights: np.ndarray | None = None, delta: float = math.inf,
    raw: bool = False, limits: tuple[float, float] = EXPONENT_LIMITS, tolerance: float = 1e-11, max_steps: int = 200,
) -> Descent:  # fmt: skip
    """Minimise sum w huber(log(E + A exp(-alpha x_0) + B exp(-beta x_1)) - y) from each row of `start` (R, 5): E, log
    A, log B, alpha, beta. x (2, n): centered log N and log D; y (n,) or (R, n): log loss (the loss itself when `raw`);
    weights (R, n), 1 when None. E >= 0 and exponents stay within `limits`. A row has converged when a step changes the
    fitted values by less than `tolerance` (rms)."""
    bounds = np.array([[0.0, -np.inf, -np.inf, *limits[:1] * 2], [np.inf, np.inf, np.inf, *limits[1:] * 2]])
    p, n = np.array(start, dtype=float), x.shape[1]
    y, w = (np.broadcast_to(part, (len(p), n)) for part in (y, 1.0 if weights is None else weights))
    converged, damping, active = np.zeros(len(p), dtype=bool), np.full(len(p), 1e-3), np.arange(len(p))
    value, residuals, powers, predicted = _evaluate(p, x, y, w, delta, raw)
    for _ in range(max_steps):
        jacobian, size = jacobian_of(powers, predicted, x, raw), np.abs(residuals)
        transposed = jacobian.transpose(0, 2, 1)
        # Reweighting weights (the majoriser) and the Newton ones (only the quadratic zone has curvature).
        major, zone = w[active] * np.minimum(1.0, delta / np.maximum(size, 1e-300)), w[active] * (size <= delta)
        gradient = (transposed @ (major * residuals)[..., None])[..., 0]
        majoriser = transposed @ (major[..., None] * jacobian)
        newton = majoriser if math.isinf(delta) else transposed @ (zone[..., None] * jacobian)
        trial = np.clip(p[active] + _step(p[active], gradient, newton, majoriser, damping[active], bounds), *bounds)
        moved = trial - p[active]
        trial_value, *trial_state = _evaluate(trial, x, y[active], w[active], delta, raw)
        # Rounding: near the minimum the objective no longer resolves the step, so equal within rounding counts as down.
        better = trial_value <= value[active] * (1 + 1e-13)
        change = np.sqrt(np.maximum((moved[:, None, :] @ (majoriser @ moved[..., None]))[:, 0, 0], 0) / n)
        done = (change < tolerance) & better | (damping[active] > 1e12)
        rows = active[better]
        p[rows], value[rows] = trial[better], trial_value[better]
        damping[active] = np.where(better, np.maximum(damping[active] * 0.2, 1e-8), damping[active] * 8)
        converged[active[done]] = True
        for kept, now in zip((residuals, powers, predicted), trial_state, strict=True):
            kept[better] = now[better]
        residuals, powers, predicted, active = (part[~done] for part in (residuals, powers, predicted, active))
        if not len(active):
            break
    return Descent(p, value, converged)


def _step(
    p: np.ndarray, gradient: np.ndarray, newton: np.ndarray, majoriser: np.ndarray, damping: np.ndarray,
    bounds: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """The damped step, with parameters that push against one of the bounds (2, 5) held fixed."""
    free = ~((p <= bounds[0]) & (gradient > 0) | (p >= bounds[1]) & (gradient < 0))
    every = np.arange(5)
    scale = free / np.sqrt(np.maximum(majoriser[:, every, every], 1e-300))
    matrix = (newton + damping[:, None, None] * majoriser) * (scale[:, :, None] * scale[:, None, :])
    # Rounding-level ridge on the majoriser's scale, for rows in which two columns have become parallel.
    matrix[:, every, every] += ~free + 1e-13 * (10 + damping[:, None])
    step = -np.linalg.solve(matrix, (gradient * scale)[..., None])[..., 0] * scale
    shrink = np.minimum(1.0, (LARGEST_STEP / np.maximum(np.abs(step), 1e-300)).min(-1))
    return step * shrink[:, None]
