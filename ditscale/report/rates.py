"""The learning-rate figure: the sweep at each size, and its best rates beside those that the recipe gives."""

from __future__ import annotations

import numpy as np

from ..units import compact, count
from .read import Material, number
from .sentences import exponent, interval, plural
from .style import ACCENT, INK, MUTED, PAPER, Panel, Plot, limits, log_axis, sequence


def rates_plot(material: Material) -> Plot | None:
    """Loss against rate, and the best rate against N; None without rates.json."""
    rates = material.rates
    if not rates or not any(_finished(c) for c in rates["cells"]):
        return None
    panels = (
        Panel(_sweep(rates), 4.5, 3.9, f"Loss against learning rate at {plural(len(rates['cells']), 'size')}"),
        Panel(_best(rates), 4.5, 3.9, "The best learning rate and the recipe's against model size"),
    )
    return Plot("rates", "The learning rate", " ".join(sentences(rates)), panels, columns=2)


def sentences(rates: dict) -> list[str]:
    """What the sweep found, in sentences."""
    cells = rates["cells"]
    ok = [c for c in cells if c["status"] == "ok"]
    trials = [t for c in cells for t in c["trials"]]
    budgets = sorted({c["budget_flops"] for c in cells})
    diverged = sum(t["loss"] is None for t in trials)
    out = [
        f"{plural(len(trials), 'run')} at {' and '.join(map(compact, budgets))} FLOPs, coloured by model size"
        + (f"; {diverged} of them diverged." if diverged else ".")
    ]
    off = [c for c in ok if c["excess"] is not None]
    if off:
        worst = max(off, key=lambda c: c["excess"])
        factors, excess = [1 / c["factor"] for c in off], [100 * c["excess"] for c in off]
        out.append(
            f"The best rate is {min(factors):.2g} to {max(factors):.2g} times the recipe's, whose loss is therefore "
            f"{min(excess):.2g} to {max(excess):.2g} % above its parabola's minimum; most at N = "
            f"{count(worst['n_params'])}. Above the lowest that was measured it is "
            f"{100 * min(c['measured_excess'] for c in off):.2g} to "
            f"{100 * max(c['measured_excess'] for c in off):.2g} %."
        )
    if rates["status"] == "ok":
        parts = [
            f"{name}^{exponent(e.value)} (95 %: {interval(e, exponent)})"
            for name, e in (("N", number(rates["params"])), ("D", number(rates["tokens"])))
            if e
        ]
        scale = number(rates["scale"]).value
        out.append(f"Line: the law through {plural(len(ok), 'best rate')}, {scale:.3g} {' '.join(parts)}.")
        out += [f"{reason[0].upper()}{reason[1:]}." for reason in rates["reasons"]]
        out.append(f"As settings: {rates['overrides']}.")
    else:
        out.append(f"No law was given: {'; '.join(rates['reasons'])}.")
    refused = [c for c in cells if c["status"] != "ok"]
    out += [f"N = {count(c['n_params'])} has no best rate: {c['reasons'][0]}." for c in refused]
    return [*out, "Rates and sizes are on log axes, since the parabola and the law are fitted in their logarithms."]


def _finished(cell: dict) -> list[dict]:
    return [t for t in cell["trials"] if t["loss"] is not None]


def _colours(rates: dict) -> dict:
    sizes = sorted({c["n_params"] for c in rates["cells"]})
    return dict(zip(sizes, sequence(len(sizes)), strict=True))


def _sweep(rates: dict):
    """A function that draws each cell's losses over the lowest of them, and its parabola."""
    colours = _colours(rates)

    def draw(figure):
        axes = figure.subplots()
        for cell in rates["cells"]:
            runs, colour = _finished(cell), colours[cell["n_params"]]
            if not runs:
                continue
            ok = cell["status"] == "ok"
            base = cell["loss"] if ok else cell["lowest"]["loss"]
            x, y = np.array([t["lr"] for t in runs]), np.array([t["loss"] for t in runs])
            axes.plot(x, 100 * (y / base - 1), "o", ms=5, color=colour, mfc=colour if ok else PAPER, zorder=3)
            if ok:
                usable = x[x < min(cell["diverged"], default=np.inf)]
                at = np.geomspace(usable.min(), usable.max(), 100)
                bend = cell["curvature"] * np.mean(y[x < min(cell["diverged"], default=np.inf)]) / base
                axes.plot(at, 100 * bend * np.log(at / cell["rate"]["value"]) ** 2, color=colour, lw=1.2)
        tried = [t["lr"] for c in rates["cells"] for t in c["trials"]]
        log_axis(axes.xaxis, *limits(tried), "learning rate", compact, 6)
        axes.axhline(0, color=MUTED, lw=0.8)
        axes.set_ylabel("loss above the lowest of its size, %")
        axes.set_title("The sweep", fontsize=10)

    return draw


def _best(rates: dict):
    """A function that draws the best rate of each size with its interval, the recipe's, and the law along each
    budget."""
    ok = [c for c in rates["cells"] if c["status"] == "ok"]
    given = [c for c in rates["cells"] if c["recipe_rate"] is not None]
    colours = _colours(rates)

    def law(cell):
        value = rates["scale"]["value"]
        for key, name in (("params", "n_params"), ("tokens", "n_tokens")):
            value *= cell[name] ** rates[key]["value"] if rates[key] else 1
        return value

    def draw(figure):
        axes = figure.subplots()
        for c in ok:
            e = number(c["rate"])
            bars = [[e.value - (e.low or e.value)], [(e.high or e.value) - e.value]]
            colour = colours[c["n_params"]]
            axes.errorbar(c["n_params"], e.value, bars, fmt="o", ms=6, color=colour, elinewidth=1.4, zorder=4)
        for budget in sorted({c["budget_flops"] for c in rates["cells"]}):
            row = sorted((c for c in rates["cells"] if c["budget_flops"] == budget), key=lambda c: c["n_params"])
            if rates["status"] == "ok":
                axes.plot([c["n_params"] for c in row], [law(c) for c in row], color=INK, lw=1.4, zorder=3)
            own = [(c["n_params"], c["recipe_rate"]) for c in row if c["recipe_rate"] is not None]
            if own:
                axes.plot(*zip(*own, strict=True), "x--", color=ACCENT, lw=1, ms=6, zorder=2)
        log_axis(axes.xaxis, *limits([c["n_params"] for c in rates["cells"]]), "model size N", count, 6)
        shown = [v for c in ok for v in c["rate"].values() if v] + [c["recipe_rate"] for c in given]
        log_axis(axes.yaxis, *limits(shown or [1e-3, 1e-2]), "learning rate", compact, 6)
        axes.set_title("Best rate (dots) and the recipe's (crosses)", fontsize=10)

    return draw
