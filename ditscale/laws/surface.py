"""Approach 3: the surface L(N, D) = E + A N^-alpha + B D^-beta, and its optimum in closed form.

Hoffmann et al. 2022 (arXiv 2203.15556) equation 2; refits and their pitfalls: Besiroglu et al. 2024 (arXiv 2404.10102).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..errors import one_of
from .descent import descend
from .findings import Finding
from .table import Table

OBJECTIVES = ("huber", "ls", "ls_raw")
HUBER_DELTA = 1e-3
# The exponents are searched within these limits; a fit that ends on one is refused.
EXPONENT_LIMITS = (5e-3, 4.0)


def optimum(parameters: np.ndarray, kappa: float, budget_flops):
    """(log N*, log D*, L*) minimising L(N, D) under C = kappa N D.

    parameters (..., 5) = (E, log A, log B, alpha, beta), broadcast with budget_flops.

    N* = G (C/kappa)^(beta/(alpha+beta)), G = (alpha A / (beta B))^(1/(alpha+beta)): Hoffmann et al., equation 4.
    """
    floor, log_a, log_b, alpha, beta = np.moveaxis(np.asarray(parameters), -1, 0)
    log_nd = np.log(np.asarray(budget_flops, dtype=float) / kappa)
    log_g = (np.log(alpha / beta) + log_a - log_b) / (alpha + beta)
    log_n = log_g + beta / (alpha + beta) * log_nd
    log_d = log_nd - log_n
    return log_n, log_d, floor + np.exp(log_a - alpha * log_n) + np.exp(log_b - beta * log_d)


def law_with_floor(parameters: np.ndarray, kappa: float):
    """(E, log k, exponent) of L*(C) = E + k C^exponent, exactly; exponent = -alpha beta / (alpha + beta)."""
    floor, log_a, log_b, alpha, beta = np.moveaxis(np.asarray(parameters), -1, 0)
    log_n, log_d, _ = optimum(parameters, kappa, kappa)
    exponent = -alpha * beta / (alpha + beta)
    log_k = np.logaddexp(log_a - alpha * log_n, log_b - beta * log_d) - exponent * math.log(kappa)
    return floor, log_k, exponent


@dataclass(frozen=True)
class Surface:
    """A fitted surface. parameters (5,) = (E, log A, log B, alpha, beta); kappa = C / (N D) of the table.

    objective_value: the minimum (sum of Huber losses of log residuals, or half the sum of squares); residuals (n,) are
    log loss measured minus fitted. status "ok" or "refused"; a refused surface keeps its numbers for those who
    overrule.
    """

    parameters: np.ndarray
    kappa: float
    objective: str
    objective_value: float
    residuals: np.ndarray
    n_runs: int
    status: str
    reasons: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    @property
    def without_floor(self) -> bool:
        """Refused for nothing but E = 0: a sound fit that shows no irreducible loss."""
        return self.E == 0 and len(self.findings) == 1

    @property
    def E(self) -> float:
        return float(self.parameters[0])

    @property
    def A(self) -> float:
        return math.exp(self.parameters[1])

    @property
    def B(self) -> float:
        return math.exp(self.parameters[2])

    @property
    def alpha(self) -> float:
        return float(self.parameters[3])

    @property
    def beta(self) -> float:
        return float(self.parameters[4])

    def loss_at(self, n_params, n_tokens):
        """L(N, D), broadcast over the arguments."""
        n, d = np.asarray(n_params, dtype=float), np.asarray(n_tokens, dtype=float)
        return self.E + self.A * n**-self.alpha + self.B * d**-self.beta

    def optimum(self, budget_flops) -> tuple:
        """(N*, D*, L*) at a budget."""
        log_n, log_d, loss = optimum(self.parameters, self.kappa, budget_flops)
        return np.exp(log_n), np.exp(log_d), loss


def _linear_part(gram: np.ndarray, moment: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Non-negative least squares in 3 unknowns for a stack of problems: gram (..., 3, 3), moment (..., 3).

    Returns (solution, decrease of half the sum of squares). All 7 supports are tried; among the feasible ones the
    largest decrease is the constrained optimum. A and B may not leave (without them alpha or beta mean nothing), but
    their supports are tried all the same so that the grid sees how poor they are.
    """
    best = np.zeros_like(moment)
    gain = np.zeros(moment.shape[:-1])
    for support in ([0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2]):
        sub = gram[..., support, :][..., :, support]
        # A ridge at rounding level: with alpha near 0 a column is nearly the constant one.
        sub = sub + 1e-14 * np.trace(sub, axis1=-2, axis2=-1)[..., None, None] * np.eye(len(support))
        solution = np.linalg.solve(sub, moment[..., support][..., None])[..., 0]
        better = (solution >= 0).all(-1) & ((solution * moment[..., support]).sum(-1) > gain)
        gain = np.where(better, (solution * moment[..., support]).sum(-1), gain)
        full = np.zeros_like(moment)
        full[..., support] = solution
        best = np.where(better[..., None], full, best)
    return best, gain


