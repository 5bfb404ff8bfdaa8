"""`Predictor`: one answer to every question about the frontier, a mixture over the members of the family."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..estimates import Estimate
from ..table import Table
from . import form
from .member import Member, Quantity
from .mixture import Mixture
from .runs import Runs, runs_of

# (member, with walks). The surface with and without walks share one weight by their evidence, at these odds before it.
MEMBERS = (("surface", False), ("surface", True), ("relaxed", True), ("bent", True))
STILL = 0.2
LEAST_FOR_BEND = 4  # budgets


@dataclass(frozen=True)
class Predictor:
    """runs: what it was fitted to; members and their weights. Build it with `predictor`."""

    runs: Runs
    members: tuple[Member, ...]
    weights: np.ndarray

    def _x(self, budget_flops: float) -> float:
        return math.log(budget_flops) - self.runs.x0

    def _ask(self, quantity: Quantity) -> Mixture:
        pairs = zip(self.weights, self.members, strict=True)
        return Mixture.of([(w, member.says(quantity)) for w, member in pairs if w > 1e-6])

    def loss(self, budget_flops: float, scatter: int = 0) -> Mixture:
        """Of y (ln of the metric, or the scaled metric) at the optimum; scatter: see `Quantity`."""
        x = self._x(budget_flops)
        log = self.runs.log

        def of(full: np.ndarray, floor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            value, gradient = form.frontier(full, floor, x)
            return (np.log(value), gradient / value[:, None]) if log else (value, gradient)

        return self._ask(Quantity(of, x, level=1.0, scatter=scatter, z=self._usual(x)))

    def place(self, budget_flops: float) -> Mixture:
        """Of ln N*, less `runs.z0`."""
        x, last = self._x(budget_flops), float(self.runs.node_x[-1])
        return self._ask(Quantity(lambda full, floor: form.place(full, x, last), x, place=1.0))

    def slope(self, budget_flops: float) -> Mixture:
        """Of d ln N* / d ln C."""
        x, last = self._x(budget_flops), float(self.runs.node_x[-1])
        return self._ask(Quantity(lambda full, floor: form.slope(full, x, last), x))

    def _usual(self, x: float) -> float:
        """About ln N* at x, for the scatter of a run there."""
        best = self.members[int(np.argmax(self.weights))]
        full, _ = form.expand(best.name, best.theta[best.best : best.best + 1])
        return float(form.place(full, x, float(self.runs.node_x[-1]))[0][0])


def predictor(table: Table, *, log: bool = True, higher_is_better: bool = False) -> Predictor:
    """Fit the family to the grid runs of `table`."""
    runs = runs_of(table, log=log, higher_is_better=higher_is_better)
    budgets = len(runs.node_x)
    members = [
        Member(name, runs, walks and budgets > 1).fit()
        for name, walks in MEMBERS
        if name != "bent" or budgets >= LEAST_FOR_BEND
    ]
    scores = np.array([member.score for member in members])
    evidence = np.array([members[0].sizes.evidence + math.log(STILL), members[1].sizes.evidence + math.log(1 - STILL)])
    evidence -= np.logaddexp.reduce(evidence)
    scores[:2] = evidence + np.logaddexp.reduce(evidence + scores[:2])
    return Predictor(runs, tuple(members), np.exp(scores - np.logaddexp.reduce(scores)))
