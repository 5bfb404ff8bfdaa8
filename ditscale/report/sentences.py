"""What the report says in words. Every sentence is generated from the numbers, none is fixed in advance."""

from __future__ import annotations

from ..laws import Estimate
from ..quantities import FLOPS, PARAMS
from ..units import compact, count
from .read import Material, number

FORMS = {
    "surface": "the surface",
    "power_law_with_floor": "the power law with a floor",
    "power_law": "the pure power law",
    "average": "the equal mixture of the admissible laws",
}


def plural(n: int, word: str) -> str:
    words = {"minimum": "minima"}
    return f"{n} {word if n == 1 else words.get(word, word + 's')}"


def digits(x: float) -> str:
    """Four significant digits, trailing zeros kept: 0.1990."""
    return f"{x:#.4g}".rstrip(".") if 1e-3 <= abs(x) < 1e4 else compact(x)


def exponent(x: float) -> str:
    return f"{x:.3f}".replace("-", "−")


def interval(e: Estimate, form=compact) -> str:
    """'0.195 to 0.201', with an end that the runs do not bound named so."""
    if e.low is None and e.high is None:
        return "no interval"
    if e.low is None:
        return f"at most {form(e.high)}"
    return f"at least {form(e.low)}" if e.high is None else f"{form(e.low)} to {form(e.high)}"


def title(material: Material) -> str:
    """The result in a line."""
    laws, verdict = material.laws, material.verdict
    if not laws:
        return f"{plural(len(material), 'run')} collected, no law fitted yet"
    if not laws["approach2"] and not laws["approach3"]:
        return "No law could be given"
    if not laws["approach2"]:
        line = f"Loss above its floor falls as C^{laws['approach3']['loss_floor_exponent']['value']:.3f}"
    else:
        line = f"Loss falls as C^{laws['approach2']['loss_exponent']['value']:.3f}"
        if laws["approach2"]["loss_exponent"]["value"] >= 0:
            line = f"Loss does not fall with compute: C^{laws['approach2']['loss_exponent']['value']:.3f}"
    if verdict:
        return line + (", and the forecast held" if verdict["inside"] else ", and the forecast failed")
    return line + (", forecast not tested yet" if material.forecast else "")


def found(material: Material) -> list[str]:
    """The laws, in sentences."""
    laws, budgets = material.laws, material.budgets
    grid = int((~material.probe).sum())
    span = (
        f" ({compact(budgets[0])} to {compact(budgets[-1])} FLOPs)"
        if len(budgets) > 1
        else f" ({compact(budgets[0])} FLOPs)"
        if budgets
        else ""
    )
    out = [f"{plural(grid, 'run')} of the grid finished, at {plural(len(budgets), 'budget')}{span}."]
    if material.excluded:
        out[0] = out[0][:-1] + f"; {plural(len(material.excluded), 'run')} left out, with the reasons below."
    if not laws:
        return out
    two, three = laws["approach2"], laws["approach3"]
    ok = [s for s in laws["slices"] if s["status"] == "ok"]
    if two:
        a, b, c = (number(two[f"{x}_exponent"]) for x in ("model", "data", "loss"))
        out.append(
            f"Through the minima of {len(ok)} of {plural(len(laws['slices']), 'slice')}: N* grows as C^{a.value:.3f}"
            f" (95 %: {interval(a, exponent)}), D* as C^{b.value:.3f} ({interval(b, exponent)}), and the"
            f" {laws['metric']} L* changes as C^{c.value:.3f} ({interval(c, exponent)})."
        )
        out.append(growth(a, b))
    else:
        why = [f["message"] for f in laws["findings"] if f["severity"] == "refused"]
        out.append("Power laws through the minima are refused: " + "; ".join(why or ["no reason is recorded"]) + ".")
    if three:
        a, e = number(three["model_exponent"]), number(three["E"])
        out.append(
            f"The surface fitted to all {plural(laws['n_runs'], 'run')} gives N* as C^{a.value:.3f}"
            f" ({interval(a, exponent)}) and an irreducible {laws['metric']} E = {e.value:.3g} ({interval(e)})."
        )
    else:
        out.append(f"The surface over all {plural(laws['n_runs'], 'run')} is refused (see the findings).")
    return out


