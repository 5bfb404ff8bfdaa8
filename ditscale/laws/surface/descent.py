"""Many small surface fits at once: damped Gauss-Newton on (E, log A, log B, alpha, beta), a row per fit.

The damping matrix is the weighted normal matrix of iteratively reweighted least squares (weights min(1, delta/|r|)). It
majorises the Huber objective, so heavy damping always descends and light damping converges as fast as Newton; unlike
damping by the identity it does not depend on how parameters are scaled."""

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


class _At(NamedTuple):
    """At each row of parameters: objective (R,), residuals (R, n), power terms (R, 2, n) and fitted loss (R, n)."""

    value: np.ndarray
    residuals: np.ndarray
    powers: np.ndarray
    predicted: np.ndarray


def powers_of(parameters: np.ndarray, logs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(A N^-alpha and B D^-beta (R, 2, n), the loss (R, n)) of parameters (R, 5) at (log N, log D) (2, n)."""
    powers = np.exp(parameters[:, 1:3, None] - parameters[:, 3:, None] * logs)
    return powers, parameters[:, :1] + powers.sum(axis=1)


def _evaluate(p: np.ndarray, x: np.ndarray, y: np.ndarray, weights: np.ndarray, delta: float, raw: bool) -> _At:
    powers, predicted = powers_of(p, x)
    residuals = (predicted if raw else np.log(predicted)) - y
    size = np.abs(residuals)
    inner = np.minimum(size, delta)
    value = (weights * inner * (size - 0.5 * inner)).sum(-1)
    return _At(np.where(np.isfinite(value), value, np.inf), residuals, powers, predicted)


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
    """Minimise sum w huber(log(E + A exp(-alpha x_0) + B exp(-beta x_1)) - y) from each row of `start`. start (R, 5) =
    (E, log A, log B, alpha, beta); x (2, n) centered log N and log D; y (n,) or (R, n) log loss (the loss itself when
    `raw`); weights (R, n), 1 when None. E >= 0 and the exponents are kept within `limits` by projection. A row has
    converged when its step, measured by the change of the fitted values, is below `tolerance` (root mean square)."""
    p, n = np.array(start, dtype=float), x.shape[1]
    y, w = (np.broadcast_to(part, (len(p), n)) for part in (y, 1.0 if weights is None else weights))
    converged, damping, active = np.zeros(len(p), dtype=bool), np.full(len(p), 1e-3), np.arange(len(p))
    value, residuals, powers, predicted = _evaluate(p, x, y, w, delta, raw)
    for _ in range(max_steps):
        jacobian = jacobian_of(powers, predicted, x, raw)
        size = np.abs(residuals)
        # Reweighting weights (the majoriser) and the Newton ones (only the quadratic zone has curvature).
        major = w[active] * np.minimum(1.0, delta / np.maximum(size, 1e-300))
        transposed = jacobian.transpose(0, 2, 1)
        gradient = (transposed @ (major * residuals)[..., None])[..., 0]
        majoriser = transposed @ (major[..., None] * jacobian)
        zone = w[active] * (size <= delta)
        newton = majoriser if math.isinf(delta) else transposed @ (zone[..., None] * jacobian)
        step = _step(p[active], gradient, newton, majoriser, damping[active], limits)
        trial = p[active] + step
        trial[:, 0] = np.maximum(trial[:, 0], 0.0)
        trial[:, 3:] = np.clip(trial[:, 3:], *limits)
        moved = trial - p[active]
        new = _evaluate(trial, x, y[active], w[active], delta, raw)
        # Rounding: near the minimum the objective no longer resolves the step, so equal within rounding counts as down.
        better = new.value <= value[active] * (1 + 1e-13)
        change = np.sqrt(np.maximum((moved[:, None, :] @ (majoriser @ moved[..., None]))[:, 0, 0], 0) / n)
        done = (change < tolerance) & better | (damping[active] > 1e12)
        rows = active[better]
        p[rows], value[rows] = trial[better], new.value[better]
        damping[active] = np.where(better, np.maximum(damping[active] * 0.2, 1e-8), damping[active] * 8)
        converged[active[done]] = True
        left = ~done
        residuals = np.where(better[:, None], new.residuals, residuals)[left]
        powers = np.where(better[:, None, None], new.powers, powers)[left]
        predicted = np.where(better[:, None], new.predicted, predicted)[left]
        active = active[left]
        if not len(active):
            break
    return Descent(p, value, converged)


def _step(
    p: np.ndarray, gradient: np.ndarray, newton: np.ndarray, majoriser: np.ndarray, damping: np.ndarray,
    limits: tuple[float, float],
) -> np.ndarray:  # fmt: skip
    """The damped step, with parameters that push against a bound held fixed."""
    exponents = p[:, 3:]
    free = np.ones(p.shape, dtype=bool)
    free[:, 0] = ~((p[:, 0] <= 0) & (gradient[:, 0] > 0))
    low = (exponents <= limits[0]) & (gradient[:, 3:] > 0)
    free[:, 3:] = ~(low | (exponents >= limits[1]) & (gradient[:, 3:] < 0))
    matrix = newton + damping[:, None, None] * majoriser
    # Rounding-level ridge on the majoriser's scale, for rows in which two columns have become parallel.
    every = np.arange(5)
    scale = free / np.sqrt(np.maximum(majoriser[:, every, every], 1e-300))
    matrix = matrix * (scale[:, :, None] * scale[:, None, :])
    matrix[:, every, every] += ~free + 1e-13 * (10 + damping[:, None])
    step = -np.linalg.solve(matrix, (gradient * scale)[..., None])[..., 0] * scale
    shrink = np.minimum(1.0, (LARGEST_STEP / np.maximum(np.abs(step), 1e-300)).min(-1))
    return step * shrink[:, None]
