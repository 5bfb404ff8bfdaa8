"""The cheapest of many runs that tell what is wanted: greedy, then without what it can do without, then swaps."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ..laws.predictor.noise import Noise
from .design import Design
from .field import Field
from .information import local, root_of, speakers, weights_of
from .surfaces import Surface

SLICE = 4  # sizes that an opened budget has near its optimum
CENTRED = math.log(4)  # a size within this of the optimum in ln N is one of its slice; a farther one is a lever
HALF = 2.2  # standard deviations that a half-width of 95 % has: of a t of about ten degrees of freedom
FREE = 1e-4  # cost, as a share of all candidates', of a reading that trains nothing more
COUNTS = 0.02  # least weight of a member at a law


@dataclass(frozen=True)
class Candidates:
    """Runs that a study may have. cost (m,): of each alone; off (m,): ln N less the prior's optimum at its budget;
    nested: whether a training costs what its longest run does."""

    design: Design
    cost: np.ndarray
    off: np.ndarray
    nested: bool

    def __len__(self) -> int:
        return len(self.cost)

    @cached_property
    def budgets(self) -> np.ndarray:
        """Labels (m,) of budgets."""
        return np.unique(np.round(np.log(self.design.budget_flops), 2), return_inverse=True)[1]

    @property
    def centred(self) -> np.ndarray:
        return np.abs(self.off) <= CENTRED

    def total(self, chosen: np.ndarray) -> float:
        """Cost of the runs of a mask."""
        if not self.nested:
            return float(self.cost[chosen].sum())
        longest = np.zeros(self.design.trajectory.max() + 1)
        np.maximum.at(longest, self.design.trajectory[chosen], self.cost[chosen])
        return float(longest.sum())

    def added(self, chosen: np.ndarray) -> np.ndarray:
        """What each run would add to the cost (m,)."""
        if not self.nested:
            return self.cost
        longest = np.zeros(self.design.trajectory.max() + 1)
        np.maximum.at(longest, self.design.trajectory[chosen], self.cost[chosen])
        return np.maximum(self.cost - longest[self.design.trajectory], 0.0)

    def saved(self, chosen: np.ndarray) -> np.ndarray:
        """What each chosen run would save by being left out (k,)."""
        if not self.nested:
            return self.cost[chosen]
        rows, out = np.flatnonzero(chosen), np.zeros(int(chosen.sum()))
        for label in np.unique(self.design.trajectory[rows]):
            own = np.flatnonzero(self.design.trajectory[rows] == label)
            order = own[np.argsort(self.cost[rows[own]])]
            second = self.cost[rows[order[-2]]] if len(order) > 1 else 0.0
            out[order[-1]] = self.cost[rows[order[-1]]] - second
        return out


@dataclass(frozen=True)
class Search:
    """fields of each law [[Field]]; goals (3,): ln of the variance wanted of each of ASKED, inf where none is."""

    candidates: Candidates
    fields: list[list[Field]]
    goals: np.ndarray

    def gap(self, variances: np.ndarray) -> np.ndarray:
        """Variances (laws, ..., 3) to what is missing to the goals (...), in units of ln variance; 0 where reached."""
        return np.maximum(np.log(np.maximum(variances, 1e-12)).mean(0) - self.goals, 0.0).sum(-1)

    def over_laws(self, ask: Callable[[Field], np.ndarray]) -> np.ndarray:
        """(laws, ...): of each law's members, by weight."""
        return np.array([sum(f.weight * ask(f) for f in members) for members in self.fields])

    def known_too(self, rows: np.ndarray) -> np.ndarray:
        """Variances (laws, 3) if several more runs are known."""
        return self.over_laws(lambda f: f.with_block(rows))

    def left_out(self, chosen: np.ndarray) -> np.ndarray:
        """Variances (laws, k, 3) if one of the k runs of a mask were left out, for each."""
        return self.over_laws(lambda f: f.without(chosen))

    def spread(self, chosen: np.ndarray) -> np.ndarray:
        """Standard deviations of ASKED (3,), given the runs of a mask: the geometric mean over the laws."""
        return np.exp(0.5 * np.log(self.over_laws(lambda f: f.variances(chosen))).mean(0))

    def of(self, chosen: np.ndarray) -> float:
        """The gap of a choice."""
        return float(self.gap(self.over_laws(lambda f: f.variances(chosen))))

    def grown(self, chosen: np.ndarray, most: float) -> np.ndarray:
        """The choice with what closes the gap at least cost, until it is closed, or nothing helps that costs at most
        `most` in all. A budget is opened by SLICE sizes about its optimum."""
        chosen = chosen.copy()
        fields = [[f.given(chosen) for f in members] for members in self.fields]
        now = replace(self, fields=fields)
        gap = float(now.gap(now.over_laws(lambda f: f.asked)))
        while gap > 0:
            gain, rows = max(self._moves(now, gap, chosen, most), key=lambda move: move[0])
            if gain <= 0:
                break
            chosen[rows] = True
            for i in rows:
                now = replace(now, fields=[[f.known(int(i)) for f in members] for members in now.fields])
            gap = float(now.gap(now.over_laws(lambda f: f.asked)))
        return chosen

    def _moves(self, now: "Search", gap: float, chosen: np.ndarray, most: float) -> list[tuple[float, np.ndarray]]:
        """(what the gap loses by a unit of cost, runs to add). now: the fields, given the runs chosen."""
        candidates, spent = self.candidates, self.candidates.total(chosen)
        least = FREE * float(candidates.cost.sum())
        opened = np.isin(candidates.budgets, candidates.budgets[chosen])
        added = candidates.added(chosen)
        may = ~chosen & opened & (spent + added <= most)
        gains = np.where(may, (gap - now.gap(now.over_laws(Field.with_one))) / (added + least), -1.0)
        moves = [(float(gains.max()), np.array([int(np.argmax(gains))]))]
        for label in np.unique(candidates.budgets[~opened]):
            block = self._slice(label)
            more = chosen.copy()
            more[block] = True
            cost = candidates.total(more) - spent
            if spent + cost <= most:
                moves.append(((gap - float(now.gap(now.known_too(block)))) / (cost + least * len(block)), block))
        return moves

    def _slice(self, label: int) -> np.ndarray:
        """The runs of the sizes nearest the optimum of a budget, one of each."""
        rows = np.flatnonzero(self.candidates.budgets == label)
        near = rows[np.argsort(np.abs(self.candidates.off[rows]), kind="stable")]
        _, first = np.unique(np.round(self.candidates.off[near], 6), return_index=True)
        return near[np.sort(first)[:SLICE]]

    def thinned(self, chosen: np.ndarray) -> np.ndarray:
        """The choice without what it can do without: what saves most first."""
        chosen = chosen.copy()
        while True:
            rows, saved = np.flatnonzero(chosen), self.candidates.saved(chosen)
            gaps = self.gap(self.left_out(chosen))
            may = (gaps <= 0) & (saved > 0) & self.spare(chosen)[rows]
            if not may.any():
                return chosen
            chosen[rows[np.argmax(np.where(may, saved, -1.0))]] = False

    def spare(self, chosen: np.ndarray) -> np.ndarray:
        """Which runs (m,) may go without leaving a budget with too few sizes near its optimum."""
        centred = self.candidates.centred
        counts = np.bincount(self.candidates.budgets[chosen & centred], minlength=self.candidates.budgets.max() + 1)
        return ~centred | (counts > SLICE)[self.candidates.budgets]

    def swapped(self, chosen: np.ndarray, most: float) -> np.ndarray:
        """Tries to do without each budget and each of the dearest runs, and takes what is better."""
        best, value = chosen, self._value(chosen)
        for moves in (self._budgets_of, self._dearest_of):
            for fewer in moves(best):
                trial = self.thinned(self.grown(fewer, min(most, value[1]) if value[0] <= 0 else most))
                if (now := self._value(trial)) < value:
                    best, value = trial, now
        return best

    def _value(self, chosen: np.ndarray) -> tuple[float, float]:
        """What is compared: the gap first, then the cost."""
        return round(self.of(chosen), 3), self.candidates.total(chosen)

    def _budgets_of(self, chosen: np.ndarray) -> list[np.ndarray]:
        """Without each budget, the largest first."""
        labels = np.unique(self.candidates.budgets[chosen])[::-1]
        return [chosen & (self.candidates.budgets != label) for label in labels]

    def _dearest_of(self, chosen: np.ndarray) -> list[np.ndarray]:
        rows, spare = np.flatnonzero(chosen), self.spare(chosen)
        dearest = [i for i in rows[np.argsort(-self.candidates.saved(chosen), kind="stable")] if spare[i]][:6]
        return [chosen & (np.arange(len(chosen)) != i) for i in dearest]

    def best(self, most: float = math.inf) -> np.ndarray:
        """The mask (m,) of the cheapest choice found that reaches the goals or, where none does that costs at most
        `most`, of the one that comes nearest."""
        return self.swapped(self.quick(most), most)

    def quick(self, most: float = math.inf) -> np.ndarray:
        """As `best`, without swaps."""
        return self.thinned(self.grown(np.zeros(len(self.candidates), dtype=bool), most))


def fields_of(
    candidates: Design, chosen: np.ndarray, laws: list[Surface], target: float, noise: Noise,
    start: dict[int, np.ndarray] | None = None,
) -> list[list[Field]]:  # fmt: skip
    """The fields of all candidates under each law, the errors' parts and the members' weights being those of studies
    of the runs chosen. start: as of `speakers`."""
    out, start = [], {} if start is None else start
    for law in laws:
        few, every = local(candidates.take(chosen), law, target), local(candidates, law, target)
        root = root_of(candidates.take(chosen), few, noise)
        said = speakers(few, root, start, last=False)
        weights = weights_of(said)
        pairs = [(weight, each) for weight, each in zip(weights.tolist(), said, strict=True) if weight > COUNTS]
        total = sum(weight for weight, _ in pairs)
        out.append([Field.of(each.among(every), weight / total, len(candidates)) for weight, each in pairs])
    return out
