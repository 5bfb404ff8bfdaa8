"""The runs that a study may have and the numbers that it is asked for, as one Gaussian field: what any choice of the
runs tells, and what one more or one fewer changes, for thousands of choices a second.

The form is kept linear at one law, and its prior and the errors' parts are the predictor's, so the variance here is the
one that the predictor will state of those runs."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from .information import Speaker


@dataclass(frozen=True)
class Field:
    """Covariance, before any run, of ln L at m candidates (m, m), of it with the 3 numbers of ASKED (m, 3), and
    variances of those (3,); weight: of this law and member."""

    among: np.ndarray
    across: np.ndarray
    asked: np.ndarray
    weight: float

    @classmethod
    def of(cls, speaker: Speaker, weight: float, count: int) -> Self:
        """Of `count` runs, of which those that a speaker's law leaves out tell nothing."""
        here, (_, spread) = speaker.here, speaker.prior
        whole = speaker.covariance(here.derivatives * spread)
        asks, rows = here.asks * spread, here.runs.rows
        known, own = speaker.walked(whole.sizes)
        among, across = np.eye(count), np.zeros((count, len(asks)))
        among[np.ix_(rows, rows)] = np.diag(whole.delta) + (whole.columns * whole.roots**2) @ whole.columns.T
        across[rows] = here.derivatives * spread @ asks.T + known
        return cls(among, across, (asks**2).sum(1) + own, weight)

    def variances(self, chosen: np.ndarray) -> np.ndarray:
        """Of the three numbers (3,), given the runs of the mask chosen (m,)."""
        return self.with_block(np.flatnonzero(chosen))

    def given(self, chosen: np.ndarray) -> Self:
        """The field that remains when the runs of the mask are known."""
        to = self.among[chosen]
        pull = np.linalg.solve(to[:, chosen], np.column_stack([to, self.across[chosen]]))
        return replace(
            self, among=self.among - to.T @ pull[:, :-3], across=self.across - to.T @ pull[:, -3:],
            asked=self.asked - (self.across[chosen] * pull[:, -3:]).sum(0),
        )  # fmt: skip

    def with_one(self) -> np.ndarray:
        """Variances (m, 3) of the numbers if one more run is known, for each."""
        return self.asked - self.across**2 / np.maximum(np.diag(self.among), 1e-12)[:, None]

    def with_block(self, rows: np.ndarray) -> np.ndarray:
        """Variances (3,) of the numbers if several more runs are known."""
        pull = np.linalg.solve(self.among[np.ix_(rows, rows)], self.across[rows])
        return self.asked - (self.across[rows] * pull).sum(0)

    def known(self, i: int) -> Self:
        """The field that remains when one more run is known."""
        column = self.among[:, i] / max(float(self.among[i, i]), 1e-12)
        return replace(
            self, among=self.among - np.outer(column, self.among[i]),
            across=self.across - np.outer(column, self.across[i]), asked=self.with_one()[i],
        )  # fmt: skip

    def without(self, chosen: np.ndarray) -> np.ndarray:
        """Variances (k, 3) of the numbers if one of the k runs of the mask were not known, for each."""
        inverse = np.linalg.inv(self.among[np.ix_(chosen, chosen)])
        pull = inverse @ self.across[chosen]
        return self.variances(chosen) + pull**2 / np.diag(inverse)[:, None]
