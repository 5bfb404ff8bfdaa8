"""Many small surface fits at once: damped Gauss-Newton on (E, log A, log B, alpha, beta), one batch row per fit.

The damping matrix is the weighted normal matrix of iteratively reweighted least squares (weights min(1, delta/|r|)). It
majorises the Huber objective, so heavy damping is a plain reweighting step, which always descends, and light damping is
a Newton step, which converges fast. Damping by it, unlike by the identity, does not depend on how parameters are
scaled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Descent:
    """parameters (R, 5), value (R,) of the objective, converged (R,)."""

    parameters: np.ndarray
    value: np.ndarray
    converged: np.ndarray


def _evaluate(p, x, z, y, weights, delta, raw):
    """Objective (R,), residuals (R, n) and the two power terms of parameters (R, 5)."""
    u = np.exp(p[:, 1:2] - p[:, 3:4] * x)
    v = np.exp(p[:, 2:3] - p[:, 4:5] * z)
    predicted = p[:, 0:1] + u + v
    residuals = predicted - y if raw else np.log(predicted) - y
    if math.isinf(delta):
        loss = 0.5 * residuals * residuals
    else:
        size = np.abs(residuals)
        inner = np.minimum(size, delta)
        loss = inner * (size - 0.5 * inner)
    value = loss.sum(-1) if weights is None else (weights * loss).sum(-1)
    return np.where(np.isfinite(value), value, np.inf), residuals, u, v, predicted


def descend(
    start,
    x,
    z,
    y,
    *,
    weights=None,
    delta=math.inf,
    raw=False,
    limits=(5e-3, 4.0),
    tolerance=1e-11,
    max_steps=200,
    no_floor=False,
) -> Descent:
    """Minimise sum w huber(log(E + A e^(-alpha x) + B e^(-beta z)) - y) from each row of `start`.

    start (R, 5); x, z (n,) centered log N and log D; y (n,) or (R, n) log loss (the loss itself when `raw`); weights
    (R, n) or None. E >= 0 (E = 0 with `no_floor`) and the exponents are kept within `limits` by projection. A row has
    converged when its step, measured by the change of the fitted values, is below `tolerance` (root mean square).
    """
    p = np.array(start, dtype=float)
    total, n = len(p), len(x)
    y = np.broadcast_to(y, (total, n))
    value = np.full(total, np.inf)
    converged = np.zeros(total, dtype=bool)
    damping = np.full(total, 1e-3)
    active = np.arange(total)
    state = _evaluate(p, x, z, y, weights, delta, raw)
    value[:] = state[0]
    residuals, u, v, predicted = state[1:]
    for _ in range(max_steps):
        w = None if weights is None else weights[active]
        inverse = 1.0 if raw else 1 / predicted
        jacobian = np.empty((len(active), n, 5))
        jacobian[..., 0] = inverse
        jacobian[..., 1] = u * inverse
        jacobian[..., 2] = v * inverse
        jacobian[..., 3] = -x * jacobian[..., 1]
        jacobian[..., 4] = -z * jacobian[..., 2]
        size = np.abs(residuals)
        # Reweighting weights (the majoriser) and the Newton ones (only the quadratic zone has curvature).
        major = np.ones_like(size) if math.isinf(delta) else delta / np.maximum(size, delta)
        if w is not None:
            major = major * w
        transposed = jacobian.transpose(0, 2, 1)
        gradient = (transposed @ (major * residuals)[..., None])[..., 0]
        majoriser = transposed @ (major[..., None] * jacobian)
        if math.isinf(delta):
            newton = majoriser
        else:
            zone = (size <= delta) * 1.0 if w is None else (size <= delta) * w
            newton = transposed @ (zone[..., None] * jacobian)
        step = _step(p[active], gradient, newton, majoriser, damping[active], limits, no_floor)
        trial = p[active] + step
        trial[:, 0] = 0.0 if no_floor else np.maximum(trial[:, 0], 0.0)
        trial[:, 3:] = np.clip(trial[:, 3:], *limits)
        moved = trial - p[active]
        new = _evaluate(trial, x, z, y[active], w, delta, raw)
        # Rounding: near the minimum the objective no longer resolves the step, so equal within rounding counts as down.
        better = new[0] <= value[active] * (1 + 1e-15)
        change = np.sqrt(np.maximum((moved[:, None, :] @ (majoriser @ moved[..., None]))[:, 0, 0], 0) / n)
        done = (change < tolerance) & better | (damping[active] > 1e12)
        rows = active[better]
        p[rows], value[rows] = trial[better], new[0][better]
        damping[active] = np.where(better, np.maximum(damping[active] * 0.2, 1e-12), damping[active] * 8)
        converged[active[done]] = True
        residuals, u, v, predicted = (
            np.where(better[:, None], b, a)[~done] for a, b in zip((residuals, u, v, predicted), new[1:], strict=True)
        )
        active = active[~done]
        if not len(active):
            break
    return Descent(p, value, converged)


def _step(p, gradient, newton, majoriser, damping, limits, no_floor):
    """The damped step with parameters that push against a bound held fixed."""
    held = np.zeros(p.shape, dtype=bool)
    held[:, 0] = no_floor | (p[:, 0] <= 0) & (gradient[:, 0] > 0)
    held[:, 3:] = ((p[:, 3:] <= limits[0]) & (gradient[:, 3:] > 0)) | ((p[:, 3:] >= limits[1]) & (gradient[:, 3:] < 0))
    matrix = newton + damping[:, None, None] * majoriser
    # Rounding-level ridge on the majoriser's scale, for rows in which two columns have become parallel.
    diagonal = np.einsum("rii->ri", majoriser)
    scale = 1 / np.sqrt(np.maximum(diagonal, 1e-300))
    matrix = matrix * scale[:, :, None] * scale[:, None, :]
    free = ~held
    matrix = matrix * (free[:, :, None] & free[:, None, :])
    matrix[:, range(5), range(5)] += held + 1e-13
    step = -np.linalg.solve(matrix, (gradient * scale * free)[..., None])[..., 0] * scale
    # A wild step in an exponent only costs evaluations.
    limit = np.array([np.inf, 3.0, 3.0, 0.5, 0.5])
    shrink = np.minimum(1.0, (limit / np.maximum(np.abs(step), 1e-300)).min(-1))
    return step * shrink[:, None]
