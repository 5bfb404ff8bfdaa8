"""Approach 3 with intervals: the surface, its refits, and what follows from them in closed form."""

from dataclasses import dataclass

import numpy as np

from ..estimates import Estimate, first, resample_counts, residual_draws, scheme, t_quantile
from ..minima.parabola import NEAR
from ..table import Table
from .fit_surface import HUBER_DELTA, fit_surface, refit_surfaces
from .surface import BEYOND, N_PARAMETERS, Surface, optimum


@dataclass(frozen=True)
class Approach3:
    """A surface, and its parameters (1 + R, 5) as fitted and in R refits; 0 without a bootstrap or when refused."""

    surface: Surface
    parameters: np.ndarray
    scheme: str

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
    groups = [rows for _, rows in table.slices()]
    # Without slices worth the name (a continuum of budgets, or 1-3 runs at most of them) all runs are one stratum.
    if not table.is_isoflop() or np.median([len(rows) for rows in groups]) < 4:
        groups = [np.arange(len(table))]
    how = scheme([len(rows) for rows in groups])
    if not (bootstrap and surface.ok):
        return Approach3(surface, surface.parameters[None], how)
    log_loss = np.log(table.loss)
    if how == "residual":
        noisy = residual_draws(log_loss - surface.residuals, surface.residuals, N_PARAMETERS, bootstrap, seed)
        draws = refit_surfaces(surface, table, noisy, None)
    else:
        counts = resample_counts(groups, len(table), bootstrap, seed)
        widened = log_loss + (_widening(surface, groups) - 1) * surface.residuals
        draws = refit_surfaces(surface, table, widened, counts)
    return Approach3(surface, np.concatenate([surface.parameters[None], draws]), how)


def _widening(surface: Surface, strata: list[np.ndarray]) -> float:
    """The factor by which residuals are scaled before they are drawn from; docs/measured/laws.md has the coverage.

    Where the objective is quadratic they are too small: fitting p parameters shrinks their variance by (n - p) / n,
    drawing within strata of m runs that of their sum by (m - 1) / m (Davison and Hinkley 1997, section 6.3; Rao and Wu
    1988), and a percentile interval knows nothing of Student's t. In the linear zone of the Huber loss the fit passes
    through about p runs, and its pairs bootstrap is too wide, in simulations with 32 to 336 runs by 1 to 2 p / n. The
    factor goes by the mean weight the Huber loss leaves a run."""
    n, p, m = len(surface.residuals), N_PARAMETERS, float(np.median([len(rows) for rows in strata]))
    if n <= p or m < 2:
        return 1.0
    quadratic = np.sqrt(n / (n - p) * m / (m - 1)) * t_quantile(0.975, n - p) / t_quantile(0.975, 1e9)
    linear, weight = 1 / (1 + 2 * p / n), 1.0
    if surface.objective == "huber":
        weight = float(np.mean(np.minimum(1.0, HUBER_DELTA / np.maximum(np.abs(surface.residuals), 1e-300))))
    return float(weight * quadratic + (1 - weight) * linear)
