"""`fit_trend`: how a metric changes with compute for the models that are optimal for the loss.

The question of Liang et al. (arXiv 2410.08184), section 4. The size is the loss's optimum, and the metric is read off a
quadratic in log N through its runs, so that one noisy run does not decide."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ...errors import UserError
from ...units import compact
from ..estimates import Estimate, t_quantile
from ..findings import Finding, finding, some
from ..minima.approach2 import fit_approach2
from ..minima.metric_law import Errors, MetricLaw, Refits, metric_law
from ..minima.parabola import Parabola, quadratic
from ..minima.powerlaw import FORMS, POSITIVE_FORMS, line
from ..notebook import Shown
from ..result import extra
from ..table import Table
from ..text import spelled

REPLICATES, SEED = 2000, 0


@dataclass(frozen=True, repr=False)
class Trend(Shown):
    """A metric at the loss's optimum. at: its values at the budgets; exponent: of k C^a through them, None when one is
    not positive; law: that or another form, by the rule of metric_law. refits: of the law; None when read back."""

    COMPUTED = ("sentence",)

    metric: str
    budgets: tuple[float, ...]
    at: tuple[Estimate, ...]
    exponent: Estimate | None
    law: MetricLaw
    findings: tuple[Finding, ...]
    refits: Refits | None = extra()

    def heading(self) -> str:
        return self.sentence

    def main(self) -> dict[str, Estimate]:
        return {f"at {compact(c)} FLOPs": e for c, e in zip(self.budgets, self.at, strict=True)}

    def predict(self, budget_flops: float) -> Estimate:
        """The metric at the loss's optimum at a budget; 95 % of replicates, with the choice of form in each."""
        value = float(self.law.at(budget_flops))
        if self.refits is None:
            return Estimate(value)
        low, high = np.quantile(self.refits.at(budget_flops), [0.025, 0.975])
        return Estimate(value, float(low), float(high))

    @property
    def sentence(self) -> str:
        first, last = self.at[0].value, self.at[-1].value
        span = f"between {compact(self.budgets[0])} and {compact(self.budgets[-1])} FLOPs"
        power = f", as C^{spelled(self.exponent, '{:.3f}'.format)}" if self.exponent else ""
        return f"{self.metric} goes from {first:.4g} to {last:.4g} {span}{power}. Form: {self.law.why}."


def fit_trend(table: Table, column: str) -> Trend:
    """The law of `column` at the optimum of the table's own metric. Raises UserError as `usable` does."""
    grid, slices, findings = usable(table, column)
    values, budgets = grid.columns[column], np.array([p.budget_flops for p in slices])
    positive = table.info_of(column).positive and bool((values > 0).all())
    rng = np.random.default_rng(SEED)
    if positive:
        # Read off, and scattered, in logs: a loss or a FID scatters by a share of itself, and no replicate is negative.
        logs = at_optimum(grid, slices, np.log(values), np.ones(len(grid)))
        at, se, dof = np.exp(logs.values), np.exp(logs.values) * logs.se, logs.dof
        estimates = [e.exp() for e in logs.estimates()]
        draws = np.exp(logs.values + logs.se * rng.standard_t(dof, (REPLICATES, len(at))))
    else:
        size = np.abs(values) if (values > 0).all() else np.ones(len(grid))
        read = at_optimum(grid, slices, values, size)
        (at, se, dof), estimates = read, read.estimates()
        draws = at + se * rng.standard_t(dof, (REPLICATES, len(at)))
    law = metric_law(budgets, at, POSITIVE_FORMS if positive else tuple(FORMS), Errors(se, dof))
    exponent = None
    if (at > 0).all():
        slope = line(np.log(budgets), np.log(np.vstack([at, draws[(draws > 0).all(axis=1)]])))[:, 1]
        low, high = np.quantile(slope[1:], [0.025, 0.975]).tolist() if len(slope) > REPLICATES / 2 + 1 else (None, None)
        exponent = Estimate(float(slope[0]), low, high)
    return Trend(column, tuple(budgets.tolist()), tuple(estimates), exponent, law, tuple(findings), law.refit(draws))


class Usable(NamedTuple):
    """The grid's runs that have a column, their slices with an optimum, and what was left out."""

    grid: Table
    slices: list[Parabola]
    findings: list[Finding]


def usable(table: Table, column: str) -> Usable:
    """What there is of `column` (from `read_table(..., also=(column,))`). Raises UserError when the column is not
    there, and with status 3 when fewer than 2 slices are left."""
    source = table.source or "table"
    if column not in table.columns:
        raise UserError(f"{source}: it was read without {column!r}; read_table(..., also=({column!r},))")
    grid, findings = table.grid(), []
    lost = ~np.isfinite(grid.columns[column])
    if lost.any():
        text = f"{some(grid.run_id[lost])} have no {column} and take no part"
        findings.append(finding("excluded_runs", text, map(str, grid.run_id[lost])))
        grid = grid.take(~lost)
    laws = fit_approach2(grid, bootstrap=0) if len(grid) else None
    slices = laws.accepted if laws else []
    findings += [f for f in laws.findings if f.severity == "refused"] if laws else []
    if len(slices) < 2:
        why = "; ".join(f.message for f in findings) or f"{len(slices)} slices"
        raise UserError(f"{source}: no law of {column} can be given, it needs 2 usable slices: {why}", status=3)
    return Usable(grid, slices, findings)


class AtOptimum(NamedTuple):
    """Values at N* (K,), their standard errors (K,), and the degrees of freedom these have."""

    values: np.ndarray
    se: np.ndarray
    dof: int

    def estimates(self) -> list[Estimate]:
        return [interval_of(v, s, self.dof) for v, s in zip(self.values, self.se, strict=True)]


def at_optimum(table: Table, slices: list[Parabola], values: np.ndarray, size: np.ndarray) -> AtOptimum:
    """From a quadratic in log N per slice, noise pooled over slices and taken to be proportional to size (n,)."""
    fits, squares, dof = [], 0.0, 0
    for p in slices:
        x, scale = np.log(table.n_params[p.rows] / p.n_params), float(np.median(size[p.rows]))
        c, residuals, unit = quadratic(x, values[p.rows])
        squares, dof = squares + float(residuals @ residuals) / scale**2, dof + len(x) - 3
        fits.append((c, scale, math.sqrt(unit[0, 0]), p.log_n_se))
    noise = max(math.sqrt(squares / dof), 1e-9)  # a noise-free table has no intervals of width zero to weigh by
    # The place of the optimum is uncertain too; that matters where the values are steep in N.
    se = [math.hypot(noise * scale * unit, c[1] * log_n_se) for c, scale, unit, log_n_se in fits]
    return AtOptimum(np.array([c[0] for c, *_ in fits]), np.array(se), dof)


def interval_of(value: float, se: float, dof: int) -> Estimate:
    """95 %, by Student's t."""
    half = t_quantile(0.975, dof) * float(se)
    return Estimate(float(value), float(value) - half, float(value) + half)
