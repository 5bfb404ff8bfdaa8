"""Intervals: resampling of runs, percentile and BCa ends, and the (value, low, high) triple every reported number is.

Three ways to draw a study again (`RESAMPLE`): "pairs" draws runs with replacement from the whole table, "stratified"
within each slice, and "residual" adds t-distributed noise of the pooled residual variance to the fitted losses. In
slices of 4-7 runs a resample of pairs often holds only 3 or 4 distinct sizes, which a parabola passes through exactly,
so its spread is too small or infinite; pooled residuals make so few runs enough. "auto" takes "stratified" where the
typical slice holds 8 runs or more, else "residual". Coverage: docs/laws.md."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Callable, NamedTuple, Sequence

import numpy as np

from ..errors import one_of
from .result import Result

LEVEL = 0.95
# Fewer runs than this in the typical (median) slice: residual scheme.
PAIRS_NEEDS = 8
RESAMPLE = ("auto", "pairs", "stratified", "residual")
INTERVALS = ("percentile", "bca")


@dataclass(frozen=True)
class Estimate(Result):
    """A number with its 95 % interval; low and high are None where none could be given."""

    value: float
    low: float | None = None
    high: float | None = None

    def covers(self, x: float) -> bool:
        """Whether x lies inside; an end that is None bounds nothing on its side."""
        return (self.low is None or self.low <= x) and (self.high is None or x <= self.high)

    def exp(self) -> Estimate:
        """Of exp(x), from this of x."""
        low, high = (None if end is None else math.exp(end) for end in (self.low, self.high))
        return Estimate(math.exp(self.value), low, high)


@dataclass(frozen=True)
class Bootstrap(Result):
    """How intervals were drawn: replicates (0: none), seed, interval ("percentile" or "bca"), and of each approach the
    resampling (of `RESAMPLE`, or "none")."""

    replicates: int
    seed: int
    interval: str
    approach2: str
    approach3: str


def estimate(value: float, draws: np.ndarray | None = None, left_out: np.ndarray | None = None) -> Estimate:
    """Percentile interval of `draws` (R,) around `value`, or BCa when `left_out` is given; without draws, the value.
    left_out (n,): the same quantity refitted without each run in turn, from which BCa takes its acceleration (Efron
    1987, "Better bootstrap confidence intervals", section 6). Draws that are NaN (no minimum in that replicate) say
    nothing and are left out; infinite ones are the tail they are in. An end that would be infinite is None: the runs do
    not bound the number on that side."""
    value = float(value)
    if draws is None or math.isnan(value):
        return Estimate(value)
    draws = np.sort(np.asarray(draws)[~np.isnan(draws)])
    if len(draws) < 40:
        return Estimate(value)
    tails = np.array([(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    if left_out is not None:
        tails = _corrected(tails, value, draws, np.asarray(left_out))
    # Order statistics rather than an interpolated quantile, which has no meaning between a number and infinity.
    last = len(draws) - 1
    low, high = float(draws[math.floor(tails[0] * last)]), float(draws[math.ceil(tails[1] * last)])
    low, high = min(low, value), max(high, value)
    return Estimate(value, low if math.isfinite(low) else None, high if math.isfinite(high) else None)


class Drawn(NamedTuple):
    """A quantity in each replicate (R, ...), and without each run in turn (G, ...); None where it was not drawn."""

    draws: Any = None
    left_out: Any = None

    def of(self, make: Callable[[Any], Any]) -> Drawn:
        """What `make` makes of the draws."""
        with np.errstate(over="ignore"):
            return Drawn(*(None if drawn is None else make(drawn) for drawn in self))


def _corrected(tails: np.ndarray, value: float, draws: np.ndarray, left_out: np.ndarray) -> np.ndarray:
    """The percentiles BCa takes in the place of `tails`: corrected for median bias and acceleration."""
    from scipy.special import ndtr, ndtri

    # Half of the ties count as below: in a noise-free table all draws equal the value.
    below = (np.sum(draws < value) + 0.5 * np.sum(draws == value)) / len(draws)
    bias = float(ndtri(np.clip(below, 1 / len(draws), 1 - 1 / len(draws))))
    off = np.mean(left_out[np.isfinite(left_out)]) - left_out[np.isfinite(left_out)]
    spread = float(np.sum(off**2))
    acceleration = float(np.sum(off**3)) / (6 * spread**1.5) if spread > 0 else 0.0
    z = bias + ndtri(tails)
    return ndtr(bias + z / np.maximum(1 - acceleration * z, 1e-3))


def scheme(slice_sizes: Sequence[int], resample: str = "auto") -> str:
    """Which resampling a table with these numbers of runs per slice gets: "pairs", "stratified" or "residual"."""
    one_of(resample, RESAMPLE, "resample")
    auto = "stratified" if float(np.median(slice_sizes)) >= PAIRS_NEEDS else "residual"
    return auto if resample == "auto" else resample


def resample_counts(groups: Sequence[np.ndarray], n_runs: int, replicates: int, seed: int) -> np.ndarray:
    """How often each run is drawn, shape (replicates, n_runs): drawn with replacement within each of `groups`."""
    rng = np.random.default_rng([seed, 1])
    counts = np.zeros((replicates, n_runs))
    for rows in groups:
        picks = rng.integers(len(rows), size=(replicates, len(rows)))
        flat = np.arange(replicates)[:, None] * len(rows) + picks
        counts[:, rows] = np.bincount(flat.ravel(), minlength=replicates * len(rows)).reshape(replicates, len(rows))
    return counts


def left_out_weights(n_runs: int) -> np.ndarray:
    """Weights (G, n_runs) that leave out each run in turn; beyond 400 runs, each of 400 interleaved groups of runs. The
    acceleration that BCa takes from them is the same to first order, and the work no longer grows with n^2."""
    groups = min(n_runs, 400)
    return 1.0 - (np.arange(n_runs) % groups == np.arange(groups)[:, None])


def residual_draws(
    fitted: np.ndarray, residuals: np.ndarray, n_fitted_parameters: int, replicates: int, seed: int
) -> np.ndarray:
    """Replicates of `fitted` (n,) plus noise of the residuals' scale; shape (replicates, n). The scale of each
    replicate is drawn from its chi-square distribution, so that a linear function of the data has exactly Student's t
    with n - n_fitted_parameters degrees of freedom: with few runs the scale itself is uncertain."""
    rng = np.random.default_rng([seed, 2])
    dof = max(len(fitted) - n_fitted_parameters, 1)
    scale = math.sqrt(float(np.sum(residuals**2)) / dof)
    spread = scale * np.sqrt(dof / rng.chisquare(dof, size=(replicates, 1)))
    return fitted + spread * rng.standard_normal((replicates, len(fitted)))


def t_quantile(p: float, dof: float) -> float:
    """Student's t quantile."""
    from scipy.special import stdtrit  # 0.2 s to import, so only where it is needed

    return float(stdtrit(dof, p))


def t_tail(value: float, dof: float) -> float:
    """P(T >= value) for Student's t."""
    from scipy.special import stdtr

    return float(stdtr(dof, -value))


def f_tail(value: float, dof1: float, dof2: float) -> float:
    """P(F >= value) for the F distribution with dof1 and dof2 degrees of freedom."""
    from scipy.special import fdtrc

    return float(fdtrc(dof1, dof2, value))
