"""The best learning rate by the size of model and data, from a sweep: log lr* = a + b log N + c log D, the form of the
law for video DiTs (arXiv 2411.17470), through the minima of a parabola of the loss in log rate per (size, budget)."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from ..errors import UserError
from ..result import Result
from ..tables.read import Source, read_columns
from ..tables.table import SAME_BUDGET, Exclusion
from ..units import compact, count
from .estimates import Estimate, student
from .minima.parabola import MIN_CURVATURE_T, Noise, Quadratic, pooled, quadratic, vertex, vertex_covariance_of
from .notebook import Shown
from .text import cell, cells, columns, spelled

ONE_BUDGET = (
    "at one budget D = C / (kappa N), so the exponents of N and D cannot be told apart: the one of N stands for both, "
    "and holds at this budget alone; sweep a second budget (rate_budgets) to have both"
)
HEAD = ["N", "D", "budget", "best rate", "95 %", "recipe", "recipe/best", "loss above", "measured"]
three = "{:.3g}".format


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


def read_trials(source: Source, columns: Mapping[str, str] | None = None) -> tuple[list[Trial], list[tuple[str, str]]]:
    """(trials, [(run_id, reason) of runs left out]) of a study, or of a table, as `read_table` reads it.

    A table has the columns n_params, n_tokens, lr and loss (of a diverged run empty, nan or infinite), and may have
    budget_flops (else 6 N D), run_id and role (grid: its rate is the recipe's); `columns` {our name: the table's name}.
    Raises UserError, of one line, at a mistake in it."""
    if isinstance(source, (str, Path)) and Path(source).is_dir():
        return _of_study(Path(source))
    needed, optional = ("n_params", "n_tokens", "lr", "loss"), ("budget_flops", "run_id", "role")
    table, found, where = read_columns(source, needed, optional, columns)
    trials = []
    for i, place in enumerate(where):
        row = {name: values[i] for name, values in found.items()}
        for name in ("n_params", "n_tokens", "lr"):
            if not 0 < row[name] < math.inf:
                raise UserError(f"{table}, {place}, column {name}: {row[name]:g} is not a positive number")
        n, d, lr, loss, budget = (row.get(name, math.nan) for name in (*needed, "budget_flops"))
        if loss <= 0:
            raise UserError(f"{table}, {place}, column loss: {loss:g} is not positive")
        budget, measured = budget if math.isfinite(budget) else 6 * n * d, loss if math.isfinite(loss) else None
        name = str(row.get("run_id", f"row-{i + 1}"))
        trials.append(Trial(name, n, d, budget, lr, measured, row.get("role") == "grid"))
    return trials, []


def _of_study(root: Path) -> tuple[list[Trial], list[tuple[str, str]]]:
    """The sweep's runs and the grid's at its budgets, from their own records: a diverged run is in no table."""
    from ..naming import StudyPaths  # Here, since a table needs neither these nor h5py.
    from ..plan.run import read_run
    from ..rundir.record import Damaged, read_end

    runs = [(at, read_run(at.run)) for at in StudyPaths(root).run_dirs()]
    budgets = {run.budget_flops for _, run in runs if run.role == "rate"}
    if not budgets:
        more = f"`ditscale plan {root} SETTINGS rates=[0.25,0.5,1,2,4]`"
        raise UserError(f"{root}: plans no sweep; {more}, with the settings it was planned by, adds one")
    trials, left_out = [], []
    for at, run in runs:
        if run.budget_flops not in budgets or run.role not in ("grid", "rate"):
            continue
        try:
            state, loss = read_end(at.metrics)
        except Damaged as error:
            state, loss = str(error), None
        if state in ("finished", "diverged"):
            recipe = run.role == "grid"
            trials.append(Trial(run.run_id, run.n_params, run.n_tokens, run.budget_flops, run.lr, loss, recipe))
        else:
            left_out.append((run.run_id, "not started" if state == "planned" else state))
    return trials, left_out


@dataclass(frozen=True)
class Lowest(Result):
    """The best rate that was tried, and its loss, a mean over seeds."""

    rate: float
    loss: float


@dataclass(frozen=True)
class BestRate(Result):
    """The best rate at one size and budget: the minimum (rate, loss) of a parabola of the loss in log rate, None when
    refused (`reasons`). curvature: per unit of (log rate)^2, and residual_rms: relative to the mean loss. recipe_rate:
    what the recipe gives; factor: that over the best rate; excess: of the parabola there over its minimum, relative."""

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
        """Of the recipe's loss over the lowest that was tried, relative; no curve enters it."""
        own = [t.loss for t in self.trials if t.recipe and t.loss is not None]
        return float(np.mean(own)) / self.lowest.loss - 1 if own and self.lowest else None

    @property
    def swept(self) -> tuple[str, ...]:
        """The runs of the sweep itself."""
        return tuple(t.run_id for t in self.trials if not t.recipe)

    @property
    def name(self) -> str:
        return f"N = {count(self.n_params)} at {compact(self.budget_flops)} FLOPs"

    def row(self) -> list[str]:
        """Its cells under HEAD."""
        at = [count(self.n_params), count(self.n_tokens), compact(self.budget_flops)]
        recipe = [cell(self.recipe_rate, three, ""), cell(self.factor, "{:.2f}".format, "")]
        above = [cell(excess, "{:.2%}".format, "") for excess in (self.excess, self.measured_excess)]
        return [*at, *cells(self.rate, three, "refused"), *recipe, *above]

    def contradiction(self) -> str:
        if min(self.n_params, self.n_tokens, self.budget_flops, *(t.lr for t in self.trials)) <= 0:
            return "a size, a budget or a rate is not positive"
        if self.ok and (self.rate is None or self.loss is None or self.rate.value <= 0):
            return "status is ok, but there is no best rate"
        return "" if self.ok or self.reasons else "status is refused, but there is no reason"


