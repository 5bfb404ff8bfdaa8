"""`fit_gap`: how far one metric lies from another over compute, as the out-of-domain loss from the in-domain one.

Liang et al. (arXiv 2410.08184) section 4 finds, by eye, a constant offset for losses and likelihoods and a growing one
for FID. Here both metrics come from the same runs, so whatever a run's seed did to both cancels in their difference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ...units import compact
from ..estimates import Estimate
from ..findings import Finding
from ..result import Result
from ..table import Table
from .at_optimum import at_optimum, interval_of, usable

DECADE = math.log(10)


@dataclass(frozen=True)
class SliceGap(Result):
    """One budget: `against` minus the metric, and divided by it, at the metric's optimum N*. ratio: None when not all
    values are positive.

    The values are those at N* of a quadratic in log N through the runs' own differences (and log ratios).
    """

    budget_flops: float
    n_runs: int
    n_params: float
    difference: Estimate
    ratio: Estimate | None


@dataclass(frozen=True)
class SlopeTest(Result):
    """Whether a quantity is the same at every budget. mean: its weighted mean over the slices; slope: its change per
    factor of ten in C (for the ratio: of its natural log); p: two-sided, of no slope, by Student's t with dof degrees
    of freedom pooled over the slices.
    """

    mean: Estimate
    slope: Estimate
    p: float
    dof: int


@dataclass(frozen=True)
class Growth(Result):
    """A law of the difference in C: "power_law" is coefficient C^exponent, "linear_log" is coefficient + exponent ln C.

    misfit: weighted sum of squares; aicc: Akaike's criterion from it (plain AIC with 3 slices or fewer).
    """

    form: str
    coefficient: Estimate
    exponent: Estimate
    misfit: float
    aicc: float


@dataclass(frozen=True)
class Gap(Result):
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

    def summary(self) -> str:
        from ..text import columns, interval

        rows = [["budget", "runs", "N*", "difference", "95 %", "ratio", "95 %"]]
        for s in self.slices:
            ratio = ["-", ""] if s.ratio is None else interval(s.ratio)
            rows.append([compact(s.budget_flops), str(s.n_runs), compact(s.n_params), *interval(s.difference), *ratio])
        laws = [["law of the difference", "coefficient", "95 %", "exponent or slope", "95 %", "AICc"]]
        for g in self.laws:
            chosen = " (chosen)" if g.form == self.law else ""
            laws.append([g.form + chosen, *interval(g.coefficient), *interval(g.exponent), f"{g.aicc:.4g}"])
        out = [f"{self.against} against {self.metric}, at the optimum of {self.metric}", *columns(rows), *columns(laws)]
        return "\n".join([*out, *(f"  {f.severity}: {f.code}: {f.message}" for f in self.findings), "", self.sentence])


def fit_gap(table: Table, against: str) -> Gap:
    """The gap of the column `against` (from `read_table(..., also=(against,))`) from the metric of `table`.

    Slices without a usable optimum, and runs without a value of `against`, take no part and are listed. Raises
    UserError when the column is not there, and with status 3 when fewer than 2 slices are left.
    """
    grid, slices, findings = usable(table, against)
    inside, outside = grid.loss, grid.columns[against]
    positive = bool((inside > 0).all() and (outside > 0).all())
    # Losses scatter by a share of themselves, so a metric that spans decades has to be weighed by its own size.
    size = np.hypot(inside, outside) if positive else np.ones(len(grid))
    log_c = np.log([p.budget_flops for p in slices])
    at, se, dof = at_optimum(grid, slices, outside - inside, size)
    difference = _trend(log_c, at, se, dof)
    ratio = ratios = None
    if positive:
        log_at, log_se, _ = at_optimum(grid, slices, np.log(outside / inside), np.ones(len(grid)))
        ratio = _trend(log_c, log_at, log_se, dof)
        ratio = SlopeTest(ratio.mean.exp(), ratio.slope, ratio.p, dof)
        ratios = [interval_of(v, s, dof).exp() for v, s in zip(log_at, log_se, strict=True)]
    found = tuple(
        SliceGap(p.budget_flops, p.n_runs, p.n_params, interval_of(v, s, dof), ratios and ratios[k])
        for k, (p, v, s) in enumerate(zip(slices, at, se, strict=True))
    )
    growths = _growths(log_c, at, se, dof)
    law = min(growths, key=lambda g: g.aicc).form if difference.p < 0.05 else None
    sentence = _sentence(grid.metric, against, found, difference, ratio, growths, law)
    return Gap(grid.metric, against, found, difference, ratio, growths, law, tuple(findings), sentence)


def _trend(log_c: np.ndarray, at: np.ndarray, se: np.ndarray, dof: int) -> SlopeTest:
    from scipy.special import stdtr

    weight = 1 / se**2
    x = log_c - np.sum(weight * log_c) / np.sum(weight)
    mean, slope = np.sum(weight * at) / np.sum(weight), np.sum(weight * x * at) / np.sum(weight * x * x)
    slope_se = 1 / math.sqrt(np.sum(weight * x * x))
    p = 2 * float(stdtr(dof, -abs(slope) / slope_se))
    return SlopeTest(
        interval_of(mean, np.sum(weight) ** -0.5, dof), interval_of(slope * DECADE, slope_se * DECADE, dof), p, dof
    )


def _growths(log_c: np.ndarray, at: np.ndarray, se: np.ndarray, dof: int) -> tuple[Growth, ...]:
    """Both laws, by least squares weighted with 1 / se^2; the power law only where all offsets have one sign."""
    middle = log_c.mean()
    x = log_c - middle
    laws = []
    if (at > 0).all() or (at < 0).all():
        level, rate = _fit_power(x, at, se)
        curve = np.exp(rate * x)
        jacobian = np.stack([curve, level * x * curve], axis=1)
        log_k, gradient = math.log(abs(level)) - rate * middle, np.array([1 / level, -middle])
        exponent, log_k, misfit = _judged(at - level * curve, jacobian, se, dof, rate, log_k, gradient)
        # The log of the coefficient is what the slices fix, so its interval stays on one side of zero; far from C = 1
        # it may be as good as open.
        ends = [
            None if e is None or abs(e) > 700 else math.copysign(math.exp(e), level) for e in (log_k.low, log_k.high)
        ]
        value = math.copysign(math.exp(np.clip(log_k.value, -700, 700)), level)
        coefficient = Estimate(value, *(ends if level > 0 else reversed(ends)))
        laws.append(Growth("power_law", coefficient, exponent, misfit, _aicc(misfit, len(at))))
    basis = np.stack([np.ones_like(x), x], axis=1)
    level, rate = np.linalg.lstsq(basis / se[:, None], at / se, rcond=None)[0]
    residuals, gradient = at - level - rate * x, np.array([1.0, -middle])
    slope, coefficient, misfit = _judged(residuals, basis, se, dof, rate, level - rate * middle, gradient)
    laws.append(Growth("linear_log", coefficient, slope, misfit, _aicc(misfit, len(at))))
    return tuple(laws)


def _fit_power(x: np.ndarray, at: np.ndarray, se: np.ndarray) -> tuple[float, float]:
    """(level, rate) of level exp(rate x): Gauss-Newton from the line through the logs, steps halved until they help."""
    log_at = np.log(np.abs(at))
    best = np.array([np.sign(at[0]) * np.exp(log_at.mean()), np.polyfit(x, log_at, 1)[0]])

    def residuals(p):
        with np.errstate(over="ignore"):
            return (at - p[0] * np.exp(p[1] * x)) / se

    for _ in range(50):
        curve = np.exp(best[1] * x)
        jacobian = np.stack([curve, best[0] * x * curve], axis=1) / se[:, None]
        step = np.linalg.lstsq(jacobian, residuals(best), rcond=None)[0]
        tried = [best + step / 2**k for k in range(30)]
        better = next((p for p in tried if np.sum(residuals(p) ** 2) < np.sum(residuals(best) ** 2)), None)
        if better is None:
            break
        best = better
    return float(best[0]), float(best[1])


def _judged(residuals, jacobian, se, dof, rate, value, gradient) -> tuple[Estimate, Estimate, float]:
    """(rate, value) with delta-method intervals, and the weighted misfit; gradient (2,) is of value."""
    weighted = jacobian / se[:, None]
    covariance = np.linalg.inv(weighted.T @ weighted)
    spread = math.sqrt(gradient @ covariance @ gradient)
    misfit = float(np.sum((residuals / se) ** 2))
    return interval_of(rate, math.sqrt(covariance[1, 1]), dof), interval_of(value, spread, dof), misfit


def _aicc(misfit: float, n: int) -> float:
    """AICc of 2 parameters with known errors (Burnham and Anderson 2002); the plain AIC where n leaves none."""
    return misfit + 4 + (12 / (n - 3) if n > 3 else 0.0)


def _sentence(metric, against, slices, difference: SlopeTest, ratio: SlopeTest | None, laws, law: str | None) -> str:
    """Generated from the numbers: 'constant' is never claimed, only that no change is seen and how large it may be."""
    first, last = slices[0], slices[-1]
    side = "above" if difference.mean.value > 0 else "below"
    span = f"{compact(first.budget_flops)} to {compact(last.budget_flops)} FLOPs"

    def show(e: Estimate, sign=""):
        return f"{e.value:{sign}.4g} (95 % {e.low:{sign}.4g} to {e.high:{sign}.4g})"

    if law is None:
        text = (
            f"{against} lies {abs(difference.mean.value):.3g} {side} {metric} (95 % {difference.mean.low:.3g} to "
            f"{difference.mean.high:.3g}) from {span}, and no change of this offset with C is seen: "
            f"{show(difference.slope, '+')} per factor of ten, p = {difference.p:.2g}"
        )
    else:
        grows = abs(last.difference.value) > abs(first.difference.value)
        text = (
            f"The offset of {against} from {metric} {'grows' if grows else 'shrinks'} with C (p = {difference.p:.2g}), "
            f"from {first.difference.value:.3g} to {last.difference.value:.3g} over {span}"
        )
        taken = next(g for g in laws if g.form == law)
        how = "C to the power" if law == "power_law" else "a line in ln C of slope"
        text += f"; it follows {how} {show(taken.exponent)}"
        other = next((g for g in laws if g.form != law), None)
        if other is None:
            text += ", the power law being excluded by its change of sign"
        else:
            name = "the power law" if other.form == "power_law" else "a line in ln C"
            text += f", by AICc {other.aicc - taken.aicc:.2g} below {name}"
            text += " (too little to tell them apart)" if other.aicc - taken.aicc < 2 else ""
    if ratio is not None:
        per_decade = Estimate(*(math.expm1(v) * 100 for v in (ratio.slope.value, ratio.slope.low, ratio.slope.high)))
        text += (
            f". The ratio is {show(ratio.mean)} and "
            + ("changes" if ratio.p < 0.05 else "shows no change")
            + f" with C: {show(per_decade, '+')} % per factor of ten, p = {ratio.p:.2g}"
        )
    return text + "."
