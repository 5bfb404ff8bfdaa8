"""`Predictor`: one answer to every question about the frontier, a mixture over the members of the family."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Callable

import numpy as np

from ..estimates import Estimate
from ..result import Result
from ..table import Table
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


@dataclass(frozen=True)
class Optimum(Result):
    """The optimum at one budget: N*, D* and L*."""

    n_params: Estimate
    n_tokens: Estimate
    loss: Estimate


@dataclass(frozen=True)
class AtSize(Result):
    """A model of a given size at a budget. loss: of it; penalty: that loss over the optimum's, less 1 (of a metric of
    either sign: the difference); flops_share: the budget at which the optimum reaches that loss, over this budget."""

    n_params: float
    n_tokens: float
    loss: Estimate
    penalty: Estimate
    flops_share: Estimate


@dataclass(frozen=True)
class Part:
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

    # ------------------------------------------------------------------------------------------------------- answers

    def optimum(self, budget_flops: float) -> Optimum:
        """N*, D* and L* at a budget in FLOPs."""
        n_params = _estimate(self.place(budget_flops), lambda v: math.exp(v + self.runs.z0))
        n_tokens = _estimate(self.place(budget_flops), lambda v: self._tokens(budget_flops, math.exp(v + self.runs.z0)))
        return Optimum(n_params, n_tokens, _estimate(self.loss(budget_flops), self._metric))

    def one_run(self, budget_flops: float) -> Estimate:
        """What one new run at the optimum will measure: with its scatter."""
        return _estimate(self.loss(budget_flops, scatter=2), self._metric)

    def slice_minimum(self, budget_flops: float, se: float) -> Estimate:
        """What the minimum of a slice of runs at a budget will be measured as, its own standard error being se."""
        value = _estimate(self.loss(budget_flops, scatter=1), self._metric)
        low, high = (value.value + math.hypot(end - value.value, 1.96 * se) * side for end, side in _sides(value))
        return Estimate(value.value, low, high)

    @property
    def exponents(self) -> tuple[str, ...]:
        """Of `exponent`: a metric of either sign has none of its own."""
        return ("model", "data", "loss") if self.runs.log else ("model", "data")

    def exponent(self, name: str, budget_flops: float) -> Estimate:
        """d ln N* / d ln C ("model"), d ln D* / d ln C ("data") or d ln L* / d ln C ("loss") at a budget."""
        return _estimate(self.slope(budget_flops, name), float)

    def comparable(self, budget_flops: float) -> np.ndarray:
        """Equally likely values of ln L* or, of a metric of either sign, of the metric, negated where higher is
        better."""
        return self.runs.shift + self.runs.scale * self.loss(budget_flops).spread_out()

    def budget_for(self, metric: float) -> Estimate | None:
        """FLOPs at which the optimum reaches a value of the metric; an end is None where no budget within SPAN of the
        grid's largest does, and the whole is None where not even the middle does."""
        goal = self.runs.inverse(metric)
        log_c = self._budgets(float(self.runs.node_x[-1]) + self.runs.x0)
        return _crossing(log_c, lambda c: float(self.loss(math.exp(c)).below(goal)))

    def at_size(self, budget_flops: float, n_params: float) -> AtSize:
        """A model of n_params trained with a budget: its loss, and what it costs beside the optimum."""
        x, last, log = self._x(budget_flops), float(self.runs.node_x[-1]), self.runs.log
        z = math.log(n_params) - self.runs.z0

        def own(full: np.ndarray, floor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            value, gradient = form.off_optimum(full, floor, x, z, last)
            return (np.log(value), gradient / value[:, None]) if log else (value, gradient)

        def over(full: np.ndarray, floor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            value, gradient = own(full, floor)
            best, by_best = self._frontier(full, floor, x)
            return value - best, gradient - by_best

        full, floor = self._typical()
        step = np.array([form.off_optimum(full, floor, x, z + h, last)[0][0] for h in (-1e-4, 1e-4)])
        by_place = -float(np.diff(np.log(step) if log else step)[0]) / 2e-4
        loss = self._ask(Quantity(own, x, level=1.0, place=by_place))
        penalty = self._ask(Quantity(over, x, place=by_place))
        # An excess is never negative, whatever a linear step says.
        excess = _estimate(penalty, lambda v: max(math.expm1(v) if log else self.runs.scale * v, 0.0))
        # This loss and the optimum's share nearly all of what is not known, so their medians are compared.
        log_c = np.linspace(x - math.log(SPAN), x, GRID)
        at = [float(self._frontier(full, floor, c)[0][0]) for c in log_c]
        goal = at[-1] + np.maximum(penalty.quantiles(), 0)
        shares = np.exp(np.interp(-goal, -np.array(at), log_c) - x)
        share = Estimate(float(shares[0]), float(shares.min()), float(shares.max()))
        return AtSize(n_params, self._tokens(budget_flops, n_params), _estimate(loss, self._metric), excess, share)

    def regret(self, budget_flops: float, n_params: float) -> float:
        """Expected share of the budget that is lost by training n_params rather than N*, which nobody knows: the mean
        of 1 - C' / C, where C' is what the optimum needs for the same loss."""
        x, z = self._x(budget_flops), math.log(n_params) - self.runs.z0
        last, total = float(self.runs.node_x[-1]), 0.0
        for weight, member in self._kept():
            says = member.says(Quantity(lambda full, floor: form.place(full, x, last), x, place=1.0))
            full, floor = member.likely()
            nodes = np.linspace(-2.4, 2.4, 25)
            density = np.exp(-0.5 * nodes**2)
            k, g, c, d = (full[:, i, None] for i in (form.K, form.G, form.C, form.D))
            p, q = np.exp(full[:, form.LOG_P, None]), np.exp(full[:, form.LOG_Q, None])
            u = z - (says.means[:, None] + says.spreads[:, None] * nodes)
            h = (q * np.exp(-p * u) + p * np.exp(q * u)) / (p + q)
            lost = np.exp(c - d * x) * (h - 1) / np.exp(k - g * x)
            share = 1 - np.exp(-np.log1p(lost) / np.maximum(g, 1e-3))
            total += weight * float(says.weights @ (share @ density) / density.sum())
            del floor
        return total

    def by_form(self, budget_flops: float) -> dict[str, Part]:
        """{member: what it says for itself}; the surface with and without drift is one."""
        out = {}
        for name in dict.fromkeys(member.name for member in self.members):
            pairs = [(w, m) for w, m in zip(self.weights.tolist(), self.members, strict=True) if m.name == name]
            weight = sum(w for w, _ in pairs)
            says = Mixture.of([(max(w, 1e-12), m.says(self._loss(budget_flops, 2))) for w, m in pairs])
            likeliest = max(pairs, key=lambda pair: pair[0])[1]
            out[name] = Part(weight, _estimate(says, self._metric), likeliest.parameters())
        return out

    @property
    def run_scatter(self) -> float:
        """Rms scatter of one run alone, relative or, of a metric of either sign, in its units."""
        member = self.members[int(np.argmax(self.weights))]
        return float(math.exp(member.sizes.phi[0])) * (1.0 if self.runs.log else self.runs.scale)

    @property
    def share_sizes(self) -> bool:
        """Whether runs of one size share more of their error than each has alone."""
        member = self.members[int(np.argmax(self.weights))]
        sizes = dict(zip(member.parts.names, member.sizes.phi, strict=True))
        return bool(sizes.get("size", -1.0) > 0)

    def frontier_line(self) -> tuple[float, float, float]:
        """(ln C, ln N*, d ln N* / d ln C) at the middle of the budgets, by the likeliest member."""
        full, _ = self._typical()
        last = float(self.runs.node_x[-1])
        return self.runs.x0, float(form.place(full, 0.0, last)[0][0]) + self.runs.z0, float(full[0, form.A])

    # ------------------------------------------------------------------------------------------------- distributions

    def loss(self, budget_flops: float, scatter: int = 0) -> Mixture:
        """Of y (ln of the metric, or the scaled metric) at the optimum; scatter: see `Quantity`."""
        return self._ask(self._loss(budget_flops, scatter))

    def _loss(self, budget_flops: float, scatter: int) -> Quantity:
        x = self._x(budget_flops)
        z = float(form.place(self._typical()[0], x, float(self.runs.node_x[-1]))[0][0]) if scatter else 0.0
        return Quantity(lambda full, floor: self._frontier(full, floor, x), x, level=1.0, scatter=scatter, z=z)

    def place(self, budget_flops: float) -> Mixture:
        """Of ln N*, less `runs.z0`."""
        x, last = self._x(budget_flops), float(self.runs.node_x[-1])
        return self._ask(Quantity(lambda full, floor: form.place(full, x, last), x, place=1.0))

    def slope(self, budget_flops: float, name: str = "model") -> Mixture:
        """Of the exponents of `exponent`."""
        x, last = self._x(budget_flops), float(self.runs.node_x[-1])
        if name == "loss":
            return self._ask(Quantity(lambda full, floor: form.loss_slope(full, floor, x), x))
        model = self._ask(Quantity(lambda full, floor: form.slope(full, x, last), x))
        return model if name == "model" else replace(model, means=1 - model.means)

    def _ask(self, quantity: Quantity) -> Mixture:
        return Mixture.of([(weight, member.says(quantity)) for weight, member in self._kept()])

    def _kept(self) -> list[tuple[float, Member]]:
        pairs = zip(self.weights.tolist(), self.members, strict=True)
        return [(weight, member) for weight, member in pairs if weight > NEGLIGIBLE]

    def _frontier(self, full: np.ndarray, floor: np.ndarray, x: float) -> tuple[np.ndarray, np.ndarray]:
        value, gradient = form.frontier(full, floor, x)
        return (np.log(value), gradient / value[:, None]) if self.runs.log else (value, gradient)

    def _typical(self) -> tuple[np.ndarray, np.ndarray]:
        """The parameters (1, 9) and floor (1,) of the likeliest member at its best floor."""
        member = self.members[int(np.argmax(self.weights))]
        best = slice(member.best, member.best + 1)
        return form.expand(member.name, member.theta[best])[0], member.floors[best]

    def _x(self, budget_flops: float) -> float:
        return math.log(budget_flops) - self.runs.x0

    def _metric(self, y: float) -> float:
        return float(self.runs.metric(y))

    def _tokens(self, budget_flops: float, n_params: float) -> float:
        return budget_flops / self.runs.kappa / n_params

    def _budgets(self, log_c: float) -> np.ndarray:
        return log_c + np.linspace(-math.log(SPAN), math.log(SPAN), GRID)


def predictor(table: Table, *, kappa: float | None = None, higher_is_better: bool = False) -> Predictor:
    """Fit the family to the runs of `table`. The errors of a loss or a FID are relative, those of any other metric
    absolute: it may have either sign. kappa: C / (N D), estimated when None."""
    runs = runs_of(table, log=table.info_of(table.metric).positive, higher_is_better=higher_is_better)
    runs = runs if kappa is None else replace(runs, kappa=kappa)
    budgets = len(runs.node_x)
    members = [
        Member(name, runs, walks and budgets > 1).fit()
        for name, walks in MEMBERS
        if name != "bent" or budgets >= LEAST_FOR_BEND
    ]
    scores = np.array([member.sizes.evidence for member in members]) + np.log(ODDS[: len(members)])
    return Predictor(runs, tuple(members), np.exp(scores - np.logaddexp.reduce(scores)))


# ------------------------------------------------------------------------------------------------------- two predictors


def difference(a: np.ndarray, b: np.ndarray) -> tuple[Estimate, float]:
    """(b - a as an interval, the two-sided p-value of no difference) of two independent numbers, given by as many
    equally likely values (k,) each."""
    apart = np.sort((b[:, None] - a).ravel())
    middle, low, high = (float(np.quantile(apart, share)) for share in TAILS)
    below = float(np.mean(apart < 0))
    return Estimate(middle, low, high), float(min(1.0, max(2 * min(below, 1 - below), LEAST_P)))


def multiplier(a: Predictor, b: Predictor, budget_flops: float) -> Estimate | None:
    """FLOPs with which b reaches a's loss at a budget, over that budget; None where it never does."""
    goals = a.loss(budget_flops).spread_out(100)
    goals = np.array([b.runs.inverse(float(a.runs.metric(goal))) for goal in goals])
    log_c = b._budgets(math.log(budget_flops))
    found = _crossing(log_c, lambda c: float(np.mean(b.loss(math.exp(c)).below(goals))))
    if found is None:
        return None
    low, high = (None if end is None else end / budget_flops for end in (found.low, found.high))
    return Estimate(found.value / budget_flops, low, high)


def _crossing(log_c: np.ndarray, reached: Callable[[float], float]) -> Estimate | None:
    """The budget at which a goal is reached: reached(ln C), its probability, rises with it. Looked for at log_c, then
    closer."""
    rising = np.maximum.accumulate([reached(c) for c in log_c])
    within = np.flatnonzero((rising > 1e-3) & (rising < 1 - 1e-3))
    if len(within):
        close = np.linspace(log_c[max(within[0] - 1, 0)], log_c[min(within[-1] + 1, len(log_c) - 1)], GRID)
    else:
        k = int(np.searchsorted(rising, 0.5))
        close = np.linspace(log_c[max(k - 1, 0)], log_c[min(k, len(log_c) - 1)], GRID)
    rising = np.maximum.accumulate([reached(c) for c in close])

    def at(share: float) -> float | None:
        if rising[0] > share or rising[-1] < share:
            return None
        return math.exp(float(np.interp(share, rising, close)))

    value = at(0.5)
    return None if value is None else Estimate(value, at(TAILS[1]), at(TAILS[2]))


def _sides(e: Estimate) -> list[tuple[float, int]]:
    return [(end, side) for end, side in ((e.low, -1), (e.high, 1)) if end is not None]


def _estimate(mixture: Mixture, of: Callable[[float], float]) -> Estimate:
    """The median and the 95 % of a mixture, each taken through `of`, which is monotone."""
    value, one, other = (of(float(v)) for v in mixture.quantiles())
    return Estimate(value, min(one, other), max(one, other))
