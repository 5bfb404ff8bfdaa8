"""The best learning rate by the size of model and data, from a sweep: log lr* = a + b log N + c log D.

At each (size, budget) a parabola of the loss in log rate has its minimum at lr*; the law is the straight line or plane
through these. Its form, log-linear in N and D, is that of the learning-rate law for video DiTs (arXiv 2411.17470)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Iterable, Literal

import numpy as np
from numpy.typing import ArrayLike

from ...errors import UserError
from ...result import Result
from ...tables.table import SAME_BUDGET, Exclusion
from ...units import compact, count
from ..estimates import Estimate, student
from ..minima.parabola import MIN_CURVATURE_T, Noise, Quadratic, pooled, quadratic, vertex, vertex_covariance_of
from ..notebook import Shown
from ..text import columns, ends
from .trials import Trial, read_trials

ONE_BUDGET = (
    "at one budget D = C / (kappa N), so the exponents of N and D cannot be told apart: the one of N stands for both, "
    "and holds at this budget alone; sweep a second budget (rate_budgets) to have both"
)


@dataclass(frozen=True)
class Lowest(Result):
    """The best rate that was tried, and its loss, a mean over seeds."""

    rate: float
    loss: float


@dataclass(frozen=True)
class BestRate(Result):
    """The best rate at one size and budget: the minimum of a parabola of the loss in log rate. rate, loss: the minimum,
    None when refused (`reasons`); curvature: per unit of (log rate)^2, relative to the mean loss; residual_rms:
    relative too. recipe_rate: what the recipe gives; factor: that over the best rate; excess: how much higher the
    parabola is there than at its minimum, relative. diverged: rates at which a run diverged."""

    COMPUTED = ("measured_excess", "swept")

    n_params: float
    n_tokens: float
    budget_flops: float
    n_runs: int
    status: Literal["ok", "refused"]
    reasons: tuple[str, ...]
    diverged: tuple[float, ...]
    trials: tuple[Trial, ...]
    rate: Estimate | None = None
    loss: float | None = None
    curvature: float | None = None
    residual_rms: float | None = None
    lowest: Lowest | None = None
    recipe_rate: float | None = None
    factor: float | None = None
    excess: float | None = None

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    @property
    def measured_excess(self) -> float | None:
        """How much higher the recipe's loss was than the lowest that was tried, relative; no curve enters it."""
        own = [t.loss for t in self.trials if t.recipe and t.loss is not None]
        return float(np.mean(own)) / self.lowest.loss - 1 if own and self.lowest else None

    @property
    def name(self) -> str:
        return f"N = {count(self.n_params)} at {compact(self.budget_flops)} FLOPs"

    def row(self) -> list[str]:
        """Its cells in the table of `RateLaw.summary`."""
        best = ["refused", ""] if self.rate is None else [f"{self.rate.value:.3g}", ends(self.rate, "{:.3g}".format)]
        given = ((self.recipe_rate, ".3g"), (self.factor, ".2f"), (self.excess, ".2%"), (self.measured_excess, ".2%"))
        cell = [count(self.n_params), count(self.n_tokens), compact(self.budget_flops)]
        return [*cell, *best, *("" if v is None else format(v, form) for v, form in given)]

    @property
    def swept(self) -> tuple[str, ...]:
        """The runs of the sweep itself."""
        return tuple(t.run_id for t in self.trials if not t.recipe)

    def contradiction(self) -> str:
        if min(self.n_params, self.n_tokens, self.budget_flops, *(t.lr for t in self.trials)) <= 0:
            return "a size, a budget or a rate is not positive"
        if self.ok and (self.rate is None or self.loss is None or self.rate.value <= 0):
            return "status is ok, but there is no best rate"
        return "" if self.ok or self.reasons else "status is refused, but there is no reason"


