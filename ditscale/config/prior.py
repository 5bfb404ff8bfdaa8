"""A law that is believed before a study: L(N, D) = E + A N^-alpha + B D^-beta with C = kappa N D (Hoffmann et al. 2022,
arXiv 2203.15556, equation 2), and the sizes about its optimum."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from ..units import number, whole
from .mapping import NonNegativeFloat, PositiveFloat

Noise = Annotated[float, partial(number, low=0, high=0.1)]


@dataclass(frozen=True)
class Surface:
    """L(N, D) = E + A N^-alpha + B D^-beta, N and D counted as the study counts them."""

    E: NonNegativeFloat
    A: PositiveFloat
    B: PositiveFloat
    alpha: PositiveFloat
    beta: PositiveFloat

    def loss_at(self, n_params: Any, n_tokens: Any) -> Any:
        """L(N, D), of numbers or broadcast over arrays."""
        return self.E + self.A * n_params**-self.alpha + self.B * n_tokens**-self.beta

    def optimum(self, budget: float, kappa: float = 6.0) -> float:
        """N* of a budget in FLOPs: with D = C / (kappa N), dL/dN = 0 where alpha A N^-alpha = beta B D^-beta."""
        ratio = self.alpha * self.A / (self.beta * self.B) * (budget / kappa) ** self.beta
        return float(ratio ** (1 / (self.alpha + self.beta)))


@dataclass(frozen=True)
class Prior(Surface):
    """A law that is believed before the study: sizes are placed about its optimum, and precision is planned by it."""

    source: str = ""  # Where its numbers are from.
    noise: Noise = 0.003  # Relative standard deviation of a run's loss.


@dataclass(frozen=True)
class Around:
    """Sizes relative to the prior's optimum N* at each budget, from N* / span to N* span, evenly in ln N. A slice has
    `sizes` of them, and at least two on either side of N*: where the multiples of the head size are too coarse for
    that within the span, the nearest beyond it are taken (plan/sizes.py)."""

    span: Annotated[float, partial(number, above=1, high=16)]  # A parabola beyond 16x misplaces its minimum.
    sizes: Annotated[int, partial(whole, low=4, high=100)]  # A parabola takes 4.
