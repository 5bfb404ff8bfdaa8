"""Figure 2: the laws N*(C), D*(C) and L*(C), the forecast and the probe that tests it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase

from ..laws import Estimate, Forecast, Laws, Verdict
from ..laws.surface.surface import optimum
from ..units import compact, count
from .read import StudyResults
from .sentences import digits, plural
from .slices import Z, groups
from .style import ACCENT, DASHED, DOTTED, INK, MUTED, PAPER, RANGE
from .style import Label, Panel, Plot, bars, label_lines, limits, log_axis


class Quantity(NamedTuple):
    """One of the three laws: its name in laws.json, its column in study.h5, and how the figure writes it."""

    law: str
    column: str
    symbol: str
    form: Callable[[float], str]
    title: str


QUANTITIES = (
    Quantity("model", "n_params", "N*", count, "Model size N*(C)"),
    Quantity("data", "n_tokens", "D*", count, "Data D*(C), tokens"),
    Quantity("loss", "loss", "L*", compact, "Loss L*(C)"),
)


class Curve(NamedTuple):
    """One form of a law: its name, its values at the budgets, and how its line looks."""

    name: str
    values: np.ndarray
    dashes: Any
    colour: str


def curves(laws: Laws, law: str, budget: np.ndarray) -> list[Curve]:
    """Every form that laws.json has for one quantity, at some budgets."""
    out = []
    chosen = law == "loss" and laws.loss_law is not None and laws.loss_law.chosen == "power_law_with_floor"
    exponent, k = (getattr(laws.approach2, f"{law}_{part}", None) for part in ("exponent", "coefficient"))
    with np.errstate(all="ignore"):  # What cannot be computed is not drawn.
        if exponent and k:
            name = f"power law\n$C^{{{exponent.value:.3f}}}$"
            out.append(Curve(name, k.value * budget**exponent.value, DASHED if chosen else "-", INK))
        if law == "loss" and (f := laws.loss_with_floor):
            values = f.E.value + f.coefficient.value * budget**f.exponent.value
            out.append(Curve(f"with floor\nE = {f.E.value:.3g}", values, "-" if chosen else DASHED, INK))
        if s := laws.approach3:
            numbers = np.array([s.E.value, *np.log([s.A.value, s.B.value]), s.alpha.value, s.beta.value])
            log_n, log_d, loss = optimum(numbers, laws.kappa, budget)
            values = {"model": np.exp(log_n), "data": np.exp(log_d), "loss": loss}[law]
            out.append(Curve("surface", values, DOTTED, MUTED))
    return out


def powerlaws_plot(results: StudyResults) -> Plot | None:
    """The three laws and, when there is one, the forecast; None where no slice has a minimum and no surface fits."""
    laws, forecast = results.laws, results.forecast
    if not laws or not (laws.approach3 or any(s.ok for s in laws.slices)):
        return None
    alt = "{} against the training budget C"
    panels = [Panel(partial(_draw_law, results, laws, q), 4.5, 3.9, alt.format(q.symbol)) for q in QUANTITIES]
    if forecast:
        alt = "The forecast of each form of law, and what the probe measured"
        panels.append(Panel(partial(_draw_forecast, results, forecast), 4.5, 3.9, alt))
    return Plot("laws", "Power laws and the probe", _caption(results, laws), tuple(panels), columns=2)


def _draw_law(results: StudyResults, laws: Laws, q: Quantity, figure: FigureBase) -> None:
    axes, forecast = figure.subplots(), results.forecast
    shown = groups(results)  # Their colours are those of figure 1.
    target = forecast.target_budget_flops if forecast else shown[-1].budget_flops
    low, high = np.clip([shown[0].budget_flops / 1.5, target * 1.7], *RANGE)
    grid = np.geomspace(low, high, 120)
    lines, metric = curves(laws, q.law, grid), laws.metric if q.law == "loss" else q.column
    minima = [(g, getattr(g.minimum, q.column)) for g in shown if g.minimum]
    predicted: list[Estimate] = [getattr(forecast, q.column)] if forecast else []
    probed = results.points[metric][results.probe]
    values = [v for e in predicted for v in (e.value, e.low, e.high) if v] + [e.value for _, e in minima]
    log_axis(axes.xaxis, (low, high), "training budget C, FLOPs", compact, 6)
    label = f"{metric} {q.symbol}" if q.law == "loss" else q.symbol
    log_axis(axes.yaxis, limits(values, probed, *(line.values for line in lines), margin=0.1), label, q.form, 6)
    if laws.bands:
        band = [(np.nan if e.low is None else e.low, e.high or np.nan) for e in getattr(laws.bands, q.column)]
        lows, highs = np.array(band).reshape(-1, 2).T
        axes.fill_between(laws.bands.budget_flops, lows, highs, color=MUTED, alpha=0.18, lw=0, zorder=1)
    for line in lines:
        axes.plot(grid, line.values, ls=line.dashes, color=line.colour, lw=1.4, zorder=2)
    for g, e in minima:
        axes.errorbar(g.budget_flops, e.value, bars([e]), fmt="o", ms=6, color=g.colour, elinewidth=1.4, zorder=4)
    for e in predicted:
        _interval_bar(axes, target, e, ACCENT)
    face = ACCENT if q.law == "loss" else PAPER
    at_probe = results.table.budget_flops[results.probe]
    axes.plot(at_probe, probed, "o", ms=6, color=ACCENT, mfc=face, mew=1.4, zorder=6)
    labels = [Label(high, line.values[-1], line.name, line.colour) for line in lines]
    label_lines(axes, labels, gap=0.13 if q.law == "loss" else 0.1, x=1.0, fontsize=8.5, linespacing=1.05)
    axes.set_title(q.title)


def _interval_bar(axes: Axes, at: float, e: Estimate, colour: str, sideways: bool = False) -> None:
    x, y, which = (e.value, at, "xerr") if sideways else (at, e.value, "yerr")
    look: dict[str, Any] = {which: bars([e]), "fmt": "|" if sideways else "_", "zorder": 4 if sideways else 5}
    axes.errorbar(x, y, color=colour, ms=11, mew=1.6, elinewidth=1.6, capsize=4, **look)


def _draw_forecast(results: StudyResults, forecast: Forecast, figure: FigureBase) -> None:
    """The forecasts of all forms and the measured loss, magnified."""
    axes, rows = figure.subplots(), [("sealed\nforecast", forecast.loss, ACCENT)]
    rows += [(form.law.replace("_", " "), form.loss, INK) for form in forecast.forms if form.loss]
    for y, (_, e, colour) in enumerate(rows):
        _interval_bar(axes, -y, e, colour, sideways=True)
    axes.set_yticks([-y for y in range(len(rows))], [name for name, *_ in rows])
    axes.set_ylim(-len(rows) + 0.4, 0.6)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"{forecast.metric} at {compact(forecast.target_budget_flops)} FLOPs")
    axes.set_title("The forecast, magnified")
    axes.margins(x=0.12)
    if results.verdict:
        _draw_measured(results, results.verdict, axes)


def _draw_measured(results: StudyResults, verdict: Verdict, axes: Axes) -> None:
    """The probe's measured loss as a line, with its Monte-Carlo error as a band where study.h5 has that."""
    measured, probe = verdict.measured, results.table.run_id == verdict.run_id
    axes.axvline(measured, color=ACCENT, lw=1.2, zorder=2)
    if probe.any() and verdict.metric == "loss":
        half = Z * float(results.points["loss_se"][probe][0])
        axes.axvspan(measured - half, measured + half, color=ACCENT, alpha=0.15, lw=0, zorder=1)
    left = measured < sum(axes.get_xlim()) / 2
    axes.annotate(
        f"measured {digits(measured)}", (measured, 0.02), xycoords=("data", "axes fraction"), color=ACCENT, fontsize=9,
        xytext=(5 if left else -5, 0), textcoords="offset points", ha="left" if left else "right",
    )  # fmt: skip


