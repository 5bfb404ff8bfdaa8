"""`fit_trend`: how a metric changes with compute for the models that are optimal for the loss.

The question of Liang et al. (arXiv 2410.08184), section 4: what VLB, likelihood and FID has the model one would train
at a budget? A metric has an optimal size of its own too (`fit` with that metric gives it); here the size is the loss's,
and the metric is read off a quadratic in log N through its runs, so that one noisy run does not decide."""

from dataclasses import dataclass

import numpy as np

from ...units import compact
from ..estimates import Estimate
from ..findings import Finding
from ..minima.metric_law import Errors, MetricLaw, Refits, metric_law
from ..minima.powerlaw import FORMS, POSITIVE_FORMS
from ..notebook import Shown
from ..result import extra
from ..table import Table
from ..text import spelled
from .at_optimum import at_optimum, usable

REPLICATES, SEED = 2000, 0


@dataclass(frozen=True, repr=False)
class Trend(Shown):
    """A metric at the loss's optimum. at: its values at the budgets; exponent: of k C^a through them, None when a value
    is not positive; law: that or another form, by the rule of metric_law. refits: of the law, one a replicate; None
    when read from a file."""

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
        """The metric of the loss's optimal model at a budget: the law's value, 95 % of replicates with the choice of
        form in each."""
        value = float(self.law.at(budget_flops))
        if self.refits is None:
            return Estimate(value)
        low, high = np.quantile(self.refits.at(budget_flops), [0.025, 0.975])
        return Estimate(value, float(low), float(high))

    @property
    def sentence(self) -> str:
        first, last = self.at[0].value, self.at[-1].value
        text = (
            f"{self.metric} goes from {first:.4g} to {last:.4g} between {compact(self.budgets[0])} and "
            f"{compact(self.budgets[-1])} FLOPs"
        )
        if self.exponent:
            text += f", as C^{spelled(self.exponent, '{:.3f}'.format)}"
        return f"{text}. Form: {self.law.why}."


def fit_trend(table: Table, column: str) -> Trend:
    """The law of `column` at the optimum of the table's own metric. Raises UserError as `usable` (at_optimum.py)
    does."""
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
        x = np.log(budgets) - np.log(budgets).mean()
        slope = lambda y: np.log(y) @ x / (x @ x)
        possible = draws[(draws > 0).all(axis=1)]
        enough = len(possible) > REPLICATES / 2
        low, high = np.quantile(slope(possible), [0.025, 0.975]).tolist() if enough else (None, None)
        exponent = Estimate(float(slope(at)), low, high)
    return Trend(column, tuple(budgets.tolist()), tuple(estimates), exponent, law, tuple(findings), law.refit(draws))
