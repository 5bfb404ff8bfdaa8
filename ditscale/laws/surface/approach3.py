"""Approach 3 with intervals: the surface, its refits, and what follows from them in closed form."""

from dataclasses import dataclass

import numpy as np

from ...tables.table import Table
from ..estimates import PAIRS_FROM, Estimate, first, replicates
from ..minima.parabola import NEAR
from .fit_surface import HUBER_DELTA, fit_surface, refit_surfaces
from .surface import BEYOND, N_PARAMETERS, Surface, optimum


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

    def predict(self, budget_flops: float) -> dict[str, Estimate]:
        """{n_params, n_tokens, loss} of the optimum at a budget."""
        return {name: first(values) for name, values in self.at(budget_flops).items()}

    def n_range(self, budget_flops: float) -> tuple[Estimate, Estimate]:
        """The ends of the range of N whose loss at this budget is within 0.1 % of the optimum's, with intervals: by
        bisection of the loss along C = kappa N D, which rises on either side of N*."""
        floor, log_a, log_b, alpha, beta = self.parameters.T
        log_n, log_d, loss = optimum(self.parameters, self.surface.kappa, budget_flops)
        side, near, far = np.array([[-1.0], [1.0]]), np.zeros((2, len(log_n))), np.full((2, len(log_n)), 30.0)
        with np.errstate(**BEYOND):
            for _ in range(50):
                step = (near + far) / 2
                of_n, of_d = log_a - alpha * (log_n + side * step), log_b - beta * (log_d - side * step)
                inside = floor + np.exp(of_n) + np.exp(of_d) < (1 + NEAR) * loss
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
    """The factor by which residuals are scaled before their runs are drawn again. In the linear zone of the Huber loss
    the fit passes through about p runs, and drawing pairs is too wide: in simulations with 32 to 336 runs by 1 to 2
    p / n. The factor goes by the mean weight that the Huber loss leaves a run (docs/measured/laws.md)."""
    size = np.maximum(np.abs(surface.residuals), 1e-300)
    weight = float(np.mean(np.minimum(1.0, HUBER_DELTA / size))) if surface.objective == "huber" else 1.0
    return weight + (1 - weight) / (1 + 2 * N_PARAMETERS / len(size))
