"""Metrics along the compute-optimal frontier: how one changes with compute (`fit_trend`), and how far one lies from
another (`fit_gap`), as the out-of-domain loss from the in-domain one. The questions of Liang et al. (arXiv 2410.08184),
section 4."""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ..errors import UserError
from ..result import Result, extra
from ..tables.table import REQUIRED, Table, check
from ..units import compact
from .estimates import Estimate, student
from .findings import Finding, finding, listed, some
from .minima.approach2 import fit_approach2
from .minima.line import line
from .minima.parabola import Parabola, pooled, quadratic
from .notebook import Shown
from .predictor.identify import LEAST_RUNS, ask
from .predictor.predictor import Predictor, predictor
from .text import cells, columns, spelled

DECADE = math.log(10)
SIGNIFICANT = 0.05  # p of a slope below which a gap is said to change
signed = "{:+.4g}".format


def measured(table: Table, column: str) -> tuple[Table, list[Finding]]:
    """The grid's runs with a value of `column` (from `read_table(..., also=(column,))`), and the finding that names the
    others. Raises UserError when the column is not there."""
    grid = table.grid()
    lost = ~np.isfinite(grid.column(column))
    text = f"{some(grid.run_id[lost])} have no {column} and take no part"
    return grid.take(~lost), [finding("excluded_runs", text, map(str, grid.run_id[lost]))] * bool(lost.any())


class Predictors(NamedTuple):
    """The predictors of the loss, which says where the optimum is, and of the metric, which says its value there."""

    loss: Predictor
    metric: Predictor

    def at(self, budget_flops: float) -> Estimate:
        """The metric at the loss's optimum, of which the place is uncertain too."""
        sizes = _value_and_ends(self.loss.optimum(budget_flops).n_params)
        return _with_place([self.metric.at_size(budget_flops, size).loss for size in sizes])

    def exponent(self, first: float, last: float) -> Estimate:
        """d ln metric / d ln C along the loss's optimum, between two budgets."""
        start, end = (_value_and_ends(self.loss.optimum(budget).n_params) for budget in (first, last))
        return _with_place([self.metric.between((first, start[0]), (last, size)) for size in end])


def _value_and_ends(n: Estimate) -> list[float]:
    return [n.value, *(n.value if end is None else end for end in (n.low, n.high))]


def _with_place(said: list[Estimate]) -> Estimate:
    """The first of three, its ends moved out by how far the others lie from it, which its own interval leaves out. In
    logs where all are positive, so that no end of a positive metric is below 0."""
    value, low, high = _value_and_ends(said[0])
    log = min(low, *(e.value for e in said)) > 0
    of, back = (math.log, math.exp) if log else (float, float)
    reach = max(abs(of(e.value) - of(value)) for e in said)
    down, up = (math.hypot(of(end) - of(value), reach) for end in (low, high))
    return Estimate(value, back(of(value) - down), back(of(value) + up))


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

    def main(self) -> dict[str, Estimate]:
        return {f"at {compact(c)} FLOPs": e for c, e in zip(self.budgets, self.at, strict=True)}

    def predict(self, budget_flops: float) -> Estimate:
        """The metric at the loss's optimum at any budget. Raises UserError where the trend was read from a file."""
        if self.fits is None:
            raise UserError(f"the trend of {self.metric} was read from a file, and cannot predict; fit the table again")
        return self.fits.at(budget_flops)

    @property
    def sentence(self) -> str:
        span = f"between {compact(self.budgets[0])} and {compact(self.budgets[-1])} FLOPs"
        power = f", as C^{spelled(self.exponent, '{:.3f}'.format)}" if self.exponent else ""
        return f"{self.metric} goes from {self.at[0].value:.4g} to {self.at[-1].value:.4g} {span}{power}."


