"""Figures 1 and 2: the isoFLOP slices with their parabolas; the laws through the minima, the forecast, the probe."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase

from ..laws import Estimate, Forecast, Laws
from ..laws.estimates import Z
from ..laws.minima.parabola import Slice
from ..laws.surface.fit_surface import optimum
from ..laws.text import Format
from ..units import compact, count
from .html import ACCENT, INK, MUTED, PAPER
from .read import StudyResults
from .sentences import SURFACE, digits, join, plural
from .style import Label, Panel, Plot, bars, label_ends, limits, log_axis, sequence, two_rows

# The three laws: name in laws.json, column in study.h5, symbol, form of its values, title of the panel.
Quantity = tuple[str, str, str, Format, str]
QUANTITIES: tuple[Quantity, ...] = (
    ("model", "n_params", "N*", count, "Model size N*(C)"),
    ("data", "n_tokens", "D*", count, "Data D*(C), tokens"),
    ("loss", "loss", "L*", compact, "Loss L*(C)"),
)
BAR: Any = {"ms": 11, "mew": 1.6, "elinewidth": 1.6, "capsize": 4}  # How matplotlib draws the forecast's interval.


class Minimum(NamedTuple):
    """The minimum of an accepted slice; intervals are by the delta method, where laws.json has standard errors.
    parabola: the fitted loss at N."""

    n_params: Estimate
    n_tokens: Estimate
    loss: Estimate
    parabola: Callable[[np.ndarray], np.ndarray]


def minimum(s: Slice) -> Minimum | None:
    if not s.ok or s.n_params is None or s.n_tokens is None or s.loss is None:
        return None
    n, d, loss = Estimate(s.n_params), Estimate(s.n_tokens), Estimate(s.loss)
    if s.log_n_se is not None:
        # At a given budget D* = C / (kappa N*), so log D* has the error of log N*.
        factor = math.exp(Z * min(abs(s.log_n_se), 100.0))
        n, d = (Estimate(e.value, e.value / factor, e.value * factor) for e in (n, d))
    if s.loss_se is not None:
        loss = Estimate(s.loss, s.loss - Z * s.loss_se, s.loss + Z * s.loss_se)
    return Minimum(n, d, loss, s.loss_at)


class Group(NamedTuple):
    """The runs of one budget as the figure shows them: the rows of its slice and of its levers in study.h5."""

    budget_flops: float
    rows: np.ndarray
    levers: np.ndarray
    slice: Slice | None
    minimum: Minimum | None
    colour: str


def groups(results: StudyResults) -> list[Group]:
    """A group for each slice, of the fitted runs whose budgets are nearest; without slices one for each budget."""
    slices: tuple[Slice | None, ...] = results.laws.slices if results.laws else ()
    budgets, runs = [s.budget_flops for s in slices if s], results.fitted
    if not slices:
        budgets, runs, slices = results.budgets, ~results.probe, (None,) * len(results.budgets)
    nearest = np.argmin(np.abs(np.log(results.table.budget_flops)[:, None] - np.log(budgets)), axis=1)
    lever = results.table.role == "lever"
    own, levers = ([np.flatnonzero(runs & (nearest == i) & of) for i in range(len(budgets))] for of in (~lever, lever))
    minima = [minimum(s) if s else None for s in slices]
    return list(map(Group, budgets, own, levers, slices, minima, sequence(len(budgets))))


def slices_plot(results: StudyResults) -> Plot:
    """Loss against N at each budget; without laws the points alone."""
    shown = groups(results)
    fitted = sum(g.minimum is not None for g in shown)
    alt = f"Validation loss against model size at {len(shown)} budgets, with {fitted} fitted parabolas and residuals"
    panel = Panel(partial(_draw_slices, results, shown), 6.2, 5.6 if results.laws else 4.2, alt)
    return Plot("isoflop", "IsoFLOP slices", _slices_caption(results, shown), (panel,))


def _curve(n_params: np.ndarray) -> np.ndarray:
    """Where a slice's curve is drawn: a little beyond its runs, for a parabola says nothing far from them."""
    low, high = np.log([n_params.min(), n_params.max()])
    return np.exp(np.linspace(low - 0.03 * (high - low), high + 0.03 * (high - low), 200))