@dataclass(frozen=True, repr=False)
class RateLaw(Shown):
    """lr* = scale N^params D^tokens through the best rates of `cells`. scale, params, tokens: None when refused; tokens
    alone is None where one budget ties D to N (`reasons` says so). scatter: rms of log lr* about the law.
    status: "ok" or "refused"."""

    COMPUTED = ("overrides",)

    status: Literal["ok", "refused"]
    reasons: tuple[str, ...]
    cells: tuple[BestRate, ...]
    scale: Estimate | None = None
    params: Estimate | None = None
    tokens: Estimate | None = None
    scatter: float | None = None
    source: str = ""
    exclusions: tuple[Exclusion, ...] = ()

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    def _values(self) -> tuple[float, float, float]:
        """Scale and exponents of N and D, 0 where there is none. Raises UserError when the law was refused."""
        if self.scale is None:
            raise UserError(f"no learning-rate law: {'; '.join(self.reasons)}")
        b, c = (0.0 if e is None else e.value for e in (self.params, self.tokens))
        return self.scale.value, b, c

    def rate_at(self, n_params: ArrayLike, n_tokens: ArrayLike) -> np.ndarray:
        """The law's rate for N parameters and D tokens, broadcast over both. Raises UserError when it was refused."""
        scale, b, c = self._values()
        return scale * (np.asarray(n_params, dtype=float) ** b * np.asarray(n_tokens, dtype=float) ** c)

    @property
    def overrides(self) -> str:
        """The law as settings of a recipe, to paste; "" when it was refused."""
        if not self.ok:
            return ""
        scale, b, c = self._values()
        return f"recipe.lr_scale={scale:.6g} recipe.lr_width=0 recipe.lr_params={b:.6g} recipe.lr_tokens={c:.6g}"

    def contradiction(self) -> str:
        lacking = self.ok and (None in (self.scale, self.scatter) or self.params is self.tokens is None)
        return "status is ok, but the law is missing" if lacking else ""

    def heading(self) -> str:
        return f"best rate = {self.formula()}" if self.ok else f"no learning-rate law: {'; '.join(self.reasons)}"

    def main(self) -> dict[str, Estimate]:
        return {cell.name: cell.rate for cell in self.cells if cell.rate}

    def summary(self) -> str:
        """The law, a row a size, and the settings to paste."""
        good, runs = sum(c.ok for c in self.cells), sum(c.n_runs for c in self.cells)
        lines = [f"Learning rate: {runs} runs, {good} of {len(self.cells)} cells (size, budget) with a best rate"]
        if self.ok:
            lines.append(f"  best rate = {self.formula()}, scatter about it {math.expm1(self.scatter or 0.0):.1%}")
            for symbol, e in (("N", self.params), ("D", self.tokens)):
                span = f" ({spread})" if e and (spread := ends(e, "{:.3g}".format)) else ""
                lines += [f"  exponent of {symbol}: {e.value:.3f}{span}"] if e else []
        lines += [f"  {'' if self.ok else 'refused: '}{reason}" for reason in self.reasons]
        head = ("N", "D", "budget", "best rate", "95 %", "recipe", "recipe/best", "loss above", "measured")
        lines += columns([[*head], *(c.row() for c in self.cells)], "")
        lines += [f"  {c.name}: {reason}" for c in self.cells for reason in c.reasons]
        lines += [f"  left out {e.run_id}: {e.reason}" for e in self.exclusions]
        return "\n".join([*lines, *([f"to use it: {self.overrides}"] if self.ok else [])])

    def formula(self) -> str:
        powers = [f" {x}^{e.value:.3f}" for x, e in (("N", self.params), ("D", self.tokens)) if e is not None]
        return f"{self._values()[0]:.3g}{''.join(powers)}"


def read_rates(path: Path | str) -> RateLaw:
    """The law in a rates.json. Raises UserError, in one line, where it is missing or damaged."""
    return RateLaw.from_file(path, "rates")


