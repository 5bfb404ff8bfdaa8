"""The best learning rate by the size of model and data, from a sweep: log lr* = a + b log N + c log D.

At each (size, budget) a parabola of the loss in log rate has its minimum at lr*; the law is the straight line or plane
through these. Its form, log-linear in N and D, is that of the learning-rate law for video DiTs (arXiv 2411.17470).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ...errors import UserError
from ...units import compact, count
from ..estimates import Estimate, estimate, resample_counts, residual_draws, t_quantile
from ..minima.parabola import MIN_CURVATURE_T, design, vertex, vertex_covariance_of
from ..result import Result, read_result
from ..table import SAME_BUDGET, Exclusion

# With fewer best rates the law's intervals come from its residuals: drawing pairs of 12 covers 0.91 of a nominal 0.95.
PAIRS_FROM = 20


@dataclass(frozen=True)
class Trial(Result):
    """One run of a sweep. loss is None where it diverged; `recipe`: its rate is the one that the recipe gives."""

    run_id: str
    n_params: float  # N
    n_tokens: float  # D
    budget_flops: float
    lr: float
    loss: float | None
    recipe: bool = False


@dataclass(frozen=True)
class Lowest(Result):
    """The best rate that was tried, and its loss, a mean over seeds."""

    rate: float
    loss: float


@dataclass(frozen=True)
class BestRate(Result):
    """The best rate at one size and budget: the minimum of a parabola of the loss in log rate.

    rate, loss: the minimum, None when refused (`reasons`); curvature: per unit of (log rate)^2, relative to the mean
    loss; residual_rms: relative too. recipe_rate: what
    the recipe gives; factor: that over the best rate; excess: how much higher the parabola is there than at its
    minimum, relative. diverged: rates at which a run diverged.
    """

    COMPUTED = ("measured_excess", "swept")

    n_params: float
    n_tokens: float
    budget_flops: float
    n_runs: int
    status: Literal["ok", "refused"]
    reasons: tuple[str, ...]
    rate: Estimate | None
    loss: float | None
    curvature: float | None
    residual_rms: float | None
    lowest: Lowest | None
    recipe_rate: float | None
    factor: float | None
    excess: float | None
    diverged: tuple[float, ...]
    trials: tuple[Trial, ...]

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

    @property
    def swept(self) -> tuple[str, ...]:
        """The runs of the sweep itself."""
        return tuple(t.run_id for t in self.trials if not t.recipe)

    def contradiction(self) -> str:
        if min(self.n_params, self.n_tokens, self.budget_flops, *(t.lr for t in self.trials)) <= 0:
            return "a size, a budget or a rate is not positive"
        if self.ok and (None in (self.rate, self.loss) or self.rate.value <= 0):
            return "status is ok, but there is no best rate"
        return "" if self.ok or self.reasons else "status is refused, but there is no reason"


@dataclass(frozen=True)
class RateLaw(Result):
    """lr* = scale N^params D^tokens through the best rates of `cells`.

    scale, params, tokens: None when refused; tokens alone is None where one budget ties D to N (`reasons` says so).
    scatter: rms of log lr* about the law. resample: how the intervals were drawn. status: "ok" or "refused".
    """

    COMPUTED = ("overrides",)

    status: Literal["ok", "refused"]
    reasons: tuple[str, ...]
    cells: tuple[BestRate, ...]
    scale: Estimate | None
    params: Estimate | None
    tokens: Estimate | None
    scatter: float | None
    resample: str
    source: str = ""
    exclusions: tuple[Exclusion, ...] = ()

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    def rate_at(self, n_params, n_tokens):
        """The law's rate for N parameters and D tokens, broadcast over both. Raises UserError when it was refused."""
        if not self.ok:
            raise UserError(f"no learning-rate law: {'; '.join(self.reasons)}")
        powers = [(self.params, n_params), (self.tokens, n_tokens)]
        return self.scale.value * math.prod(np.asarray(x, dtype=float) ** e.value for e, x in powers if e is not None)

    @property
    def overrides(self) -> str:
        """The law as settings of a recipe, to paste; "" when it was refused."""
        if not self.ok:
            return ""
        b, c = (0.0 if e is None else e.value for e in (self.params, self.tokens))
        scale = f"recipe.lr_scale={self.scale.value:.6g} recipe.lr_width=0"
        return f"{scale} recipe.lr_params={b:.6g} recipe.lr_tokens={c:.6g}"

    def contradiction(self) -> str:
        lacking = self.ok and (None in (self.scale, self.scatter) or self.params is self.tokens is None)
        return "status is ok, but the law is missing" if lacking else ""

    def summary(self) -> str:
        """The law, a row a size, and the settings to paste."""
        good = [c for c in self.cells if c.ok]
        runs = sum(c.n_runs for c in self.cells)
        lines = [f"Learning rate: {runs} runs, {len(good)} of {len(self.cells)} cells (size, budget) with a best rate"]
        if self.ok:
            lines.append(f"  best rate = {self.formula()}, scatter about it {math.expm1(self.scatter):.1%}")
            for symbol, e in (("N", self.params), ("D", self.tokens)):
                if e is not None:
                    lines.append(f"  exponent of {symbol}: {e.value:.3f}{ends(e)}, by {self.resample} bootstrap")
        lines += [f"  {'' if self.ok else 'refused: '}{reason}" for reason in self.reasons]
        lines.append(
            f"{'N':>8} {'D':>8} {'budget':>9} {'best rate':>10} {'95 %':>19} {'recipe':>9} {'recipe/best':>11} "
            f"{'loss above':>10} {'measured':>9}"
        )
        for c in self.cells:
            best = (f"{c.rate.value:.3g}", ends(c.rate, "").strip(" ()")) if c.ok else ("refused", "")
            lines.append(
                f"{count(c.n_params):>8} {count(c.n_tokens):>8} {compact(c.budget_flops):>9} {best[0]:>10} "
                f"{best[1]:>19} {'' if c.recipe_rate is None else format(c.recipe_rate, '.3g'):>9} "
                f"{'' if c.factor is None else format(c.factor, '.2f'):>11} "
                f"{'' if c.excess is None else format(c.excess, '.2%'):>10} "
                f"{'' if c.measured_excess is None else format(c.measured_excess, '.2%'):>9}"
            )
        lines += [f"  {c.name}: {reason}" for c in self.cells for reason in c.reasons]
        lines += [f"  left out {e.run_id}: {e.reason}" for e in self.exclusions]
        return "\n".join([*lines, *([f"to use it: {self.overrides}"] if self.ok else [])])

    def formula(self) -> str:
        powers = [f" {x}^{e.value:.3f}" for x, e in (("N", self.params), ("D", self.tokens)) if e is not None]
        return f"{self.scale.value:.3g}{''.join(powers)}"


