"""Fitting the surface: variable projection to start, damped Gauss-Newton to finish, thousands of refits in batches.

For given (alpha, beta) the problem is linear in E, A, B >= 0, and only two of five parameters need a search (Golub and
Pereyra 1973)."""

import math

import numpy as np

from ...errors import one_of
from ...tables.table import Table
from ...units import compact
from ..estimates import Replicates
from ..findings import Finding, finding
from .descent import EXPONENT_LIMITS, descend, powers_of
from .surface import N_PARAMETERS, Surface, no_surface

OBJECTIVES = {
    "huber": "sum of Huber losses (1e-3) of log residuals",
    "ls": "sum of squares of the loss residuals",
    "ls_log": "sum of squares of the log residuals",
}
HUBER_DELTA = 1e-3
BATCH_CELLS = 5e5  # replicates x runs that are refitted at once


def center(parameters: np.ndarray, means: np.ndarray, unit: float, sign: int) -> np.ndarray:
    """Parameters (..., 5) for variables in units of their geometric means, whose logs are `means` (2,), and losses in
    units of `unit` (sign -1), or back (sign +1). In centered form the normal equations have a condition number of about
    1e4, else of about 1e11."""
    out = np.array(parameters, dtype=float)
    out[..., 1:3] += sign * (out[..., 3:] * means + math.log(unit))
    out[..., 0] *= unit**sign
    return out


def variables(table: Table) -> np.ndarray:
    """(log N, log D) (2, n) of the runs."""
    return np.log(np.stack([table.n_params, table.n_tokens]))


def fit_surface(table: Table, objective: str = "huber", kappa: float | None = None) -> Surface:
    """Fit all runs of `table`.

    objective: "huber" (summed, of log residuals), "ls" (squares of the loss itself) or "ls_log" (squares of log
    residuals). kappa: C / (N D); estimated as the median over runs when None. Refused: losses that are not positive,
    too few runs, budgets or sizes, a parameter on its bound, no convergence. Raises UserError on another objective."""
    one_of(objective, tuple(OBJECTIVES), "objective")
    kappa = table.kappa() if kappa is None else kappa
    if refusal := _unfit(table):
        return no_surface(len(table), kappa, objective, refusal)
    logs = variables(table)
    means, raw, unit = logs.mean(axis=1), objective == "ls", table.unit
    loss = table.loss / unit
    x, y = logs - means[:, None], loss if raw else np.log(loss)
    starts = _seeds(x, loss, np.ones_like(y) if raw else 1 / loss)
    if objective == "huber":
        result = descend(starts, x, y, tolerance=1e-5)
        # Starts that have reached the same minimum continue as one.
        apart = np.unique(np.round(result.parameters, 2), axis=0, return_index=True)[1]
        parameters = result.parameters[apart]
        # The width of the quadratic zone shrinks in steps: straight to 1e-3 the objective is nearly least absolute
        # deviations, whose kinks stop the descent early.
        for width in (w for w in (1e-1, 1e-2, 1e-3, 1e-4) if w > HUBER_DELTA):
            parameters = descend(parameters, x, y, delta=width, tolerance=1e-5).parameters
        result = descend(parameters, x, y, delta=HUBER_DELTA)
    else:
        result = descend(starts, x, y, raw=raw)
    best = int(np.argmin(result.value))
    centered = result.parameters[best]
    if centered[0] <= 1e-9:
        centered[0] = 0.0
    parameters = center(centered, means, unit, +1)
    findings = _against(centered, bool(result.converged[best]))
    _, fitted = powers_of(centered[None], x)
    residuals, status = np.log(loss) - np.log(fitted[0]), "ok"
    if any(f.severity == "refused" for f in findings):
        status = "refused"
    value = float(result.value[best]) * (unit * unit if raw else 1.0)
    return Surface(parameters, kappa, objective, value, residuals, status, tuple(findings))


def _unfit(table: Table) -> Finding | None:
    """The finding on a table that cannot carry the surface, saying what to add; None when it can."""
    if not (table.loss > 0).all():
        text = f"{table.metric} is not positive in every run, so no surface E + A N^-alpha + B D^-beta is fitted to it"
        runs = map(str, table.run_id[table.loss <= 0])
        return finding("metric_not_positive", text, runs, value=float(table.loss.min()))
    budgets = [budget for budget, _ in table.slices()]
    distinct = min(len(np.unique(np.round(np.log(column), 6))) for column in (table.n_params, table.n_tokens))
    if len(table) > N_PARAMETERS and len(budgets) >= 2 and distinct >= 3:
        return None
    if len(table) > N_PARAMETERS and len(budgets) < 2:
        text = f"the surface L(N, D) needs runs at 2 budgets or more, and all {len(table)} are at {compact(budgets[0])}"
        text += f"; add a budget, for example {compact(3 * budgets[0])}, with the same sizes"
        return finding("too_few_budgets", text, slices=budgets, value=len(budgets))
    text = f"the surface L(N, D) needs {N_PARAMETERS + 1} runs at 2 budgets with 3 different N and 3 different D; there"
    text += f" are {len(table)} runs at {len(budgets)}, with {distinct} different N or D"
    return finding("too_few_runs", text, map(str, table.run_id), value=len(table))