def fit_rates(
    trials: Any, bootstrap: int = 0, seed: int = 0, source: str = "", exclusions: Iterable[tuple[str, str]] = (),
) -> RateLaw:  # fmt: skip
    """Fit the best rate of every size and budget in `trials`, and the law through them.

    trials: a list of `Trial`, or whatever `read_trials` reads. Runs with equal N, D and budget are one cell; their
    scatter about the parabolas, relative to the loss, is pooled over cells. A diverged run bounds its cell's best rate
    from above, and rates from there on enter no parabola. Intervals are by Student's t. bootstrap and seed have no
    effect: older scripts pass them. Raises UserError when there is nothing to fit.

        ds.fit_rates("sweep.csv").summary()
    """
    if isinstance(trials, (str, Path, Mapping)) or hasattr(trials, "columns"):
        trials, left_out = read_trials(trials)
        exclusions = (*exclusions, *left_out)
    cells: dict[tuple[float, float, float], list[Trial]] = {}
    for t in trials:
        cells.setdefault((t.budget_flops, t.n_params, t.n_tokens), []).append(t)
    if not cells:
        none = "no run of a learning-rate sweep has ended; `ditscale launch` trains them"
        raise UserError(f"{source or 'sweep'}: {none}")
    groups = [sorted(cells[key], key=lambda t: t.lr) for key in sorted(cells)]
    able = (runs for runs in map(_usable, groups) if len({rate for rate, _ in runs}) >= 3)
    noise = pooled(_parabola(runs)[2].residuals for runs in able)
    law = _law(tuple(_best(group, noise) for group in groups))
    return replace(law, source=source, exclusions=tuple(Exclusion(*pair) for pair in exclusions))


def _usable(group: list[Trial]) -> list[tuple[float, float]]:
    """(rate, loss) of the runs below the lowest rate at which one diverged: from there on it is only known too high."""
    limit = min((t.lr for t in group if t.loss is None), default=math.inf)
    return [(t.lr, t.loss) for t in group if t.loss is not None and t.lr < limit]


def _parabola(runs: list[tuple[float, float]]) -> tuple[float, float, Quadratic]:
    """Mean log rate, mean loss, and the parabola of the losses over their mean in log rate about its mean."""
    x, y = np.log([rate for rate, _ in runs]), np.array([loss for _, loss in runs])
    return x.mean(), y.mean(), quadratic(x - x.mean(), y / y.mean())


def _best(group: list[Trial], noise: Noise) -> BestRate:
    runs, first = _usable(group), group[0]
    diverged = tuple(sorted({t.lr for t in group if t.loss is None}))
    limit = diverged[0] if diverged else math.inf
    rates = sorted({rate for rate, _ in runs})
    means = [float(np.mean([loss for rate, loss in runs if rate == at])) for at in rates]
    lowest = min(range(len(rates)), key=means.__getitem__, default=None)
    own = next((t.lr for t in group if t.recipe), None)
    best = BestRate(
        first.n_params, first.n_tokens, first.budget_flops, len(group), "refused", (), diverged, tuple(group),
        lowest=None if lowest is None else Lowest(rates[lowest], means[lowest]), recipe_rate=own,
    )  # fmt: skip
    below = f", below {limit:.3g} where a run diverged" if diverged else ""

    def refused(reason: str) -> BestRate:
        return replace(best, reasons=(reason,))

    if len(rates) < 3:
        some = f"{len(rates)} rate{'s' * (len(rates) != 1)}"
        return refused(f"{some} finished{below}; a parabola takes three: extend rates")
    if lowest is None or lowest == 0 or lowest == len(rates) - 1 and not diverged:
        which, way = ("highest", "up") if lowest else ("lowest", "down")
        tried = f"the loss is lowest at the {which} rate tried ({rates[lowest or 0]:.3g})"
        return refused(f"{tried}, so a better one may lie beyond: extend rates {way}ward")
    center, mean, p = _parabola(runs)
    c2 = float(p.coefficients[2])
    best = replace(best, curvature=c2, residual_rms=float(np.sqrt(np.mean(p.residuals**2))))
    if c2 <= 0:
        text = "the loss is not convex in log rate, so the parabola has no minimum"
        return refused(f"{text}: more seeds, or extend rates")
    x, height, _ = (float(v) for v in vertex(p.coefficients, "raw"))
    rate = math.exp(min(center + x, 700.0))
    if not rates[0] < rate < min(limit, math.inf if diverged else rates[-1]):
        tried = f"the parabola's minimum ({rate:.3g}) lies outside the rates tried ({rates[0]:.3g} to {rates[-1]:.3g})"
        return refused(f"{tried}{below}: extend rates {'down' if rate <= rates[0] else 'up'}ward")
    covariance = noise.variance * p.covariance
    if c2 < MIN_CURVATURE_T * math.sqrt(covariance[2, 2]):
        return refused("the loss changes with the rate by no more than its noise: more seeds, or extend rates")
    se = math.sqrt(vertex_covariance_of(p.coefficients, covariance, "raw")[0, 0])
    interval = student(math.log(rate), se, noise.dof).exp()
    if own is not None:
        best = replace(best, factor=own / rate, excess=c2 * math.log(own / rate) ** 2 / height)
    note = f"rates from {limit:.3g} on diverge; they bound the best rate from above and are in no parabola"
    return replace(best, status="ok", reasons=(note,) * bool(diverged), rate=interval, loss=height * mean)


