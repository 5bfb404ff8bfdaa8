"""`fit_trend`: how a metric changes with compute for the models that are optimal for the loss.

The question of Liang et al. (arXiv 2410.08184), section 4. One predictor says where the loss has its optimum, another
what the metric is at that size."""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ...errors import UserError
from ...result import extra
from ...tables.table import Table, check
from ...units import compact
from ..estimates import Estimate
from ..findings import Finding, finding, some
from ..notebook import Shown
from ..predictor.identify import LEAST_RUNS, ask
from ..predictor.predictor import Predictor, predictor
from ..text import spelled


class Predictors(NamedTuple):
    """The predictors of the loss and of the metric."""

    loss: Predictor
    metric: Predictor

    def at(self, budget_flops: float) -> Estimate:
        """The metric at the loss's optimum, of which the place is uncertain too."""
        n = self.loss.optimum(budget_flops).n_params
        return _with_place([self.metric.at_size(budget_flops, size).loss for size in _value_and_ends(n)])

    def exponent(self, first: float, last: float) -> Estimate:
        """d ln metric / d ln C along the loss's optimum, between two budgets."""
        start, end = (self.loss.optimum(budget).n_params for budget in (first, last))
        return _with_place([self.metric.between((first, start.value), (last, size)) for size in _value_and_ends(end)])


def _value_and_ends(n: Estimate) -> list[float]:
    return [n.value, *(n.value if end is None else end for end in (n.low, n.high))]


def _with_place(said: list[Estimate]) -> Estimate:
    """The first of three, its ends moved out by how far the others lie from it, which its own interval leaves out. In
    logs where all are positive, so that no end of a positive metric is below 0."""
    value, *ends = _value_and_ends(said[0])
    log = min(ends[0], *(e.value for e in said)) > 0
    of, back = (math.log, math.exp) if log else (float, float)
    reach = max(abs(of(e.value) - of(value)) for e in said)
    moved = [math.hypot(of(end) - of(value), reach) for end in ends]
    return Estimate(value, back(of(value) - moved[0]), back(of(value) + moved[1]))


@dataclass(frozen=True, repr=False)
class Trend(Shown):
    """A metric at the loss's optimum. budgets: of the grid; at: its values there; exponent: d ln metric / d ln C from
    the first to the last of these, None where the metric may have either sign. fits: None when read back."""

    COMPUTED = ("sentence",)

    metric: str
    budgets: tuple[float, ...]
    at: tuple[Estimate, ...]
    exponent: Estimate | None
    findings: tuple[Finding, ...]
    fits: Predictors | None = extra()

    def heading(self) -> str:
        return self.sentence

    def main(self) -> dict[str, Estimate]:
        return {f"at {compact(c)} FLOPs": e for c, e in zip(self.budgets, self.at, strict=True)}

    def predict(self, budget_flops: float) -> Estimate:
        """The metric at the loss's optimum at any budget. Raises UserError where the trend was read from a file."""
        if self.fits is None:
            raise UserError(f"the trend of {self.metric} was read from a file, and cannot predict; fit the table again")
        return self.fits.at(budget_flops)

    @property
    def sentence(self) -> str:
        first, last = self.at[0].value, self.at[-1].value
        span = f"between {compact(self.budgets[0])} and {compact(self.budgets[-1])} FLOPs"
        power = f", as C^{spelled(self.exponent, '{:.3f}'.format)}" if self.exponent else ""
        return f"{self.metric} goes from {first:.4g} to {last:.4g} {span}{power}."


def fit_trend(table: Table, column: str, loss: Predictor | None = None) -> Trend:
    """How `column` changes along the optimum of the table's own metric. loss: the predictor of that metric, where it is
    at hand. Raises UserError when the column is not there, and with status 3 when the runs determine no trend."""
    grid, findings = measured(table, column)
    source, values = table.source or "table", grid.columns[column]
    if len(grid) < LEAST_RUNS or len(grid.slices()) < 2:
        text = f"{len(grid)} runs at {len(grid.slices())} budgets have it, a trend needs {LEAST_RUNS} at 2"
        raise UserError(f"{source}: no trend of {column} can be given: {text}", status=3)
    if loss is None:
        asked = ask(table.grid(), float(grid.budget_flops.max()))
        if asked.whole is None:
            why = asked.refused and asked.refused.message
            raise UserError(f"{source}: no trend of {column} can be given: {why}", status=3)
        loss = asked.whole
    # Of a metric of either sign more may be better, as of a likelihood: it falls where the loss rises.
    off = grid.falling().loss - grid.falling().loss.mean()
    higher = not grid.info_of(column).positive and float(off @ (values - values.mean())) < 0
    own = replace(grid, metric=column, loss=values, loss_se=None, better="higher" if higher else "lower")
    check(own)
    fits = Predictors(loss, predictor(own))
    budgets = np.exp(fits.metric.runs.node_x + fits.metric.runs.x0).tolist()
    exponent = fits.exponent(budgets[0], budgets[-1]) if fits.metric.runs.log else None
    return Trend(column, tuple(budgets), tuple(map(fits.at, budgets)), exponent, tuple(findings), fits)


def measured(table: Table, column: str) -> tuple[Table, list[Finding]]:
    """The grid's runs with a value of `column` (from `read_table(..., also=(column,))`), and the finding that names the
    others. Raises UserError when the column is not there."""
    if column not in table.columns:
        where = table.source or "table"
        raise UserError(f"{where}: it was read without {column!r}; read_table(..., also=({column!r},))")
    grid = table.grid()
    lost = ~np.isfinite(grid.columns[column])
    if not lost.any():
        return grid, []
    text = f"{some(grid.run_id[lost])} have no {column} and take no part"
    return grid.take(~lost), [finding("excluded_runs", text, map(str, grid.run_id[lost]))]