@dataclass(frozen=True, repr=False)
class RateLaw(Shown):
    """lr* = scale N^params D^tokens through the best rates of `cells`. scale, params, tokens: None when refused, and
    params or tokens where all runs have one N or D (`reasons`). scatter: rms of log lr* about the law."""

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

    @property
    def _values(self) -> list[float]:
        """Scale and exponents of N and D, 0 where there is none. Raises UserError when the law was refused."""
        if not self.ok:
            raise UserError(self.heading())
        return [e.value if e else 0.0 for e in (self.scale, self.params, self.tokens)]

    def rate_at(self, n_params: ArrayLike, n_tokens: ArrayLike) -> np.ndarray:
        """The law's rate for N parameters and D tokens, broadcast over both. Raises UserError when it was refused."""
        scale, b, c = self._values
        return scale * (np.asarray(n_params, dtype=float) ** b * np.asarray(n_tokens, dtype=float) ** c)

    @property
    def overrides(self) -> str:
        """The law as settings of a recipe, to paste; "" when it was refused."""
        names = "recipe.lr_scale={:.6g} recipe.lr_width=0 recipe.lr_params={:.6g} recipe.lr_tokens={:.6g}"
        return names.format(*self._values) if self.ok else ""

    def contradiction(self) -> str:
        lacking = self.ok and (None in (self.scale, self.scatter) or not self._powers)
        return "status is ok, but the law is missing" if lacking else ""

    @property
    def _powers(self) -> dict[str, Estimate]:
        return {x: e for x, e in (("N", self.params), ("D", self.tokens)) if e}

    def heading(self) -> str:
        if not self.ok:
            return f"no learning-rate law: {'; '.join(self.reasons)}"
        powers = "".join(f" {x}^{e.value:.3f}" for x, e in self._powers.items())
        return f"best rate = {self._values[0]:.3g}{powers}"

    def main(self) -> dict[str, Estimate]:
        return {cell.name: cell.rate for cell in self.cells if cell.rate}

    def summary(self) -> str:
        good, runs = sum(c.ok for c in self.cells), sum(c.n_runs for c in self.cells)
        lines = [f"Learning rate: {runs} runs, {good} of {len(self.cells)} cells (size, budget) with a best rate"]
        if self.ok:
            lines.append(f"  {self.heading()}, scatter about it {math.expm1(self.scatter or 0.0):.1%}")
            lines += [f"  exponent of {x}: {spelled(e, '{:.3f}'.format)}" for x, e in self._powers.items()]
        lines += [f"  {'' if self.ok else 'refused: '}{reason}" for reason in self.reasons]
        lines += columns([HEAD, *(c.row() for c in self.cells)], "")
        lines += [f"  {c.name}: {reason}" for c in self.cells for reason in c.reasons]
        lines += [f"  left out {e.run_id}: {e.reason}" for e in self.exclusions]
        return "\n".join([*lines, *([f"to use it: {self.overrides}"] if self.ok else [])])


