"""`Predictor`: one answer to every question about the frontier, a mixture over the members of the family."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Callable, NamedTuple, Self

import numpy as np

from ...result import Result
from ...tables.table import Table
from ..estimates import Estimate, Optimum, Z
from . import form
from .member import Member, Quantity
from .mixture import TAILS, Mixture
from .runs import Runs, runs_of

# (member, with walks). The surface with and without walks share one weight by their evidence, at these odds before it.
MEMBERS = (("surface", False), ("surface", True), ("relaxed", True), ("bent", True))
ODDS = (0.06, 0.16, 0.45, 0.33)
LEAST_FOR_BEND = 4  # budgets
NEGLIGIBLE = 1e-4  # of a member's weight
SPAN = 1e6  # budgets within this factor of a target are looked at
GRID = 33
LEAST_P = 1 / 400  # of a comparison
SHAPE = (form.K, form.G, form.C, form.D, form.LOG_P, form.LOG_Q)  # what a slice's excess is made of


@dataclass(frozen=True)
class AtSize(Result):
    """A model of a given size at a budget. penalty: its loss over the optimum's, less 1 (of a metric of either sign:
    the difference); flops_share: the budget at which the optimum reaches that loss, over this budget."""

    n_params: float
    n_tokens: float
    loss: Estimate
    penalty: Estimate
    flops_share: Estimate


class Part(NamedTuple):
    """One form of the mixture: its weight, what one new run will measure by it alone, its likeliest parameters."""

    weight: float
    one_run: Estimate
    parameters: dict[str, float]


@dataclass(frozen=True)
class Predictor:
    """runs: what it was fitted to; members and their weights. `predictor` builds one."""

    runs: Runs
    members: tuple[Member, ...]
    weights: np.ndarray

    def optimum(self, budget_flops: float) -> Optimum:
        """N*, D* and L* at a budget in FLOPs."""
        place, nd = self._ask(self._place(self._x(budget_flops))).quantiles(), budget_flops / self.runs.kappa
        n_params = Estimate(*_through(place, lambda v: math.exp(v + self.runs.z0)))
        n_tokens = Estimate(*_through(place, lambda v: nd / math.exp(v + self.runs.z0)))
        return Optimum(n_params, n_tokens, _estimate(self.loss(budget_flops), self.runs.metric))

    def one_run(self, budget_flops: float) -> Estimate:
        """What one new run at the optimum will measure: with its scatter."""
        return _estimate(self.loss(budget_flops, scatter=2), self.runs.metric)

    def slice_minimum(self, budget_flops: float, se: float) -> Estimate:
        """What the minimum of a slice of runs at a budget will be measured as, its own standard error being se."""
        value, low, high = _ends(self.loss(budget_flops, scatter=1), self.runs.metric)
        low, high = (value + side * math.hypot(end - value, Z * se) for end, side in ((low, -1), (high, 1)))
        return Estimate(value, low, high)

    @property
    def exponents(self) -> tuple[str, ...]:
        """Of `exponent`: a metric of either sign has none of its own."""
        return ("model", "data", "loss") if self.runs.log else ("model", "data")

    def exponent(self, name: str, budget_flops: float) -> Estimate:
        """d ln N* / d ln C ("model"), d ln D* / d ln C ("data") or d ln L* / d ln C ("loss") at a budget."""
        return _estimate(self.slope(budget_flops, name), float)

    def comparable(self, budget_flops: float) -> np.ndarray:
        """Equally likely values of ln L* or, of a metric of either sign, of it, negated where higher is better."""
        return self.runs.shift + self.runs.scale * self.loss(budget_flops).spread_out()

    def budget_for(self, metric: float) -> Estimate | None:
        """FLOPs at which the optimum reaches a value of the metric; an end is None where no budget within SPAN of the
        grid's largest does, and the whole is None where not even the middle does."""
        goal = self.runs.inverse(metric)
        return _crossing(self.last + self.runs.x0, lambda c: float(self.loss(math.exp(c)).below(goal)))

    def at_size(self, budget_flops: float, n_params: float, worth: float | None = None) -> AtSize:
        """A model of n_params trained with a budget: its loss, and what it costs beside the optimum. worth: the budget
        that its tokens are worth, where some are repeats; None for all of it."""
        x, z, log = self._x(budget_flops), math.log(n_params) - self.runs.z0, self.runs.log
        there = x if worth is None else self._x(worth)

        def over(full: np.ndarray, floor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            value, gradient = self._off_frontier(full, floor, there, z)
            best, by_best = self._frontier(full, floor, x)
            return value - best, gradient - by_best

        full, floor = self.typical
        below, above = (float(self._off_frontier(full, floor, there, z + h)[0][0]) for h in (-1e-4, 1e-4))
        by_place = -(above - below) / 2e-4
        own = Quantity(lambda full, floor: self._off_frontier(full, floor, there, z), x, level=1.0, place=by_place)
        penalty = self._ask(Quantity(over, x, place=by_place))
        # An excess is never negative, whatever a linear step says.
        excess = _estimate(penalty, lambda v: max(math.expm1(v) if log else self.runs.scale * v, 0.0))
        # This loss and the optimum's share nearly all of what is not known, so their medians are compared.
        log_c = np.linspace(x - math.log(SPAN), x, GRID)
        at = [float(self._frontier(full, floor, c)[0][0]) for c in log_c]
        goal = at[-1] + np.maximum(penalty.quantiles(), 0)
        shares = np.exp(np.interp(-goal, -np.array(at), log_c) - x)
        share = Estimate(float(shares[0]), float(shares.min()), float(shares.max()))
        n_tokens = budget_flops / self.runs.kappa / n_params
        return AtSize(n_params, n_tokens, _estimate(self._ask(own), self.runs.metric), excess, share)

    def between(self, one: tuple[float, float], other: tuple[float, float]) -> Estimate:
        """d ln L / d ln C between two models (budget, n_params); of a metric of either sign, dL / d ln C."""
        (x, z), (to, to_z) = ((self._x(c), math.log(n) - self.runs.z0) for c, n in (one, other))

        def slope(full: np.ndarray, floor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            start, end = (self._off_frontier(full, floor, *at) for at in ((x, z), (to, to_z)))
            return (end[0] - start[0]) / (to - x), (end[1] - start[1]) / (to - x)

        scale = 1.0 if self.runs.log else self.runs.sign * self.runs.scale
        return _estimate(self._ask(Quantity(slope, to)), lambda v: scale * v)

    def budget_of(self, *, n_params: float | None = None, n_tokens: float | None = None) -> Estimate | None:
        """FLOPs at which n_params, or n_tokens, is the optimum; ends as of `budget_for`."""

        def reached(log_c: float) -> float:
            place = self._ask(self._place(self._x(math.exp(log_c))))
            if n_params is not None:
                return 1 - float(place.below(math.log(n_params) - self.runs.z0))
            return float(place.below(log_c - math.log(self.runs.kappa * (n_tokens or 1.0)) - self.runs.z0))

        return _crossing(self.last + self.runs.x0, reached)

    def best_with(self, budget_flops: float, worth: Callable[[np.ndarray], np.ndarray]) -> float:
        """The size of the least loss at a budget whose tokens are worth less: worth(N (k,)) -> FLOPs (k,)."""
        full, floor = self.typical
        z = float(form.place(full, self._x(budget_flops), self.last)[0][0]) + np.linspace(-4, 7, 400)
        at = np.log(worth(np.exp(z + self.runs.z0))) - self.runs.x0
        loss = [form.off_optimum(full, floor, float(x), float(s), self.last)[0][0] for x, s in zip(at, z, strict=True)]
        return math.exp(float(z[int(np.argmin(loss))]) + self.runs.z0)

    def only(self, name: str) -> Self:
        """The predictor of one form of the family alone."""
        chosen = [i for i, member in enumerate(self.members) if member.name == name]
        weights = self.weights[chosen] + 1e-300
        return replace(self, members=tuple(self.members[i] for i in chosen), weights=weights / weights.sum())

    def regret(self, budget_flops: float, n_params: float) -> float:
        """Expected share of the budget that is lost by training n_params rather than N*, which nobody knows: the mean
        of 1 - C' / C, where C' is what the optimum needs for the same loss."""
        x, z, total = self._x(budget_flops), math.log(n_params) - self.runs.z0, 0.0
        nodes = np.linspace(-2.4, 2.4, 25)
        density = np.exp(-0.5 * nodes**2)
        for weight, member in self._kept:
            says, full = member.says(self._place(x)), member.likely()
            k, g, c, d, log_p, log_q = (full[:, i, None] for i in SHAPE)
            p, q = np.exp(log_p), np.exp(log_q)
            u = z - (says.means[:, None] + says.spreads[:, None] * nodes)
            h = (q * np.exp(-p * u) + p * np.exp(q * u)) / (p + q)
            lost = np.exp(c - d * x) * (h - 1) / np.exp(k - g * x)
            share = 1 - np.exp(-np.log1p(lost) / np.maximum(g, 1e-3))
            total += weight * float(says.weights @ (share @ density) / density.sum())
        return total

    def by_form(self, budget_flops: float) -> dict[str, Part]:
        """{member: what it says for itself}; the surface with and without drift is one."""
        out = {}
        for name in dict.fromkeys(member.name for member in self.members):
            pairs = [(w, m) for w, m in self._weighted if m.name == name]
            weight = sum(w for w, _ in pairs)
            says = Mixture.of([(max(w, 1e-12), m.says(self._loss(budget_flops, 2))) for w, m in pairs])
            likeliest = max(pairs, key=lambda pair: pair[0])[1]
            out[name] = Part(weight, _estimate(says, self.runs.metric), likeliest.parameters())
        return out

    @property
    def run_scatter(self) -> float:
        """Rms scatter of one run alone, relative or, of a metric of either sign, in its units."""
        return math.exp(self._likeliest.log_sizes["s"]) * (1.0 if self.runs.log else self.runs.scale)

    @property
    def misfit(self) -> float:
        """Rms distance of the runs from the likeliest member's form, on the scale of y."""
        return float(np.sqrt(np.mean(self._likeliest.residual[self._likeliest.best] ** 2)))

    @property
    def share_sizes(self) -> bool:
        """Whether runs of one size share more of their error than each has alone."""
        return self._ratios.get("size", 0.0) > 1

    @cached_property
    def _ratios(self) -> dict[str, float]:
        """{group: the variance that its runs share, in units of what each has alone}."""
        return {name: math.exp(2 * self._likeliest.log_sizes[name]) for name in self._likeliest.parts.groups}

    @property
    def part_sizes(self) -> dict[str, float]:
        """{part of the errors: its size by the likeliest member}, as of `errors.Covariance`: "s" is of one run alone,
        and what groups share is in units of it."""
        return {name: math.exp(phi) for name, phi in self._likeliest.log_sizes.items()}

    def sharing(self, least: float) -> dict[str, float]:
        """{group: its share of the variance of one run}, of those that the runs show at odds of e^least or more."""
        total = 1 + sum(self._ratios.values())
        return {n: r / total for n, r in self._ratios.items() if self._likeliest.evidence_for(n) > least}

    def frontier_line(self) -> tuple[float, float, float]:
        """(ln C, ln N*, d ln N* / d ln C) at the middle of the budgets, by the likeliest member."""
        full, _ = self.typical
        return self.runs.x0, float(form.place(full, 0.0, self.last)[0][0]) + self.runs.z0, float(full[0, form.A])

    def loss(self, budget_flops: float, scatter: int = 0) -> Mixture:
        """Of y (ln of the metric, or the scaled metric) at the optimum; scatter: see `Quantity`."""
        return self._ask(self._loss(budget_flops, scatter))

    def _loss(self, budget_flops: float, scatter: int) -> Quantity:
        x = self._x(budget_flops)
        z = float(form.place(self.typical[0], x, self.last)[0][0]) if scatter else 0.0
        return Quantity(lambda full, floor: self._frontier(full, floor, x), x, level=1.0, scatter=scatter, z=z)

    def _place(self, x: float) -> Quantity:
        """Of ln N*, less `runs.z0`."""
        return Quantity(lambda full, floor: form.place(full, x, self.last), x, place=1.0)

    def slope(self, budget_flops: float, name: str = "model") -> Mixture:
        """Of the exponents of `exponent`."""
        x = self._x(budget_flops)
        if name == "loss":
            return self._ask(Quantity(lambda full, floor: form.loss_slope(full, floor, x), x))
        model = self._ask(Quantity(lambda full, floor: form.slope(full, x, self.last), x))
        return model if name == "model" else replace(model, means=1 - model.means)

    def _ask(self, quantity: Quantity) -> Mixture:
        return Mixture.of([(weight, member.says(quantity)) for weight, member in self._kept])

    def _frontier(self, full: np.ndarray, floor: np.ndarray, x: float) -> tuple[np.ndarray, np.ndarray]:
        return self.runs.on_scale(*form.frontier(full, floor, x))

    def _off_frontier(self, full: np.ndarray, floor: np.ndarray, x: float, z: float) -> tuple[np.ndarray, np.ndarray]:
        return self.runs.on_scale(*form.off_optimum(full, floor, x, z, self.last))

    @property
    def smallest(self) -> float:
        """The smallest budget that is looked at."""
        return math.exp(self.last + self.runs.x0) / SPAN

    @cached_property
    def last(self) -> float:
        """x of the largest budget."""
        return float(self.runs.node_x[-1])

    @cached_property
    def _kept(self) -> list[tuple[float, Member]]:
        return [(weight, member) for weight, member in self._weighted if weight > NEGLIGIBLE]

    @property
    def _weighted(self) -> list[tuple[float, Member]]:
        return list(zip(self.weights.tolist(), self.members, strict=True))

    @cached_property
    def _likeliest(self) -> Member:
        return self.members[int(np.argmax(self.weights))]

    @cached_property
    def typical(self) -> tuple[np.ndarray, np.ndarray]:
        """The parameters (1, 9) and floor (1,) of the likeliest member at its best floor."""
        return self._likeliest.typical

    def _x(self, budget_flops: float) -> float:
        return math.log(budget_flops) - self.runs.x0


def predictor(table: Table, *, kappa: float | None = None) -> Predictor:
    """Fit the family to the runs of `table`. kappa: C / (N D), estimated when None."""
    runs = runs_of(table)
    runs = runs if kappa is None else replace(runs, kappa=kappa)
    budgets = len(runs.node_x)
    asked = MEMBERS if budgets >= LEAST_FOR_BEND else MEMBERS[:-1]
    members = [Member(name, runs, walks and budgets > 1).fit() for name, walks in asked]
    scores = np.array([member.sizes.evidence for member in members]) + np.log(ODDS[: len(members)])
    return Predictor(runs, tuple(members), np.exp(scores - np.logaddexp.reduce(scores)))


def difference(a: np.ndarray, b: np.ndarray) -> tuple[Estimate, float]:
    """(b - a as an interval, the two-sided p-value of no difference) of two independent numbers, given by as many
    equally likely values (k,) each."""
    apart = np.sort((b[:, None] - a).ravel())
    below = float(np.mean(apart < 0))
    return Estimate(*np.quantile(apart, TAILS).tolist()), min(1.0, max(2 * min(below, 1 - below), LEAST_P))


def multiplier(a: Predictor, b: Predictor, budget_flops: float) -> Estimate | None:
    """FLOPs with which b reaches a's loss at a budget, over that budget; None where it never does."""
    goals = np.array([b.runs.inverse(a.runs.metric(goal)) for goal in a.loss(budget_flops).spread_out(100)])
    found = _crossing(math.log(budget_flops), lambda c: float(np.mean(b.loss(math.exp(c)).below(goals))))
    if found is None:
        return None
    low, high = (None if end is None else end / budget_flops for end in (found.low, found.high))
    return Estimate(found.value / budget_flops, low, high)


def _crossing(middle: float, reached: Callable[[float], float]) -> Estimate | None:
    """The budget at which a goal is reached: reached(ln C), its probability, rises. Sought within SPAN of e^middle,
    then closer."""
    log_c = middle + np.linspace(-math.log(SPAN), math.log(SPAN), GRID)
    rising = np.maximum.accumulate([reached(c) for c in log_c])
    within = np.flatnonzero((rising > 1e-3) & (rising < 1 - 1e-3))
    k = int(np.searchsorted(rising, 0.5))
    first, last = (within[0] - 1, within[-1] + 1) if len(within) else (k - 1, k)
    close = np.linspace(log_c[max(first, 0)], log_c[min(last, len(log_c) - 1)], GRID)
    rising = np.maximum.accumulate([reached(c) for c in close])

    def at(share: float) -> float | None:
        if rising[0] > share or rising[-1] < share:
            return None
        return math.exp(float(np.interp(share, rising, close)))

    value = at(0.5)
    return None if value is None else Estimate(value, at(TAILS[1]), at(TAILS[2]))


def _ends(mixture: Mixture, of: Callable[[float], float]) -> tuple[float, float, float]:
    """The median and the 95 % of a mixture, each taken through `of`, which is monotone."""
    return _through(mixture.quantiles(), of)


def _through(quantiles: np.ndarray, of: Callable[[float], float]) -> tuple[float, float, float]:
    value, *ends = (float(of(v)) for v in quantiles.tolist())
    return value, min(ends), max(ends)


def _estimate(mixture: Mixture, of: Callable[[float], float]) -> Estimate:
    return Estimate(*_ends(mixture, of))
