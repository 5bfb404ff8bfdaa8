"""Figure 1: the isoFLOP slices, their parabolas and minima, and the residuals of the parabolas."""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase

from ..laws import Estimate
from ..laws.minima.parabola import Slice
from ..units import compact, count
from .read import StudyResults
from .style import INK, MUTED, PAPER, Label, Panel, Plot, label_lines, limits, log_axis, sequence, two_rows

Z = 1.96  # Standard errors on either side of a value to its 95 % interval.


class Minimum(NamedTuple):
    """The minimum of an accepted slice; intervals are by the delta method, where laws.json has standard errors."""

    n_params: Estimate
    n_tokens: Estimate
    loss: Estimate
    curvature: float
    log_loss: bool  # Whether the parabola is of the logarithm of the loss.

    def parabola(self, n_params: np.ndarray) -> np.ndarray:
        """The fitted loss at N: L* exp(c (log N/N*)^2), or L* + c (log N/N*)^2 where the raw loss was fitted."""
        with np.errstate(over="ignore"):
            square = self.curvature * np.log(n_params / self.n_params.value) ** 2
            return self.loss.value * np.exp(square) if self.log_loss else self.loss.value + square


def minimum(s: Slice) -> Minimum | None:
    """The minimum of a slice, None where it was refused."""
    if not s.ok or s.n_params is None or s.n_tokens is None or s.loss is None or s.curvature is None:
        return None
    n, d, loss = Estimate(s.n_params), Estimate(s.n_tokens), Estimate(s.loss)
    if s.log_n_se is not None:
        # At a given budget D* = C / (kappa N*), so log D* has the error of log N*.
        factor = math.exp(Z * min(s.log_n_se, 100.0))
        n, d = (Estimate(e.value, e.value / factor, e.value * factor) for e in (n, d))
    if s.loss_se is not None:
        loss = Estimate(s.loss, s.loss - Z * s.loss_se, s.loss + Z * s.loss_se)
    return Minimum(n, d, loss, s.curvature, s.response == "log")


class Group(NamedTuple):
    """The runs of one budget as the figure shows them: their rows of study.h5, and their slice."""

    budget_flops: float
    rows: np.ndarray
    slice: Slice | None
    minimum: Minimum | None
    colour: str


def groups(results: StudyResults) -> list[Group]:
    """A group for each slice, of the fitted runs that are nearer to it in budget than to any other; without slices one
    for each budget."""
    slices: tuple[Slice, ...] | list[None] = results.laws.slices if results.laws else ()
    budgets, runs = [s.budget_flops for s in slices if s], results.fitted
    if not slices:
        budgets, runs, slices = results.budgets, ~results.probe, [None] * len(results.budgets)
    nearest = np.argmin(np.abs(np.log(results.table.budget_flops)[:, None] - np.log(budgets)), axis=1)
    rows = [np.flatnonzero(runs & (nearest == i)) for i in range(len(budgets))]
    zipped = zip(budgets, rows, slices, sequence(len(budgets)), strict=True)
    return [Group(budget, own, s, minimum(s) if s else None, colour) for budget, own, s, colour in zipped]


def slices_plot(results: StudyResults) -> Plot:
    """Loss against N at each budget; without laws the points alone."""
    shown = groups(results)
    fitted = sum(g.minimum is not None for g in shown)
    alt = f"Validation loss against model size at {len(shown)} budgets, with {fitted} fitted parabolas and residuals"
    panel = Panel(partial(_draw, results, shown), 6.2, 5.6 if results.laws else 4.2, alt)
    return Plot("isoflop", "IsoFLOP slices", _caption(results, shown), (panel,))


def _curve(n_params: np.ndarray) -> np.ndarray:
    """Where a slice's curve is drawn: a little beyond its runs, for a parabola says nothing far from them."""
    low, high = np.log(n_params).min(), np.log(n_params).max()
    return np.exp(np.linspace(low - 0.03 * (high - low), high + 0.03 * (high - low), 200))


