"""Approach 3: the surface L(N, D) = E + A N^-alpha + B D^-beta, its fit, refits and optimum in closed form.

Hoffmann et al. 2022 (arXiv 2203.15556) equation 2; refits and their pitfalls: Besiroglu et al. 2024 (arXiv 2404.10102).
For given (alpha, beta) the problem is linear in E, A, B >= 0, so only two parameters need a search (Golub and Pereyra
1973): variable projection to start, damped Gauss-Newton to finish, refits in batches."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ...errors import one_of
from ...tables.table import Table
from ...units import compact
from ..estimates import PAIRS_FROM, Estimate, Optimum, Replicates, first, replicates
from ..findings import Finding, finding
from ..minima.parabola import NEAR
from .descent import EXPONENT_LIMITS, descend, powers_of

OBJECTIVES = {
    "huber": "sum of Huber losses (1e-3) of log residuals",
    "ls": "sum of squares of the loss residuals",
    "ls_log": "sum of squares of the log residuals",
}
N_PARAMETERS = 5
HUBER_DELTA = 1e-3
BATCH_CELLS = 5e5  # replicates x runs that are refitted at once: arrays of about 200 MB
# Refits may have exponents that no surface has: infinity and NaN are the right words for their optimum.
BEYOND: dict[str, Any] = {"over": "ignore", "divide": "ignore", "invalid": "ignore"}


def loss_of(parameters: np.ndarray, log_n: np.ndarray, log_d: np.ndarray) -> np.ndarray:
    """L(N, D) of parameters (..., 5), as of `Surface`, broadcast over all arguments."""
    floor, log_a, log_b, alpha, beta = np.moveaxis(parameters, -1, 0)
    return floor + np.exp(log_a - alpha * log_n) + np.exp(log_b - beta * log_d)


def optimum(parameters: np.ndarray, kappa: float, budget_flops: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(log N*, log D*, L*) minimising L(N, D) under C = kappa N D, by Hoffmann et al., equation 4: N* = G
    (C/kappa)^(beta/(alpha+beta)), G = (alpha A / (beta B))^(1/(alpha+beta)). parameters (..., 5), as of `Surface`."""
    _, log_a, log_b, alpha, beta = np.moveaxis(np.asarray(parameters), -1, 0)
    log_nd = np.log(np.asarray(budget_flops, dtype=float) / kappa)
    with np.errstate(**BEYOND):
        log_n = (np.log(alpha / beta) + log_a - log_b) / (alpha + beta) + beta / (alpha + beta) * log_nd
        return log_n, log_nd - log_n, loss_of(np.asarray(parameters), log_n, log_nd - log_n)