def _against(centered: np.ndarray, converged: bool) -> list[Finding]:
    """What is to be said of a fit, from its centered parameters."""
    low, high = EXPONENT_LIMITS
    bounds: list[tuple[str, float]] = []
    for j, (name, symbol, axis) in enumerate((("A", "alpha", "N"), ("B", "beta", "D"))):
        exponent = float(centered[3 + j])
        if centered[1 + j] < math.log(1e-6):
            bounds.append((f"{name} sits on its bound 0: the loss does not depend on {axis} here; widen its range", 0))
        elif not 1.02 * low <= exponent <= 0.98 * high:
            text = f"{symbol} sits on its bound ({exponent:.3g}); widen the range of {axis} in the runs"
            bounds.append((text, exponent))
    findings = [finding("parameter_on_bound", f"the surface's {text}", value=value) for text, value in bounds]
    if centered[0] == 0:
        findings.append(finding("no_floor", "the surface's floor E is 0: these runs show none", value=0))
    if not converged:
        findings.append(finding("not_converged", "the surface fit did not converge; its numbers are withheld"))
    return findings


def refit_surfaces(surface: Surface, table: Table, drawn: Replicates) -> np.ndarray:
    """Parameters (R, 5) of refits to replicates of the log loss, by the objective of `surface` and started from it.
    They stop far below the spread of the replicates, and go in batches with arrays of about 200 MB."""
    logs = variables(table)
    means = logs.mean(axis=1)
    start, batch = center(surface.parameters, means, table.unit, -1), max(1, int(BATCH_CELLS // len(table)))
    raw, delta = surface.objective == "ls", HUBER_DELTA if surface.objective == "huber" else math.inf
    y, x, parts = drawn.values - math.log(table.unit), logs - means[:, None], []
    y, many = np.exp(y) if raw else y, len(drawn.values if drawn.weights is None else drawn.weights)
    for first in range(0, many, batch):
        rows = slice(first, min(first + batch, many))
        starts = np.broadcast_to(start, (rows.stop - first, len(start)))
        of, w = (y[rows], None) if drawn.weights is None else (y, drawn.weights[rows])
        parts.append(descend(starts, x, of, weights=w, delta=delta, raw=raw, tolerance=1e-6, max_steps=100).parameters)
    return center(np.concatenate(parts), means, table.unit, +1)


def _seeds(x: np.ndarray, loss: np.ndarray, weights: np.ndarray, keep: int = 4) -> np.ndarray:
    """Starting points (keep, 5) in centered form: on a grid of (alpha, beta), E, A, B >= 0 by least squares. x (2, n):
    centered log N and log D; weights (n,) multiply residuals of the raw loss, whose median is 1."""
    exponents = np.geomspace(0.03, 2.5, 24)
    n = len(exponents)
    u, v = np.exp(-exponents[:, None, None] * x).transpose(1, 0, 2) * weights
    columns, y = np.concatenate([weights[None], u, v]), weights * loss
    products, by_y = columns @ columns.T, columns @ y
    i, j = (part.ravel() for part in np.indices((n, n)))
    picked = np.stack([np.zeros_like(i), 1 + i, 1 + n + j], axis=-1)
    gram, right = products[picked[:, :, None], picked[:, None, :]], by_y[picked]
    # Of the normal equations of every subset of E, A, B, the best whose solution is not negative.
    linear, gain = np.zeros((n * n, 3)), np.zeros(n * n)
    for subset in ([0, 1, 2], [0, 1], [0, 2], [1, 2], [0], [1], [2]):
        part = gram[:, subset][:, :, subset] * (1 + 1e-12 * np.eye(len(subset)))
        found = np.linalg.solve(part, right[:, subset, None])[..., 0]
        gained = (found * right[:, subset]).sum(-1)
        better = (found >= 0).all(-1) & (gained > gain)
        linear[better], gain[better] = 0.0, gained[better]
        linear[np.ix_(better, subset)] = found[better]
    misfit, of = (float(y @ y) - gain).reshape(n, n), linear.reshape(n, n, 3)
    # Local minima of the grid only: the neighbours of the best are the same valley.
    around = np.lib.stride_tricks.sliding_window_view(np.pad(misfit, 1, constant_values=np.inf), (3, 3))
    peak = (misfit <= around.min(axis=(-1, -2))) & (of[..., 1:] > 0).all(axis=-1)
    i, j = np.unravel_index(np.argsort(np.where(peak, misfit, misfit + 1e9), axis=None)[:keep], misfit.shape)
    logs = np.log(np.maximum(of[i, j, 1:], 1e-3))
    return np.column_stack([of[i, j, 0], logs, exponents[i], exponents[j]])
