"""Figure 2: the laws N*(C), D*(C) and L*(C), the forecast and the probe that tests it."""

from __future__ import annotations

import math

import numpy as np

from ..laws import Estimate
from ..units import compact, count
from .read import Material, number
from .sentences import digits, plural
from .style import ACCENT, INK, MUTED, PAPER, Panel, Plot, label_lines, limits, log_axis, sequence

# name of the law in laws.json, of its column, its symbol, and how its values are written
LAWS = (("model", "n_params", "N*", count), ("data", "n_tokens", "D*", count), ("loss", "loss", "L*", compact))
FORMS = {"surface": "surface", "power_law_with_floor": "law with floor", "power_law": "power law"}


def surface_optimum(laws: dict, budget):
    """{n_params, n_tokens, loss} of the fitted surface at C = kappa N D (Hoffmann et al. 2022, equation 4)."""
    s = {k: e["value"] for k, e in laws["approach3"].items()}
    a, b, c = s["alpha"], s["beta"], np.asarray(budget) / laws["kappa"]
    n = (a * s["A"] / (b * s["B"])) ** (1 / (a + b)) * c ** (b / (a + b))
    return {"n_params": n, "n_tokens": c / n, "loss": s["E"] + s["A"] * n**-a + s["B"] * (c / n) ** -b}


def curves(laws: dict, law: str, column: str, budget) -> list[tuple[str, np.ndarray, str, str]]:
    """(name, values at the budgets, line style, colour) of every form that laws.json gives for one quantity."""
    out = []
    dashed = (0, (6, 2))
    floor = law == "loss" and laws["loss_law"] and laws["loss_law"]["chosen"] == "power_law_with_floor"
    if laws["approach2"] and laws["approach2"][f"{law}_exponent"]:
        k, a = (laws["approach2"][f"{law}_{part}"]["value"] for part in ("coefficient", "exponent"))
        out.append((f"power law\n$C^{{{a:.3f}}}$", k * budget**a, dashed if floor else "-", INK))
    if law == "loss" and laws["loss_with_floor"]:
        f = {k: e["value"] for k, e in laws["loss_with_floor"].items()}
        values = f["E"] + f["coefficient"] * budget ** f["exponent"]
        out.append((f"with floor\nE = {f['E']:.3g}", values, "-" if floor else dashed, INK))
    if laws["approach3"]:
        out.append(("surface", surface_optimum(laws, budget)[column], (0, (1, 1.5)), MUTED))
    return out


def powerlaws_plot(material: Material) -> Plot | None:
    """The three laws and, when there is one, the forecast; None where no slice has a minimum and no surface fits."""
    laws = material.laws
    if not laws or not (laws["approach3"] or any(s["status"] == "ok" for s in laws["slices"])):
        return None
    panels = [Panel(_law(material, *row), 4.5, 3.9, f"{row[2]} against the training budget C") for row in LAWS]
    if material.forecast:
        panels.append(
            Panel(_probe(material), 4.5, 3.9, "The forecast of each form of law, and what the probe measured")
        )
    return Plot("laws", "Power laws and the probe", _caption(material), tuple(panels), columns=2)


def _law(material: Material, law: str, column: str, symbol: str, form):
    """A function that draws one law."""
    laws, forecast, points = material.laws, material.forecast, material.points
    slices = [s for s in laws["slices"] if s["status"] == "ok"]
    colours = [c for c, s in zip(sequence(len(laws["slices"])), laws["slices"], strict=True) if s["status"] == "ok"]
    budgets = [s["budget_flops"] for s in laws["slices"]]
    # Slices of one colour each, as in figure 1: the same budget has the same colour everywhere.
    last = forecast["target_budget_flops"] if forecast else budgets[-1]
    low, high = budgets[0] / 1.5, last * 1.7
    grid = np.geomspace(low, high, 120)

    def draw(figure):
        axes = figure.subplots()
        lines = curves(laws, law, column, grid)
        probed = points[column][material.probe] if column != "loss" else points[laws["metric"]][material.probe]
        said = number(forecast[column]) if forecast else None
        shown = (
            [s[column] for s in slices]
            + [v for _, v, _, _ in lines]
            + [probed]
            + ([v for v in (said.value, said.low, said.high) if v] if said else [])
        )
        log_axis(axes.xaxis, low, high, "training budget C, FLOPs", compact, 6)
        log_axis(
            axes.yaxis,
            *limits(*shown, margin=0.1) if shown else (1, 10),
            symbol if column != "loss" else f"{laws['metric']} {symbol}",
            form,
            6,
        )
        band = (laws.get("bands") or {}).get(column)
        if band:
            at, lows, highs = (np.array([np.nan if x is None else x for x in v]) for v in (
                laws["bands"]["budget_flops"], [e["low"] for e in band], [e["high"] for e in band]))  # fmt: skip
            axes.fill_between(at, lows, highs, color=MUTED, alpha=0.18, lw=0, zorder=1)
        ends = []
        for name, values, dashes, colour in lines:
            axes.plot(grid, values, ls=dashes, color=colour, lw=1.4, zorder=2)
            ends.append((high, values[-1], name, colour))
        for s, colour in zip(slices, colours, strict=True):
            axes.errorbar(
                s["budget_flops"], s[column], error(s, column), fmt="o", ms=6, color=colour, elinewidth=1.4, zorder=4
            )
        if said:
            axes.errorbar(
                last, said.value, bars(said), fmt="_", ms=11, mew=1.6, color=ACCENT, elinewidth=1.6, capsize=4, zorder=5
            )
        if len(probed):
            marker = dict(fmt="o", mfc=ACCENT) if column == "loss" else dict(fmt="o", mfc=PAPER)
            axes.errorbar(
                points["budget_flops"][material.probe], probed, ms=6, color=ACCENT, mew=1.4, zorder=6, **marker
            )
        label_lines(axes, ends, gap=0.13 if law == "loss" else 0.1, x=1.0, fontsize=8.5, linespacing=1.05)
        names = {"n_params": "Model size N*(C)", "n_tokens": "Data D*(C), tokens", "loss": "Loss L*(C)"}
        axes.set_title(names[column], fontsize=10)

    return draw


