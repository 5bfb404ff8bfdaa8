"""The law that a rehearsed study draws its losses from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated

from ..units import number
from .mapping import NonNegativeFloat, NonNegativeInt, PositiveFloat


@dataclass(frozen=True)
class Rehearsal:
    """The mark of a rehearsed study and of each of its runs: losses come from L(N, D) = E + A N^-alpha + B D^-beta."""

    E: NonNegativeFloat
    A: PositiveFloat
    B: PositiveFloat
    alpha: PositiveFloat
    beta: PositiveFloat
    # Standard deviation of the log-normal scatter of a run's final loss.
    noise: Annotated[float, partial(number, low=0, high=0.1)] = 0.002
    seconds: Annotated[float, partial(number, low=0, high=86400)] = 1.0  # Seconds that the steps of a run take.
    seed: NonNegativeInt = 0

    def loss_at(self, n_params, n_tokens):
        """L(N, D), broadcast over both."""
        return self.E + self.A * n_params**-self.alpha + self.B * n_tokens**-self.beta

    def __str__(self) -> str:
        return (
            f"losses drawn from L(N, D) = {self.E:.6g} + {self.A:.6g} N^-{self.alpha:g} + {self.B:.6g} "
            f"D^-{self.beta:g} with {self.noise:.2%} noise; nothing was trained"
        )