def _draw_slices(results: StudyResults, shown: list[Group], figure: FigureBase) -> None:
    top, below = two_rows(figure, 3.2) if results.laws else (figure.subplots(), None)
    n, loss = results.table.n_params, results.points[results.metric]
    shown = [g for g in shown if len(g.rows)]
    rows = np.concatenate([np.array([], dtype=int), *(part for g in shown for part in (g.rows, g.levers))])
    curves = [g.minimum.parabola(_curve(n[g.rows])) for g in shown if g.minimum]
    minima = [g.minimum.loss.value for g in shown if g.minimum]
    log_axis(top, "x", limits(n[rows], margin=0.05, right=0.13), "", count, 8)
    log_axis(top, "y", limits(loss[rows], minima, *curves), f"validation {results.metric}")
    label_ends(top, [_draw_group(results, g, top, below) for g in shown])
    (below or top).set_xlabel(f"model size N ({results.study.params} parameters)")
    if below:
        off = np.concatenate([[0.0], *(np.abs(np.asarray(line.get_ydata())) for line in below.lines)])
        largest = 1.25 * float(off[np.isfinite(off)].max())
        below.set_ylim(-largest or -1, largest or 1)
        below.axhline(0, color=MUTED, lw=0.8)
        below.set_ylabel("off the\nparabola, %")


def _draw_group(results: StudyResults, g: Group, top: Axes, below: Axes | None) -> Label:
    n, loss = results.table.n_params[g.rows], results.points[results.metric][g.rows]
    se = Z * results.points["loss_se"][g.rows] if results.metric == "loss" else None
    refused = g.slice is not None and g.minimum is None
    face = PAPER if refused else g.colour
    far = results.table.n_params[g.levers], results.points[results.metric][g.levers]
    top.plot(*far, "x", ms=5, mew=1, color=g.colour, alpha=0.8, zorder=2)
    top.errorbar(n, loss, se, fmt="o", ms=5, color=g.colour, mfc=face, elinewidth=1, zorder=3)
    end, text, m = int(np.argmax(n)), compact(g.budget_flops), g.minimum
    if m is None or below is None:
        return Label(n[end], loss[end], text + "\nno minimum" * refused, g.colour)
    x, y = _curve(n), m.parabola(_curve(n))
    top.plot(x, y, color=g.colour)
    if m.n_params.low is not None and m.n_params.high is not None:
        top.plot([m.n_params.low, m.n_params.high], [m.loss.value] * 2, color=INK, lw=1.2, zorder=4)
    top.plot(m.n_params.value, m.loss.value, "D", ms=6, mfc=PAPER, mec=INK, mew=1.4, zorder=5)
    below.plot(n, 100 * (loss / m.parabola(n) - 1), "o-", ms=4, lw=0.8, color=g.colour)
    return Label(x[-1], y[-1], text, g.colour)


def _slices_caption(results: StudyResults, shown: list[Group]) -> str:
    counts = ", ".join(f"{compact(g.budget_flops)}: {len(g.rows)} runs" for g in shown)
    error = "95 % of the Monte-Carlo error of the validation loss"
    first = f"One colour for each budget in FLOPs ({counts}); bars are {error}."
    if levers := sum(len(g.levers) for g in shown):
        first += f" Crosses: {plural(levers, 'lever')}, in the surface and the answer but in no parabola."
    if not results.laws:
        unfitted = "No law was fitted yet, so there are no curves. N and loss are on log axes because both span ratios."
        return join(first, unfitted)
    accepted = [s for s in results.laws.slices if s.ok]
    refused = [reason for s in results.laws.slices if not s.ok for reason in s.reasons]
    rms = ", ".join(f"{100 * (s.residual_rms or 0.0):.2g} % ({compact(s.budget_flops)})" for s in accepted)
    what = "the logarithm of the loss" if any(s.response == "log" for s in results.laws.slices) else "the loss"
    return join(
        first,
        accepted and "Diamonds: the minima.",
        any(s.log_n_se for s in accepted) and "Bars through them: their 95 % intervals in N by the delta method.",
        refused and f"Hollow points, no curve: refused ({'; '.join(refused)}).",
        accepted and f"Below: the residuals of each parabola, rms {rms};",
        accepted and "a bend in them would mean that a parabola is the wrong shape.",
        f"N is on a log axis because the parabola, of {what}, is fitted in log N;",
        "the loss axis is log because budgets differ by ratios.",
    )


