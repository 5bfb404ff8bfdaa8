"""Intervals: replicates of a fit, percentile ends, and the (value, low, high) triple every reported number is.

Runs are drawn again, as Besiroglu et al. (arXiv 2404.10102) do, so scatter may differ from run to run. Small slices,
often left with 3 sizes by that, get noise on the fitted values instead. Coverage: docs/measured/laws.md."""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple, Self, Sequence

import numpy as np

from ..result import Result

LEVEL = 0.95
Z = 1.96  # standard errors on either side of a value to its 95 % interval
PAIRS_FROM = 8  # runs in the typical (median) slice
LARGEST = 709.0  # e to the power of it is a float


@dataclass(frozen=True)
class Estimate(Result):
    """A number with its 95 % interval; low and high are None where none could be given."""

    value: float
    low: float | None = None
    high: float | None = None

    def covers(self, x: float) -> bool:
        """Whether x lies inside; an end that is None bounds nothing on its side."""
        return (self.low is None or self.low <= x) and (self.high is None or x <= self.high)

    def excludes(self, other: Self) -> bool:
        """Whether the two intervals, with all their ends, have no number in common."""
        if self.low is None or self.high is None or other.low is None or other.high is None:
            return False
        return self.high < other.low or other.high < self.low

    def negative(self) -> Self:
        """Of -x, from this of x."""
        low, high = (None if end is None else -end for end in (self.high, self.low))
        return replace(self, value=-self.value, low=low, high=high)

    def exp(self) -> Self:
        """Of exp(x), from this of x; an end beyond any float is open."""
        low, high = (None if end is None or end > LARGEST else math.exp(end) for end in (self.low, self.high))
        return replace(self, value=math.exp(min(self.value, LARGEST)), low=low, high=high)


@dataclass(frozen=True)
class Optimum(Result):
    """The optimum at one budget: N*, D* and L*."""

    n_params: Estimate
    n_tokens: Estimate
    loss: Estimate


@dataclass(frozen=True)
class Bootstrap(Result):
    """How the intervals of Approach 2 and 3 were drawn: the number of replicates (0: none) and the seed."""

    replicates: int
    seed: int


def estimate(value: float, draws: np.ndarray | None = None) -> Estimate:
    """Percentile interval of `draws` (R,) around `value`; the value alone with fewer than 40. Draws that are NaN (no
    minimum in that replicate) are left out. An end that would be infinite is None: nothing bounds that side."""
    value, draws = float(value), np.asarray([] if draws is None else draws)
    draws = np.sort(draws[~np.isnan(draws)])
    if len(draws) < 40 or math.isnan(value):
        return Estimate(value)
    # Order statistics rather than an interpolated quantile, which has no meaning between a number and infinity.
    last = len(draws) - 1
    low, high = draws[math.floor((1 - LEVEL) / 2 * last)], draws[math.ceil((1 + LEVEL) / 2 * last)]
    ends = (min(float(low), value), max(float(high), value))
    return Estimate(value, *(end if math.isfinite(end) else None for end in ends))


def first(values: np.ndarray) -> Estimate:
    """Of the first of `values` (1 + R,), with the interval of the others, its replicates."""
    return estimate(values[0], values[1:])


class Replicates(NamedTuple):
    """values (R, n) to refit to, or (1, n) that all share; weights (R, n): how often each run was drawn, or None."""

    values: np.ndarray
    weights: np.ndarray | None


def replicates(
    fitted: np.ndarray, residuals: np.ndarray, groups: Sequence[np.ndarray], n_parameters: int, count: int, seed: int
) -> Replicates:
    """Of values fitted + residuals (n,) by a fit of n_parameters; the size of groups, rows drawn together, says how."""
    if np.median([len(rows) for rows in groups]) < PAIRS_FROM:
        return Replicates(residual_draws(fitted, residuals, n_parameters, count, seed), None)
    rng, weights = np.random.default_rng([seed, 1]), np.zeros((count, len(fitted)))
    for rows in groups:
        picks = rng.integers(len(rows), size=(count, len(rows))) + np.arange(count)[:, None] * len(rows)
        weights[:, rows] = np.bincount(picks.ravel(), minlength=count * len(rows)).reshape(count, len(rows))
    return Replicates((fitted + residuals)[None], weights)


def residual_draws(
    fitted: np.ndarray, residuals: np.ndarray, n_fitted_parameters: int, replicates: int, seed: int
) -> np.ndarray:
    """Replicates (replicates, n) of `fitted` (n,) plus noise of the residuals' scale, itself drawn from its chi-square
    distribution: a linear function of the data has exactly Student's t with n - n_fitted_parameters degrees."""
    rng = np.random.default_rng([seed, 2])
    dof = max(len(fitted) - n_fitted_parameters, 1)
    scale = math.sqrt(float(np.sum(residuals**2)) / dof)
    spread = scale * np.sqrt(dof / rng.chisquare(dof, size=(replicates, 1)))
    return fitted + spread * rng.standard_normal((replicates, len(fitted)))


def student(value: float, se: float, dof: int) -> Estimate:
    """95 % by Student's t, of a value with a standard error; without degrees of freedom the value alone."""
    if dof < 1:
        return Estimate(float(value))
    half = t_quantile((1 + LEVEL) / 2, dof) * float(se)
    return Estimate(float(value), float(value) - half, float(value) + half)


def t_quantile(p: float, dof: float) -> float:
    """Student's t quantile."""
    from scipy.special import stdtrit  # 0.2 s to import, so only where it is needed

    return float(stdtrit(dof, p))


def f_tail(value: float, dof1: float, dof2: float) -> float:
    """P(F >= value) for the F distribution with dof1 and dof2 degrees of freedom."""
    from scipy.special import fdtrc

    return float(fdtrc(dof1, dof2, value))
