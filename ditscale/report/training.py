"""Figures of training: the loss of every run against its compute, and the sweep of learning rates."""

from functools import partial

import numpy as np
from matplotlib.figure import FigureBase

from ..laws import RateLaw
from ..units import compact, count
from .html import ACCENT, INK, MUTED, PAPER
from .read import StudyResults
from .sentences import join, plural, power
from .style import Label, Panel, Plot, bars, colours, label_ends, limits, log_axis

FIRST = 0.02  # Curves start at this fraction of the run: warm-up comes before, and would stretch the axes.


def training_plot(results: StudyResults) -> Plot | None:
    """Smoothed training loss against FLOPs; None when no curve was recorded."""
    points, curves, batches = results.points, [], []
    by_size, per_image = colours(points["n_params"][~results.probe]), points["achieved_flops"] / points["n_images"]
    for i, run in enumerate(results.table.run_id):
        rows, probe, n_params = results.records.curves.get(run), bool(results.probe[i]), points["n_params"][i]
        if rows is None or not len(rows):
            continue
        images, loss = rows["images"], rows["loss_ema"]
        use = (images >= FIRST * images[-1]) & (images > 0) & np.isfinite(loss)
        if use.any():
            flops, loss, colour = images[use] * per_image[i], loss[use], ACCENT if probe else by_size[n_params]
            curves.append((flops, loss, Label(flops[-1], loss[-1], "probe " * probe + count(n_params), colour), probe))
            batches.append(int(points["batch_size"][i]))
    if not curves:
        return None
    sizes = " to ".join(map(str, dict.fromkeys((min(batches), max(batches)))))
    text = f"{len(curves)} runs, coloured by model size N (written where the longest run of a size ends)"
    text += f"{results.probe_in_orange}. Training loss smoothed by an exponential moving average with coefficient 0.9 "
    text += f"over steps of {sizes} images; the first {100 * FIRST:g} % of each run is left out. Both axes are log: "
    text += "compute spans powers of ten, and a power law in compute is a straight line."
    panel = Panel(partial(_draw_curves, curves), 6.2, 4.4, f"Training loss against FLOPs of {len(curves)} runs")
    return Plot("training", "Training curves", text, (panel,))


def _draw_curves(curves: list[tuple[np.ndarray, np.ndarray, Label, bool]], figure: FigureBase) -> None:
    """curves: (FLOPs, smoothed loss, label of the size at its end, whether it is the probe's) of each run."""
    axes, losses = figure.subplots(), np.concatenate([c[1] for c in curves])
    x_limits = limits(*(c[0] for c in curves), margin=0.02, right=0.02)
    log_axis(axes, "x", x_limits, "training FLOPs")
    # Extremes of a noisy curve would set the range; leave the top half per cent out.
    log_axis(axes, "y", limits(losses.min(), np.quantile(losses, 0.995)), "training loss, smoothed")
    longest: dict[str, Label] = {}
    for flops, loss, end, probe in curves:
        width, alpha, order = (1.6, 1, 4) if probe else (0.9, 0.9, 3)
        axes.plot(flops, loss, color=end.colour, lw=width, alpha=alpha, zorder=order)
        longest[end.text] = max(longest.get(end.text, end), end, key=lambda label: label.x)
    ends = sorted(longest.values())
    # Runs of one budget end at nearly one place, and share a column of labels.
    far = 1 + np.flatnonzero(np.diff(np.log([end.x for end in ends])) > 0.3)
    for group in np.split(np.arange(len(ends)), far):
        here = sorted((ends[i] for i in group), key=lambda end: end.y)
        every = 1 + len(here) // 8  # As many as fit.
        here = [end for i, end in enumerate(here) if i % every == 0 or end is here[-1]]
        label_ends(axes, here, gap=0.05, x=1.0 if here[-1].x > 0.7 * x_limits[1] else None)


def rates_plot(results: StudyResults) -> Plot | None:
    """Loss against rate, and the best rate against N; None without rates.json."""
    rates = results.rates
    if not rates or all(t.loss is None for c in rates.cells for t in c.trials):
        return None
    sweep = f"Loss against learning rate at {plural(len(rates.cells), 'size')}"
    shown = {_draw_sweep: sweep, _draw_best: "The best learning rate and the recipe's against model size"}
    panels = tuple(Panel(partial(draw, rates), 4.5, 3.9, alt) for draw, alt in shown.items())
    return Plot("rates", "The learning rate", " ".join(rate_sentences(rates)), panels, columns=2)


def rate_sentences(rates: RateLaw) -> list[str]:
    """What the sweep found, in sentences."""
    trials, accepted = [t for c in rates.cells for t in c.trials], [c for c in rates.cells if c.ok]
    budgets = " and ".join(map(compact, sorted({c.budget_flops for c in rates.cells})))
    diverged = sum(t.loss is None for t in trials)
    runs = f"{plural(len(trials), 'run')} at {budgets} FLOPs, coloured by model size"
    out = [f"{runs}; {diverged} of them diverged." if diverged else f"{runs}."]
    excess = {c.excess: c for c in accepted if c.excess is not None and c.factor}
    if excess:
        span = lambda values: f"{min(values):.2g} to {max(values):.2g}"
        factors, above = span([1 / c.factor for c in excess.values() if c.factor]), span([100 * x for x in excess])
        out.append(f"The best rate is {factors} times the recipe's, whose loss is therefore {above} % above its")
        out.append(f"parabola's minimum; most at N = {count(excess[max(excess)].n_params)}.")
        measured = [100 * c.measured_excess for c in excess.values() if c.measured_excess is not None]
        out += [f"Above the lowest that was measured it is {span(measured)} %."] if measured else []
    if rates.ok and rates.scale:
        powers = join(*(power(x, e) for x, e in (("N", rates.params), ("D", rates.tokens)) if e))
        out.append(f"Line: the law through {plural(len(accepted), 'best rate')}, {rates.scale.value:.3g} {powers}.")
        out += [f"{reason[:1].upper()}{reason[1:]}." for reason in rates.reasons]
        out.append(f"As settings: {rates.overrides}.")
    else:
        out.append(f"No law was given: {'; '.join(rates.reasons)}.")
    out += [f"N = {count(c.n_params)} has no best rate: {c.reasons[0]}." for c in rates.cells if not c.ok]
    return [*out, "Rates and sizes are on log axes, since the parabola and the law are fitted in their logarithms."]


def _draw_sweep(rates: RateLaw, figure: FigureBase) -> None:
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
    log_axis(axes, "x", limits([t.lr for c in rates.cells for t in c.trials]), "learning rate", compact, 6)
    axes.axhline(0, color=MUTED, lw=0.8)
    axes.set(ylabel="loss above the lowest of its size, %", title="The sweep")


def _draw_best(rates: RateLaw, figure: FigureBase) -> None:
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
    log_axis(axes, "x", limits([c.n_params for c in rates.cells]), "model size N", count, 6)
    log_axis(axes, "y", limits([v for v in shown if v] or [1e-3, 1e-2]), "learning rate", compact, 6)
    axes.set(title="Best rate (dots) and the recipe's (crosses)")