def ends(e: Estimate, before: str = " ") -> str:
    """' (0.1 .. 0.2)', or '' where there is no interval."""
    if e.low is None and e.high is None:
        return ""
    low, high = ("?" if x is None else format(x, ".3g") for x in (e.low, e.high))
    return f"{before}({low} .. {high})"


def fit_rates(trials, bootstrap: int = 1000, seed: int = 0, source: str = "", exclusions=()) -> RateLaw:
    """Fit the best rate of every size and budget in `trials`, and the law through them.

    Runs with equal N, D and budget are one cell; their scatter about the parabolas, relative to the loss, is pooled
    over cells. A diverged run bounds its cell's best rate from above, and rates from there on enter no parabola.
    Intervals of the law: by drawing pairs, that is cells, where there are PAIRS_FROM, else by its residuals
    (estimates.py). Raises UserError when there is nothing to fit.
    """
    cells: dict[tuple, list[Trial]] = {}
    for t in trials:
        cells.setdefault((t.budget_flops, t.n_params, t.n_tokens), []).append(t)
    if not cells:
        raise UserError(
            f"{source or 'sweep'}: no run of a learning-rate sweep has ended; `ditscale launch` trains them"
        )
    groups = [sorted(cells[key], key=lambda t: t.lr) for key in sorted(cells)]
    noise = _noise(groups)
    best = tuple(_best(group, noise) for group in groups)
    return _law(best, bootstrap, seed, source, tuple(Exclusion(*pair) for pair in exclusions))


