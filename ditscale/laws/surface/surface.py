"""Approach 3: the surface L(N, D) = E + A N^-alpha + B D^-beta, and its optimum in closed form.

Hoffmann et al. 2022 (arXiv 2203.15556) equation 2; refits and their pitfalls: Besiroglu et al. 2024 (arXiv 2404.10102).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..findings import Finding

# Replicates, and the steps of the delta method, may have exponents that no surface has: infinity and NaN are the right
# words for their optimum, and whoever takes an interval reads them so.
BEYOND = {"over": "ignore", "divide": "ignore", "invalid": "ignore"}


def optimum(parameters: np.ndarray, kappa: float, budget_flops):
    """(log N*, log D*, L*) minimising L(N, D) under C = kappa N D.

    parameters (..., 5) = (E, log A, log B, alpha, beta), broadcast with budget_flops.

    N* = G (C/kappa)^(beta/(alpha+beta)), G = (alpha A / (beta B))^(1/(alpha+beta)): Hoffmann et al., equation 4.
    """
    floor, log_a, log_b, alpha, beta = np.moveaxis(np.asarray(parameters), -1, 0)
    log_nd = np.log(np.asarray(budget_flops, dtype=float) / kappa)
    with np.errstate(**BEYOND):
        log_g = (np.log(alpha / beta) + log_a - log_b) / (alpha + beta)
        log_n = log_g + beta / (alpha + beta) * log_nd
        log_d = log_nd - log_n
        return log_n, log_d, floor + np.exp(log_a - alpha * log_n) + np.exp(log_b - beta * log_d)


def law_with_floor(parameters: np.ndarray, kappa: float):
    """(E, log k, exponent) of L*(C) = E + k C^exponent, exactly; exponent = -alpha beta / (alpha + beta)."""
    floor, log_a, log_b, alpha, beta = np.moveaxis(np.asarray(parameters), -1, 0)
    log_n, log_d, _ = optimum(parameters, kappa, kappa)
    exponent = -alpha * beta / (alpha + beta)
    with np.errstate(**BEYOND):
        log_k = np.logaddexp(log_a - alpha * log_n, log_b - beta * log_d) - exponent * math.log(kappa)
    return floor, log_k, exponent


@dataclass(frozen=True)
class ExtraTerm:
    """A further additive term K x^-exponent of the surface, x a positive column (n,) of the runs, such as the batch
    size.

    at: the value of x for which optima and predictions are given (the column's geometric mean).
    """

    name: str
    coefficient: float
    exponent: float
    at: float
    column: np.ndarray


@dataclass(frozen=True)
class Surface:
    """A fitted surface L = E + A N^-alpha + B D^-beta (+ extra terms); kappa = C / (N D) of the table.

    full (1 + 2 J,): E, the log coefficients and the exponents of the J terms. fixed: exponents that were given, by
    name; tied: whether alpha = beta was imposed; delta: of the Huber loss. objective_value: the minimum (sum of Huber
    losses of log residuals, or half the sum of squares); residuals (n,) are log loss measured minus fitted. status "ok"
    or "refused"; a refused surface keeps its numbers for those who overrule.
    """

    full: np.ndarray
    kappa: float
    objective: str
    objective_value: float
    residuals: np.ndarray
    n_runs: int
    status: str
    findings: tuple[Finding, ...]
    fixed: tuple[tuple[str, float], ...] = ()
    tied: bool = False
    extra: tuple[ExtraTerm, ...] = ()
    delta: float = 1e-3

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    @property
    def reasons(self) -> tuple[str, ...]:
        return tuple(f.message for f in self.findings)

    @property
    def without_floor(self) -> bool:
        """Refused for nothing but E = 0: a sound fit that shows no irreducible loss."""
        return self.E == 0 and len(self.findings) == 1

    @property
    def parameters(self) -> np.ndarray:
        """(5,) = (E, log A, log B, alpha, beta) of the surface that is left when extra terms are held at `at`."""
        return fold(self.full, self.extra)

    @property
    def E(self) -> float:
        return float(self.full[0])

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

    @property
    def n_free(self) -> int:
        """How many parameters were fitted."""
        return len(self.full) - len(self.fixed) - self.tied

    def loss_at(self, n_params, n_tokens):
        """L(N, D), broadcast over the arguments; extra terms at their `at`."""
        n, d = np.asarray(n_params, dtype=float), np.asarray(n_tokens, dtype=float)
        return float(self.parameters[0]) + self.A * n**-self.alpha + self.B * d**-self.beta

    def optimum(self, budget_flops) -> tuple:
        """(N*, D*, L*) at a budget."""
        log_n, log_d, loss = optimum(self.parameters, self.kappa, budget_flops)
        return np.exp(log_n), np.exp(log_d), loss


def fold(full: np.ndarray, extra: tuple[ExtraTerm, ...] = ()) -> np.ndarray:
    """(..., 1 + 2 J) full parameters -> (..., 5), extra terms at their reference value added to E."""
    terms = 2 + len(extra)
    out = full[..., [0, 1, 2, 1 + terms, 2 + terms]].copy()
    for j, term in enumerate(extra, start=2):
        out[..., 0] += np.exp(full[..., 1 + j] - full[..., 1 + terms + j] * math.log(term.at))
    return out
