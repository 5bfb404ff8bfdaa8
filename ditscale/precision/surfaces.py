"""Laws around a prior: what a study may turn out to measure, before it has measured anything."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self

import numpy as np

# How far a study's law may lie from its prior, as standard deviations: of ln p, the curvature of slices beside the
# additive form's; of ln (L* - E), the floor, L* and its fall being as the prior has them; of the fall d ln L* / d ln C,
# relative; of ln N*; and of the model exponent.
CURVATURE, ABOVE, FALL, PLACE, EXPONENT = 0.35, 0.3, 0.15, 0.3, 0.03
NEAR_ONE, FAR_OFF = 0.45, 1.34  # standard deviations of the curvature in `nominal`
LEAST_ABOVE, LEAST_SLOPE = 0.02, 0.15  # of L*; of the model exponent, which is as far from 1 at most


class Prior(Protocol):
    """A law believed before the study: L(N, D) = E + A N^-alpha + B D^-beta."""

    @property
    def E(self) -> float: ...
    @property
    def A(self) -> float: ...
    @property
    def B(self) -> float: ...
    @property
    def alpha(self) -> float: ...
    @property
    def beta(self) -> float: ...


@dataclass(frozen=True)
class Surface:
    """L(C, N) = E + F(C) h(u)^p with u = ln N - ln N*(C): the additive surface where p is 1; the slices of any other p
    are 1 / p times as curved, and its frontier is the same. At ln C = at: floor E, ln F = above, ln N* = place; slope
    d ln N* / d ln C, fall -d ln F / d ln C."""

    at: float
    floor: float
    above: float
    place: float
    slope: float
    fall: float
    p: float = 1.0

    @classmethod
    def of(cls, prior: Prior, at: float, kappa: float = 6.0) -> Self:
        """The surface of a prior, written at ln C = at; kappa is C / (N D)."""
        alpha, beta = prior.alpha, prior.beta
        ratio = math.log(alpha * prior.A / (beta * prior.B))
        place = (ratio + beta * (at - math.log(kappa))) / (alpha + beta)
        tokens = at - math.log(kappa) - place
        above = math.log(prior.A * math.exp(-alpha * place) + prior.B * math.exp(-beta * tokens))
        return cls(at, prior.E, above, place, beta / (alpha + beta), alpha * beta / (alpha + beta))

    def loss(self, log_c: np.ndarray, log_n: np.ndarray) -> np.ndarray:
        """L at ln C and ln N, broadcast."""
        alpha, beta = self.fall / self.slope, self.fall / (1 - self.slope)
        u = log_n - self.log_size(log_c)
        h = (beta * np.exp(-alpha * u / self.p) + alpha * np.exp(beta * u / self.p)) / (alpha + beta)
        return self.floor + np.exp(self.above - self.fall * (log_c - self.at)) * h**self.p

    def log_size(self, log_c: np.ndarray | float) -> np.ndarray:
        """ln N* at ln C."""
        return np.asarray(self.place + self.slope * (np.asarray(log_c) - self.at))

    def least(self, log_c: np.ndarray | float) -> np.ndarray:
        """L* at ln C."""
        return np.asarray(self.floor + np.exp(self.above - self.fall * (np.asarray(log_c) - self.at)))

    def log_fall(self, log_c: float) -> float:
        """-d ln L* / d ln C."""
        return float(self.fall * (1 - self.floor / self.least(log_c)))

    def moved(self, by: Sequence[float]) -> Self:
        """Off by so many standard deviations of CURVATURE, ABOVE, FALL, PLACE and EXPONENT."""
        curvature, floor, fall, place, exponent = by
        least = float(self.least(self.at))
        above = least - self.floor
        # Where there is (next to) no floor, there may only be more.
        room = math.log(least / above)
        step = ABOVE * floor
        new = above * math.exp(step if step <= room else -step)
        new = max(new, LEAST_ABOVE * least)
        slope = float(np.clip(self.slope + EXPONENT * exponent, LEAST_SLOPE, 1 - LEAST_SLOPE))
        return replace(
            self, floor=least - new, above=math.log(new), fall=self.fall * above / new * math.exp(FALL * fall),
            place=self.place + PLACE * place, slope=slope, p=self.p * math.exp(CURVATURE * curvature),
        )  # fmt: skip


def draws(centre: Surface, count: int, seed: int = 0) -> list[Surface]:
    """As many laws around a surface, drawn at random."""
    return [centre.moved(by) for by in np.random.default_rng(seed).standard_normal((count, 5))]


def nominal(centre: Surface) -> list[Surface]:
    """Eight laws that stand for all around a surface: a standard deviation off in everything, in all combinations of
    the signs of curvature, floor and fall. Half of them have slices nearly as curved as the additive form's, as of
    normal numbers half are; the standard deviation of the curvature over all eight is still one."""
    # Which half is far off was chosen among twelve ways, as the one whose numbers are those of 80 drawn laws on seven
    # designs, within 9 % of each error and 14 % of each width.
    signs = itertools.product((-1, 1), repeat=3)
    return [centre.moved((c * (FAR_OFF if c * f * g < 0 else NEAR_ONE), f, g, c * f, c * g)) for c, f, g in signs]