def curves(laws: Laws, law: str, budget: np.ndarray) -> list[tuple[str, np.ndarray, str, str]]:
    """(name, values at the budgets, line style, colour) of every form that laws.json has for one quantity."""
    out = []
    exponent, k = (getattr(laws.approach2, f"{law}_{part}", None) for part in ("exponent", "coefficient"))
    if exponent and k:
        name = f"power law\n$C^{{{exponent.value:.3f}}}$"
        out.append((name, k.value * budget**exponent.value, "-", INK))
    if s := laws.approach3:
        numbers = np.array([s.E.value, *np.log([s.A.value, s.B.value]), s.alpha.value, s.beta.value])
        log_n, log_d, loss = optimum(numbers, laws.kappa, budget)
        values = {"model": np.exp(log_n), "data": np.exp(log_d), "loss": loss}[law]
        out.append(("surface", values, ":", MUTED))
    return out


def powerlaws_plot(results: StudyResults) -> Plot | None:
    """The three laws and, when there is one, the forecast; None where no slice has a minimum and no surface fits."""
    laws, forecast = results.laws, results.forecast
    if not laws or not (laws.approach3 or any(s.ok for s in laws.slices)):
        return None
    alt = "{} against the training budget C"
    panels = [Panel(partial(_draw_law, results, laws, q), 4.5, 3.9, alt.format(q[2])) for q in QUANTITIES]
    if forecast:
        alt = "The forecast of each form of law, and what the probe measured"
        panels.append(Panel(partial(_draw_forecast, results, forecast), 4.5, 3.9, alt))
    return Plot("laws", "Power laws and the probe", _laws_caption(results, laws), tuple(panels), columns=2)


def _draw_law(results: StudyResults, laws: Laws, quantity: Quantity, figure: FigureBase) -> None:
    (law, column, symbol, form, title), axes, forecast = quantity, figure.subplots(), results.forecast
    shown = groups(results)  # Their colours are those of figure 1.
    target = forecast.target_budget_flops if forecast else shown[-1].budget_flops
    log_axis(axes, "x", (shown[0].budget_flops / 1.5, target * 1.7), "training budget C, FLOPs", compact, 6)
    grid = np.geomspace(*axes.get_xlim(), 120)
    lines, is_loss = curves(laws, law, grid), law == "loss"
    minima = [(g, getattr(g.minimum, column)) for g in shown if g.minimum]
    predicted: list[Estimate] = [getattr(forecast, column)] if forecast else []
    at_probe, probed = (results.points[x][results.probe] for x in ("budget_flops", laws.metric if is_loss else column))
    values = [v for e in predicted for v in (e.value, e.low, e.high) if v] + [e.value for _, e in minima]
    label = f"{laws.metric} {symbol}" if is_loss else symbol
    log_axis(axes, "y", limits(values, probed, *(y for _, y, *_ in lines), margin=0.1), label, form, 6)
    if laws.bands:
        ends = np.array([(e.low, e.high) for e in getattr(laws.bands, column)], dtype=float).reshape(-1, 2)
        axes.fill_between(laws.bands.budget_flops, *ends.T, color=MUTED, alpha=0.18, lw=0, zorder=1)
    for _, y, dashes, colour in lines:
        axes.plot(grid, y, ls=dashes, color=colour, lw=1.4, zorder=2)
    for g, e in minima:
        axes.errorbar(g.budget_flops, e.value, bars([e]), fmt="o", ms=6, color=g.colour, elinewidth=1.4, zorder=4)
    for e in predicted:
        axes.errorbar(target, e.value, bars([e]), fmt="_", color=ACCENT, zorder=5, **BAR)
    axes.plot(at_probe, probed, "o", ms=6, color=ACCENT, mfc=ACCENT if is_loss else PAPER, mew=1.4, zorder=6)
    labels = [Label(grid[-1], y[-1], name, colour) for name, y, _, colour in lines]
    label_ends(axes, labels, gap=0.13 if is_loss else 0.1, x=1.0, fontsize=8.5, linespacing=1.05)
    axes.set(title=title)


