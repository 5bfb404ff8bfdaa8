"""The law that a rehearsed study draws its losses from."""

from __future__ import annotations

from dataclasses import dataclass

from .. import units


@dataclass(frozen=True)
class Rehearsal:
    """The mark of a rehearsed study and of each of its runs: losses come from L(N, D) = E + A N^-alpha + B D^-beta."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    noise: float = 0.002  # standard deviation of the log-normal scatter of a run's final loss
    seconds: float = 1.0  # that the steps of a run take
    seed: int = 0

    def check(self, where: str):
        units.number(self.E, f"{where}.E", low=0)
        for name in ("A", "B", "alpha", "beta"):
            units.number(getattr(self, name), f"{where}.{name}", above=0)
        units.number(self.noise, f"{where}.noise", low=0, high=0.1)
        units.number(self.seconds, f"{where}.seconds", low=0, high=86400)
        units.whole(self.seed, f"{where}.seed", low=0)

    def loss_at(self, n_params, n_tokens):
        """L(N, D), broadcast over both."""
        return self.E + self.A * n_params**-self.alpha + self.B * n_tokens**-self.beta

    def __str__(self) -> str:
        return (
            f"losses drawn from L(N, D) = {self.E:.6g} + {self.A:.6g} N^-{self.alpha:g} + {self.B:.6g} "
            f"D^-{self.beta:g} with {self.noise:.2%} noise; nothing was trained"
        )