def _draw(results: StudyResults, shown: list[Group], figure: FigureBase) -> None:
    top, below = two_rows(figure, 3.2) if results.laws else (figure.subplots(), None)
    n, loss = results.table.n_params, results.points[results.metric]
    shown = [g for g in shown if len(g.rows)]
    rows = np.concatenate([np.array([], dtype=int), *(g.rows for g in shown)])
    curves = [g.minimum.parabola(_curve(n[g.rows])) for g in shown if g.minimum]
    minima = [g.minimum.loss.value for g in shown if g.minimum]
    log_axis(top.xaxis, limits(n[rows], margin=0.05, right=0.13), "", count, 8)
    log_axis(top.yaxis, limits(loss[rows], minima, *curves), f"validation {results.metric}")
    label_lines(top, [_draw_group(results, g, top, below) for g in shown])
    (below or top).set_xlabel(f"model size N ({results.study.params} parameters)")
    if below:
        off = np.concatenate([[0.0], *(np.abs(np.asarray(line.get_ydata())) for line in below.lines)])
        largest = 1.25 * float(off[np.isfinite(off)].max())
        below.set_ylim(-largest or -1, largest or 1)
        below.axhline(0, color=MUTED, lw=0.8)
        below.set_ylabel("off the\nparabola, %")


def _draw_group(results: StudyResults, g: Group, top: Axes, below: Axes | None) -> Label:
    """Draw the runs, the parabola and the minimum of a group, and its residuals below; the label of its end."""
    n, loss = results.table.n_params[g.rows], results.points[results.metric][g.rows]
    se = Z * results.points["loss_se"][g.rows] if results.metric == "loss" else None
    refused = g.slice is not None and g.minimum is None
    face = PAPER if refused else g.colour
    top.errorbar(n, loss, se, fmt="o", ms=5, color=g.colour, mfc=face, elinewidth=1, zorder=3)
    end, text, m = int(np.argmax(n)), compact(g.budget_flops), g.minimum
    if m is None or below is None:
        return Label(n[end], loss[end], text + "\nno minimum" * refused, g.colour)
    x, y = _curve(n), m.parabola(_curve(n))
    top.plot(x, y, color=g.colour)
    if m.n_params.low is not None and m.n_params.high is not None:
        top.plot([m.n_params.low, m.n_params.high], [m.loss.value] * 2, color=INK, lw=1.2, zorder=4)
    top.plot(m.n_params.value, m.loss.value, "D", ms=6, mfc=PAPER, mec=INK, mew=1.4, zorder=5)
    with np.errstate(divide="ignore", invalid="ignore"):
        below.plot(n, 100 * (loss / m.parabola(n) - 1), "o-", ms=4, lw=0.8, color=g.colour)
    return Label(x[-1], y[-1], text, g.colour)


def _caption(results: StudyResults, shown: list[Group]) -> str:
    counts = ", ".join(f"{compact(g.budget_flops)}: {len(g.rows)} runs" for g in shown)
    text = [f"One colour for each budget in FLOPs ({counts});"]
    text.append("bars are 95 % of the Monte-Carlo error of the validation loss.")
    if not results.laws:
        text.append(
            "No law was fitted yet, so there are no curves. N and loss are on log axes because both span ratios."
        )
        return " ".join(text)
    accepted = [s for s in results.laws.slices if s.ok]
    refused = [reason for s in results.laws.slices if not s.ok for reason in s.reasons]
    rms = ", ".join(f"{100 * (s.residual_rms or 0.0):.2g} % ({compact(s.budget_flops)})" for s in accepted)
    if accepted:
        text.append("Diamonds: the minima.")
    if any(s.log_n_se for s in accepted):
        text.append("Bars through them: their 95 % intervals in N by the delta method.")
    if refused:
        text.append(f"Hollow points, no curve: refused ({'; '.join(refused)}).")
    if accepted:
        text.append(f"Below: the residuals of each parabola, rms {rms};")
        text.append("a bend in them would mean that a parabola is the wrong shape.")
    what = "the logarithm of the loss" if any(s.response == "log" for s in results.laws.slices) else "the loss"
    text.append(f"N is on a log axis because the parabola, of {what}, is fitted in log N;")
    text.append("the loss axis is log because budgets differ by ratios.")
    return " ".join(text)