def _caption(results: StudyResults, laws: Laws) -> str:
    forecast, accepted = results.forecast, [s for s in laws.slices if s.ok]
    minima, runs = plural(len(accepted), "minimum"), plural(sum(s.n_runs for s in accepted), "run")
    intervals = ", with 95 % intervals" * any(s.log_n_se for s in accepted)
    text = [f"Points: the {minima} of the slices ({runs}), coloured by budget as in figure 1{intervals}."]
    if laws.approach2 and laws.loss_law:
        floor = ", for L* with a floor" * (laws.loss_law.chosen == "power_law_with_floor")
        text.append(f"Solid: power laws through these {minima}, k C^a{floor}.")
    if laws.bands:
        text.append(f"Grey: their 95 % bands ({laws.bootstrap.replicates} bootstrap replicates).")
    if laws.loss_with_floor:
        text.append(f"Dashed: L* by the form that was not chosen, through the same {minima}.")
    if laws.approach3:
        text.append(f"Dotted: the optimum of the surface E + A N^-alpha + B D^-beta fitted to all {laws.n_runs} runs.")
    if forecast:
        bar = f"Orange bar: the sealed forecast with its {100 * forecast.level:g} % interval"
        circle = "In N and D the open circle is the probe's size, chosen from the forecast,"
        probed = (
            f". {circle} so only its loss tests anything."
            if results.probe.any()
            else "; its probe is not measured yet."
        )
        text.append(f"{bar}{probed}")
        text.append("The last panel magnifies the loss there, on a linear axis because it compares differences.")
    if forecast and results.verdict:
        text.append("The line is the measured loss of the probe, one run;")
        text.append("its shade is 95 % of that measurement's Monte-Carlo error.")
    axes = "All other axes" if forecast else "All axes"
    text.append(f"{axes} are log, on which a pure power law is a straight line and a floor shows as a bend.")
    return " ".join(text)