def _draw_forecast(results: StudyResults, forecast: Forecast, figure: FigureBase) -> None:
    axes, rows = figure.subplots(), [("sealed\nforecast", forecast.loss, ACCENT)]
    for form in forecast.forms:
        rows += [(form.law.replace("_with", "\nwith").replace("_", " "), form.loss, INK)] if form.loss else []
    for y, (_, e, colour) in enumerate(rows):
        axes.errorbar(e.value, -y, xerr=bars([e]), fmt="|", color=colour, zorder=4, **BAR)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    label = f"{forecast.metric} at {compact(forecast.target_budget_flops)} FLOPs"
    axes.set_yticks([-y for y in range(len(rows))], [name for name, *_ in rows])
    axes.set(ylim=(-len(rows) + 0.4, 0.6), xlabel=label, title="The forecast, magnified")
    axes.margins(x=0.12)
    if v := results.verdict:
        axes.axvline(v.measured, color=ACCENT, lw=1.2, zorder=2)
        error = results.points["loss_se"][results.table.run_id == v.run_id]
        if len(error) and v.metric == "loss":
            half = Z * float(error[0])
            axes.axvspan(v.measured - half, v.measured + half, color=ACCENT, alpha=0.15, lw=0, zorder=1)
        left = v.measured < sum(axes.get_xlim()) / 2
        axes.annotate(
            f"measured {digits(v.measured)}", (v.measured, 0.02), xycoords=("data", "axes fraction"), color=ACCENT,
            fontsize=9, xytext=(5 if left else -5, 0), textcoords="offset points", ha="left" if left else "right",
        )  # fmt: skip


def _laws_caption(results: StudyResults, laws: Laws) -> str:
    f, accepted, probe = results.forecast, [s for s in laws.slices if s.ok], results.probe.any()
    minima, runs = plural(len(accepted), "minimum"), plural(sum(s.n_runs for s in accepted), "run")
    intervals = ", with 95 % intervals" * any(s.log_n_se for s in accepted)
    sealed = f and f"Orange bar: the sealed forecast with its {100 * f.level:g} % interval"
    return join(
        f"Points: the {minima} of the slices ({runs}), coloured by budget as in figure 1{intervals}.",
        laws.approach2 and f"Solid: power laws through these {minima}, k C^a.",
        laws.bands and f"Grey: their 95 % bands ({laws.bootstrap.replicates} bootstrap replicates).",
        laws.approach3 and f"Dotted: the optimum of the surface {SURFACE} fitted to all {laws.n_runs} runs.",
        f and (f"{sealed}." if probe else f"{sealed}; its probe is not measured yet."),
        f and probe and "In N and D the open circle is the probe's size, chosen from the forecast, so only its loss",
        f and probe and "tests anything.",
        f and "The last panel magnifies the loss there, on a linear axis because it compares differences.",
        f and results.verdict and "The line is the measured loss of the probe, one run; its shade is 95 % of that",
        f and results.verdict and "measurement's Monte-Carlo error.",
        "All other" if f else "All",
        "axes are log, on which a pure power law is a straight line and a floor shows as a bend.",
    )
