"""Figures of what follows the loss: other data sets, other metrics, and noise levels, at the optimum of the loss."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
from matplotlib.figure import FigureBase

from ..errors import UserError
from ..laws import Estimate, Predictor, Trend, fit_gap, fit_trend
from ..laws.predictor.identify import ask
from ..laws.text import short
from ..units import compact
from .html import ACCENT, INK, MUTED
from .read import StudyResults
from .style import Panel, Plot, bars, colours, limits, log_axis, sequence, two_rows

# Metrics of a study's table, in words; for an axis, the unit of those whose own unit says too little.
METRICS = {
    "loss": "validation loss", "vlb": "variational bound (VLB)", "nll": "exact negative log-likelihood", "fid": "FID",
}  # fmt: skip
UNITS = {"loss": "loss (squared velocity)", "fid": "FID (squared distance of features)"}
T = TypeVar("T")


def out_of_domain_plot(results: StudyResults) -> Plot | None:
    """The loss on each other data set against the loss on the study's own; None without other data sets."""
    columns = results.columns("loss", out_of_domain=True)
    losses = {name: loss for name, c in columns.items() if np.isfinite(loss := results.points[c]).any()}
    if not losses:
        return None
    how = f"coloured by budget as in figure 1{results.probe_in_orange}"
    text = [f"Every run measured on its own data and on another data set, {how}."]
    for name, loss in losses.items():
        off = (loss - results.table.loss)[np.isfinite(loss)]
        span = f"from {off.min():+.3g} to {off.max():+.3g} over {len(off)} runs"
        text.append(f"{name}: mean offset {off.mean():+.3g}, {span}.")
    text.append("Line: equal losses. Axes are linear because the question is a difference:")
    text.append("a constant offset is a flat row of points below.")
    alt = "Loss on {} against in-domain loss"
    panels = tuple(Panel(partial(_draw_losses, results, n, x), 5.0, 5.2, alt.format(n)) for n, x in losses.items())
    return Plot("domains", "In and out of domain", " ".join(text), panels, columns=min(2, len(panels)))


def _draw_losses(results: StudyResults, name: str, loss: np.ndarray, figure: FigureBase) -> None:
    top, below = two_rows(figure, 2.2)
    rows, by_budget = np.flatnonzero(np.isfinite(loss)), colours(results.budgets)
    x, y = results.table.loss[rows], loss[rows]
    low, high = min(x.min(), y.min()), max(x.max(), y.max())
    top.plot([low, high], [low, high], color=MUTED, lw=1, zorder=2)
    look: Any = {"xytext": (-4, -10), "textcoords": "offset points", "ha": "right", "va": "top"}
    top.annotate("equal", (high, high), fontsize=9, color=MUTED, **look)
    for i, row in enumerate(rows):
        colour = ACCENT if results.probe[row] else by_budget[results.table.budget_flops[row]]
        for axes, value in ((top, y[i]), (below, y[i] - x[i])):
            axes.plot(x[i], value, "o", ms=5, color=colour, zorder=3)
    below.axhline((y - x).mean(), color=MUTED, lw=1, ls="--")
    below.axhline(0, color=MUTED, lw=1)
    below.margins(y=0.15)
    top.set_ylabel(f"loss on {name}")
    below.set(ylabel="offset", xlabel=f"loss on {results.study.data.name} (in domain)")


class MetricTrends(NamedTuple):
    """A metric at the optimum of the loss: by data set its column and its trend, the study's own data set first."""

    metric: str
    columns: dict[str, str]
    trends: dict[str, Trend]


def _fitted(fit: Callable[..., T], results: StudyResults, column: str, metric: str = "loss", **how: Any) -> T | None:
    try:
        return fit(results.fit_table(metric), column, **how)
    except (UserError, OverflowError):  # Too few runs have the column, or they determine nothing, or it is absurd.
        return None


@lru_cache(maxsize=2)
def _predictor(results: StudyResults) -> Predictor | None:
    """Of the loss, along whose optimum every trend goes; None where the runs do not determine it."""
    try:
        grid = results.fit_table().grid()
        return ask(grid, grid.largest).whole
    except (UserError, OverflowError):
        return None