def growth(a: Estimate, b: Estimate) -> str:
    """Whether the optimal model or the optimal data grows faster."""
    if None not in (a.low, b.high) and a.low > b.high:
        return (
            "With more compute the optimal model grows faster than the data it is trained on: the intervals are apart."
        )
    if None not in (b.low, a.high) and b.low > a.high:
        return "With more compute the data grow faster than the optimal model: the intervals are apart."
    return "Whether model or data should grow faster, these runs do not decide: the two intervals overlap."


def said(material: Material) -> str:
    """The forecast, or why there is none."""
    f = material.forecast
    if not f:
        return "No forecast was sealed."
    loss, n = number(f["loss"]), number(f["n_params"])
    return (
        f"Sealed {f['created']}, from {plural(f['inputs']['n_runs'], 'run')}: at {compact(f['target_budget_flops'])}"
        f" FLOPs, {f['factor']:.3g}x beyond the largest budget, one new run at the optimum (N* = {count(n.value)}, 95"
        f" %: {interval(n, count)}) was forecast to measure a {f['metric']} of {digits(loss.value)}"
        f" ({100 * f['level']:g} %: {interval(loss, digits)}), by {FORMS.get(f['law'], f['law'])}."
    )


def verdict(material: Material) -> str:
    """The verdict, or that there is none."""
    v = material.verdict
    if not v:
        return (
            ""
            if not material.forecast
            else "The probe has not been judged yet, so nothing is known about how well the law extrapolates."
        )
    limits = interval(Estimate(v["predicted"], *v["interval"]), digits)
    level = f"{100 * material.forecast['level']:g} % " if material.forecast else ""
    text = (
        f"The probe measured {digits(v['measured'])}, {'inside' if v['inside'] else 'outside'} the sealed"
        f" {level}interval ({limits}) and {100 * abs(v['relative_error']):.2g} %"
        f" {'above' if v['relative_error'] > 0 else 'below'} the forecast of {digits(v['predicted'])}. It has N ="
        f" {count(v['n_params'])}, {v['n_params'] / v['n_params_forecast']:#.2g}x the forecast optimum."
    )
    others = [
        law
        for law in v["by_law"]
        if material.forecast and law["law"] != material.forecast["law"] and law["predicted"] is not None
    ]
    if others:
        parts = [
            f"{FORMS.get(o['law'], o['law'])} forecast {digits(o['predicted'])} ({100 * o['relative_error']:+.2g} %,"
            f" {'inside' if o['inside'] else 'outside'} its interval)"
            for o in others
        ]
        text += " For comparison, not sealed as the forecast: " + "; ".join(parts) + "."
    if not v["inputs_unchanged"]:
        text += " The grid runs of the table are no longer the rows the forecast was made from."
    return text


def backtest(material: Material) -> str:
    """How the laws predicted the largest budget of the grid from the others."""
    tests = material.laws["backtests"] if material.laws else []
    b = next((t for t in tests if t["held_out"] == 1), None)
    if not b:
        return "No backtest was possible." if material.laws else ""
    parts = []
    for key, name in (("approach2", "the power laws"), ("approach3", "the surface")):
        if b[key]:
            covered = {True: ", inside its interval", False: ", OUTSIDE its interval", None: ""}[b[key]["covered"]]
            parts.append(
                f"{name} missed L* by {100 * b[key]['loss_error']:+.2g} %{covered} and N* by a factor of"
                f" {b[key]['n_params_ratio']:.3g}"
            )
    if not parts:
        return "The backtest gave nothing: no law could be fitted without the largest budget."
    return (
        f"Backtest: with {compact(b['budget_flops'])} FLOPs held out ({b['factor']:.3g}x beyond the rest), "
        + "; ".join(parts)
        + "."
    )


def counting(material: Material) -> list[tuple[str, str]]:
    """What N, D and C count in this study."""
    study, points = material.study, material.points
    per_image = sorted({int(t) for t in points["tokens_per_image"]})
    ratio = 6 * points["n_params"] * points["n_tokens"] / points["achieved_flops"]
    return [
        ("N", f"{PARAMS[study.params]} (`params: {study.params}`)"),
        ("D", f"tokens that pass the blocks: images x {', '.join(map(str, per_image))} tokens an image"),
        ("C", f"{FLOPS[study.flops]} (`flops: {study.flops}`); 6 N D is {ratio.min():.2f} to {ratio.max():.2f} of it"),
        (
            "Loss",
            (
                f"velocity error on {study.validation.n} fixed (image, noise, timestep) triples, the same for every"
                " run, with EMA weights"
            ),
        ),
    ]