def read_rates(path: Path | str) -> RateLaw:
    """The law in a rates.json. Raises UserError, in one line, where it is missing or damaged."""
    return RateLaw.from_file(path, "rates")


def fit_rates(
    trials: Any, bootstrap: int = 0, seed: int = 0, source: str = "", exclusions: Iterable[tuple[str, str]] = (),
) -> RateLaw:  # fmt: skip
    """Fit the best rate of every size and budget in `trials` (of `Trial`, or what `read_trials` reads), and the law.

    Runs with equal N, D and budget are one cell; their scatter about the parabolas, relative to the loss, is pooled. A
    diverged run bounds its cell's best rate from above, and rates from there on enter no parabola. Intervals are by
    Student's t. bootstrap, seed: without effect; older scripts pass them. Raises UserError when nothing can be fitted.

        ds.fit_rates("sweep.csv").summary()
    """
    if isinstance(trials, (str, Path, Mapping)) or hasattr(trials, "columns"):
        trials, left_out = read_trials(trials)
        exclusions = (*exclusions, *left_out)
    cells: dict[tuple[float, float, float], list[Trial]] = {}
    for t in trials:
        cells.setdefault((t.budget_flops, t.n_params, t.n_tokens), []).append(t)
    if not cells:
        where = source or "sweep"
        raise UserError(f"{where}: no run of a learning-rate sweep has ended; `ditscale launch` trains them")
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
    rates, y = np.array(runs).T
    x = np.log(rates)
    return x.mean(), y.mean(), quadratic(x - x.mean(), y / y.mean())


def _best(group: list[Trial], noise: Noise) -> BestRate:
    runs, first = _usable(group), group[0]
    diverged = tuple(sorted({t.lr for t in group if t.loss is None}))
    limit, below = (diverged[0], f", below {three(diverged[0])} where a run diverged") if diverged else (math.inf, "")
    rates = sorted({rate for rate, _ in runs})
    means = [float(np.mean([loss for rate, loss in runs if rate == at])) for at in rates]
    lowest = means.index(min(means)) if means else 0
    own = next((t.lr for t in group if t.recipe), None)
    best = BestRate(
        first.n_params, first.n_tokens, first.budget_flops, len(group), "refused", (), diverged, tuple(group),
        lowest=Lowest(rates[lowest], means[lowest]) if means else None, recipe_rate=own,
    )  # fmt: skip

    def refused(reason: str) -> BestRate:
        return replace(best, reasons=(reason,))

    if len(rates) < 3:
        some = f"{len(rates)} rate{'s' * (len(rates) != 1)} finished{below}"
        return refused(f"{some}; a parabola takes three: extend rates")
    if lowest == 0 or lowest == len(rates) - 1 and not diverged:
        which, way = ("highest", "up") if lowest else ("lowest", "down")
        tried = f"the loss is lowest at the {which} rate tried ({three(rates[lowest])})"
        return refused(f"{tried}, so a better one may lie beyond: extend rates {way}ward")
    center, mean, p = _parabola(runs)
    c2, covariance = float(p.coefficients[2]), noise.variance * p.covariance
    best = replace(best, curvature=c2, residual_rms=float(np.sqrt(np.mean(p.residuals**2))))
    if c2 <= 0:
        return refused("the loss is not convex in log rate, so it has no minimum: more seeds, or extend rates")
    x, height, _ = map(float, vertex(p.coefficients, "raw"))
    rate = math.exp(min(center + x, 700.0))
    if not rates[0] < rate < min(limit, math.inf if diverged else rates[-1]):
        tried = f"lies outside the rates tried ({three(rates[0])} to {three(rates[-1])}){below}"
        way = "down" if rate <= rates[0] else "up"
        return refused(f"the parabola's minimum ({three(rate)}) {tried}: extend rates {way}ward")
    if c2 < MIN_CURVATURE_T * math.sqrt(covariance[2, 2]):
        return refused("the loss changes with the rate by no more than its noise: more seeds, or extend rates")
    se = math.sqrt(vertex_covariance_of(p.coefficients, covariance, "raw")[0, 0])
    if own is not None:
        best = replace(best, factor=own / rate, excess=c2 * math.log(own / rate) ** 2 / height)
    note = f"rates from {three(limit)} on diverge; they bound the best rate from above and are in no parabola"
    interval = student(math.log(rate), se, noise.dof).exp()
    return replace(best, status="ok", reasons=(note,) * bool(diverged), rate=interval, loss=height * mean)


