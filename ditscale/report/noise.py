"""Figure: which noise levels improve with scale, from the validation triples of every run."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
from matplotlib.figure import FigureBase

from ..errors import UserError
from ..laws import Estimate, Trend, fit_trend
from ..units import compact
from .read import StudyResults
from .style import ACCENT, DASHED, INK, MUTED, Panel, Plot, bars, four_digits, limits, log_axis, sequence


class NoiseTrends(NamedTuple):
    """The loss of each of L noise levels at the optimum of the whole loss, low noise first. borders: timesteps [L + 1]
    between the levels; probe: losses [probes, L]."""

    borders: np.ndarray
    trends: list[Trend]
    exponents: list[Estimate]
    probe: np.ndarray

    def between(self, i: int) -> str:
        return f"t {self.borders[i]:.2f} to {self.borders[i + 1]:.2f}"

    @property
    def sentence(self) -> str:
        """Which level gains most from compute, and whether its exponent differs from that of the level that gains
        least."""
        values = [e.value for e in self.exponents]
        fast, slow = int(np.argmin(values)), int(np.argmax(values))
        high, low = self.exponents[fast].high, self.exponents[slow].low
        apart = high is not None and low is not None and high < low
        return (
            f"The loss falls fastest with compute at {self.between(fast)}, as C^{values[fast]:.3f}, and slowest at"
            f" {self.between(slow)}, as C^{values[slow]:.3f}; their 95 % intervals"
            f" {'lie apart' if apart else 'overlap, so these runs do not show that the two differ'}."
        )


@lru_cache(maxsize=2)
def noise_trends(results: StudyResults) -> NoiseTrends | None:
    """None where study.h5 has one level or none, or no law of the loss can be fitted."""
    levels = results.records.noise_levels
    if levels is None or len(levels.borders) < 3:
        return None
    columns = {f"loss_{i}": column for i, column in enumerate(levels.loss.T)}
    try:
        table = replace(results, table=replace(results.table, columns=results.points | columns)).fit_table()
        trends = [fit_trend(table, name) for name in columns]
    except UserError:
        return None
    exponents = [trend.exponent for trend in trends if trend.exponent]
    if len(exponents) < len(trends):
        return None
    return NoiseTrends(levels.borders, trends, exponents, levels.loss[results.probe])


def noise_plot(results: StudyResults) -> Plot | None:
    """Loss by noise level at each budget, and its exponent; None where no trend can be fitted."""
    found = noise_trends(results)
    if found is None:
        return None
    text = (
        f"Validation triples by their timestep t (0 is data, 1 is noise), {len(found.trends)} levels with as many "
        "triples each. Left: the loss between two timesteps at the size where the whole loss of a budget has its "
        f"optimum, coloured by budget as in figure 1{results.probe_in_orange}. Right: the exponent of C of each "
        f"level, bars are 95 %; dashed, that of the whole loss. {found.sentence}"
    )
    panels = (
        Panel(partial(_draw_losses, found), 5.0, 3.8, "Loss against timestep, by budget"),
        Panel(partial(_draw_exponents, results, found), 5.0, 3.8, "Exponent of compute against timestep"),
    )
    return Plot("noise", "Which noise levels improve with scale", text, panels, columns=2)


def _draw_losses(found: NoiseTrends, figure: FigureBase) -> None:
    axes, budgets = figure.subplots(), found.trends[0].budgets
    values = np.array([[e.value for e in trend.at] for trend in found.trends]).T
    lines = [*zip(values, sequence(len(budgets)), map(compact, budgets), strict=True)]
    for row, colour, label in [*lines, *((row, ACCENT, "probe") for row in found.probe)]:
        axes.stairs(row, found.borders, baseline=None, color=colour, lw=1.6, label=label)
    log_axis(axes.yaxis, limits(values, found.probe), "validation loss", four_digits)
    axes.set_xlabel("timestep t")
    axes.legend()


def _draw_exponents(results: StudyResults, found: NoiseTrends, figure: FigureBase) -> None:
    axes, at = figure.subplots(), [e.value for e in found.exponents]
    middle, half = (found.borders[1:] + found.borders[:-1]) / 2, np.diff(found.borders) / 2
    axes.errorbar(middle, at, bars(found.exponents), half, fmt="o", ms=5, lw=1, color=INK, zorder=3)
    if results.laws and results.laws.approach2 and results.laws.approach2.loss_exponent:
        axes.axhline(results.laws.approach2.loss_exponent.value, color=MUTED, lw=1, ls=DASHED)
    axes.set(xlabel="timestep t", ylabel="exponent of C")
