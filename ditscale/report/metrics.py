"""Figure: the loss and the metrics of the evaluation at each budget's optimal model, in domain and out."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
from matplotlib.figure import FigureBase

from ..errors import UserError
from ..laws import Trend, fit_gap, fit_trend
from .read import StudyResults
from .style import ACCENT, DASHED, Panel, Plot, bars, four_digits, limits, log_axis, sequence

# Metrics of a study's table, in words; for an axis, the unit of those whose own unit says too little.
METRICS = {
    "loss": "validation loss", "vlb": "variational bound (VLB)", "nll": "exact negative log-likelihood", "fid": "FID",
}  # fmt: skip
UNITS = {"loss": "loss (squared velocity)", "fid": "FID (squared distance of features)"}


class MetricTrends(NamedTuple):
    """A metric at the optimum of the loss: by data set its column and its trend, the study's own data set first. Laws
    of the loss itself, and its forecast, have figures of their own, so here it has none."""

    metric: str
    columns: dict[str, str]
    trends: dict[str, Trend]

    @property
    def has_law(self) -> bool:
        return self.metric != "loss"


@lru_cache(maxsize=2)
def metric_trends(results: StudyResults) -> tuple[MetricTrends, ...]:
    """The metrics that runs have, the validation loss where it was measured out of domain too; without the trends that
    cannot be fitted."""
    found = []
    for metric in METRICS:
        values = results.points.get(metric, np.array([]))
        if np.isfinite(values).any() and (metric != "loss" or results.columns("loss", out_of_domain=True)):
            columns, trends = results.columns(metric), {}
            for dataset, column in columns.items():
                try:
                    trends[dataset] = fit_trend(results.fit_table(), column)
                except UserError:
                    pass  # Fewer than two slices have it.
            found.append(MetricTrends(metric, columns, trends))
    return tuple(found)


def gap_sentences(results: StudyResults) -> list[str]:
    """How each metric out of domain lies from that in domain."""
    out = []
    for m in metric_trends(results):
        for column in list(m.columns.values())[1:]:
            try:
                out.append(fit_gap(results.fit_table(m.metric), column).sentence)
            except UserError:
                pass
    return out


def metrics_plot(results: StudyResults) -> Plot | None:
    """One panel for each metric; None when no trend of one can be fitted."""
    shown = [m for m in metric_trends(results) if m.trends]
    if not shown:
        return None
    text = (
        "Each metric at the size where the loss of its budget has its optimum, read off a quadratic in log N through "
        "the runs; bars are 95 %. Lines: the chosen form (docs/laws.md), drawn beyond the grid where there is a "
        "probe, whose measured values are the hollow marks. "
    )
    text += " ".join(trend.sentence for m in shown if m.has_law for trend in m.trends.values())
    panels = tuple(Panel(partial(_draw, results, m), 5.0, 3.8, f"{METRICS[m.metric]} against FLOPs") for m in shown)
    return Plot("metrics", "In domain and out: every metric", text, panels, columns=min(2, len(panels)))


def _draw(results: StudyResults, m: MetricTrends, figure: FigureBase) -> None:
    axes, at_probe = figure.subplots(), results.table.budget_flops[results.probe]
    budgets = np.concatenate([at_probe, *(trend.budgets for trend in m.trends.values())])
    grid = np.geomspace(budgets.min(), budgets.max(), 60)
    values: list[float] = []
    for (dataset, trend), colour in zip(m.trends.items(), sequence(max(2, len(m.trends))), strict=False):
        at, probed = [e.value for e in trend.at], results.points[m.columns[dataset]][results.probe]
        axes.errorbar(trend.budgets, at, bars(trend.at), fmt="o", ms=5, color=colour, lw=1, zorder=3, label=dataset)
        if m.has_law:
            axes.plot(grid, trend.law.at(grid), color=colour, lw=1.4, ls=DASHED, zorder=2)
            values += list(trend.law.at(grid))
        axes.plot(at_probe, probed, "D", ms=6, mfc="none", mec=ACCENT, mew=1.4, zorder=4)
        values += [*at, *probed[np.isfinite(probed)]]
        values += [end for e in trend.at for end in (e.low, e.high) if end is not None and end > 0]
    unit = results.table.info_of(m.metric).unit
    label = UNITS.get(m.metric) or m.metric.upper() + f" ({unit})" * bool(unit)
    log_axis(axes.xaxis, limits(budgets), "training FLOPs")
    if min(values) > 0:
        log_axis(axes.yaxis, limits(values, margin=0.12), label, four_digits)
    else:
        axes.set_ylabel(label)
    if len(m.trends) > 1:
        axes.legend()
