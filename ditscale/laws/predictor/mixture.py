"""Mixtures of Student's t: what a predictor says of one number."""

from dataclasses import dataclass
from typing import Self

import numpy as np

TAILS = (0.5, 0.025, 0.975)


@dataclass(frozen=True)
class Mixture:
    """weights (c,) that sum to 1, and of each part mean, spread (standard deviation) and dof, all (c,)."""

    weights: np.ndarray
    means: np.ndarray
    spreads: np.ndarray
    dofs: np.ndarray

    @classmethod
    def of(cls, parts: list[tuple[float, Self]]) -> Self:
        """The mixture of mixtures (weight, mixture)."""
        total = sum(weight for weight, _ in parts)
        each = [(weight / total * part.weights, part.means, part.spreads, part.dofs) for weight, part in parts]
        return cls(*map(np.concatenate, zip(*each, strict=True)))

    def below(self, x: np.ndarray | float) -> np.ndarray:
        """P(number < x), of the shape of x."""
        from scipy.special import stdtr

        x = np.asarray(x, dtype=float)
        return stdtr(self.dofs, (x[..., None] - self.means) / self.spreads) @ self.weights

    def quantiles(self, shares: tuple[float, ...] = TAILS) -> np.ndarray:
        """The numbers with these shares below them, by bisection to 1e-12 of the widest spread."""
        from scipy.special import stdtrit

        p = np.asarray(shares)
        keep = self.weights > 1e-7 * self.weights.max()
        each = self.means[keep] + self.spreads[keep] * stdtrit(self.dofs[keep], p[:, None])
        low, high = each.min(1), each.max(1)  # Each quantile lies between the smallest and the largest of its parts.
        for _ in range(48):
            middle = (low + high) / 2
            less = self.below(middle) < p
            low, high = np.where(less, middle, low), np.where(less, high, middle)
        return (low + high) / 2

    def spread_out(self, count: int = 200) -> np.ndarray:
        """As many equally likely values, from the distribution function at 300 places."""
        first, last = self.quantiles((0.2 / count, 1 - 0.2 / count))
        middle, low, high = self.quantiles()
        ends = ((first, last, 60), (2 * low - middle, 2 * high - middle, 240))
        places = np.sort(np.concatenate([np.linspace(*span) for span in ends]))
        return np.interp((np.arange(count) + 0.5) / count, self.below(places), places)