def seeds(x: np.ndarray, z: np.ndarray, loss: np.ndarray, weights: np.ndarray, keep: int = 4) -> np.ndarray:
    """Starting points (keep, 5) in centered form by variable projection on a grid of (alpha, beta).

    x, z: centered log N, log D (n,). weights (n,) multiply squared residuals of the raw loss; 1 / loss^2 makes them
    relative. All Gram matrices of the grid come from a few matrix products.
    """
    exponents = np.geomspace(0.03, 2.5, 24)
    u, v = np.exp(-exponents[:, None] * x), np.exp(-exponents[:, None] * z)
    gram = np.empty((len(exponents), len(exponents), 3, 3))
    gram[..., 0, 0] = weights.sum()
    gram[..., 0, 1] = gram[..., 1, 0] = (u @ weights)[:, None]
    gram[..., 0, 2] = gram[..., 2, 0] = (v @ weights)[None, :]
    gram[..., 1, 1] = ((u * u) @ weights)[:, None]
    gram[..., 2, 2] = ((v * v) @ weights)[None, :]
    gram[..., 1, 2] = gram[..., 2, 1] = (u * weights) @ v.T
    wy = weights * loss
    moment = np.stack(np.broadcast_arrays(wy.sum(), (u @ wy)[:, None], (v @ wy)[None, :]), axis=-1)
    linear, gain = _linear_part(gram, moment)
    # Local minima of the grid only: the neighbours of the best are the same valley.
    padded = np.pad(gain, 1, constant_values=-np.inf)
    around = [
        padded[1 + i : len(gain) + 1 + i, 1 + j : len(gain) + 1 + j] for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j
    ]
    peak = (gain >= np.max(around, axis=0)) & (linear[..., 1] > 0) & (linear[..., 2] > 0)
    score = np.where(peak, gain, gain - 1e3 * abs(gain).max())
    picks = np.argsort(-score, axis=None)[:keep]
    i, j = np.unravel_index(picks, gain.shape)
    floor, a, b = np.moveaxis(linear[i, j], -1, 0)
    tiny = 1e-3 * float(np.median(loss))
    return np.stack(
        [floor, np.log(np.maximum(a, tiny)), np.log(np.maximum(b, tiny)), exponents[i], exponents[j]], axis=-1
    )


def center(parameters: np.ndarray, log_n0: float, log_d0: float, sign: int) -> np.ndarray:
    """Move log A, log B to N, D measured in units of their geometric means (sign -1) or back (sign +1).

    In centered form the normal equations have a condition number of about 1e4; in the usual one, about 1e11.
    """
    out = np.array(parameters, dtype=float)
    out[..., 1] += sign * out[..., 3] * log_n0
    out[..., 2] += sign * out[..., 4] * log_d0
    return out