def _law(cells: tuple[BestRate, ...]) -> RateLaw:
    good = [(c, c.rate.value) for c in cells if c.rate is not None]
    budgets = _distinct([c.budget_flops for c, _ in good], SAME_BUDGET)
    sizes, tokens = (_distinct([getattr(c, name) for c, _ in good], 1.01) for name in ("n_params", "n_tokens"))
    with_n, with_d = sizes > 1, budgets > 1 and tokens > 1
    needed, reasons = 2 + with_n + with_d, []

    def refused(reason: str) -> RateLaw:
        return RateLaw("refused", (reason,), cells)

    if not (with_n or with_d) or len(good) < needed:
        at = f"at {budgets} budget{'s' * (budgets != 1)}; a law takes {max(needed, 3)}"
        return refused(f"{len(good)} of {len(cells)} cells (size, budget) have a best rate, {at}")
    if not with_d:
        equal = "all runs have equally many tokens: the exponent of D is not known"
        reasons.append(ONE_BUDGET if budgets == 1 else equal)
    if not with_n:
        reasons.append("all best rates are of one size, so the exponent of N is not known: the one of D stands alone")
    x = np.log([[v for v, there in ((c.n_params, with_n), (c.n_tokens, with_d)) if there] for c, _ in good])
    y = np.log([rate for _, rate in good])
    basis = np.column_stack([np.ones(len(y)), x - x.mean(axis=0)])
    if np.linalg.cond(basis / np.linalg.norm(basis, axis=0)) > 100:
        text = "N and D change together in these runs, so their exponents cannot be told apart"
        return refused(f"{text}: sweep more sizes")
    solved = np.linalg.lstsq(basis, y, rcond=None)[0]
    square, dof = float(np.sum((y - basis @ solved) ** 2)), len(y) - basis.shape[1]
    covariance = square / dof * np.linalg.inv(basis.T @ basis)
    at_one = np.append(1.0, -x.mean(axis=0))  # of ln scale, at N = D = 1
    scale, *exponents = (
        student(solved @ row, math.sqrt(row @ covariance @ row), dof) for row in (at_one, *np.eye(len(solved))[1:])
    )
    of_n, of_d = exponents[0] if with_n else None, exponents[-1] if with_d else None
    scatter = math.sqrt(square / len(y))
    return RateLaw("ok", tuple(reasons), cells, scale.exp(), of_n, of_d, scatter)


def _distinct(values: list[float], ratio: float) -> int:
    """How many values there are, those within `ratio` of a group's smallest being one."""
    seen: list[float] = []
    for value in sorted(values):
        seen += [value] if not seen or value > ratio * seen[-1] else []
    return len(seen)
