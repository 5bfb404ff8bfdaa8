"""The learning-rate figure: the sweep at each size, and its best rates beside those that the recipe gives."""

from __future__ import annotations

from functools import partial

import numpy as np
from matplotlib.figure import FigureBase

from ..laws import RateLaw
from ..units import compact, count
from .read import StudyResults
from .sentences import plural, power
from .style import ACCENT, INK, MUTED, PAPER, Panel, Plot, bars, colours, limits, log_axis


def rates_plot(results: StudyResults) -> Plot | None:
    """Loss against rate, and the best rate against N; None without rates.json."""
    rates = results.rates
    if not rates or all(t.loss is None for c in rates.cells for t in c.trials):
        return None
    alt = f"Loss against learning rate at {plural(len(rates.cells), 'size')}"
    panels = (
        Panel(partial(_draw_sweep, rates), 4.5, 3.9, alt),
        Panel(partial(_draw_best, rates), 4.5, 3.9, "The best learning rate and the recipe's against model size"),
    )
    return Plot("rates", "The learning rate", " ".join(sentences(rates)), panels, columns=2)


def sentences(rates: RateLaw) -> list[str]:
    """What the sweep found, in sentences."""
    trials, accepted = [t for c in rates.cells for t in c.trials], [c for c in rates.cells if c.ok]
    budgets = " and ".join(map(compact, sorted({c.budget_flops for c in rates.cells})))
    diverged = sum(t.loss is None for t in trials)
    runs = f"{plural(len(trials), 'run')} at {budgets} FLOPs, coloured by model size"
    out = [f"{runs}; {diverged} of them diverged." if diverged else f"{runs}."]
    excess = {c.excess: c for c in accepted if c.excess is not None and c.factor}
    if excess:
        factors = _range([1 / c.factor for c in excess.values() if c.factor])
        size = count(excess[max(excess)].n_params)
        out.append(f"The best rate is {factors} times the recipe's, whose loss is therefore")
        out.append(f"{_range([100 * x for x in excess])} % above its parabola's minimum; most at N = {size}.")
        measured = [100 * c.measured_excess for c in excess.values() if c.measured_excess is not None]
        out += [f"Above the lowest that was measured it is {_range(measured)} %."] if measured else []
    if rates.ok and rates.scale:
        powers = [power(x, e) for x, e in (("N", rates.params), ("D", rates.tokens)) if e]
        law = f"{rates.scale.value:.3g} {' '.join(powers)}"
        out.append(f"Line: the law through {plural(len(accepted), 'best rate')}, {law}.")
        out += [f"{reason[:1].upper()}{reason[1:]}." for reason in rates.reasons]
        out.append(f"As settings: {rates.overrides}.")
    else:
        out.append(f"No law was given: {'; '.join(rates.reasons)}.")
    out += [f"N = {count(c.n_params)} has no best rate: {c.reasons[0]}." for c in rates.cells if not c.ok]
    return [*out, "Rates and sizes are on log axes, since the parabola and the law are fitted in their logarithms."]


def _range(values: list[float]) -> str:
    return f"{min(values):.2g} to {max(values):.2g}"


def _draw_sweep(rates: RateLaw, figure: FigureBase) -> None:
    """The losses of each cell above the lowest of them, and its parabola."""
    axes, by_size = figure.subplots(), colours(c.n_params for c in rates.cells)
    for cell in rates.cells:
        colour, base = by_size[cell.n_params], cell.loss if cell.ok else cell.lowest and cell.lowest.loss
        x, y = np.array([(t.lr, t.loss) for t in cell.trials if t.loss]).reshape(-1, 2).T
        if not len(x) or not base:
            continue
        axes.plot(x, 100 * (y / base - 1), "o", ms=5, color=colour, mfc=colour if cell.ok else PAPER, zorder=3)
        use = x < min(cell.diverged, default=np.inf)
        if cell.ok and cell.rate and cell.curvature and use.any():
            at = np.geomspace(x[use].min(), x[use].max(), 100)
            bend = cell.curvature * y[use].mean() / base
            axes.plot(at, 100 * bend * np.log(at / cell.rate.value) ** 2, color=colour, lw=1.2)
    log_axis(axes.xaxis, limits([t.lr for c in rates.cells for t in c.trials]), "learning rate", compact, 6)
    axes.axhline(0, color=MUTED, lw=0.8)
    axes.set_ylabel("loss above the lowest of its size, %")
    axes.set_title("The sweep")


def _draw_best(rates: RateLaw, figure: FigureBase) -> None:
    """The best rate of each size with its interval, the recipe's, and the law along each budget."""
    axes, by_size = figure.subplots(), colours(c.n_params for c in rates.cells)
    shown = [c.recipe_rate for c in rates.cells]
    for c in rates.cells:
        if c.ok and c.rate:
            at, colour = (c.n_params, c.rate.value), by_size[c.n_params]
            axes.errorbar(*at, bars([c.rate]), fmt="o", ms=6, color=colour, elinewidth=1.4, zorder=4)
            shown += [c.rate.value, c.rate.low, c.rate.high]
    for budget in sorted({c.budget_flops for c in rates.cells}):
        row = sorted((c for c in rates.cells if c.budget_flops == budget), key=lambda c: c.n_params)
        sizes = np.array([c.n_params for c in row])
        if rates.ok:
            axes.plot(sizes, rates.rate_at(sizes, [c.n_tokens for c in row]), color=INK, lw=1.4, zorder=3)
        own = np.array([(c.n_params, c.recipe_rate) for c in row if c.recipe_rate]).reshape(-1, 2).T
        axes.plot(*own, "x--", color=ACCENT, lw=1, ms=6, zorder=2)
    log_axis(axes.xaxis, limits([c.n_params for c in rates.cells]), "model size N", count, 6)
    log_axis(axes.yaxis, limits([v for v in shown if v] or [1e-3, 1e-2]), "learning rate", compact, 6)
    axes.set_title("Best rate (dots) and the recipe's (crosses)")