@dataclass(frozen=True)
class Surface:
    """A fitted surface L = E + A N^-alpha + B D^-beta; kappa = C / (N D) of the table. parameters (5,): E, log A, log
    B, alpha, beta. objective_value: the minimum (sum of Huber losses of log residuals, or half the sum of squares);
    residuals (n,): log loss measured minus fitted. A refused one may have numbers, for those who overrule."""

    parameters: np.ndarray
    kappa: float
    objective: str
    objective_value: float
    residuals: np.ndarray
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return all(f.severity != "refused" for f in self.findings) and bool(np.isfinite(self.parameters).all())

    @property
    def E(self) -> float:
        return float(self.parameters[0])

    @property
    def A(self) -> float:
        return float(np.exp(self.parameters[1]))

    @property
    def B(self) -> float:
        return float(np.exp(self.parameters[2]))

    @property
    def alpha(self) -> float:
        return float(self.parameters[3])

    @property
    def beta(self) -> float:
        return float(self.parameters[4])

    def loss_at(self, n_params: ArrayLike, n_tokens: ArrayLike) -> np.ndarray:
        """L(N, D), broadcast over the arguments."""
        return loss_of(self.parameters, np.log(n_params), np.log(n_tokens))

    def optimum(self, budget_flops: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(N*, D*, L*) at budgets."""
        log_n, log_d, loss = optimum(self.parameters, self.kappa, budget_flops)
        return np.exp(log_n), np.exp(log_d), loss


def center(parameters: np.ndarray, means: np.ndarray, unit: float, sign: int) -> np.ndarray:
    """Parameters (..., 5) for variables in units of their geometric means, whose logs are `means` (2,), and losses in
    units of `unit` (sign -1), or back (sign +1): the normal equations are then far better conditioned, 1e4 for 1e11."""
    out = np.array(parameters, dtype=float)
    out[..., 1:3] += sign * (out[..., 3:] * means + math.log(unit))
    out[..., 0] *= unit**sign
    return out


def variables(table: Table) -> np.ndarray:
    """(log N, log D) (2, n) of the runs."""
    return np.log(np.stack([table.n_params, table.n_tokens]))


def fit_surface(table: Table, objective: str = "huber", kappa: float | None = None) -> Surface:
    """Fit all runs of `table`. objective: one of OBJECTIVES. kappa: C / (N D); the median over runs when None.

    Refused, with the reason in its findings: losses that are not positive, too few runs, budgets or sizes, a parameter
    on its bound, no convergence. Raises UserError on another objective."""
    one_of(objective, tuple(OBJECTIVES), "objective")
    kappa = table.kappa() if kappa is None else kappa
    if refusal := _unfit(table):
        nothing, residuals = np.full(N_PARAMETERS, np.nan), np.full(len(table), np.nan)
        return Surface(nothing, kappa, objective, math.nan, residuals, (refusal,))
    logs = variables(table)
    means, raw, unit = logs.mean(axis=1), objective == "ls", table.unit
    loss = table.loss / unit
    x, y = logs - means[:, None], loss if raw else np.log(loss)
    parameters = _seeds(x, loss, np.ones_like(y) if raw else 1 / loss)
    if objective == "huber":
        parameters = descend(parameters, x, y, tolerance=1e-5).parameters
        # Starts that have reached the same minimum continue as one.
        parameters = parameters[np.unique(np.round(parameters, 2), axis=0, return_index=True)[1]]
        # Straight to 1e-3 the objective is nearly least absolute deviations, whose kinks stop the descent early.
        for width in (w for w in (1e-1, 1e-2, 1e-3, 1e-4) if w > HUBER_DELTA):
            parameters = descend(parameters, x, y, delta=width, tolerance=1e-5).parameters
    result = descend(parameters, x, y, raw=raw, delta=HUBER_DELTA if objective == "huber" else math.inf)
    best = int(np.argmin(result.value))
    centered = result.parameters[best]
    if centered[0] <= 1e-9:
        centered[0] = 0.0
    residuals = np.log(loss) - np.log(powers_of(centered[None], x)[1][0])
    value = float(result.value[best]) * (unit * unit if raw else 1.0)
    findings = _against(centered, bool(result.converged[best]))
    return Surface(center(centered, means, unit, +1), kappa, objective, value, residuals, findings)


def _unfit(table: Table) -> Finding | None:
    """The finding on a table that cannot carry the surface, saying what to add; None when it can."""
    if not (table.loss > 0).all():
        text = f"{table.metric} is not positive in every run, so no surface E + A N^-alpha + B D^-beta is fitted to it"
        runs = map(str, table.run_id[table.loss <= 0])
        return finding("metric_not_positive", text, runs, value=float(table.loss.min()))
    budgets, many = [budget for budget, _ in table.slices()], f"all {len(table)} runs"
    distinct = min(len(np.unique(np.round(np.log(column), 6))) for column in (table.n_params, table.n_tokens))
    if len(table) > N_PARAMETERS and len(budgets) < 2:
        add = f"add a budget, for example {compact(3 * budgets[0])}, with the same sizes"
        text = f"the surface L(N, D) needs 2 budgets, and {many} are at {compact(budgets[0])}; {add}"
        return finding("too_few_budgets", text, slices=budgets, value=len(budgets))
    if len(table) > N_PARAMETERS and distinct >= 3:
        return None
    needs = f"the surface L(N, D) needs {N_PARAMETERS + 1} runs at 2 budgets with 3 different N and 3 different D"
    text = f"{needs}; there are {len(table)} runs at {len(budgets)}, with {distinct} different N or D"
    return finding("too_few_runs", text, map(str, table.run_id), value=len(table))


def _against(centered: np.ndarray, converged: bool) -> tuple[Finding, ...]:
    """What is to be said of a fit, from its centered parameters."""
    low, high = EXPONENT_LIMITS
    findings = []
    for axis, name, symbol, log_a, exponent in zip("ND", "AB", ("alpha", "beta"), *centered[1:].reshape(2, 2).tolist()):
        if log_a < math.log(1e-6):
            text = f"the surface's {name} sits on its bound 0: the loss does not depend on {axis} here; widen its range"
            findings.append(finding("parameter_on_bound", text, value=0))
        elif not 1.02 * low <= exponent <= 0.98 * high:
            text = f"the surface's {symbol} sits on its bound ({exponent:.3g}); widen the range of {axis} in the runs"
            findings.append(finding("parameter_on_bound", text, value=exponent))
    if centered[0] == 0:
        findings.append(finding("no_floor", "the surface's floor E is 0: these runs show none", value=0))
    if not converged:
        findings.append(finding("not_converged", "the surface fit did not converge; its numbers are withheld"))
    return tuple(findings)


def refit_surfaces(surface: Surface, table: Table, drawn: Replicates) -> np.ndarray:
    """Parameters (R, 5) of refits to replicates of the log loss, by the objective of `surface` and started from it.
    They stop far below the spread of the replicates."""
    logs = variables(table)
    means, raw = logs.mean(axis=1), surface.objective == "ls"
    delta, parts = HUBER_DELTA if surface.objective == "huber" else math.inf, []
    y, x = drawn.values - math.log(table.unit), logs - means[:, None]
    y, many = np.exp(y) if raw else y, len(drawn.values if drawn.weights is None else drawn.weights)
    start = np.broadcast_to(center(surface.parameters, means, table.unit, -1), (many, N_PARAMETERS))
    for rows in np.split(np.arange(many), np.arange(many)[:: max(1, int(BATCH_CELLS // len(table)))][1:]):
        of, w = (y[rows], None) if drawn.weights is None else (y, drawn.weights[rows])
        descent = descend(start[rows], x, of, weights=w, delta=delta, raw=raw, tolerance=1e-6, max_steps=100)
        parts.append(descent.parameters)
    return center(np.concatenate(parts), means, table.unit, +1)


def _seeds(x: np.ndarray, loss: np.ndarray, weights: np.ndarray, keep: int = 4) -> np.ndarray:
    """Starting points (keep, 5) in centered form: on a grid of (alpha, beta), E, A, B >= 0 by least squares. x (2, n):
    centered log N and log D; weights (n,) multiply residuals of the raw loss, whose median is 1."""
    exponents, n = np.geomspace(0.03, 2.5, 24), 24
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


@dataclass(frozen=True)
class Approach3:
    """A surface, and its parameters (1 + R, 5) as fitted and in R refits; 0 without a bootstrap or when refused."""

    surface: Surface
    parameters: np.ndarray

    @property
    def ok(self) -> bool:
        return self.surface.ok

    def coefficients(self) -> dict[str, Estimate]:
        """E, A, B, alpha, beta; model_exponent = beta/(alpha+beta); loss_floor_exponent of L* - E (negative)."""
        floor, log_a, log_b, alpha, beta = self.parameters.T
        with np.errstate(over="ignore"):
            named = {"E": floor, "A": np.exp(log_a), "B": np.exp(log_b), "alpha": alpha, "beta": beta}
        named |= {"model_exponent": beta / (alpha + beta), "loss_floor_exponent": -alpha * beta / (alpha + beta)}
        return {name: first(values) for name, values in named.items()}

    def at(self, budget_flops: float) -> dict[str, np.ndarray]:
        """{n_params, n_tokens, loss} (1 + R,) of the optimum at a budget, as fitted and in each refit."""
        log_n, log_d, loss = optimum(self.parameters, self.surface.kappa, budget_flops)
        with np.errstate(over="ignore"):
            return {"n_params": np.exp(log_n), "n_tokens": np.exp(log_d), "loss": loss}

    def predict(self, budget_flops: float) -> Optimum:
        """The optimum at a budget."""
        return Optimum(*map(first, self.at(budget_flops).values()))

    def n_range(self, budget_flops: float) -> tuple[Estimate, Estimate]:
        """The ends of the N whose loss at this budget is within 0.1 % of the optimum's, by bisection on either side."""
        log_n, log_d, loss = optimum(self.parameters, self.surface.kappa, budget_flops)
        side, near, far = np.array([[-1.0], [1.0]]), np.zeros((2, len(log_n))), np.full((2, len(log_n)), 30.0)
        with np.errstate(**BEYOND):
            for _ in range(50):
                step = (near + far) / 2
                inside = loss_of(self.parameters, log_n + side * step, log_d - side * step) < (1 + NEAR) * loss
                near, far = np.where(inside, step, near), np.where(inside, far, step)
            low, high = np.exp(log_n + side * near)
        return first(low), first(high)


def fit_approach3(
    table: Table, objective: str = "huber", bootstrap: int = 1000, seed: int = 0, kappa: float | None = None
) -> Approach3:
    """Fit the surface to all runs, and refit it `bootstrap` times unless it is refused. kappa: see `fit_surface`."""
    surface = fit_surface(table, objective, kappa)
    if not (bootstrap and surface.ok):
        return Approach3(surface, surface.parameters[None])
    groups = [rows for _, rows in table.slices()] if table.is_isoflop() else []
    if not groups or np.median([len(rows) for rows in groups]) >= PAIRS_FROM:
        groups = [np.arange(len(table))]
    fitted = np.log(table.loss) - surface.residuals
    drawn = replicates(fitted, surface.residuals, groups, N_PARAMETERS, bootstrap, seed)
    if drawn.weights is not None:
        drawn = drawn._replace(values=drawn.values + (_narrowing(surface) - 1) * surface.residuals)
    return Approach3(surface, np.concatenate([surface.parameters[None], refit_surfaces(surface, table, drawn)]))


def _narrowing(surface: Surface) -> float:
    """The factor by which residuals are scaled before their runs are drawn again. A Huber fit passes through about p
    runs, and drawing them again is too wide by 1 to 2 p / n; it goes by the mean weight of a run there
    (docs/measured/laws.md)."""
    size = np.maximum(np.abs(surface.residuals), 1e-300)
    weight = float(np.mean(np.minimum(1.0, HUBER_DELTA / size))) if surface.objective == "huber" else 1.0
    return weight + (1 - weight) / (1 + 2 * N_PARAMETERS / len(size))
