"""Figure 4: the loss on other data sets against the loss on the study's own, and the offset between them."""

from __future__ import annotations

from functools import partial

import numpy as np
from matplotlib.figure import FigureBase

from .read import StudyResults
from .style import ACCENT, DASHED, MUTED, Panel, Plot, colours, two_rows


def out_of_domain_plot(results: StudyResults) -> Plot | None:
    """One panel for each data set; None when runs were measured on their own alone."""
    losses = {name: results.points[column] for name, column in results.columns("loss", out_of_domain=True).items()}
    losses = {name: loss for name, loss in losses.items() if np.isfinite(loss).any()}
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
    panels = tuple(
        Panel(partial(_draw, results, name, loss), 5.0, 5.2, f"Loss on {name} against in-domain loss")
        for name, loss in losses.items()
    )
    return Plot("domains", "In and out of domain", " ".join(text), panels, columns=min(2, len(panels)))


def _draw(results: StudyResults, name: str, loss: np.ndarray, figure: FigureBase) -> None:
    top, below = two_rows(figure, 2.2)
    rows, by_budget = np.flatnonzero(np.isfinite(loss)), colours(results.budgets)
    x, y = results.table.loss[rows], loss[rows]
    low, high = min(x.min(), y.min()), max(x.max(), y.max())
    top.plot([low, high], [low, high], color=MUTED, lw=1, zorder=2)
    below_end = dict(xytext=(-4, -10), textcoords="offset points")
    top.annotate("equal", (high, high), fontsize=9, color=MUTED, ha="right", va="top", **below_end)
    for i, row in enumerate(rows):
        colour = ACCENT if results.probe[row] else by_budget[results.table.budget_flops[row]]
        for axes, value in ((top, y[i]), (below, y[i] - x[i])):
            axes.plot(x[i], value, "o", ms=5, color=colour, zorder=3)
    below.axhline((y - x).mean(), color=MUTED, lw=1, ls=DASHED)
    below.axhline(0, color=MUTED, lw=1)
    below.margins(y=0.15)
    top.set_ylabel(f"loss on {name}")
    below.set(ylabel="offset", xlabel=f"loss on {results.study.data.name} (in domain)")
