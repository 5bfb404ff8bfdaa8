"""Figure: which noise levels improve with scale, from the validation triples of every run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ..errors import UserError
from ..laws import Trend, fit_trend
from ..units import compact
from .read import Material, number
from .style import ACCENT, INK, MUTED, Panel, Plot, limits, log_axis, sequence


@dataclass(frozen=True)
class ByNoise:
    """The loss of each noise level along the optimum of the whole loss. laws (L,), low noise first."""

    material: Material

    @property
    def borders(self) -> np.ndarray:
        """Timesteps [L + 1] between the levels."""
        return self.material.noise_levels.borders

    @cached_property
    def laws(self) -> tuple[Trend, ...]:
        """Empty where the study has no law of the loss, or one level alone."""
        levels = self.material.noise_levels
        if levels is None or len(levels.borders) < 3:
            return ()
        table = self.material.table()
        rows = {run: row for run, row in zip(self.material.points["run_id"], levels.loss, strict=True)}
        of_runs = np.stack([rows[run] for run in table.run_id])
        table = replace(table, columns={f"loss_{i}": column for i, column in enumerate(of_runs.T)})
        try:
            return tuple(fit_trend(table, name) for name in table.columns)
        except UserError:
            return ()

    @property
    def probe(self) -> np.ndarray:
        """[probes, L] losses, by the order of the runs."""
        return self.material.noise_levels.loss[self.material.probe]

    def between(self, i: int) -> str:
        return f"t {self.borders[i]:.2f} to {self.borders[i + 1]:.2f}"

    @property
    def sentence(self) -> str:
        """Which level gains most from compute, and whether that is told apart from the one that gains least."""
        exponents = [law.exponent for law in self.laws]
        fast, slow = (int(pick([e.value for e in exponents])) for pick in (np.argmin, np.argmax))
        text = (
            f"The loss falls fastest with compute at {self.between(fast)}, as C^{exponents[fast].value:.3f}, and "
            f"slowest at {self.between(slow)}, as C^{exponents[slow].value:.3f}"
        )
        apart = exponents[fast].high < exponents[slow].low
        say = "lie apart" if apart else "overlap, so these runs do not tell the two apart"
        return f"{text}; their 95 % intervals {say}."


def noise_plot(material: Material) -> Plot | None:
    """Loss by noise level at each budget, and its exponent; None where no law can be given."""
    found = ByNoise(material)
    if not found.laws:
        return None
    text = (
        f"Validation triples by their timestep t (0 is data, 1 is noise), {len(found.laws)} levels with as many "
        "triples each. Left: the loss between two timesteps at the size where the whole loss of a budget has its "
        "optimum, coloured by budget as in figure 1"
    )
    text += ", the probe in orange. " if material.probe.any() else ". "
    text += f"Right: the exponent of C of each level, bars are 95 %; dashed, that of the whole loss. {found.sentence}"
    panels = (
        Panel(_losses(found), 5.0, 3.8, "Loss against timestep, by budget"),
        Panel(_exponents(found), 5.0, 3.8, "Exponent of compute against timestep"),
    )
    return Plot("noise", "Which noise levels improve with scale", text, panels, columns=2)


def _losses(found: ByNoise):
    def draw(figure):
        axes = figure.subplots()
        budgets, values = found.laws[0].budgets, np.array([[e.value for e in law.at] for law in found.laws])
        for k, colour in enumerate(sequence(max(2, len(budgets)))[: len(budgets)]):
            axes.stairs(values[:, k], found.borders, baseline=None, color=colour, lw=1.6, label=compact(budgets[k]))
        for row in found.probe:
            axes.stairs(row, found.borders, baseline=None, color=ACCENT, lw=1.6, label="probe")
        log_axis(axes.yaxis, *limits(values, found.probe), "validation loss", lambda v: f"{v:.4g}")
        axes.set_xlabel("timestep t")
        axes.legend(frameon=False, fontsize=9, labelcolor=MUTED)

    return draw


def _exponents(found: ByNoise):
    def draw(figure):
        axes = figure.subplots()
        middle = (found.borders[1:] + found.borders[:-1]) / 2
        exponents = [law.exponent for law in found.laws]
        at = np.array([e.value for e in exponents])
        bars = [at - [e.low for e in exponents], [e.high for e in exponents] - at]
        axes.errorbar(middle, at, yerr=bars, xerr=np.diff(found.borders) / 2, fmt="o", ms=5, lw=1, color=INK, zorder=3)
        two = found.material.laws and found.material.laws["approach2"]
        if two and two["loss_exponent"]:
            axes.axhline(number(two["loss_exponent"]).value, color=MUTED, lw=1, ls=(0, (6, 2)))
        axes.set_xlabel("timestep t")
        axes.set_ylabel("exponent of C")

    return draw


def rows(material: Material) -> list[list[str]]:
    """Level, loss at the first and the last budget, exponent, forecast for the probe, measured there: cells of the
    page's table."""
    found, out = ByNoise(material), []
    budgets = material.points["budget_flops"][material.probe]
    for i, law in enumerate(found.laws):
        e, first, last = law.exponent, law.at[0], law.at[-1]
        predicted = measured = ""
        if len(budgets):
            p = law.predict(float(budgets[0]))
            predicted, measured = f"{p.value:.4g} ({p.low:.4g} to {p.high:.4g})", f"{found.probe[0, i]:.4g}"
        out.append(
            [
                found.between(i),
                f"{first.value:.4g}",
                f"{last.value:.4g}",
                f"{e.value:.3f} ({e.low:.3f} to {e.high:.3f})",
                predicted,
                measured,
            ]
        )
    return out
