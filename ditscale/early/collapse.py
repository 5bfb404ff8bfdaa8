"""The final loss of a run that still trains, from its curve so far and the curves of smaller runs.

Training curves collapse (arXiv 2509.25087): but for its level, ln loss is one function of the data per parameter. Here
that is u = ln(images) - gamma ln N, gamma near 1. The run's own curve gives the level, smaller runs how much it
still falls. The measured loss is of averaged weights on held-out images: how far it lies below the training curve is
read from the grid's runs, again as a function of u."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from ..laws.estimates import Estimate
from .curves import BIN, Curve

BACK, AHEAD = 3.0, 2.0  # in u: how far beyond the stretch that the run has yet to train curves take part
SETTLED = 8.0  # multiples of the warm-up that a curve takes to settle
MISFIT = 0.01  # of ln loss in a bin: how far a curve strays from the form
COMMON = 0.9  # share of a step's noise that runs of one seed have in common (correlations of .90 to .98 were measured)
TAIL = 0.4  # in ln(images): the end of a curve that a measured loss is compared with


class Projected(NamedTuple):
    """ln of the measured loss to expect, its variance by the run's own noise, and whether smaller runs reached as many
    images per parameter."""

    log_loss: float
    noise: float
    covered: bool


@dataclass(frozen=True, eq=False)
class Collapse:
    """Curves of finished trainings, and gamma."""

    curves: Sequence[Curve]
    gamma: float

    def project(self, run: Curve) -> Projected | None:
        """What the measured loss of `run` at its end will be; None where its curve, or the others', is too short."""
        now = self._u(run, run.last)
        then = self._u(run, run.end)
        rows = _Rows.of([*self.curves, run], self.gamma, run.last, now - BACK, then + AHEAD)
        own = rows.curve == len(self.curves)
        others = rows.u[~own]
        if own.sum() < 2 or not len(others) or others.max() < now:
            return None
        basis = lambda u: np.array([u - now, (u - now) ** 2])
        level, shape, noise = rows.fit(basis(rows.u), len(self.curves) + 1)
        # The mean over the tail lies about where its middle does.
        end = level + float(shape @ basis(then - TAIL / 2))
        below, scatter = self._below(then)
        return Projected(end + below, noise + scatter, bool(others.max() >= then - BIN))

    def _u(self, curve: Curve, images: float) -> float:
        return math.log(images) - self.gamma * math.log(curve.n_params)

    def _below(self, u: float) -> tuple[float, float]:
        """How far measured losses lie below the training curve at u, in ln, and the variance of that."""
        at, gap, weight = [], [], []
        for curve in self.curves:
            for images, measured in curve.readings:
                tail = (curve.images <= images) & (curve.images > images * math.exp(-TAIL)) & np.isfinite(curve.loss)
                if not tail.any():
                    continue
                at.append(self._u(curve, images) - u)
                gap.append(math.log(measured / curve.loss[tail].mean()))
                weight.append(1 / (MISFIT**2 + curve.step_noise() / tail.sum()))
        x, y, w = np.array(at), np.array(gap), np.sqrt(weight)
        near = np.abs(x) <= max(BACK, float(np.sort(np.abs(x))[min(3, len(x) - 1)]))
        degree = 2 if near.sum() > 4 else 1 if near.sum() > 2 else 0
        basis = np.stack([x[near] ** k for k in range(degree + 1)], 1) * w[near, None]
        inverse = np.linalg.pinv(basis)
        return float(inverse[0] @ (y[near] * w[near])), float(inverse[0] @ inverse[0])


