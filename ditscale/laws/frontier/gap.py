"""`fit_gap`: how far one metric lies from another over compute, as the out-of-domain loss from the in-domain one.

The question of Liang et al. (arXiv 2410.08184), section 4. Both metrics come from the same runs, so whatever a run's
seed did to both cancels in their difference."""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ...errors import UserError
from ...result import Result
from ...tables.table import Table
from ...units import compact
from ..estimates import Estimate, student
from ..findings import Finding, listed
from ..minima.approach2 import fit_approach2
from ..minima.line import line
from ..minima.parabola import Parabola, pooled, quadratic
from ..notebook import Shown
from ..text import cells, columns, spelled
from .trend import measured

DECADE = math.log(10)
SIGNIFICANT = 0.05  # p of a slope below which a gap is said to change
signed = "{:+.4g}".format


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

    def heading(self) -> str:
        return self.sentence

    def main(self) -> dict[str, Estimate]:
        return {f"at {compact(s.budget_flops)} FLOPs": s.difference for s in self.slices}

    def summary(self) -> str:
        rows = [["budget", "runs", "N*", "difference", "95 %", "ratio", "95 %"]]
        for s in self.slices:
            ratio = ["-", ""] if s.ratio is None else cells(s.ratio)
            rows.append([compact(s.budget_flops), str(s.n_runs), compact(s.n_params), *cells(s.difference), *ratio])
        head = f"{self.against} against {self.metric}, at the optimum of {self.metric}"
        return "\n".join([head, *columns(rows), *listed(self.findings), "", self.sentence])


class AtOptimum(NamedTuple):
    """Values at N* (K,), their standard errors (K,), and the degrees of freedom these have."""

    values: np.ndarray
    se: np.ndarray
    dof: int

    def estimates(self) -> list[Estimate]:
        return [student(v, s, self.dof) for v, s in zip(self.values, self.se, strict=True)]


def fit_gap(table: Table, against: str) -> Gap:
    """The gap of the column `against` (from `read_table(..., also=(against,))`) from the metric of `table`.

    Slices without a usable optimum, and runs without a value of `against`, take no part and are listed. Raises
    UserError when the column is not there, and with status 3 when fewer than 2 slices are left."""
    grid, findings = measured(table, against)
    slices, more = _slices(grid, against)
    findings += more
    inside, outside = grid.loss, grid.columns[against]
    positive = bool((inside > 0).all() and (outside > 0).all())
    # Losses scatter by a share of themselves, so a metric that spans decades has to be weighed by its own size.
    size = np.hypot(inside, outside) if positive else np.ones(len(grid))
    log_c = np.log([p.budget_flops for p in slices])
    at = _at_optimum(grid, slices, outside - inside, size)
    ratio: SlopeTest | None = None
    ratios: list[Estimate | None] = [None] * len(slices)
    if positive:
        log_at = _at_optimum(grid, slices, np.log(outside / inside), np.ones(len(grid)))
        of_logs = _slope_test(log_c, log_at._replace(dof=at.dof))
        ratio = replace(of_logs, mean=of_logs.mean.exp())
        ratios = [e.exp() for e in log_at.estimates()]
    both = zip(slices, at.estimates(), ratios, strict=True)
    found = tuple(SliceGap(p.budget_flops, p.n_runs, p.n_params, off, of) for p, off, of in both)
    gap = Gap(grid.metric, against, found, _slope_test(log_c, at), ratio, tuple(findings), sentence="")
    return replace(gap, sentence=_sentence(gap))


def _slope_test(log_c: np.ndarray, at: AtOptimum) -> SlopeTest:
    from scipy.special import stdtr  # 0.2 s to import, so only where it is needed

    weight = 1 / at.se**2
    middle = np.sum(weight * log_c) / np.sum(weight)
    mean, slope = line(log_c - middle, at.values, weight)
    slope_se = np.sum(weight * (log_c - middle) ** 2) ** -0.5
    at_middle = student(mean, np.sum(weight) ** -0.5, at.dof)
    per_decade = student(slope * DECADE, slope_se * DECADE, at.dof)
    return SlopeTest(at_middle, per_decade, 2 * float(stdtr(at.dof, -abs(slope) / slope_se)), at.dof)


def _sentence(gap: Gap) -> str:
    """Generated from the numbers: 'constant' is never claimed, only that no change is seen and how large it may be."""
    against, metric, difference, ratio = gap.against, gap.metric, gap.difference, gap.ratio
    first, last, mean = gap.slices[0], gap.slices[-1], difference.mean
    span = f"{compact(first.budget_flops)} to {compact(last.budget_flops)} FLOPs"
    change = f"{spelled(difference.slope, signed)} per factor of ten, p = {difference.p:.2g}"
    if difference.p >= SIGNIFICANT:
        lies = f"{abs(mean.value):.3g} {'above' if mean.value > 0 else 'below'} {metric}"
        text = f"{against} lies {lies} (95 % {mean.low:.3g} to {mean.high:.3g}) from {span}, and no change of this gap"
        text += f" with C is seen: {change}"
    else:
        before, after = first.difference.value, last.difference.value
        text = f"The gap of {against} from {metric} {'grows' if abs(after) > abs(before) else 'shrinks'} with C,"
        text += f" from {before:.3g} to {after:.3g} over {span}: {change}"
    if ratio is not None:
        slope = [v and math.expm1(v) * 100 for v in (ratio.slope.value, ratio.slope.low, ratio.slope.high)]
        changes = "changes" if ratio.p < SIGNIFICANT else "shows no change"
        per_decade = spelled(Estimate(slope[0] or 0.0, *slope[1:]), signed)
        text += f". The ratio is {spelled(ratio.mean)} and {changes} with C: {per_decade} % per factor of ten"
        text += f", p = {ratio.p:.2g}"
    return text + "."


def _slices(grid: Table, against: str) -> tuple[list[Parabola], list[Finding]]:
    """The slices with an optimum, and the findings on the others. Raises UserError with fewer than 2."""
    laws = fit_approach2(grid.falling(), bootstrap=0) if len(grid) else None
    slices = laws.accepted if laws else []
    refused = [f for f in laws.findings if f.severity == "refused"] if laws else []
    if len(slices) < 2:
        why = "; ".join(f.message for f in refused) or f"{len(slices)} slices"
        text = f"no gap of {against} can be given, it needs 2 usable slices: {why}"
        raise UserError(f"{grid.source or 'table'}: {text}", status=3)
    return slices, refused


def _at_optimum(table: Table, slices: list[Parabola], values: np.ndarray, size: np.ndarray) -> AtOptimum:
    """From a quadratic in log N per slice, noise pooled over slices and taken to be proportional to size (n,)."""
    scales = [float(np.median(size[p.rows])) for p in slices]
    fits = [quadratic(np.log(table.n_params[p.rows] / p.n_params), values[p.rows]) for p in slices]
    variance, dof = pooled(fit.residuals / scale for fit, scale in zip(fits, scales, strict=True))
    noise = max(math.sqrt(variance), 1e-9)  # a noise-free table has no intervals of width zero to weigh by
    # The place of the optimum is uncertain too; that matters where the values are steep in N.
    se = [
        math.hypot(noise * scale * math.sqrt(fit.covariance[0, 0]), fit.coefficients[1] * p.log_n_se)
        for fit, scale, p in zip(fits, scales, slices, strict=True)
    ]
    return AtOptimum(np.array([fit.coefficients[0] for fit in fits]), np.array(se), dof)
