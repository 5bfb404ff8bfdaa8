"""Approach 3 with intervals: the surface, its refits, and what follows from them in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .surface import Surface, fit_surface, law_with_floor, optimum, refit_surfaces
from .table import Table
from .uncertainty import Estimate, estimate, resample_counts, residual_draws, scheme


@dataclass(frozen=True)
class Approach3:
    """A surface and draws (R, 5) of its parameters (None without a bootstrap or when it is refused)."""

    surface: Surface
    draws: np.ndarray | None
    scheme: str

    @property
    def ok(self) -> bool:
        return self.surface.ok

    def coefficients(self) -> dict[str, Estimate]:
        """E, A, B, alpha, beta; model_exponent = beta/(alpha+beta); loss_floor_exponent of L* - E (negative)."""
        names = ("E", "A", "B", "alpha", "beta", "model_exponent", "loss_floor_exponent")
        value = _coefficients(self.surface.parameters, self.surface.kappa)
        draws = None if self.draws is None else _coefficients(self.draws, self.surface.kappa)
        return {n: estimate(value[i], None if draws is None else draws[i]) for i, n in enumerate(names)}

    def predict(self, budget_flops: float) -> dict[str, Estimate]:
        """{n_params, n_tokens, loss} of the optimum at a budget."""
        log_n, log_d, loss = optimum(self.surface.parameters, self.surface.kappa, budget_flops)
        drawn = (None,) * 3
        if self.draws is not None:
            drawn = optimum(self.draws, self.surface.kappa, budget_flops)
            drawn = (np.exp(drawn[0]), np.exp(drawn[1]), drawn[2])
        values = (np.exp(log_n), np.exp(log_d), loss)
        return {n: estimate(v, d) for n, v, d in zip(("n_params", "n_tokens", "loss"), values, drawn, strict=True)}


def _coefficients(parameters: np.ndarray, kappa: float) -> list[np.ndarray]:
    floor, log_a, log_b, alpha, beta = np.moveaxis(parameters, -1, 0)
    return [
        floor,
        np.exp(log_a),
        np.exp(log_b),
        alpha,
        beta,
        beta / (alpha + beta),
        law_with_floor(parameters, kappa)[2],
    ]


def fit_approach3(
    table: Table, objective: str = "huber", bootstrap: int = 1000, seed: int = 0, keep_without_floor: bool = False
) -> Approach3:
    """Fit the surface to all runs and refit it `bootstrap` times; see `uncertainty` for the two schemes.

    A refused surface gets no draws; `keep_without_floor` makes an exception for one refused because E = 0.
    """
    surface = fit_surface(table, objective)
    groups = [rows for _, rows in table.slices()]
    # Without slices worth the name (a continuum of budgets, or 1-3 runs at most of them) all runs are one stratum.
    if not table.is_isoflop() or np.median([len(rows) for rows in groups]) < 4:
        groups = [np.arange(len(table))]
    how = scheme([len(rows) for rows in groups])
    if not bootstrap or not (surface.ok or keep_without_floor and surface.without_floor):
        return Approach3(surface, None, how)
    if how == "pairs":
        counts = resample_counts(groups, len(table), bootstrap, seed)
        return Approach3(surface, refit_surfaces(surface, table, np.log(table.loss), counts), how)
    fitted = np.log(table.loss) - surface.residuals
    noisy = residual_draws(fitted, surface.residuals, 5, bootstrap, seed)
    return Approach3(surface, refit_surfaces(surface, table, noisy, None), how)
