"""Figure 3: training loss against training compute, every run."""

from __future__ import annotations

import numpy as np

from ..units import compact, count
from .read import Material
from .style import ACCENT, Panel, Plot, label_lines, limits, log_axis, sequence

FIRST = 0.02  # curves start at this fraction of the run: what comes before is warm-up, and would stretch the axes


def training_plot(material: Material) -> Plot | None:
    """Smoothed training loss against FLOPs; None when no curve was recorded."""
    points, per_image = material.points, material.flops_per_image()
    runs = [i for i, r in enumerate(points["run_id"]) if r in material.curves and len(material.curves[r])]
    if not runs:
        return None
    sizes = sorted({float(points["n_params"][i]) for i in runs if not material.probe[i]})
    colours = dict(zip(sizes, sequence(max(1, len(sizes))), strict=False))

    def xy(i):
        rows = material.curves[points["run_id"][i]]
        rows = rows[rows["images"] >= FIRST * rows["images"][-1]]
        return rows["images"] * per_image[i], rows["loss_ema"]

    def draw(figure):
        axes = figure.subplots()
        drawn = {i: xy(i) for i in runs}
        x_low, x_high = limits(*[x for x, _ in drawn.values()], margin=0.02)
        # Extremes of a noisy curve would set the range; leave the top half per cent out.
        losses = np.concatenate([y for _, y in drawn.values()])
        log_axis(axes.xaxis, x_low, x_high * (x_high / x_low) ** 0.02, "training FLOPs", compact, 7)
        log_axis(axes.yaxis, *limits(losses.min(), np.quantile(losses, 0.995)), "training loss, smoothed")
        longest = {}
        for i, (x, y) in drawn.items():
            probe, size = material.probe[i], float(points["n_params"][i])
            axes.plot(
                x,
                y,
                color=ACCENT if probe else colours[size],
                lw=1.6 if probe else 0.9,
                alpha=1 if probe else 0.9,
                zorder=4 if probe else 3,
            )
            key = "probe" if probe else size
            if key not in longest or x[-1] > longest[key][0]:
                name = f"probe {count(size)}" if probe else count(size)
                longest[key] = (x[-1], y[-1], name, ACCENT if probe else colours[size])
        ends = sorted(longest.values())
        # Runs of one budget end at nearly one place, and share a column of labels.
        far = 1 + np.flatnonzero(np.diff(np.log([e[0] for e in ends])) > 0.3)
        for group in np.split(np.arange(len(ends)), far):
            here = sorted((ends[i] for i in group), key=lambda e: e[1])
            every = 1 + len(here) // 8  # as many as fit
            here = [e for i, e in enumerate(here) if i % every == 0 or e is here[-1]]
            label_lines(axes, here, gap=0.05, x=1.0 if here[-1][0] > 0.7 * x_high else None)

    sizes_of_batch = sorted({int(points["batch_size"][i]) for i in runs})
    batches = " to ".join(map(str, dict.fromkeys((sizes_of_batch[0], sizes_of_batch[-1]))))
    text = (
        f"{len(runs)} runs, coloured by model size N (written where the longest run of a size "
        f"ends){', the probe in orange' if material.probe.any() else ''}. Training loss smoothed by an exponential "
        f"moving average with coefficient 0.9 over steps of {batches} images; the first {100 * FIRST:g} % of each run "
        "is left out. Both axes are log: compute spans powers of ten, and a power law in compute is a straight line."
    )
    return Plot(
        "training",
        "Training curves",
        text,
        (Panel(draw, 6.2, 4.4, f"Training loss against FLOPs of {len(runs)} runs"),),
    )
