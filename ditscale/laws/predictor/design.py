"""What a design of runs can tell at all, before a loss is measured: 95 % widths that it alone implies.

The additive surface hides what a design lacks behind its constraint: runs along one ratio D / N look harmless there
(arXiv 2605.08541). In the relaxed form, whose frontier, curvature and slopes are fitted each for itself, they do not.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from . import form

# What trained models typically have: the scatter of a run, of what a slice shares, and of a single reading. Readings
# of one trajectory share the part COMMON of a run's variance, the rest dies off over DISTANCE in ln C, and each
# trajectory bends by itself: by BEND for every factor e in C (docs/measured/nested.md).
NOISE, SHARED, READING = 3e-3, 1e-3, 3e-4
BEND = 0.003
COMMON, DISTANCE = 0.6, 0.7
# (alpha, beta) of surfaces in the literature and around; the floor, and what is above it at the middle of the design.
NOMINAL = ((0.35, 0.35), (0.34, 0.28), (0.18, 0.45), (0.5, 0.2), (0.30, 0.29))
FLOOR, ABOVE = 0.6, 0.1
# Standard deviations of priors that say next to nothing of the frontier: here nothing ties it to the surface.
LOOSE = {
    form.N0: 30.0, form.A: 0.3, form.K: 30.0, form.G: 0.5, form.C: 30.0, form.D: 0.5, form.LOG_P: 1.2, form.LOG_Q: 1.2,
}  # fmt: skip
# A law that no design of trained runs should be asked for: ln(high / low) of N* and L*.
WIDEST_PLACE, WIDEST_LOSS = math.log(10), 0.12


class Widths(NamedTuple):
    """ln(high / low) of the 95 % intervals of N* and of L* that a design implies, medians over `NOMINAL`."""

    place: float
    loss: float

    @property
    def lacks(self) -> tuple[str, ...]:
        """What the design does not determine: of "N*" and "L*"."""
        judged = (("N*", self.place > WIDEST_PLACE), ("L*", self.loss > WIDEST_LOSS))
        return tuple(name for name, wide in judged if wide)


def widths(
    log_c: np.ndarray, log_n: np.ndarray, target: float, *, trajectory: np.ndarray | None = None,
    slices: np.ndarray | None = None, optimum: tuple[float, float] | None = None, slope: float = 0.5,
) -> Widths:  # fmt: skip
    """Of runs at ln C and ln N (n,), asked at `target` (ln C).

    trajectory (n,): labels of readings of one training, None where every run is its own; slices (n,): labels of runs of
    one budget; optimum (ln C, ln N*): a point of the frontier, the middle of the design where None, and its slope.
    """
    from scipy import linalg

    middle = float(np.mean(log_c))
    x, t = log_c - middle, target - middle
    at, place = optimum or (middle, float(np.mean(log_n)))
    z = log_n - (place - slope * (at - middle))
    covariance = np.eye(len(x)) * (READING**2 + (NOISE**2 if trajectory is None else 0))
    if trajectory is not None:
        along = COMMON + (1 - COMMON) * np.exp(-np.abs(x[:, None] - x) / DISTANCE)
        covariance += NOISE**2 * along * (trajectory[:, None] == trajectory)
    if trajectory is not None and BEND:
        mean = np.bincount(trajectory, x) / np.bincount(trajectory)
        off = x - mean[trajectory]
        covariance += BEND**2 * np.outer(off, off) * (trajectory[:, None] == trajectory)
    if slices is not None:
        covariance += SHARED**2 * (slices[:, None] == slices)
    factor = linalg.cho_factor(covariance)
    free, floor = list(LOOSE), np.array([FLOOR])
    # The floor may lie anywhere between nothing and the lowest loss.
    prior = np.diag(1 / np.append(list(LOOSE.values()), FLOOR) ** 2)
    each = []
    for p, q in NOMINAL:
        g, k = p * q / (p + q), math.log(ABOVE)
        full = np.array([[0.0, slope, 0.0, k, g, k, g, math.log(p), math.log(q)]])
        values = form.evaluate(full, floor, x, z)
        derivatives = np.column_stack([values.jacobian[0][:, free], np.ones(len(x))]) / values.f[0][:, None]
        spread = np.linalg.inv(derivatives.T @ linalg.cho_solve(factor, derivatives) + prior)
        best, by_loss = form.frontier(full, floor, t)
        _, by_place = form.place(full, t, float(x.max()))
        ask = np.array([np.append(by_place[0][free], 0), np.append(by_loss[0][free], 1) / best])
        each.append(3.92 * np.sqrt(np.einsum("qp,pr,qr->q", ask, spread, ask)))
    return Widths(*np.median(each, axis=0).tolist())
