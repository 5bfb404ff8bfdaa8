"""Draws the figures of docs/laws.md from generated tables, whose truth is known.

python tools/laws_figures.py        # writes docs/figures/laws-*.png
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from ditscale.laws import fit
from ditscale.laws.synthetic import PAPER_TARGET, synthetic_study
from ditscale.report.style import ACCENT, INK, MUTED, RC, sequence

OUT = Path(__file__).resolve().parents[1] / "docs" / "figures"


def main() -> None:
    matplotlib.rcParams.update(RC)
    table, truth = synthetic_study("chinchilla", noise=0.003, seed=0)
    save("laws-slices", lambda figure: slices(figure, table, truth))
    save("laws-extrapolation", lambda figure: extrapolation(figure, table, truth))
    save("laws-bias", bias)


def save(name: str, draw) -> None:
    figure = Figure(figsize=(9.0, 3.9), layout="constrained")
    draw(figure)
    figure.savefig(OUT / f"{name}.png", dpi=110)
    print(OUT / f"{name}.png")


def slices(figure, table, truth) -> None:
    """The runs, their parabolas with minima, and what the surface leaves over."""
    laws = fit(table)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for p, colour in zip(laws.fits.approach2.slices, sequence(len(laws.fits.approach2.slices)), strict=True):
        n = table.n_params[p.rows]
        grid = np.geomspace(n.min(), n.max(), 100)
        left.plot(n, table.loss[p.rows], "o", ms=4, color=colour)
        left.plot(grid, p.result().loss_at(grid), color=colour, lw=1.2)
        left.plot(p.n_params, p.loss, "D", ms=6, mfc="white", mec=INK, mew=1.3)
        right.plot(n, 100 * np.expm1(laws.fits.approach3.surface.residuals[p.rows]), "o", ms=4, color=colour)
    left.set(xscale="log", xlabel="N", ylabel="loss", title="Slices and their minima")
    right.axhline(0, color=MUTED, lw=0.8)
    right.set(xscale="log", xlabel="N", ylabel="%", title="Off the surface")


def extrapolation(figure, table, truth) -> None:
    """The answer and both approaches to 250x beyond the largest budget, with 95 % intervals, and the truth."""
    laws = fit(table)
    budgets = np.geomspace(5e16, 2 * PAPER_TARGET, 60)
    for axes, name, column in zip(figure.subplots(1, 2), ("N*", "L*"), ("n_params", "loss"), strict=True):
        both = ((laws.fits.approach2, MUTED, "approach 2"), (laws.fits.approach3, ACCENT, "approach 3"))
        for approach, colour, label in both:
            at = [approach.predict(c)[column] for c in budgets]
            axes.plot(budgets, [e.value for e in at], color=colour, label=label)
            axes.fill_between(budgets, [e.low for e in at], [e.high for e in at], color=colour, alpha=0.2, lw=0)
        answer = [getattr(laws.fits.predictor.optimum(c), column).value for c in budgets]
        axes.plot(budgets, answer, "-.", color=INK, lw=1, label="answer")
        axes.plot(budgets, truth.optimum(budgets)[0 if name == "N*" else 2], "--", color=INK, lw=1, label="truth")
        minima = [getattr(p, column) for p in laws.fits.approach2.accepted]
        axes.plot(laws.fits.approach2.budgets, minima, "D", ms=5, mfc="white", mec=INK)
        scale = "log" if name == "N*" else "linear"
        axes.set(xscale="log", yscale=scale, xlabel="C (FLOPs)", title=f"{name}(C)")
        axes.legend(frameon=False)


def bias(figure) -> None:
    """Approach 2's error of N* on noise-free asymmetric surfaces, by the width and the centring of the grid."""
    from dataclasses import replace

    from ditscale.laws.synthetic import CASES

    left, right = figure.subplots(1, 2, sharey=True)
    for case, colour in (("chinchilla", MUTED), ("asymmetric", ACCENT)):
        for axes, key, values in (
            (left, "half_width", np.geomspace(2, 32, 13)),
            (right, "shift", np.geomspace(1 / 4, 4, 13)),
        ):
            off = {"approach 2": [], "approach 3": []}
            for value in values:
                table, truth = synthetic_study(replace(CASES[case], **{key: float(value)}), noise=0)
                laws = fit(table, bootstrap=0)
                n_star = truth.optimum(6e18)[0]
                off["approach 2"].append(laws.fits.approach2.slices[-1].n_params / n_star - 1)
                off["approach 3"].append(laws.fits.approach3.predict(6e18)["n_params"].value / n_star - 1)
            axes.plot(values, 100 * np.array(off["approach 2"]), "o-", ms=3, color=colour, label=f"{case}, approach 2")
            axes.plot(values, 100 * np.array(off["approach 3"]), "--", color=colour, label=f"{case}, approach 3")
    left.set(xscale="log", xlabel="half-width of the grid", ylabel="N* off by, %", title="Wide grids")
    right.set(xscale="log", xlabel="centre of the grid / N*", title="Off-centre grids (half-width 8)")
    for axes, ticks in ((left, (2, 4, 8, 16, 32)), (right, (0.25, 0.5, 1, 2, 4))):
        axes.set_xticks(ticks, [f"{x:g}x" for x in ticks])
        axes.minorticks_off()
    left.legend(frameon=False)


if __name__ == "__main__":
    main()