def _law(cells: tuple[BestRate, ...]) -> RateLaw:
    good = [(c, c.rate.value) for c in cells if c.rate]
    budgets = _distinct([c.budget_flops for c, _ in good], SAME_BUDGET)
    with_n = _distinct([c.n_params for c, _ in good], 1.01) > 1
    with_d = budgets > 1 and _distinct([c.n_tokens for c, _ in good], 1.01) > 1
    needed, reasons = 2 + with_n + with_d, []
    if not (with_n or with_d) or len(good) < needed:
        at = f"at {budgets} budget{'s' * (budgets != 1)}; a law takes {max(needed, 3)}"
        reason = f"{len(good)} of {len(cells)} cells (size, budget) have a best rate, {at}"
        return RateLaw("refused", (reason,), cells)
    if not with_d:
        equal = "all runs have equally many tokens: the exponent of D is not known"
        reasons.append(ONE_BUDGET if budgets == 1 else equal)
    if not with_n:
        reasons.append("all best rates are of one size, so the exponent of N is not known: the one of D stands alone")
    x = np.compress([with_n, with_d], np.log([(c.n_params, c.n_tokens) for c, _ in good]), axis=1)
    y = np.log([rate for _, rate in good])
    basis = np.column_stack([np.ones(len(y)), x - x.mean(axis=0)])
    if np.linalg.cond(basis / np.linalg.norm(basis, axis=0)) > 100:
        reason = "N and D change together in these runs, so their exponents cannot be told apart: sweep more sizes"
        return RateLaw("refused", (reason,), cells)
    solved = np.linalg.lstsq(basis, y, rcond=None)[0]
    square, dof = float(np.sum((y - basis @ solved) ** 2)), len(y) - basis.shape[1]
    covariance = square / dof * np.linalg.inv(basis.T @ basis)
    at_one = np.append(1.0, -x.mean(axis=0))  # of ln scale, at N = D = 1
    asked = (at_one, *np.eye(len(solved))[1:])
    scale, *exponents = (student(solved @ row, math.sqrt(row @ covariance @ row), dof) for row in asked)
    of_n, of_d = exponents[0] if with_n else None, exponents[-1] if with_d else None
    return RateLaw("ok", tuple(reasons), cells, scale.exp(), of_n, of_d, math.sqrt(square / len(y)))


def _distinct(values: list[float], ratio: float) -> int:
    """How many values there are, those within `ratio` of a group's smallest being one."""
    seen: list[float] = []
    for value in sorted(values):
        seen += [value] if not seen or value > ratio * seen[-1] else []
    return len(seen)
