"""The runs of a study as a design: what they tell is asked before a loss is measured."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from ..errors import UserError
from ..laws import Table
from ..laws.predictor.identify import middle_of
from ..units import compact

LEAST_RUNS = 8


@dataclass(frozen=True)
class Design:
    """n_params, n_tokens, budget_flops (n,); lever (n,): runs that are in the surface and in no parabola; trajectory
    (n,): labels of trainings, of which nested runs are readings; seed (n,)."""

    n_params: np.ndarray
    n_tokens: np.ndarray
    budget_flops: np.ndarray
    lever: np.ndarray
    trajectory: np.ndarray
    seed: np.ndarray

    @classmethod
    def of(
        cls, n_params: Sequence[float], n_tokens: Sequence[float] | None, budget_flops: Sequence[float],
        trajectory: Sequence | None = None, seed: Sequence[int] | None = None, lever: Sequence[bool] | None = None,
    ) -> Self:  # fmt: skip
        """Without n_tokens, C = 6 N D; without trajectory, every run is a training of its own."""
        n, c = np.array(n_params, dtype=float), np.array(budget_flops, dtype=float)
        d = c / 6 / n if n_tokens is None else np.array(n_tokens, dtype=float)
        rows = np.arange(len(n))
        labels = np.unique(rows if trajectory is None else np.array(trajectory), return_inverse=True)[1]
        seeds = np.zeros(len(n), dtype=int) if seed is None else np.array(seed, dtype=int)
        levers = np.zeros(len(n), dtype=bool) if lever is None else np.array(lever, dtype=bool)
        return cls(n, d, c, levers, labels, seeds)

    def __len__(self) -> int:
        return len(self.n_params)

    def take(self, rows: np.ndarray) -> Self:
        return type(self)(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    @property
    def kappa(self) -> float:
        """C / (N D), the median."""
        return float(np.median(self.budget_flops / self.n_params / self.n_tokens))

    @property
    def middle(self) -> float:
        """ln C in the middle of the budgets."""
        return 0.5 * math.log(float(self.budget_flops.min()) * float(self.budget_flops.max()))

    def middle_line(self) -> tuple[float, float, float]:
        """(ln C, ln N, slope) of the line through the middles of the slices' sizes."""
        return middle_of(self.table(np.ones(len(self))))

    def slices(self) -> np.ndarray:
        """Labels (n,) of runs of one budget and one seed, which see the same data in the same order."""
        pairs = np.stack([np.round(np.log(self.budget_flops), 2), self.seed])
        return np.unique(pairs, axis=1, return_inverse=True)[1].ravel()

    def sizes(self) -> np.ndarray:
        """Labels (n,) of runs of one size."""
        return np.unique(np.round(np.log(self.n_params), 6), return_inverse=True)[1]

    def table(self, loss: np.ndarray) -> Table:
        """The table that the study will collect, with losses (n,)."""
        shared = {"trajectory": self.trajectory, "seed": self.seed, "data_seed": self.seed}
        return Table.of(self.n_params, self.n_tokens, self.budget_flops, loss, shared=shared)

    def check(self, target: float) -> None:
        """Raises UserError where no forecast at `target`, a budget in FLOPs, can be planned."""
        if len(self) < LEAST_RUNS:
            raise UserError(f"{len(self)} runs forecast nothing; plan at least 4 sizes at 3 budgets")
        if target <= (largest := float(self.budget_flops.max())):
            inside = f"{compact(target)} FLOPs is inside the grid, whose largest budget is {compact(largest)}"
            raise UserError(f"--target {inside}; a forecast is asked beyond it")