def read_rates(path: Path | str) -> RateLaw:
    """The law in a rates.json. Raises UserError, in one line, where it is missing or damaged."""
    return read_result(RateLaw, path, "rates")


def _usable(group: list[Trial]) -> list[Trial]:
    """The runs below the lowest rate at which one diverged: from there on all that is known is that it is too high."""
    limit = min((t.lr for t in group if t.loss is None), default=math.inf)
    return [t for t in group if t.lr < limit]


def _parabola(runs: list[Trial]):
    """(center of log rate, mean loss, basis (n, 3), losses over their mean (n,), coefficients (3,))."""
    x, y = np.log([t.lr for t in runs]), np.array([t.loss for t in runs])
    basis, scaled = design(x - x.mean()), y / y.mean()
    return x.mean(), y.mean(), basis, scaled, np.linalg.lstsq(basis, scaled, rcond=None)[0]


def _noise(groups: list[list[Trial]]) -> tuple[float, int]:
    """(variance of a run's relative loss about its parabola, degrees of freedom), pooled over cells."""
    total, dof = 0.0, 0
    for runs in map(_usable, groups):
        if len({t.lr for t in runs}) >= 3:
            *_, basis, scaled, coefficients = _parabola(runs)
            total += float(np.sum((scaled - basis @ coefficients) ** 2))
            dof += len(runs) - 3
    return (total / dof if dof else math.nan), dof


def _best(group: list[Trial], noise: tuple[float, int]) -> BestRate:
    runs, variance, dof = _usable(group), *noise
    diverged = tuple(sorted({t.lr for t in group if t.loss is None}))
    limit = diverged[0] if diverged else math.inf
    rates = sorted({t.lr for t in runs})
    means = [float(np.mean([t.loss for t in runs if t.lr == rate])) for rate in rates]
    lowest = min(range(len(rates)), key=means.__getitem__, default=None)
    own = next((t.lr for t in group if t.recipe), None)
    found = dict(
        n_params=group[0].n_params, n_tokens=group[0].n_tokens, budget_flops=group[0].budget_flops,
        n_runs=len(group), lowest=None if lowest is None else Lowest(rates[lowest], means[lowest]), recipe_rate=own,
        diverged=diverged, trials=tuple(group), rate=None, loss=None, curvature=None, residual_rms=None, factor=None,
        excess=None,
    )  # fmt: skip
    below = f", below {limit:.3g} where a run diverged" if diverged else ""

    def refused(reason: str) -> BestRate:
        return BestRate(status="refused", reasons=(reason,), **found)

    if len(rates) < 3:
        some = f"{len(rates)} rate{'s' * (len(rates) != 1)}"
        return refused(f"{some} finished{below}; a parabola takes three: extend rates")
    if lowest == 0 or lowest == len(rates) - 1 and not diverged:
        which, way = ("lowest", "down") if lowest == 0 else ("highest", "up")
        return refused(
            f"the loss is lowest at the {which} rate tried ({rates[lowest]:.3g}), so a better one may lie beyond: "
            f"extend rates {way}ward"
        )
    center, mean, basis, scaled, coefficients = _parabola(runs)
    residuals = scaled - basis @ coefficients
    found |= {"curvature": float(coefficients[2]), "residual_rms": float(np.sqrt(np.mean(residuals**2)))}
    if coefficients[2] <= 0:
        return refused(
            "the loss is not convex in log rate, so the parabola has no minimum: more seeds, or extend rates"
        )
    x, height, _ = (float(v) for v in vertex(coefficients, "raw"))
    rate = math.exp(min(center + x, 700.0))
    if not rates[0] < rate < min(limit, math.inf if diverged else rates[-1]):
        way = "down" if rate <= rates[0] else "up"
        return refused(
            f"the parabola's minimum ({rate:.3g}) lies outside the rates tried ({rates[0]:.3g} to {rates[-1]:.3g})"
            f"{below}: extend rates {way}ward"
        )
    interval = Estimate(rate)
    if dof:
        covariance = variance * np.linalg.inv(basis.T @ basis)
        if coefficients[2] < MIN_CURVATURE_T * math.sqrt(covariance[2, 2]):
            return refused("the loss changes with the rate by no more than its noise: more seeds, or extend rates")
        half = t_quantile(0.975, dof) * math.sqrt(vertex_covariance_of(coefficients, covariance, "raw")[0, 0])
        interval = Estimate(rate, rate * math.exp(-half), rate * math.exp(half))
    found |= {"rate": interval, "loss": height * mean}
    if own is not None:
        found |= {"factor": own / rate, "excess": float(coefficients[2]) * math.log(own / rate) ** 2 / height}
    note = f"rates from {limit:.3g} on diverge; they bound the best rate from above and are in no parabola"
    return BestRate(status="ok", reasons=(note,) * bool(diverged), **found)


