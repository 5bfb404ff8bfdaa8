"""Intervals: resampling of runs, Student's t, and the (value, low, high) triple every reported number is.

Two schemes, chosen by `scheme`:

* "pairs": runs are drawn again with replacement, within each slice, so that every slice keeps its number of runs. It
  assumes nothing about the noise and, with 8 or more runs per slice, covers 0.92-0.95 of a nominal 0.95.
* "residual": the fitted losses plus t-distributed noise whose scale is the pooled residual variance. In slices of 4-7
  runs a resample of pairs often holds only 3 or 4 distinct sizes, which a parabola passes through exactly; its spread
  is then too small or infinite. Pooling the residuals of all slices is what makes so few runs enough.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
# Fewer runs than this in the typical (median) slice: residual scheme. Coverage of both is in docs/laws.md.
PAIRS_NEEDS = 8


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; low and high are None where none could be given."""

    value: float
    low: float | None = None
    high: float | None = None

    def to_dict(self) -> dict:
        return {"value": self.value, "low": self.low, "high": self.high}

    def covers(self, x: float) -> bool:
        """Whether x lies inside; an end that is None bounds nothing on its side."""
        return (self.low is None or self.low <= x) and (self.high is None or x <= self.high)


def estimate(value: float, draws=None) -> Estimate:
    """Percentile interval of `draws` (R,) around `value`; without draws, the value alone.

    Draws that are NaN (no minimum in that replicate) say nothing and are left out; infinite ones are the tail they are
    in. An end that would be infinite is None: the runs do not bound the number on that side.
    """
    if draws is None:
        return Estimate(float(value))
    draws = np.sort(np.asarray(draws)[~np.isnan(draws)])
    if len(draws) < 40:
        return Estimate(float(value))
    tail = (1 - LEVEL) / 2 * (len(draws) - 1)
    # Order statistics rather than an interpolated quantile, which has no meaning between a number and infinity.
    low, high = float(draws[math.floor(tail)]), float(draws[math.ceil(len(draws) - 1 - tail)])
    low, high = min(low, float(value)), max(high, float(value))
    return Estimate(float(value), low if math.isfinite(low) else None, high if math.isfinite(high) else None)


def scheme(slice_sizes) -> str:
    """Which resampling a table with these numbers of runs per slice gets: "pairs" or "residual"."""
    return "pairs" if float(np.median(slice_sizes)) >= PAIRS_NEEDS else "residual"


def resample_counts(groups, n_runs: int, replicates: int, seed: int) -> np.ndarray:
    """How often each run is drawn, shape (replicates, n_runs): drawn with replacement within each of `groups`."""
    rng = np.random.default_rng([seed, 1])
    counts = np.zeros((replicates, n_runs))
    for rows in groups:
        picks = rng.integers(len(rows), size=(replicates, len(rows)))
        flat = np.arange(replicates)[:, None] * len(rows) + picks
        counts[:, rows] = np.bincount(flat.ravel(), minlength=replicates * len(rows)).reshape(replicates, len(rows))
    return counts


def residual_draws(fitted, residuals, n_fitted_parameters: int, replicates: int, seed: int) -> np.ndarray:
    """Replicates of `fitted` (n,) plus noise of the residuals' scale; shape (replicates, n).

    The scale of each replicate is drawn from its chi-square distribution, so that a linear function of the data has
    exactly Student's t with n - n_fitted_parameters degrees of freedom: with few runs the scale itself is uncertain.
    """
    rng = np.random.default_rng([seed, 2])
    dof = len(fitted) - n_fitted_parameters
    scale = math.sqrt(float(np.sum(residuals**2)) / dof)
    spread = scale * np.sqrt(dof / rng.chisquare(dof, size=(replicates, 1)))
    return fitted + spread * rng.standard_normal((replicates, len(fitted)))


def t_cdf(t: float, dof: int) -> float:
    """P(T <= t) for Student's t with integer dof (Abramowitz & Stegun 26.7.3 and 26.7.4, exact finite sums)."""
    theta = math.atan2(abs(t), math.sqrt(dof))
    sine, cosine = math.sin(theta), math.cos(theta)
    first, term, total = dof % 2 + 1, 1.0, 0.0
    if dof % 2:
        term = cosine
    for k in range(first, dof, 2):
        total += term
        term *= cosine * cosine * k / (k + 1)
    inside = 2 / math.pi * (theta + sine * total) if dof % 2 else sine * total
    return 0.5 + 0.5 * math.copysign(inside, t)


def t_quantile(p: float, dof: int) -> float:
    """Student's t quantile for integer dof >= 1, by bisection of the exact CDF. No scipy: its import is slow."""
    if dof < 1:
        raise ValueError(f"dof must be at least 1, not {dof}")
    if p < 0.5:
        return -t_quantile(1 - p, dof)
    low, high = 0.0, 1.0
    while t_cdf(high, dof) < p:
        high *= 2
    while high - low > 1e-13 * high:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if t_cdf(middle, dof) < p else (low, middle)
    return (low + high) / 2