class _Rows(NamedTuple):
    """Bins of all curves, each array (n,)."""

    curve: np.ndarray
    u: np.ndarray
    value: np.ndarray
    noise: np.ndarray  # variance by the steps' noise
    group: np.ndarray  # bins of one seed at the same images share noise

    @classmethod
    def of(cls, curves: Sequence[Curve], gamma: float, anchor: float, low: float, high: float) -> "_Rows":
        """The bins between two values of u, of curves that have settled."""
        parts, groups = [], dict[tuple[tuple[int, int], int], int]()
        for i, curve in enumerate(curves):
            bins = curve.bins("loss", anchor)
            u = bins.t - gamma * math.log(curve.n_params)
            # The run itself may be as young as its warm-up allows.
            settled = min(math.log(max(SETTLED * curve.warmup, 1.0)), math.log(anchor) - 3 * BIN)
            used = (u >= low) & (u <= high) & (bins.t > settled)
            group = [groups.setdefault((curve.seeds, k), len(groups)) for k in bins.place[used].tolist()]
            noise = curve.step_noise() / bins.steps[used]
            parts.append((np.full(used.sum(), i), u[used], bins.value[used], noise, np.array(group, dtype=int)))
        return cls(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def fit(self, basis: np.ndarray, n: int) -> tuple[float, np.ndarray, float]:
        """(level of the last of n curves, coefficients of basis (k, rows), variance of the level). What bins of one
        seed share is a random effect, so where the run has the grid's seed their common noise cancels."""
        k, groups = len(basis), int(self.group.max()) + 1
        design = np.zeros((len(self.u), n + k + groups))
        rows = np.arange(len(self.u))
        design[rows, self.curve] = 1
        design[:, n : n + k] = basis.T
        design[rows, n + k + self.group] = np.sqrt(COMMON * self.noise)  # effects in units of their deviation
        weight = 1 / np.sqrt(MISFIT**2 + (1 - COMMON) * self.noise)
        prior = np.zeros((groups, design.shape[1]))
        prior[:, n + k :] = np.eye(groups)
        # Levels of curves without bins are nobody's: a tiny ridge keeps the matrix regular.
        ridge = 1e-6 * np.eye(n + k, design.shape[1])
        system = np.concatenate([design * weight[:, None], prior, ridge])
        target = np.concatenate([self.value * weight, np.zeros(groups + n + k)])
        covariance = np.linalg.inv(system.T @ system)
        found = covariance @ (system.T @ target)
        return float(found[n - 1]), found[n : n + k], float(covariance[n - 1, n - 1])


# What is believed of gamma before the law's exponents are read, and how well.
GAMMA, GAMMA_SE = 1.0, 0.15
# rms error beyond its noise of a projection over a factor of 4 in images (docs/measured/early.md), and as how many
# backtests it counts. Its square grows with the ln of the factor: luck wanders.
ERROR, ERROR_WEIGHT = 0.035, 4


def gamma_of(exponent: Estimate) -> tuple[float, float]:
    """(gamma, its standard error) from the exponent a of N*(C): on the surface E + A N^-alpha + B D^-beta both terms
    keep their ratio along D = N^(alpha / beta), and a = beta / (alpha + beta). What is believed before weighs in."""
    a = exponent.value
    precision, mean = GAMMA_SE**-2, GAMMA_SE**-2 * GAMMA
    if exponent.low is not None and exponent.high is not None and 0 < a < 1:
        by_law = ((exponent.high - exponent.low) / (2 * 1.96) / a**2) ** -2
        precision, mean = precision + by_law, mean + by_law * (1 - a) / a
    return mean / precision, precision**-0.5


def final_loss(grid: Sequence[Curve], run: Curve, exponent: Estimate) -> tuple[Estimate, bool] | None:
    """(the measured loss to expect of `run`, whether smaller runs reached as many images per parameter); None where
    curves are too short. exponent: of N*(C). The interval holds the curve's noise, what is not known of gamma, and the
    errors of the same projection for each run of the grid, from the same share of its training."""
    gamma, se = gamma_of(exponent)
    found = [Collapse(grid, g).project(run) for g in (gamma, gamma - se, gamma + se)]
    if any(projected is None for projected in found):
        return None
    middle, *sides = (projected for projected in found if projected is not None)
    tilt = (sides[1].log_loss - sides[0].log_loss) / 2
    squares = _backtests(grid, gamma, run.last / run.end)
    freedom = ERROR_WEIGHT + len(squares)
    believed = ERROR**2 * math.log(max(run.end / run.last, 1.0)) / math.log(4)
    error = (ERROR_WEIGHT * believed + sum(squares)) / freedom
    half = float(stdtrit(freedom, 0.975)) * math.sqrt(error + middle.noise + tilt**2)
    return Estimate(middle.log_loss, middle.log_loss - half, middle.log_loss + half).exp(), middle.covered


def _backtests(grid: Sequence[Curve], gamma: float, share: float) -> list[float]:
    """Squared errors, less what noise explains, of projections of the grid's own runs from this share of them. A run
    takes part where it has settled by then and others reached as many images per parameter."""
    squares = []
    for curve in grid:
        others = [c for c in grid if c is not curve and c.n_params != curve.n_params]
        for end, measured in curve.readings[-1:]:
            if share * end < SETTLED * curve.warmup or not others:
                continue
            made = Collapse(others, gamma).project(replace(curve.until(share * end), end=end))
            if made and made.covered:
                squares.append(max(0.0, (made.log_loss - math.log(measured)) ** 2 - made.noise))
    return squares
