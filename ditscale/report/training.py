"""Figure 3: training loss against training compute, every run."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np
from matplotlib.figure import FigureBase

from ..units import count
from .read import StudyResults
from .style import ACCENT, Label, Panel, Plot, colours, label_lines, limits, log_axis

FIRST = 0.02  # Curves start at this fraction of the run: warm-up comes before, and would stretch the axes.


class Curve(NamedTuple):
    """The smoothed training loss of one run against FLOPs; end: the label of the run's size."""

    flops: np.ndarray
    loss: np.ndarray
    end: Label
    probe: bool


def training_plot(results: StudyResults) -> Plot | None:
    """Smoothed training loss against FLOPs; None when no curve was recorded."""
    points, curves, batches = results.points, [], []
    by_size = colours(points["n_params"][~results.probe])
    for i, run in enumerate(results.table.run_id):
        rows = results.records.curves.get(run)
        if rows is None or not len(rows):
            continue
        images, loss, n_params = rows["images"], rows["loss_ema"], points["n_params"][i]
        use = (images >= FIRST * images[-1]) & (images > 0) & np.isfinite(loss)
        if use.any():
            flops, loss = images[use] * (points["achieved_flops"][i] / points["n_images"][i]), loss[use]
            name, colour = count(n_params), by_size.get(n_params, ACCENT)
            if results.probe[i]:
                name, colour = f"probe {name}", ACCENT
            curves.append(Curve(flops, loss, Label(flops[-1], loss[-1], name, colour), bool(results.probe[i])))
            batches.append(int(points["batch_size"][i]))
    if not curves:
        return None
    sizes = " to ".join(map(str, dict.fromkeys((min(batches), max(batches)))))
    text = (
        f"{len(curves)} runs, coloured by model size N (written where the longest run of a size "
        f"ends){results.probe_in_orange}. Training loss smoothed by an exponential "
        f"moving average with coefficient 0.9 over steps of {sizes} images; the first {100 * FIRST:g} % of each run "
        "is left out. Both axes are log: compute spans powers of ten, and a power law in compute is a straight line."
    )
    panel = Panel(partial(_draw, curves), 6.2, 4.4, f"Training loss against FLOPs of {len(curves)} runs")
    return Plot("training", "Training curves", text, (panel,))


def _draw(curves: list[Curve], figure: FigureBase) -> None:
    axes = figure.subplots()
    # Extremes of a noisy curve would set the range; leave the top half per cent out.
    losses = np.concatenate([curve.loss for curve in curves])
    x_limits = limits(*[curve.flops for curve in curves], margin=0.02, right=0.02)
    log_axis(axes.xaxis, x_limits, "training FLOPs")
    log_axis(axes.yaxis, limits(losses.min(), np.quantile(losses, 0.995)), "training loss, smoothed")
    longest: dict[str, Label] = {}
    for flops, loss, end, probe in curves:
        width, alpha, order = (1.6, 1, 4) if probe else (0.9, 0.9, 3)
        axes.plot(flops, loss, color=end.colour, lw=width, alpha=alpha, zorder=order)
        if end.text not in longest or end.x > longest[end.text].x:
            longest[end.text] = end
    ends = sorted(longest.values())
    # Runs of one budget end at nearly one place, and share a column of labels.
    far = 1 + np.flatnonzero(np.diff(np.log([end.x for end in ends])) > 0.3)
    for group in np.split(np.arange(len(ends)), far):
        here = sorted((ends[i] for i in group), key=lambda end: end.y)
        every = 1 + len(here) // 8  # As many as fit.
        here = [end for i, end in enumerate(here) if i % every == 0 or end is here[-1]]
        label_lines(axes, here, gap=0.05, x=1.0 if here[-1].x > 0.7 * x_limits[1] else None)
