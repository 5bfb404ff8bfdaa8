"""`Laws`: all that one table supports, as laws.json holds it and as text."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..quantities import at_optimum
from ..result import Result, extra, key
from ..tables.table import SAME_BUDGET, Exclusion, Point, Table, describe
from ..units import compact, count
from .checks.backtest import MOST_ASKED, Backtest
from .checks.checklist import Item, lines
from .checks.form import Bias
from .estimates import Bootstrap, Estimate
from .findings import Finding, listed, rehearsed
from .minima.approach2 import Approach2
from .minima.parabola import Slice
from .notebook import Shown
from .predictor.predictor import Predictor
from .surface.fit_surface import Approach3
from .text import cell, cells, columns

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class PowerLaws(Result):
    """Approach 2: N* = k C^a, D* = k C^b, L* = k C^c through the minima; no L* where these are not all positive."""

    model_exponent: Estimate
    model_coefficient: Estimate
    data_exponent: Estimate
    data_coefficient: Estimate
    loss_exponent: Estimate | None = None
    loss_coefficient: Estimate | None = None


@dataclass(frozen=True)
class SurfaceLaw(Result):
    """Approach 3: E + A N^-alpha + B D^-beta. model_exponent: of N*; loss_floor_exponent: of L* - E, negative."""

    E: Estimate
    A: Estimate
    B: Estimate
    alpha: Estimate
    beta: Estimate
    model_exponent: Estimate
    loss_floor_exponent: Estimate


@dataclass(frozen=True)
class Predicted(Result):
    """The optimum at one budget. None: the runs do not determine it, or there is no law of it."""

    n_params: Estimate | None = None
    n_tokens: Estimate | None = None
    loss: Estimate | None = None


@dataclass(frozen=True)
class Optima(Result):
    """What is said of one budget: the answer, and both approaches beside it; None where one was refused."""

    approach2: Predicted | None
    approach3: Predicted | None
    answer: Predicted | None = None

    @property
    def by_law(self) -> dict[str, Predicted | None]:
        return {"answer": self.answer, "approach 2": self.approach2, "approach 3": self.approach3}


@dataclass(frozen=True)
class Answer(Result):
    """What lies beyond the grid. weights {form: its share}; exponents {"model", "data", "loss": there}; scatter: rms of
    one run, relative (of a metric of either sign: in its units); one_run {target: what one new run there measures}."""

    weights: dict[str, float]
    exponents: dict[str, Estimate]
    scatter: float
    one_run: dict[str, Estimate] = field(default_factory=dict)


@dataclass(frozen=True)
class Bands(Result):
    """The power laws through the minima as a figure draws them, each an interval at every one of budget_flops."""

    budget_flops: tuple[float, ...]
    n_params: tuple[Estimate, ...]
    n_tokens: tuple[Estimate, ...]
    loss: tuple[Estimate, ...]

    def contradiction(self) -> str:
        lengths = {len(part) for part in (self.budget_flops, self.n_params, self.n_tokens, self.loss)}
        return "its lists differ in length" if len(lengths) > 1 else ""


class Fits(NamedTuple):
    """What `fit` worked with: the rows that were fitted, both fits with their draws, and the predictor."""

    table: Table
    approach2: Approach2
    approach3: Approach3
    predictor: Predictor | None


@dataclass(frozen=True, repr=False)
class Laws(Shown):
    """All that one table supports; every `Estimate` is a 95 % interval. answer: None where the runs do not
    tell; approach2, approach3: coefficients, None when refused. predictions, n_ranges (both ends of the N whose
    loss is within 0.1 % of the optimum's by the surface): by target, as typed. bias: of parabolas on this grid.
    backtests: the largest budget held out alone, then with its neighbours. fits: None when read from a file."""

    LAYOUT = 1

    n_runs: int
    approach2: PowerLaws | None
    approach3: SurfaceLaw | None
    findings: tuple[Finding, ...]
    slices: tuple[Slice, ...]
    backtests: tuple[Backtest, ...]
    exclusions: tuple[Exclusion, ...]
    metric: str
    objective: str
    kappa: float
    bootstrap: Bootstrap
    points: tuple[Point, ...]
    budgets: tuple[float, ...] = ()
    predictions: dict[str, Optima] = field(default_factory=dict)
    bands: Bands | None = None
    n_ranges: dict[str, tuple[Estimate, Estimate]] = key("n_params_within_0.1_percent", default_factory=dict)
    answer: Answer | None = None
    bias: Bias | None = None
    checklist: tuple[Item, ...] = ()
    fits: Fits | None = extra()

    def contradiction(self) -> str:
        if self.approach2 and sum(s.ok for s in self.slices) < 2:
            return "approach2 stands without its slices"
        off = next((p for p in self.points if min(p.n_params, p.n_tokens, p.budget_flops) <= 0), None)
        return f"run {off.run_id} has a size or a budget that is not positive" if off else ""

    def exponent(self, name: str) -> Estimate | None:
        """Of N* ("model"), D* ("data") or L* ("loss") in C: the answer's or, where that was refused, of approach 2."""
        if self.answer:
            return self.answer.exponents.get(name)
        return getattr(self.approach2, f"{name}_exponent", None)

    @property
    def given(self) -> bool:
        """Whether anything could be given at all; the command exits with 3 otherwise."""
        return not (self.answer is None and self.approach2 is None and self.approach3 is None)

    @property
    def backtest(self) -> Backtest | None:
        """The largest budget held out alone, or None where that was not possible."""
        return next((b for b in self.backtests if b.held_out == 1), None)

    def heading(self) -> str:
        mark = "REHEARSAL: " * rehearsed(self.findings)
        severe = sum(f.severity != "info" for f in self.findings)
        return f"{mark}{describe(self.n_runs, self.budgets)}, metric {self.metric}, {severe} warnings"

    def main(self) -> dict[str, Estimate]:
        symbols = {"model": "N*", "data": "D*", "loss": at_optimum(self.metric)}
        out = {f"{symbols[name]} exponent": e for name, e in (self.answer.exponents if self.answer else {}).items()}
        if two := self.approach2:
            out |= {"N* exponent, approach 2": two.model_exponent}
        if three := self.approach3:
            out |= {"N* exponent, approach 3": three.model_exponent, "floor E, approach 3": three.E}
        for typed, at in ((typed, by.answer) for typed, by in self.predictions.items() if by.answer):
            pairs = {f"{self.metric} at {typed}": at.loss, f"N* at {typed}": at.n_params}
            out |= {name: e for name, e in pairs.items() if e}
        return out

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        parts = (("approach 2", self.approach2), ("approach 3", self.approach3))
        named = [(law, name, e) for law, part in parts if part for name, e in vars(part).items() if e]
        rows = [{"law": law, "name": name, **e.to_dict()} for law, name, e in named]
        return super().tables() | {"coefficients": rows}

    def plot(self) -> "Figure":
        """A matplotlib figure: the slices with their parabolas, and the minima with the power laws through them."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(13, 3.8), layout="constrained")
        left, *right = figure.subplots(1, 4)
        points = sorted(self.points, key=lambda p: p.n_params)
        for s in self.slices:
            rows = [p for p in points if abs(math.log(p.budget_flops / s.budget_flops)) < math.log(SAME_BUDGET)]
            n = np.array([p.n_params for p in rows])
            (drawn,) = left.loglog(n, [p.loss for p in rows], "o", ms=4, label=compact(s.budget_flops))
            if s.ok and len(n):
                grid = np.geomspace(n.min(), n.max(), 60)
                left.plot(grid, s.loss_at(grid), color=drawn.get_color())
        left.set(xlabel="N", ylabel=self.metric, title="slices")
        left.legend(fontsize=7, title="FLOPs", title_fontsize=7)
        ok, titles = [s for s in self.slices if s.ok], ("N*", "D*", at_optimum(self.metric))
        for axes, name, title in zip(right, ("n_params", "n_tokens", "loss"), titles, strict=True):
            axes.loglog([s.budget_flops for s in ok], [getattr(s, name) for s in ok], "D", ms=5, color="black")
            axes.set(xlabel="C, FLOPs", title=title)
            if self.bands:
                ends = [[e.value, e.low, e.high] for e in getattr(self.bands, name)]
                value, low, high = np.array(ends, dtype=float).T
                axes.plot(self.bands.budget_flops, value, color="black", lw=1)
                axes.fill_between(self.bands.budget_flops, low, high, alpha=0.2, color="grey")
        return figure

    def summary(self) -> str:
        """The same as readable text."""
        head = [f.message for f in self.findings if f.code == "rehearsal"]
        head += [f"{describe(self.n_runs, self.budgets)}, metric {self.metric}"]
        laws, minima = f"N* = k C^a, D* = k C^b, {at_optimum(self.metric)} = k C^c", sum(s.ok for s in self.slices)
        two = f"Approach 2: power laws {laws} through {minima} minima"
        form = f"{self.metric}(N, D) = E + A N^-alpha + B D^-beta"
        three = f"Approach 3: {form} on {self.n_runs} runs, objective {self.objective}"
        found = ["Findings" if self.findings else "Findings: none", *listed(self.findings)]
        parts = [
            _slices(self), _answer(self), _titled(two, self, vars(self.approach2) if self.approach2 else None),
            _titled(three, self, vars(self.approach3) if self.approach3 else None), _predictions(self),
            _backtests(self), found, lines(self.checklist) if self.checklist else [],
        ]  # fmt: skip
        return "\n".join([*head, *(line for part in parts if part for line in ("", *part))])


def read_laws(path: Path | str) -> Laws:
    """The laws in a laws.json. Raises UserError, in one line, where it is missing or damaged."""
    return Laws.from_file(path, "fit")


def _slices(laws: Laws) -> list[str]:
    rows = [["budget", "runs", "N*", "D*", at_optimum(laws.metric), "N within 0.1 %", "residual", "status"]]
    for s in laws.slices:
        minimum = [cell(s.n_params, count), cell(s.n_tokens, count), cell(s.loss)]
        near = " .. ".join(map(count, s.n_range or ())) or "-"
        rms = cell(s.residual_rms, lambda share: f"{100 * share:.2g} %")
        rows.append([compact(s.budget_flops), str(s.n_runs), *minimum, near, rms, s.status])
    return ["Slices", *columns(rows)] if len(rows) > 1 else []


def _titled(title: str, laws: Laws, found: Mapping[str, Estimate | None] | None) -> list[str]:
    """A table of numbers by name, or that they were refused. Of a FID loss_exponent is called fid_exponent."""
    if found is None:
        return [title, "  refused (see the findings)"]
    word = "loss" if "loss" in laws.metric else laws.metric
    rows = [[name.replace("loss", word), *cells(e)] for name, e in found.items()]
    return [title, *columns([["", "value", "95 %"], *rows])]


def _answer(laws: Laws) -> list[str]:
    if not laws.answer:
        return _titled("Answer", laws, None)
    parts = ", ".join(f"{name} {100 * weight:.0f} %" for name, weight in laws.answer.weights.items())
    title = f"Answer: a mixture of forms ({parts}); exponents at {compact(laws.budgets[-1])} FLOPs"
    shown = _titled(title, laws, {f"{name}_exponent": e for name, e in laws.answer.exponents.items()})
    return [*shown, f"  scatter of one run: {laws.answer.scatter:.2g}"]


def _predictions(laws: Laws) -> list[str]:
    out = []
    for typed, by in laws.predictions.items():
        rows = [["", "N*", "95 %", "D*", "95 %", laws.metric, "95 %"]]
        for name, p in by.by_law.items():
            p = p or Predicted()
            sizes = [*cells(p.n_params, count, "refused"), *cells(p.n_tokens, count, "refused")]
            rows.append([name, *sizes, *cells(p.loss, none="refused")])
        out += [f"At {typed} FLOPs", *columns(rows)]
        if laws.answer and typed in laws.answer.one_run:
            out.append("  one new run at the optimum: {} ({})".format(*cells(laws.answer.one_run[typed])))
        if typed in laws.n_ranges:
            low, high = ("{} ({})".format(*cells(e, count)) for e in laws.n_ranges[typed])
            out.append(f"  N within 0.1 % of the optimum, by the surface: {low} to {high}")
    return out


def _backtests(laws: Laws) -> list[str]:
    head = ("predicted", "without", "beyond", "law", "N* / measured", f"{at_optimum(laws.metric)} error")
    rows, largest = [[*head, "interval", "held it"]], max((b.budget_flops for b in laws.backtests), default=0.0)
    for b in (b for b in laws.backtests if b.budget_flops == largest):
        for name, said in b.by_law.items():
            shown = ["refused", "", "", ""]
            if said is not None:
                held = {None: "-", True: "yes", False: "NO"}[said.covered]
                shown = [f"{said.n_params_ratio:.3g}", f"{100 * said.loss_error:+.2g} %", cells(said.loss)[1], held]
            if said or name != "answer" or b.held_out <= MOST_ASKED:
                rows.append([compact(b.budget_flops), f"largest {b.held_out}", f"{b.factor:.3g}x", name, *shown])
    title = "Backtests: budgets held out, and predicted from the smaller ones"
    return [title, *columns(rows)] if laws.backtests else []