def fit_trend(table: Table, column: str, loss: Predictor | None = None) -> Trend:
    """How `column` changes along the optimum of the table's own metric. loss: the predictor of that metric, where it is
    at hand. Raises UserError when the column is not there, and with status 3 when the runs determine no trend."""
    grid, findings = measured(table, column)
    values, budgets, why = grid.columns[column], len(grid.slices()) if len(grid) else 0, ""
    if len(grid) < LEAST_RUNS or budgets < 2:
        loss, why = None, f"{len(grid)} runs at {budgets} budgets have it, a trend needs {LEAST_RUNS} at 2"
    elif loss is None:
        asked = ask(table.grid(), grid.largest)
        loss, why = asked.whole, asked.refused.message if asked.refused else ""
    if loss is None:
        raise UserError(f"{table.where}: no trend of {column} can be given: {why}", status=3)
    # Of a metric of either sign more may be better, as of a likelihood: it falls where the loss rises.
    off = grid.falling().loss - grid.falling().loss.mean()
    higher = not grid.info_of(column).positive and float(off @ (values - values.mean())) < 0
    own = grid.of_metric(column, "higher" if higher else "lower")
    check(own)
    fits = Predictors(loss, predictor(own))
    runs = fits.metric.runs
    at = tuple(np.exp(runs.node_x + runs.x0).tolist())
    exponent = fits.exponent(at[0], at[-1]) if runs.log else None
    return Trend(column, at, tuple(map(fits.at, at)), exponent, tuple(findings), fits)


@dataclass(frozen=True)
class SliceGap(Result):
    """One budget: `against` minus the metric, and divided by it (None when not all values are positive), at N* of the
    metric, of a quadratic in log N through the runs' own differences (and log ratios)."""

    budget_flops: float
    n_runs: int
    n_params: float
    difference: Estimate
    ratio: Estimate | None


@dataclass(frozen=True)
class SlopeTest(Result):
    """Whether a quantity is the same at every budget. mean: weighted, over the slices; slope: change per factor of ten
    in C (for the ratio: of its natural log); p: two-sided, of no slope, by Student's t with dof degrees of freedom."""

    mean: Estimate
    slope: Estimate
    p: float
    dof: int


@dataclass(frozen=True, repr=False)
class Gap(Shown):
    """What `fit_gap` finds. difference, ratio: whether either is the same at all budgets."""

    LAYOUT = 1

    metric: str
    against: str
    slices: tuple[SliceGap, ...]
    difference: SlopeTest
    ratio: SlopeTest | None
    findings: tuple[Finding, ...]
    sentence: str

    def main(self) -> dict[str, Estimate]:
        return {f"at {compact(s.budget_flops)} FLOPs": s.difference for s in self.slices}

    def summary(self) -> str:
        rows = [["budget", "runs", "N*", "difference", "95 %", "ratio", "95 %"]]
        for s in self.slices:
            at = [compact(s.budget_flops), str(s.n_runs), compact(s.n_params)]
            rows.append([*at, *cells(s.difference), *cells(s.ratio)])
        head = f"{self.against} against {self.metric}, at the optimum of {self.metric}"
        return "\n".join([head, *columns(rows), *listed(self.findings), "", self.sentence])


class AtOptimum(NamedTuple):
    """Values at N* (K,), their standard errors (K,), and the degrees of freedom these have."""

    values: np.ndarray
    se: np.ndarray
    dof: int

    def estimates(self) -> list[Estimate]:
        return [student(v, s, self.dof) for v, s in zip(self.values, self.se, strict=True)]

    def slope_test(self, budgets: list[float]) -> SlopeTest:
        from scipy.special import stdtr  # 0.2 s to import, so only where it is needed

        weight, log_c = 1 / self.se**2, np.log(budgets)
        off = log_c - np.sum(weight * log_c) / np.sum(weight)
        mean, slope = line(off, self.values, weight)
        slope_se = np.sum(weight * off**2) ** -0.5
        at_middle = student(mean, np.sum(weight) ** -0.5, self.dof)
        per_decade = student(slope * DECADE, slope_se * DECADE, self.dof)
        return SlopeTest(at_middle, per_decade, 2 * float(stdtr(self.dof, -abs(slope) / slope_se)), self.dof)


