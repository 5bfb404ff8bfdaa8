"""Figure 4: the loss on other data sets against the loss on the study's own, and the offset between them."""

from __future__ import annotations

import numpy as np

from .read import Material
from .style import ACCENT, MUTED, Panel, Plot, sequence


def offsets(material: Material, name: str) -> np.ndarray:
    """Out-of-domain minus in-domain loss of every run measured on the data set `name`."""
    off = material.points[f"loss_{name}"] - material.points["loss"]
    return off[np.isfinite(off)]


def domains_plot(material: Material) -> Plot | None:
    """One panel a data set; None when runs were measured on their own alone."""
    panels = tuple(
        Panel(_panel(material, name), 5.0, 5.2, f"Loss on {name} against in-domain loss")
        for name in material.out_of_domain
    )
    if not panels:
        return None
    text = "Every run measured on its own data and on another data set, coloured by budget as in figure 1"
    text += ", the probe in orange. " if material.probe.any() else ". "
    for name in material.out_of_domain:
        off = offsets(material, name)
        text += (
            f"{name}: mean offset {off.mean():+.3g}, from {off.min():+.3g} to {off.max():+.3g} over {len(off)} runs. "
        )
    text += (
        "Line: equal losses. Axes are linear because the question is a difference: a constant offset is a flat row of"
        " points below."
    )
    return Plot("domains", "In and out of domain", text, panels, columns=min(2, len(panels)))


def _panel(material: Material, name: str):
    points = material.points
    colours = dict(zip(material.budgets, sequence(max(1, len(material.budgets))), strict=False))

    def draw(figure):
        top, below = figure.subplots(2, 1, sharex=True, height_ratios=(2.2, 1))
        x, y = points["loss"], points[f"loss_{name}"]
        use = np.isfinite(y)
        ends = [min(x[use].min(), y[use].min()), max(x[use].max(), y[use].max())]
        top.plot(ends, ends, color=MUTED, lw=1, zorder=2)
        top.annotate(
            "equal",
            (ends[1], ends[1]),
            xytext=(-4, -10),
            textcoords="offset points",
            fontsize=9,
            color=MUTED,
            ha="right",
            va="top",
        )
        for i in np.flatnonzero(use):
            colour = ACCENT if material.probe[i] else colours[float(points["budget_flops"][i])]
            top.plot(x[i], y[i], "o", ms=5, color=colour, zorder=3)
            below.plot(x[i], y[i] - x[i], "o", ms=5, color=colour, zorder=3)
        below.axhline(offsets(material, name).mean(), color=MUTED, lw=1, ls=(0, (6, 2)))
        below.axhline(0, color=MUTED, lw=1)
        below.margins(y=0.15)
        top.set_ylabel(f"loss on {name}")
        below.set_ylabel("offset")
        below.set_xlabel(f"loss on {material.study.data.name} (in domain)")
        top.tick_params(labelbottom=False)

    return draw
