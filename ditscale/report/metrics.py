"""Figure: the loss and the metrics of the evaluation at each budget's optimal model, in domain and out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..errors import UserError
from ..laws import Gap, Trend, fit_gap, fit_trend
from ..units import compact
from .read import STANDARD_ERROR, Material
from .style import ACCENT, MUTED, Panel, Plot, limits, log_axis, sequence

# columns of study.h5
METRICS = {
    "loss": "validation loss",
    "vlb": "variational bound (VLB)",
    "nll": "exact negative log-likelihood",
    "fid": "FID",
}
OWN_UNIT = {"loss": "loss (squared velocity)", "fid": "FID (squared distance of features)"}


@dataclass(frozen=True)
class Measured:
    """A metric of the study, on each data set that runs were measured on: the study's own first."""

    material: Material
    column: str

    @property
    def unit(self) -> str:
        if self.column in OWN_UNIT:
            return OWN_UNIT[self.column]
        unit = self.material.units[self.column]
        return self.column.upper() + (f" ({unit})" if unit else "")

    @property
    def has_law(self) -> bool:
        """Whether a law of it is shown here. That of the loss, and its forecast, have figures of their own."""
        return self.column != "loss"

    @property
    def columns(self) -> dict[str, str]:
        """Data set, and what was different in how it was measured, to column."""
        own, ends = self.material.study.data.name, (f"{self.column}_", f"{self.column}:")
        others = [name for name in self.material.points if name.startswith(ends) and not STANDARD_ERROR.match(name)]
        return {own: self.column} | {
            name.removeprefix(ends[0]).replace(f"{self.column}:", f"{own}:"): name for name in sorted(others)
        }

    @cached_property
    def laws(self) -> dict[str, Trend]:
        """Data set to law; without those that cannot be fitted."""
        found = {}
        for data, column in self.columns.items():
            try:
                found[data] = fit_trend(self.material.table(also=(column,)), column)
            except UserError:
                pass  # fewer than two slices have it
        return found

    @cached_property
    def offsets(self) -> dict[str, Gap]:
        """Other data set to how its values lie from those of the study's own, at the metric's own optima."""
        found = {}
        for data, column in list(self.columns.items())[1:]:
            try:
                found[data] = fit_gap(self.material.table(self.column, also=(column,)), column)
            except UserError:
                pass
        return found


def measured(material: Material) -> list[Measured]:
    """The metrics that runs of this study have; the validation loss, whose laws have figures of their own, where it was
    measured out of domain too."""
    there = [name for name in METRICS if name in material.points and np.isfinite(material.points[name]).any()]
    found = [Measured(material, name) for name in there]
    return [m for m in found if m.has_law or material.out_of_domain]


def metrics_plot(material: Material) -> Plot | None:
    """One panel a metric; None when no law of one can be given."""
    shown = [m for m in measured(material) if m.laws]
    if not shown:
        return None
    text = (
        "Each metric at the size where the loss of its budget has its optimum, read off a quadratic in log N through "
        "the runs; bars are 95 %. Lines: the form that is taken (docs/laws.md), drawn beyond the grid where there is a "
        "probe, whose measured values are the hollow marks. "
    )
    text += " ".join(law.sentence for m in shown if m.has_law for law in m.laws.values())
    panels = tuple(Panel(_panel(material, m), 5.0, 3.8, f"{METRICS[m.column]} against FLOPs") for m in shown)
    return Plot("metrics", "In domain and out: every metric", text, panels, columns=min(2, len(panels)))


def _panel(material: Material, m: Measured):
    def draw(figure):
        axes = figure.subplots()
        budgets = [b for law in m.laws.values() for b in law.budgets]
        ends = [min(budgets), max([*budgets, *material.points["budget_flops"][material.probe]])]
        line = np.geomspace(*ends, 60)
        values = []
        for (data, law), colour in zip(m.laws.items(), sequence(max(2, len(m.laws))), strict=False):
            at = np.array([e.value for e in law.at])
            bars = [[e.value - e.low for e in law.at], [e.high - e.value for e in law.at]]
            axes.errorbar(law.budgets, at, yerr=bars, fmt="o", ms=5, color=colour, lw=1, zorder=3, label=data)
            if m.has_law:
                axes.plot(line, law.law.at(line), color=colour, lw=1.4, ls=(0, (6, 2)), zorder=2)
            probe = material.points[m.columns[data]][material.probe]
            axes.plot(
                material.points["budget_flops"][material.probe],
                probe,
                "D",
                ms=6,
                mfc="none",
                mec=ACCENT,
                mew=1.4,
                zorder=4,
            )
            values += [*at, *(law.law.at(line) if m.has_law else ()), *probe[np.isfinite(probe)]]
            values += [end for e in law.at for end in (e.low, e.high) if end > 0]
        log_axis(axes.xaxis, *limits(ends), "training FLOPs", compact)
        if min(values) > 0:
            log_axis(axes.yaxis, *limits(values, margin=0.12), m.unit, lambda v: f"{v:.4g}")
        else:
            axes.set_ylabel(m.unit)
        if len(m.laws) > 1:
            axes.legend(frameon=False, fontsize=9, labelcolor=MUTED)

    return draw


def rows(material: Material) -> list[list[str]]:
    """Metric, data set, form, exponent, predicted for the probe, measured there: cells of the page's table."""
    out = []
    probe = np.flatnonzero(material.probe)
    for m in filter(lambda m: m.has_law, measured(material)):
        for data, law in m.laws.items():
            e = law.exponent
            exponent = (
                "" if e is None else f"{e.value:.3f}" + (f" ({e.low:.3f} to {e.high:.3f})" if e.low is not None else "")
            )
            predicted = found = ""
            if len(probe):
                p = law.predict(float(material.points["budget_flops"][probe[0]]))
                predicted = f"{p.value:.4g} ({p.low:.4g} to {p.high:.4g})"
                value = float(material.points[m.columns[data]][probe[0]])
                found = f"{value:.4g}" if math.isfinite(value) else ""
            out.append(
                [
                    METRICS[m.column],
                    data,
                    law.law.chosen.replace("_", " ").replace("log c", "log C"),
                    exponent,
                    predicted,
                    found,
                ]
            )
    return out


def sentences(material: Material) -> list[str]:
    """How each metric out of domain lies from that in domain."""
    return [offset.sentence for m in measured(material) for offset in m.offsets.values()]
