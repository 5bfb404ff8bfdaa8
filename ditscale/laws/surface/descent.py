"""Many small surface fits at once: damped Gauss-Newton on E and the terms' coefficients and exponents, a row per fit.

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
    """parameters (R, 1 + 2 J), value (R,) of the objective, converged (R,)."""

    parameters: np.ndarray
    value: np.ndarray
    converged: np.ndarray


def _evaluate(p, x, y, weights, delta, raw):
    """Objective (R,), residuals (R, n), the power terms (R, J, n) and the fitted loss (R, n) of parameters (R, 1 + 2
    J).
    """
    terms = len(x)
    powers = np.exp(p[:, 1 : 1 + terms, None] - p[:, 1 + terms :, None] * x)
    predicted = p[:, 0:1] + powers.sum(axis=1)
    residuals = predicted - y if raw else np.log(predicted) - y
    if math.isinf(delta):
        loss = 0.5 * residuals * residuals
    else:
        size = np.abs(residuals)
        inner = np.minimum(size, delta)
        loss = inner * (size - 0.5 * inner)
    value = loss.sum(-1) if weights is None else (weights * loss).sum(-1)
    return np.where(np.isfinite(value), value, np.inf), residuals, powers, predicted


def jacobian_of(powers, predicted, x, raw):
    """d residual / d parameters, (R, n, 1 + 2 J)."""
    terms, n = x.shape
    out = np.empty((len(powers), n, 1 + 2 * terms))
    inverse = 1.0 if raw else 1 / predicted
    out[..., 0] = inverse
    for j in range(terms):
        out[..., 1 + j] = powers[:, j] * inverse
        out[..., 1 + terms + j] = -x[j] * out[..., 1 + j]
    return out


def descend(
    start,
    x,
    y,
    *,
    weights=None,
    delta=math.inf,
    raw=False,
    limits=(5e-3, 4.0),
    tolerance=1e-11,
    max_steps=200,
    moves=None,
    no_floor=False,
) -> Descent:
    """Minimise sum w huber(log(E + sum_j K_j exp(-e_j x_j)) - y) from each row of `start`.

    start (R, 1 + 2 J) = (E, log K_1.., e_1..); x (J, n) centered logs of the variables, J >= 2; y (n,) or (R, n) log
    loss (the loss itself when `raw`); weights (R, n) or None. E >= 0 (E = 0 with `no_floor`) and the exponents are kept
    within `limits` by projection. `moves` (1 + 2 J, m) holds the directions in which parameters may move: leaving a
    column out fixes a parameter, adding two ties them; None lets all move. A row has converged when its step, measured
    by the change of the fitted values, is below `tolerance` (root mean square).
    """
    p = np.array(start, dtype=float)
    total, (terms, n) = len(p), x.shape
    y = np.broadcast_to(y, (total, n))
    moves = np.eye(1 + 2 * terms) if moves is None else moves
    if no_floor:
        moves = moves[:, moves[0] == 0]
    value = np.full(total, np.inf)
    converged = np.zeros(total, dtype=bool)
    damping = np.full(total, 1e-3)
    active = np.arange(total)
    state = _evaluate(p, x, y, weights, delta, raw)
    value[:] = state[0]
    residuals, powers, predicted = state[1:]
    for _ in range(max_steps):
        w = None if weights is None else weights[active]
        jacobian = jacobian_of(powers, predicted, x, raw)
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
        step = _step(p[active], gradient, newton, majoriser, damping[active], limits, moves)
        trial = p[active] + step
        trial[:, 0] = np.maximum(trial[:, 0], 0.0)
        trial[:, 1 + terms :] = np.clip(trial[:, 1 + terms :], *limits)
        moved = trial - p[active]
        new = _evaluate(trial, x, y[active], w, delta, raw)
        # Rounding: near the minimum the objective no longer resolves the step, so equal within rounding counts as down.
        better = new[0] <= value[active] * (1 + 1e-13)
        change = np.sqrt(np.maximum((moved[:, None, :] @ (majoriser @ moved[..., None]))[:, 0, 0], 0) / n)
        done = (change < tolerance) & better | (damping[active] > 1e12)
        rows = active[better]
        p[rows], value[rows] = trial[better], new[0][better]
        damping[active] = np.where(better, np.maximum(damping[active] * 0.2, 1e-8), damping[active] * 8)
        converged[active[done]] = True
        left = ~done
        residuals = np.where(better[:, None], new[1], residuals)[left]
        powers = np.where(better[:, None, None], new[2], powers)[left]
        predicted = np.where(better[:, None], new[3], predicted)[left]
        active = active[left]
        if not len(active):
            break
    return Descent(p, value, converged)


def _step(p, gradient, newton, majoriser, damping, limits, moves):
    """The damped step within `moves`, with parameters that push against a bound held fixed."""
    terms = (p.shape[1] - 1) // 2
    exponents = p[:, 1 + terms :]
    stuck = np.zeros(p.shape, dtype=bool)
    stuck[:, 0] = (p[:, 0] <= 0) & (gradient[:, 0] > 0)
    stuck[:, 1 + terms :] = ((exponents <= limits[0]) & (gradient[:, 1 + terms :] > 0)) | (
        (exponents >= limits[1]) & (gradient[:, 1 + terms :] < 0)
    )
    free = ~(stuck @ (moves != 0))
    gradient = gradient @ moves
    majoriser = moves.T @ majoriser @ moves
    matrix = moves.T @ newton @ moves + damping[:, None, None] * majoriser
    # Rounding-level ridge on the majoriser's scale, for rows in which two columns have become parallel.
    every = np.arange(moves.shape[1])
    scale = free / np.sqrt(np.maximum(majoriser[:, every, every], 1e-300))
    matrix = matrix * (scale[:, :, None] * scale[:, None, :])
    matrix[:, every, every] += ~free + 1e-13 * (10 + damping[:, None])
    step = -np.linalg.solve(matrix, (gradient * scale)[..., None])[..., 0] * scale @ moves.T
    # A wild step in an exponent only costs evaluations.
    limit = np.concatenate([[np.inf], np.full(terms, 3.0), np.full(terms, 0.5)])
    shrink = np.minimum(1.0, (limit / np.maximum(np.abs(step), 1e-300)).min(-1))
    return step * shrink[:, None]
