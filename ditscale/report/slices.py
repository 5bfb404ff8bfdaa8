"""Figure 1: the isoFLOP slices, their parabolas and minima, and what the parabolas leave over."""

from __future__ import annotations

import numpy as np

from ..units import compact, count
from .read import Material
from .style import INK, MUTED, PAPER, Panel, Plot, label_lines, limits, log_axis, sequence


def parabola(slice_: dict, n_params, raw: bool):
    """The fitted loss at N: L* exp(c (log N/N*)^2), or L* + c (log N/N*)^2 where the raw loss was fitted."""
    square = slice_["curvature"] * np.log(np.asarray(n_params) / slice_["n_params"]) ** 2
    return slice_["loss"] + square if raw else slice_["loss"] * np.exp(square)


def curve_over(n_params) -> np.ndarray:
    """Where a slice's curve is drawn: a little beyond its runs, for a parabola says nothing far from them."""
    low, high = np.log(n_params).min(), np.log(n_params).max()
    return np.exp(np.linspace(low - 0.03 * (high - low), high + 0.03 * (high - low), 200))


def of_slice(material: Material, slice_: dict) -> np.ndarray:
    """Rows of the runs that a slice was fitted to: fitted, and nearer in budget to it than to any other slice."""
    budgets = np.log([s["budget_flops"] for s in material.laws["slices"]])
    nearest = np.argmin(np.abs(np.log(material.points["budget_flops"])[:, None] - budgets), axis=1)
    return np.flatnonzero(material.fitted & (budgets[nearest] == np.log(slice_["budget_flops"])))


def slices_plot(material: Material) -> Plot:
    """Loss against N at each budget; without laws the points alone."""
    metric = material.laws["metric"] if material.laws else "loss"
    raw = bool(material.laws) and all(s["response"] == "raw" for s in material.laws["slices"])
    points, laws = material.points, material.laws
    groups = []  # (budget, rows, slice or None)
    if laws:
        groups = [(s["budget_flops"], of_slice(material, s), s) for s in laws["slices"]]
    else:
        groups = [(b, np.flatnonzero((points["budget_flops"] == b) & ~material.probe), None) for b in material.budgets]
    colours = sequence(len(groups))

    def draw(figure):
        if laws:
            top, below = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
        else:
            top, below = figure.subplots(), None
        rows = np.concatenate([g[1] for g in groups])
        n, loss = points["n_params"][rows], points[metric][rows]
        low, high = limits(n, margin=0.05)
        log_axis(top.xaxis, low, high * (high / low) ** 0.13, "" if laws else "model size N", count, 8)
        fitted = [(s, curve_over(points["n_params"][rows])) for _, rows, s in groups if s and s["status"] == "ok"]
        log_axis(
            top.yaxis,
            *limits(loss, *[s["loss"] for s, _ in fitted], *[parabola(s, x, raw) for s, x in fitted]),
            f"validation {metric}",
        )
        ends, largest = [], 0.0
        for (budget, rows, s), colour in zip(groups, colours, strict=True):
            n, loss = points["n_params"][rows], points[metric][rows]
            ok = s is not None and s["status"] == "ok"
            se = 1.96 * points["loss_se"][rows] if metric == "loss" else None
            top.errorbar(
                n,
                loss,
                se,
                fmt="o",
                ms=5,
                color=colour,
                mfc=colour if ok or s is None else PAPER,
                elinewidth=1,
                zorder=3,
            )
            end = rows[np.argmax(n)]
            x, y, text = points["n_params"][end], points[metric][end], compact(budget)
            if ok:
                grid = curve_over(n)
                curve = parabola(s, grid, raw)
                top.plot(grid, curve, color=colour)
                x, y = grid[-1], curve[-1]
                se_n = s.get("log_n_se")
                if se_n:
                    ends_n = s["n_params"] * np.exp(1.96 * se_n * np.array([-1, 1]))
                    top.plot(ends_n, [s["loss"]] * 2, color=INK, lw=1.2, zorder=4)
                top.plot(s["n_params"], s["loss"], "D", ms=6, mfc=PAPER, mec=INK, mew=1.4, zorder=5)
                off = 100 * (loss / parabola(s, n, raw) - 1)
                below.plot(n, off, "o-", ms=4, lw=0.8, color=colour)
                largest = max(largest, float(np.abs(off).max()))
            elif s is not None:
                text += "\nno minimum"
            ends.append((x, y, text, colour))
        label_lines(top, ends)
        if below is not None:
            below.axhline(0, color=MUTED, lw=0.8)
            below.set_ylim(-1.25 * largest or -1, 1.25 * largest or 1)
            below.set_ylabel("off the\nparabola, %")
            below.set_xlabel(f"model size N ({material.study.params} parameters)")
            top.tick_params(labelbottom=False)
        else:
            top.set_xlabel(f"model size N ({material.study.params} parameters)")

    return Plot(
        "isoflop",
        "IsoFLOP slices",
        caption(material, groups, raw),
        (Panel(draw, 6.2, 5.6 if laws else 4.2, alt(groups)),),
    )


def alt(groups) -> str:
    fitted = sum(s is not None and s["status"] == "ok" for *_, s in groups)
    return (
        f"Validation loss against model size at {len(groups)} budgets, with {fitted} fitted parabolas and their"
        " residuals"
    )


def caption(material: Material, groups, raw: bool) -> str:
    counts = ", ".join(f"{compact(b)}: {len(rows)} runs" for b, rows, _ in groups)
    text = (
        f"One colour for each budget in FLOPs ({counts}); bars are 95 % of the Monte-Carlo error of the validation"
        " loss. "
    )
    if not material.laws:
        return (
            text + "No law was fitted yet, so there are no curves. N and loss are on log axes because both span ratios."
        )
    refused = [s for *_, s in groups if s["status"] != "ok"]
    rms = ", ".join(f"{100 * s['residual_rms']:.2g} % ({compact(b)})" for b, _, s in groups if s["status"] == "ok")
    text += "Diamonds: the minima. " if len(refused) < len(groups) else ""
    if any(s.get("log_n_se") for *_, s in groups):
        text += "Bars through them: their 95 % intervals in N by the delta method. "
    if refused:
        text += "Hollow points, no curve: refused (" + "; ".join(r for s in refused for r in s["reasons"]) + "). "
    if rms:
        text += (
            f"Below: what each parabola leaves over, rms {rms}; a bend there would say that a parabola is the wrong"
            " shape. "
        )
    what = "the loss" if raw else "the logarithm of the loss"
    return (
        text + f"N is on a log axis because the parabola, of {what}, is fitted in log N; the loss axis is log because "
        "budgets differ by ratios."
    )