def _trend(results: StudyResults, column: str, values: np.ndarray) -> Trend | None:
    """Of a column that has one value for each run of the table; None where it cannot be fitted."""
    loss = _predictor(results)
    extended = replace(results, table=replace(results.table, columns=results.points | {column: values}))
    return _fitted(fit_trend, extended, column, loss=loss) if loss else None


@lru_cache(maxsize=2)
def metric_trends(results: StudyResults) -> tuple[MetricTrends, ...]:
    """The metrics that runs have (the loss where there are other data sets), with the trends that can be fitted."""
    found = []
    for metric in METRICS:
        values = results.points.get(metric, np.array([]))
        if np.isfinite(values).any() and (metric != "loss" or results.columns("loss", out_of_domain=True)):
            columns = results.columns(metric)
            trends = {name: trend for name, c in columns.items() if (trend := _trend(results, c, results.points[c]))}
            found.append(MetricTrends(metric, columns, trends))
    return tuple(found)


def gap_sentences(results: StudyResults) -> list[str]:
    pairs = [(column, m.metric) for m in metric_trends(results) for column in list(m.columns.values())[1:]]
    return [gap.sentence for pair in pairs if (gap := _fitted(fit_gap, results, *pair))]


def metrics_plot(results: StudyResults) -> Plot | None:
    """One panel for each metric; None when no trend of one can be fitted."""
    shown = [m for m in metric_trends(results) if m.trends]
    if not shown:
        return None
    text = "Each metric at the size where the loss of its budget has its optimum, both by the answer's family of laws "
    text += "(docs/laws.md); bars are 95 %. Lines are drawn beyond the grid where there is a probe, whose measured "
    text += "values are the hollow marks. "
    text += " ".join(trend.sentence for m in shown if m.metric != "loss" for trend in m.trends.values())
    alt = "{} against FLOPs"
    panels = tuple(Panel(partial(_draw_metric, results, m), 5.0, 3.8, alt.format(METRICS[m.metric])) for m in shown)
    return Plot("metrics", "In domain and out: every metric", text, panels, columns=min(2, len(panels)))


def _draw_metric(results: StudyResults, m: MetricTrends, figure: FigureBase) -> None:
    axes, at_probe = figure.subplots(), results.table.budget_flops[results.probe]
    budgets = np.concatenate([at_probe, *(trend.budgets for trend in m.trends.values())])
    grid = np.geomspace(budgets.min(), budgets.max(), 12)
    values: list[float] = []
    for (dataset, trend), colour in zip(m.trends.items(), sequence(max(2, len(m.trends))), strict=False):
        at, probed = [e.value for e in trend.at], results.points[m.columns[dataset]][results.probe]
        axes.errorbar(trend.budgets, at, bars(trend.at), fmt="o", ms=5, color=colour, lw=1, zorder=3, label=dataset)
        if m.metric != "loss":  # The laws of the loss have a figure of their own.
            drawn = [trend.predict(budget).value for budget in grid]
            axes.plot(grid, drawn, color=colour, lw=1.4, ls="--", zorder=2)
            values += drawn
        axes.plot(at_probe, probed, "D", ms=6, mfc="none", mec=ACCENT, mew=1.4, zorder=4)
        values += [*at, *probed[np.isfinite(probed)]]
        values += [end for e in trend.at for end in (e.low, e.high) if end is not None and end > 0]
    unit = results.table.info_of(m.metric).unit
    label = UNITS.get(m.metric) or m.metric.upper() + f" ({unit})" * bool(unit)
    log_axis(axes, "x", limits(budgets), "training FLOPs")
    axes.set_ylabel(label)
    if min(values) > 0:
        log_axis(axes, "y", limits(values, margin=0.12), label, short)
    if len(m.trends) > 1:
        axes.legend()