def fit_gap(table: Table, against: str) -> Gap:
    """The gap of the column `against` (from `read_table(..., also=(against,))`) from the metric of `table`. Both come
    from the same runs, so whatever a run's seed did to both cancels in their difference.

    Slices without a usable optimum, and runs without a value of `against`, take no part and are listed. Raises
    UserError when the column is not there, and with status 3 when fewer than 2 slices are left."""
    if against in (*REQUIRED, table.metric):
        raise UserError(f"{against!r} is no second metric of the runs; name another column, such as loss_coco")
    grid, findings = measured(table, against)
    laws = fit_approach2(grid.falling(), bootstrap=0) if len(grid) else None
    slices, refused = (laws.accepted, [f for f in laws.findings if f.severity == "refused"]) if laws else ([], [])
    if len(slices) < 2:
        why = "; ".join(f.message for f in refused) or f"{len(slices)} slices"
        text = f"no gap of {against} can be given, it needs 2 usable slices: {why}"
        raise UserError(f"{grid.where}: {text}", status=3)
    inside, outside, budgets = grid.loss, grid.columns[against], [p.budget_flops for p in slices]
    positive = bool((inside > 0).all() and (outside > 0).all())
    # Losses scatter by a share of themselves, so a metric that spans decades has to be weighed by its own size.
    size = np.hypot(inside, outside) if positive else np.ones(len(grid))
    at, ratio = _at_optimum(grid, slices, outside - inside, size), None
    ratios: list[Estimate | None] = [None] * len(slices)
    if positive:
        logs = _at_optimum(grid, slices, np.log(outside / inside), np.ones(len(grid)))
        ratios, ratio = [e.exp() for e in logs.estimates()], logs.slope_test(budgets)
        ratio = replace(ratio, mean=ratio.mean.exp())
    both = zip(slices, at.estimates(), ratios, strict=True)
    found = tuple(SliceGap(p.budget_flops, p.n_runs, p.n_params, off, of) for p, off, of in both)
    gap = Gap(grid.metric, against, found, at.slope_test(budgets), ratio, (*findings, *refused), sentence="")
    return replace(gap, sentence=_sentence(gap))


def _at_optimum(table: Table, slices: list[Parabola], values: np.ndarray, size: np.ndarray) -> AtOptimum:
    """From a quadratic in log N per slice, noise pooled over slices and taken to be proportional to size (n,)."""
    scales = np.array([np.median(size[p.rows]) for p in slices])
    fits = [quadratic(np.log(table.n_params[p.rows] / p.n_params), values[p.rows]) for p in slices]
    variance, dof = pooled(fit.residuals / scale for fit, scale in zip(fits, scales, strict=True))
    noise = max(math.sqrt(variance), 1e-9)  # a noise-free table has no intervals of width zero to weigh by
    own = noise * scales * np.sqrt([fit.covariance[0, 0] for fit in fits])
    # The place of the optimum is uncertain too; that matters where the values are steep in N.
    height, steep, _ = np.array([fit.coefficients for fit in fits]).T
    return AtOptimum(height, np.hypot(own, steep * [p.log_n_se for p in slices]), dof)


def _sentence(gap: Gap) -> str:
    """Generated from the numbers: 'constant' is never claimed, only that no change is seen and how large it may be."""
    difference, ratio, mean = gap.difference, gap.ratio, gap.difference.mean
    span = f"{compact(gap.slices[0].budget_flops)} to {compact(gap.slices[-1].budget_flops)} FLOPs"
    change = f"{spelled(difference.slope, signed)} per factor of ten, p = {difference.p:.2g}"
    if difference.p >= SIGNIFICANT:
        lies = f"{abs(mean.value):.3g} {'above' if mean.value > 0 else 'below'} {gap.metric}"
        text = f"{gap.against} lies {lies} (95 % {mean.low:.3g} to {mean.high:.3g}) from {span}, and no change of this"
        text += f" gap with C is seen: {change}"
    else:
        before, after = (gap.slices[k].difference.value for k in (0, -1))
        grows = f"{'grows' if abs(after) > abs(before) else 'shrinks'} with C, from {before:.3g} to {after:.3g}"
        text = f"The gap of {gap.against} from {gap.metric} {grows} over {span}: {change}"
    if ratio is None:
        return f"{text}."
    changes = "changes" if ratio.p < SIGNIFICANT else "shows no change"
    per_decade = spelled(ratio.slope, lambda log: signed(100 * math.expm1(log)) + " %")
    return (
        f"{text}. The ratio is {spelled(ratio.mean)} and {changes} with C: {per_decade} per factor of ten, "
        f"p = {ratio.p:.2g}."
    )
