"""Approach 3: the surface L(N, D) = E + A N^-alpha + B D^-beta, and its optimum in closed form.

Hoffmann et al. 2022 (arXiv 2203.15556) equation 2; refits and their pitfalls: Besiroglu et al. 2024 (arXiv 2404.10102).
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..findings import Finding

N_PARAMETERS = 5
# Refits may have exponents that no surface has: infinity and NaN are the right words for their optimum.
BEYOND: dict[str, Any] = {"over": "ignore", "divide": "ignore", "invalid": "ignore"}


def optimum(parameters: np.ndarray, kappa: float, budget_flops: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(log N*, log D*, L*) minimising L(N, D) under C = kappa N D, by Hoffmann et al., equation 4: N* = G
    (C/kappa)^(beta/(alpha+beta)), G = (alpha A / (beta B))^(1/(alpha+beta)). parameters (..., 5), as of `Surface`."""
    floor, log_a, log_b, alpha, beta = np.moveaxis(np.asarray(parameters), -1, 0)
    log_nd = np.log(np.asarray(budget_flops, dtype=float) / kappa)
    with np.errstate(**BEYOND):
        log_g = (np.log(alpha / beta) + log_a - log_b) / (alpha + beta)
        log_n = log_g + beta / (alpha + beta) * log_nd
        log_d = log_nd - log_n
        return log_n, log_d, floor + np.exp(log_a - alpha * log_n) + np.exp(log_b - beta * log_d)


@dataclass(frozen=True)
class Surface:
    """A fitted surface L = E + A N^-alpha + B D^-beta; kappa = C / (N D) of the table. parameters (5,): E, log A, log
    B, alpha, beta. objective_value: the minimum (sum of Huber losses of log residuals, or half the sum of squares);
    residuals (n,): log loss measured minus fitted. status "ok" or "refused", with numbers for those who overrule."""

    parameters: np.ndarray
    kappa: float
    objective: str
    objective_value: float
    residuals: np.ndarray
    status: str
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return self.status == "ok"

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
        floor, log_a, log_b, alpha, beta = self.parameters
        return floor + np.exp(log_a - alpha * np.log(n_params)) + np.exp(log_b - beta * np.log(n_tokens))

    def optimum(self, budget_flops: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(N*, D*, L*) at budgets."""
        log_n, log_d, loss = optimum(self.parameters, self.kappa, budget_flops)
        return np.exp(log_n), np.exp(log_d), loss


def no_surface(n_runs: int, kappa: float, objective: str, reason: Finding) -> Surface:
    """A refused surface, without numbers."""
    nothing, residuals = np.full(N_PARAMETERS, np.nan), np.full(n_runs, np.nan)
    return Surface(nothing, kappa, objective, math.nan, residuals, "refused", (reason,))