class NoiseTrends(NamedTuple):
    """The loss of L noise levels at the optimum of the whole loss; borders [L + 1] in t; probe: losses [probes, L]."""

    borders: np.ndarray
    trends: list[Trend]
    exponents: list[Estimate]
    probe: np.ndarray

    def between(self, i: int) -> str:
        return f"t {self.borders[i]:.2f} to {self.borders[i + 1]:.2f}"

    @property
    def sentence(self) -> str:
        """Which level gains most from compute, and whether its exponent differs from the one that gains least."""
        from scipy.special import ndtri  # 0.2 s to import

        values = [e.value for e in self.exponents]
        fast, slow = int(np.argmin(values)), int(np.argmax(values))
        high, low = self.exponents[fast].high, self.exponents[slow].low
        apart = False
        if high is not None and low is not None:
            # Of L levels the outermost two are picked from L (L - 1) / 2 pairs (Bonferroni).
            pairs = len(values) * (len(values) - 1) / 2
            wider = ndtri(1 - 0.025 / pairs) / ndtri(0.975)
            apart = bool(values[slow] - values[fast] > wider * np.hypot(high - values[fast], values[slow] - low))
        at = [f"at {self.between(i)}, as C^{values[i]:.3f}" for i in (fast, slow)]
        differ = "lie apart" if apart else "overlap, so these runs do not show that the two differ"
        return f"The loss falls fastest with compute {at[0]}, and slowest {at[1]}; their intervals {differ}."


@lru_cache(maxsize=2)
def noise_trends(results: StudyResults) -> NoiseTrends | None:
    """None where study.h5 has one level or none, or no law of the loss can be fitted."""
    levels = results.records.noise_levels
    if levels is None or len(levels[0]) < 3:
        return None
    borders, loss = levels
    trends = [trend for i, column in enumerate(loss.T) if (trend := _trend(results, f"loss_{i}", column))]
    exponents = [trend.exponent for trend in trends if trend.exponent]
    if len(exponents) < len(loss.T):
        return None
    return NoiseTrends(borders, trends, exponents, loss[results.probe])


def noise_plot(results: StudyResults) -> Plot | None:
    """Loss by noise level at each budget, and its exponent; None where no trend can be fitted."""
    if not (found := noise_trends(results)):
        return None
    text = f"Validation triples by their timestep t (0 is data, 1 is noise), {len(found.trends)} levels with as many "
    text += "triples each. Left: the loss between two timesteps at the size where the whole loss of a budget has its "
    text += f"optimum, coloured by budget as in figure 1{results.probe_in_orange}. Right: the exponent of C of each "
    text += f"level, bars are 95 %; dashed, that of the whole loss. {found.sentence}"
    levels = Panel(partial(_draw_levels, found), 5.0, 3.8, "Loss against timestep, by budget")
    exponents = Panel(partial(_draw_exponents, results, found), 5.0, 3.8, "Exponent of compute against timestep")
    return Plot("noise", "Which noise levels improve with scale", text, (levels, exponents), columns=2)


def _draw_levels(found: NoiseTrends, figure: FigureBase) -> None:
    axes, budgets = figure.subplots(), found.trends[0].budgets
    values = np.array([[e.value for e in trend.at] for trend in found.trends]).T
    lines = [*zip(values, sequence(len(budgets)), map(compact, budgets), strict=True)]
    for row, colour, label in [*lines, *((row, ACCENT, "probe") for row in found.probe)]:
        axes.stairs(row, found.borders, baseline=None, color=colour, lw=1.6, label=label)
    log_axis(axes, "y", limits(values, found.probe), "validation loss", short)
    axes.set(xlabel="timestep t")
    axes.legend()


def _draw_exponents(results: StudyResults, found: NoiseTrends, figure: FigureBase) -> None:
    axes, at = figure.subplots(), [e.value for e in found.exponents]
    middle, half = (found.borders[1:] + found.borders[:-1]) / 2, np.diff(found.borders) / 2
    axes.errorbar(middle, at, bars(found.exponents), half, fmt="o", ms=5, lw=1, color=INK, zorder=3)
    if results.laws and (two := results.laws.approach2) and two.loss_exponent:
        axes.axhline(two.loss_exponent.value, color=MUTED, lw=1, ls="--")
    axes.set(xlabel="timestep t", ylabel="exponent of C")
