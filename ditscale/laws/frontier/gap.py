"""`fit_gap`: how far one metric lies from another over compute, as the out-of-domain loss from the in-domain one.

The question of Liang et al. (arXiv 2410.08184), section 4. Both metrics come from the same runs, so whatever a run's
seed did to both cancels in their difference."""

import math
from dataclasses import dataclass, replace

import numpy as np

from ...units import compact
from ..estimates import Estimate
from ..findings import Finding, listed
from ..minima.parabola import design
from ..minima.powerlaw import line
from ..notebook import Shown
from ..result import Result
from ..table import Table
from ..text import cells, columns, spelled
from .trend import AtOptimum, at_optimum, interval_of, usable

DECADE = math.log(10)
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


@dataclass(frozen=True)
class Growth(Result):
    """A law of the difference in C: "power_law" is coefficient C^exponent, "linear_log" is coefficient + exponent ln C.
    misfit: weighted sum of squares; aicc: Akaike's criterion from it (plain AIC with 3 slices or fewer)."""

    form: str
    coefficient: Estimate
    exponent: Estimate
    misfit: float
    aicc: float


@dataclass(frozen=True, repr=False)
class Gap(Shown):
    """What `fit_gap` finds. law: the form of `laws` that is taken; None when no change with C is seen."""

    LAYOUT = 1

    metric: str
    against: str
    slices: tuple[SliceGap, ...]
    difference: SlopeTest
    ratio: SlopeTest | None
    laws: tuple[Growth, ...]
    law: str | None
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
        laws = [["law of the difference", "coefficient", "95 %", "exponent or slope", "95 %", "AICc"]]
        for g in self.laws:
            chosen = " (chosen)" if g.form == self.law else ""
            laws.append([g.form + chosen, *cells(g.coefficient), *cells(g.exponent), f"{g.aicc:.4g}"])
        head = f"{self.against} against {self.metric}, at the optimum of {self.metric}"
        return "\n".join([head, *columns(rows), *columns(laws), *listed(self.findings), "", self.sentence])


def fit_gap(table: Table, against: str) -> Gap:
    """The gap of the column `against` (from `read_table(..., also=(against,))`) from the metric of `table`.

    Slices without a usable optimum, and runs without a value of `against`, take no part and are listed. Raises
    UserError when the column is not there, and with status 3 when fewer than 2 slices are left."""
    grid, slices, findings = usable(table, against)
    inside, outside = grid.loss, grid.columns[against]
    positive = bool((inside > 0).all() and (outside > 0).all())
    # Losses scatter by a share of themselves, so a metric that spans decades has to be weighed by its own size.
    size = np.hypot(inside, outside) if positive else np.ones(len(grid))
    log_c = np.log([p.budget_flops for p in slices])
    at = at_optimum(grid, slices, outside - inside, size)
    ratio: SlopeTest | None = None
    ratios: list[Estimate | None] = [None] * len(slices)
    if positive:
        log_at = at_optimum(grid, slices, np.log(outside / inside), np.ones(len(grid)))
        of_logs = _slope_test(log_c, log_at._replace(dof=at.dof))
        ratio = replace(of_logs, mean=of_logs.mean.exp())
        ratios = [e.exp() for e in log_at.estimates()]
    both = zip(slices, at.estimates(), ratios, strict=True)
    found = tuple(SliceGap(p.budget_flops, p.n_runs, p.n_params, off, of) for p, off, of in both)
    difference = _slope_test(log_c, at)
    one_sign = (at.values > 0).all() or (at.values < 0).all()
    forms = ("power_law", "linear_log") if one_sign else ("linear_log",)
    growths = tuple(_growth(form, log_c, at) for form in forms)
    law = min(growths, key=lambda g: g.aicc).form if difference.p < 0.05 else None
    gap = Gap(grid.metric, against, found, difference, ratio, growths, law, tuple(findings), sentence="")
    return replace(gap, sentence=_sentence(gap))


def _slope_test(log_c: np.ndarray, at: AtOptimum) -> SlopeTest:
    from scipy.special import stdtr  # 0.2 s to import, so only where it is needed

    weight = 1 / at.se**2
    middle = np.sum(weight * log_c) / np.sum(weight)
    mean, slope = line(log_c - middle, at.values, weight)
    slope_se = np.sum(weight * (log_c - middle) ** 2) ** -0.5
    at_middle = interval_of(mean, np.sum(weight) ** -0.5, at.dof)
    per_decade = interval_of(slope * DECADE, slope_se * DECADE, at.dof)
    return SlopeTest(at_middle, per_decade, 2 * float(stdtr(at.dof, -abs(slope) / slope_se)), at.dof)