def error(s: dict, column: str):
    """The 95 % delta-method interval of a minimum as error bars [[below], [above]], or None when laws.json has none."""
    if column == "loss":
        se = s.get("loss_se")
        return None if se is None else 1.96 * se
    # At a given budget D* = C / (kappa N*), so log D* has the error of log N*.
    se = s.get("log_n_se")
    return None if se is None else [[s[column] * (1 - math.exp(-1.96 * se))], [s[column] * (math.exp(1.96 * se) - 1)]]


def bars(e: Estimate):
    """An interval as error bars; an open end has none."""
    return [[0 if e.low is None else e.value - e.low], [0 if e.high is None else e.high - e.value]]


def _probe(material: Material):
    """A function that draws the forecasts of all forms and the measured loss, magnified."""
    forecast, verdict = material.forecast, material.verdict
    rows = [("sealed\nforecast", number(forecast["loss"]), ACCENT)]
    judged = material.points["run_id"] == (verdict or {}).get("run_id")
    se = float(material.points["loss_se"][judged][0]) if judged.any() and forecast["metric"] == "loss" else None
    rows += [(FORMS[f["law"]], number(f["loss"]), INK) for f in forecast["forms"] if f["loss"]]

    def draw(figure):
        axes = figure.subplots()
        for y, (_, e, colour) in enumerate(rows):
            axes.errorbar(
                e.value, -y, xerr=bars(e), fmt="|", ms=11, mew=1.6, color=colour, elinewidth=1.6, capsize=4, zorder=4
            )
        axes.set_yticks([-y for y in range(len(rows))], [name for name, *_ in rows])
        axes.set_ylim(-len(rows) + 0.4, 0.6)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(f"{forecast['metric']} at {compact(forecast['target_budget_flops'])} FLOPs")
        axes.set_title("The forecast, magnified", fontsize=10)
        axes.margins(x=0.12)
        if verdict:
            measured = verdict["measured"]
            axes.axvline(measured, color=ACCENT, lw=1.2, zorder=2)
            if se is not None:
                axes.axvspan(measured - 1.96 * se, measured + 1.96 * se, color=ACCENT, alpha=0.15, lw=0, zorder=1)
            left = measured < sum(axes.get_xlim()) / 2
            axes.annotate(
                f"measured {digits(measured)}", (measured, 0.02), xycoords=("data", "axes fraction"),
                xytext=(5 if left else -5, 0), textcoords="offset points", ha="left" if left else "right",
                fontsize=9, color=ACCENT,
            )  # fmt: skip

    return draw


def _caption(material: Material) -> str:
    laws, forecast = material.laws, material.forecast
    ok = [s for s in laws["slices"] if s["status"] == "ok"]
    runs = sum(s["n_runs"] for s in ok)
    text = (
        f"Points: the {plural(len(ok), 'minimum')} of the slices ({plural(runs, 'run')}), coloured by budget as in"
        " figure 1"
    )
    text += ", with 95 % intervals. " if any(s.get("log_n_se") for s in ok) else ". "
    if laws["approach2"]:
        chosen = laws["loss_law"]["chosen"] == "power_law_with_floor"
        text += f"Solid: power laws through these {len(ok)} minima, k C^a{', for L* with a floor' if chosen else ''}. "
    if laws.get("bands"):
        text += f"Grey: their 95 % bands ({laws['bootstrap']['replicates']} bootstrap replicates). "
    if laws["loss_with_floor"]:
        text += f"Dashed: L* by the form that was not chosen, through the same {len(ok)} minima. "
    if laws["approach3"]:
        text += f"Dotted: the optimum of the surface E + A N^-alpha + B D^-beta fitted to all {laws['n_runs']} runs. "
    if forecast:
        text += (
            f"Orange bar: the sealed forecast with its {100 * forecast['level']:g} % interval. In N and D the open"
            " circle is the probe's size, chosen from the forecast, so only its loss tests anything. "
            if material.probe.any()
            else (
                f"Orange bar: the sealed forecast with its {100 * forecast['level']:g} % interval; its probe is not"
                " measured yet. "
            )
        )
        text += "The last panel magnifies the loss there, on a linear axis because it compares differences. "
        if material.verdict:
            text += (
                "The line is the measured loss of the probe, one run; its shade is 95 % of that measurement's"
                " Monte-Carlo error. "
            )
    return (
        text
        + f"{'All other' if forecast else 'All'} axes are log, on which a pure power law is a straight line and a floor"
        " shows as a bend."
    )