def fit_surface(table: Table, objective: str = "huber", kappa: float | None = None) -> Surface:
    """Fit all runs of `table`.

    objective: "huber" (summed, delta 1e-3, log residuals), "ls" (log residuals) or "ls_raw" (the loss itself).

    Refused: fewer than 6 runs or 2 budgets, a parameter on its bound, no convergence. Raises UserError on an unknown
    objective.
    """
    one_of(objective, OBJECTIVES, "objective")
    kappa = table.kappa() if kappa is None else kappa
    names = tuple(str(r) for r in table.run_id)
    budgets = len(table.slices())
    distinct = min(len(np.unique(np.round(np.log(column), 6))) for column in (table.n_params, table.n_tokens))
    if len(table) < 6 or budgets < 2 or distinct < 3:
        code = "too_few_budgets" if len(table) >= 6 and budgets < 2 else "too_few_runs"
        message = (
            "the surface L(N, D) needs 6 runs at 2 budgets with 3 different N and 3 different D; there are "
            f"{len(table)} runs at {budgets}, with {distinct} different N or D"
        )
        finding = Finding(code, message, names if code == "too_few_runs" else ())
        empty = np.full(len(table), np.nan)
        return Surface(
            np.full(5, np.nan), kappa, objective, math.nan, empty, len(table), "refused", (message,), (finding,)
        )
    log_n, log_d = np.log(table.n_params), np.log(table.n_tokens)
    log_n0, log_d0 = log_n.mean(), log_d.mean()
    x, z = log_n - log_n0, log_d - log_d0
    y = table.loss if objective == "ls_raw" else np.log(table.loss)
    weights = np.ones_like(y) if objective == "ls_raw" else 1 / table.loss**2
    starts = seeds(x, z, table.loss, weights)
    raw = objective == "ls_raw"
    result = descend(starts, x, z, y, delta=math.inf, raw=raw, limits=EXPONENT_LIMITS)
    if objective == "huber":
        # From least squares the width of the quadratic zone shrinks in steps: straight to 1e-3 the objective is nearly
        # least absolute deviations, whose kinks stop the descent early.
        for delta in (1e-1, 1e-2, HUBER_DELTA):
            result = descend(result.parameters, x, z, y, delta=delta, limits=EXPONENT_LIMITS)
    best = int(np.argmin(result.value))
    centered = result.parameters[best]
    typical = float(np.median(table.loss))
    if centered[0] <= 1e-9 * typical:
        centered[0] = 0.0
    parameters = center(centered, log_n0, log_d0, +1)
    findings = _judge(centered, bool(result.converged[best]), typical)
    surface = Surface(
        parameters=parameters,
        kappa=kappa,
        objective=objective,
        objective_value=float(result.value[best]),
        residuals=np.zeros(len(table)),
        n_runs=len(table),
        status="refused" if findings else "ok",
        reasons=tuple(f.message for f in findings),
        findings=tuple(findings),
    )
    residuals = np.log(table.loss) - np.log(surface.loss_at(table.n_params, table.n_tokens))
    object.__setattr__(surface, "residuals", residuals)
    return surface


def _judge(parameters: np.ndarray, converged: bool, typical_loss: float) -> list[Finding]:
    """What stands against a fit, from its centered parameters."""
    findings = []
    floor, log_a, log_b, alpha, beta = parameters
    low, high = EXPONENT_LIMITS

    def bound(text):
        findings.append(Finding("parameter_on_bound", text))

    if floor == 0:
        bound(
            "the surface's floor E sits on its bound 0: these runs do not show an irreducible loss; widen the budgets"
        )
    for name, symbol, coefficient, exponent, axis in (
        ("A", "alpha", log_a, alpha, "N"),
        ("B", "beta", log_b, beta, "D"),
    ):
        if coefficient < math.log(1e-6 * typical_loss):
            bound(f"the surface's {name} sits on its bound 0: the loss does not depend on {axis} here; widen its range")
        elif exponent < 1.02 * low or exponent > 0.98 * high:
            bound(f"the surface's {symbol} sits on its bound ({exponent:.3g}); widen the range of {axis} in the runs")
    if not converged:
        findings.append(Finding("not_converged", "the surface fit did not converge; its numbers are withheld"))
    return findings


def refit_surfaces(surface: Surface, table: Table, log_loss: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Parameters (R, 5) of many refits started from `surface`: log_loss (R, n) or (n,), weights (R, n) of run counts.

    Refits use the surface's objective, stop at a tolerance far below the spread of the replicates.
    """
    log_n, log_d = np.log(table.n_params), np.log(table.n_tokens)
    log_n0, log_d0 = log_n.mean(), log_d.mean()
    replicates = len(weights) if weights is not None else len(log_loss)
    start = np.broadcast_to(center(surface.parameters, log_n0, log_d0, -1), (replicates, 5))
    raw = surface.objective == "ls_raw"
    result = descend(
        start,
        log_n - log_n0,
        log_d - log_d0,
        np.exp(log_loss) if raw else log_loss,
        weights=weights,
        delta=HUBER_DELTA if surface.objective == "huber" else math.inf,
        raw=raw,
        limits=EXPONENT_LIMITS,
        tolerance=1e-6,
        max_steps=100,
    )
    return center(result.parameters, log_n0, log_d0, +1)