def _growth(form: str, log_c: np.ndarray, at: AtOptimum) -> Growth:
    """Through the gaps (of one sign for the power law) by least squares with 1 / se^2; intervals: delta method."""
    from scipy.optimize import least_squares  # 0.2 s to import, so only where it is needed

    middle, power, n = log_c.mean(), form == "power_law", len(log_c)
    x, sign = log_c - middle, math.copysign(1.0, at.values[0])
    basis = design(x)[:, :2]

    def curve(p: np.ndarray) -> np.ndarray:
        return sign * np.exp(basis @ p) if power else basis @ p

    def residuals(p: np.ndarray) -> np.ndarray:
        return (curve(p) - at.values) / at.se

    def jacobian(p: np.ndarray) -> np.ndarray:
        return basis * (curve(p) if power else np.ones(n))[:, None] / at.se[:, None]

    start = line(x, np.log(np.abs(at.values)) if power else at.values)
    best = least_squares(residuals, start, jacobian, method="lm", ftol=1e-14, xtol=1e-14, gtol=1e-14).x
    weighted, gradient = jacobian(best), np.array([1.0, -middle])
    covariance, misfit = np.linalg.inv(weighted.T @ weighted), float(np.sum(residuals(best) ** 2))
    coefficient = interval_of(best @ gradient, math.sqrt(gradient @ covariance @ gradient), at.dof)
    # AICc of 2 parameters with known errors (Burnham and Anderson 2002); the plain AIC where n leaves none.
    aicc = misfit + 4 + (12 / (n - 3) if n > 3 else 0.0)
    if power:
        # The log of the coefficient is what the slices fix, so its interval stays on one side of zero; far from C = 1
        # it may be as good as open.
        ends = [None if e is None or abs(e) > 700 else sign * math.exp(e) for e in (coefficient.low, coefficient.high)]
        value = sign * math.exp(np.clip(coefficient.value, -700, 700))
        coefficient = Estimate(value, *(ends if sign > 0 else reversed(ends)))
    return Growth(form, coefficient, interval_of(best[1], math.sqrt(covariance[1, 1]), at.dof), misfit, aicc)


def _sentence(gap: Gap) -> str:
    """Generated from the numbers: 'constant' is never claimed, only that no change is seen and how large it may be."""
    against, metric, law, difference, ratio = gap.against, gap.metric, gap.law, gap.difference, gap.ratio
    first, last, mean = gap.slices[0], gap.slices[-1], difference.mean
    span = f"{compact(first.budget_flops)} to {compact(last.budget_flops)} FLOPs"
    if law is None:
        lies = f"{abs(mean.value):.3g} {'above' if mean.value > 0 else 'below'} {metric}"
        text = f"{against} lies {lies} (95 % {mean.low:.3g} to {mean.high:.3g}) from {span}, and no change of this gap"
        text += f" with C is seen: {spelled(difference.slope, signed)} per factor of ten, p = {difference.p:.2g}"
    else:
        before, after = first.difference.value, last.difference.value
        taken = next(g for g in gap.laws if g.form == law)
        how = "C to the power" if law == "power_law" else "a line in ln C of slope"
        text = f"The gap of {against} from {metric} {'grows' if abs(after) > abs(before) else 'shrinks'} with C"
        text += f" (p = {difference.p:.2g}), from {before:.3g} to {after:.3g} over {span}; it follows {how}"
        text += f" {spelled(taken.exponent)}"
        other = next((g for g in gap.laws if g.form != law), None)
        if other is None:
            text += ", the power law being excluded by its change of sign"
        else:
            name, less = "the power law" if other.form == "power_law" else "a line in ln C", other.aicc - taken.aicc
            text += f", by AICc {less:.2g} below {name}{' (too little to tell them apart)' if less < 2 else ''}"
    if ratio is not None:
        slope = [v and math.expm1(v) * 100 for v in (ratio.slope.value, ratio.slope.low, ratio.slope.high)]
        changes = "changes" if ratio.p < 0.05 else "shows no change"
        per_decade = spelled(Estimate(slope[0] or 0.0, *slope[1:]), signed)
        text += f". The ratio is {spelled(ratio.mean)} and {changes} with C: {per_decade} % per factor of ten"
        text += f", p = {ratio.p:.2g}"
    return text + "."