def _law(cells: tuple[BestRate, ...], bootstrap: int, seed: int, source: str, exclusions) -> RateLaw:
    good = [c for c in cells if c.ok]
    budgets = _distinct([c.budget_flops for c in good], SAME_BUDGET)
    sizes = _distinct([c.n_params for c in good], 1.01)
    with_n, with_d = sizes > 1, budgets > 1
    needed = 2 + with_n + with_d

    def refused(reason: str) -> RateLaw:
        return RateLaw("refused", (reason,), cells, None, None, None, None, "", source, exclusions)

    if not (with_n or with_d) or len(good) < needed:
        at = f"at {budgets} budget{'s' * (budgets != 1)}"
        return refused(
            f"{len(good)} of {len(cells)} cells (size, budget) have a best rate, {at}; a law takes {max(needed, 3)}"
        )
    reasons = []
    if not with_d:
        reasons.append(
            "at one budget D = C / (kappa N), so the exponents of N and D cannot be told apart: the one of N stands "
            "for both, and holds at this budget alone; sweep a second budget (rate_budgets) to have both"
        )
    if not with_n:
        reasons.append("all best rates are of one size, so the exponent of N is not known: the one of D stands alone")
    x = np.log([[v for v, there in ((c.n_params, with_n), (c.n_tokens, with_d)) if there] for c in good])
    y = np.log([c.rate.value for c in good])
    basis = np.column_stack([np.ones(len(y)), x - x.mean(axis=0)])
    if np.linalg.cond(basis / np.linalg.norm(basis, axis=0)) > 100:
        return refused(
            "N and D change together in these runs, so their exponents cannot be told apart: sweep more sizes"
        )
    solved = np.linalg.lstsq(basis, y, rcond=None)[0]
    fitted = basis @ solved
    how = "pairs" if len(good) >= PAIRS_FROM else "residual"
    if how == "residual":
        draws = residual_draws(fitted, y - fitted, basis.shape[1], bootstrap, seed) @ np.linalg.pinv(basis).T
    else:
        draws = _by_pairs(basis, y, resample_counts([np.arange(len(y))], len(y), bootstrap, seed))
    scale = np.exp(draws[:, 0] - draws[:, 1:] @ x.mean(axis=0))
    exponents = [estimate(v, d) for v, d in zip(solved[1:], draws[:, 1:].T, strict=True)]
    named = dict(zip([n for n, there in (("params", with_n), ("tokens", with_d)) if there], exponents, strict=True))
    return RateLaw(
        status="ok",
        reasons=tuple(reasons),
        cells=cells,
        scale=estimate(math.exp(solved[0] - solved[1:] @ x.mean(axis=0)), scale),
        params=named.get("params"),
        tokens=named.get("tokens"),
        scatter=float(np.sqrt(np.mean((y - fitted) ** 2))),
        resample=how,
        source=source,
        exclusions=exclusions,
    )


def _by_pairs(basis: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Least squares (R, p) of each resample; counts (R, n). Resamples that do not span the basis give NaN."""
    normal = np.einsum("rn,np,nq->rpq", counts, basis, basis)
    poor = np.linalg.cond(normal) > 1e10
    normal[poor] = np.eye(basis.shape[1])
    solved = np.linalg.solve(normal, ((counts * y) @ basis)[..., None])[..., 0]
    solved[poor] = np.nan
    return solved


def _distinct(values: list[float], ratio: float) -> int:
    """How many values there are, those within `ratio` of a group's smallest being one."""
    seen: list[float] = []
    for value in sorted(values):
        if not seen or value > ratio * seen[-1]:
            seen.append(value)
    return len(seen)
