"""The prediction interval of one new run under the surface, by profile likelihood.

A loss y0 of a new run at (N0, D0) is inside the 95 % interval when adding that run to the table raises the least sum of
squares by no more than t^2 s^2. For a linear model this is the textbook interval yhat +- t s sqrt(1 + leverage); here
it keeps E >= 0, and holds the uncertainty of the law and the scatter of a single run at once (Bjornstad 1990,
"Predictive likelihood", section 2)."""

import math

import numpy as np

from ..estimates import t_quantile
from ..surface.descent import descend
from ..surface.fit_surface import center, variables
from ..surface.surface import Surface
from ..table import Table


def profile_interval(table: Table, surface: Surface, n_params: float, n_tokens: float) -> tuple[float, float, float]:
    """(low, high, scatter) of the loss of one new run at (n_params, n_tokens); scatter: s, rms of one run's log loss.
    `surface` must be the least-squares fit (objective "ls_log") of `table`, which must have at least 6 runs."""
    logs, y = variables(table), np.log(table.loss)
    means = logs.mean(axis=1)
    least = 2 * surface.objective_value
    dof = len(y) - 5
    scatter = max(math.sqrt(least / dof), 1e-12)
    t = t_quantile(0.975, dof)
    x = np.column_stack([logs, [math.log(n_params), math.log(n_tokens)]]) - means[:, None]
    middle = math.log(float(surface.loss_at(n_params, n_tokens)))
    # Geometric distances on both sides, from a fifth of to 500 times the scatter of one run, all refitted in one batch.
    distances = scatter * np.geomspace(0.2, 500, 28)
    supposed = middle + np.concatenate([-distances, distances])
    data = np.concatenate([np.broadcast_to(y, (len(supposed), len(y))), supposed[:, None]], axis=1)
    starts = np.broadcast_to(center(surface.parameters, means, -1), (len(supposed), 5))
    value = descend(starts, x, data, tolerance=1e-8, max_steps=100).value
    rises = np.sqrt(np.maximum(2 * value - least, 0)).reshape(2, -1) / scatter

    def end(rise: np.ndarray) -> float:
        """The distance at which the rise reaches t; it is nearly linear in it, so interpolation is close."""
        beyond = np.flatnonzero(rise > t)
        if not len(beyond):
            return math.inf
        k = int(beyond[0])
        before = (0.0, 0.0) if k == 0 else (rise[k - 1], distances[k - 1])
        return float(np.interp(t, [before[0], rise[k]], [before[1], distances[k]]))

    low, high = math.exp(middle - end(rises[0])), math.exp(min(middle + end(rises[1]), 700))
    return low, high, scatter


def floor_is_needed(table: Table, surface: Surface) -> bool:
    """Whether runs of `table` reject E = 0 at 5 %: F test of the surface against its best fit without a floor."""
    logs, y = variables(table), np.log(table.loss)
    means = logs.mean(axis=1)
    # Without a floor the same fall needs smaller exponents: start from several shares of them.
    starts = np.repeat(center(surface.parameters, means, -1)[None], 4, axis=0)
    starts[:, 0] = 0.0
    starts[:, 3:] *= np.array([1.0, 0.7, 0.5, 0.3])[:, None]
    value = descend(starts, logs - means[:, None], y, tolerance=1e-9, no_floor=True).value.min()
    dof = len(y) - 5
    rise = max(2 * float(value) - 2 * surface.objective_value, 0.0)
    return rise > t_quantile(0.975, dof) ** 2 * 2 * surface.objective_value / dof
