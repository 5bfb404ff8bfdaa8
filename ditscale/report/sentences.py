"""What the report says in words. Every sentence is generated from the numbers, none is fixed in advance."""

import numpy as np

from ..laws import Estimate, Laws
from ..laws.sealed.forecast import MIXTURE, OLD_MIXTURE
from ..laws.text import ends, spelled
from ..quantities import FLOPS, METRICS, PARAMS, TOKENS, at_optimum
from ..units import compact, count
from .read import StudyResults, best_run

# A form of law, in words.
FORMS = {
    "surface": "the surface", "power_law_with_floor": "the power law with a floor",
    "power_law": "the pure power law", OLD_MIXTURE: "the equal mixture of the admissible laws",
    MIXTURE: "the mixture of laws", "relaxed": "the relaxed form", "bent": "the bent form",
}  # fmt: skip
WHERE = {True: "inside", False: "outside"}
SURFACE = "E + A N^-alpha + B D^-beta"


def join(*parts: object) -> str:
    """Sentences, or parts of one, as a text; without those that are empty or false."""
    return " ".join(str(part) for part in parts if part)


def plural(n: int, word: str) -> str:
    return f"{n} {word if n == 1 else {'minimum': 'minima'}.get(word, word + 's')}"


def digits(x: float) -> str:
    """Four significant digits, trailing zeros kept: 0.1990."""
    return f"{x:#.4g}".rstrip(".") if 1e-3 <= abs(x) < 1e4 else compact(x)


def exponent(x: float) -> str:
    return f"{x:.3f}".replace("-", "−")


def power(base: str, e: Estimate) -> str:
    """'C^0.489 (95 % 0.443 to 0.535)'."""
    return f"{base}^{spelled(e, exponent)}"


def title(results: StudyResults) -> str:
    laws, verdict = results.laws, results.verdict
    if not laws:
        return f"{plural(len(results.table), 'run')} collected, no law fitted yet"
    if e := laws.exponent("loss"):
        c = e.value
        line = f"Loss {'falls as' if c < 0 else 'does not fall with compute:'} C^{c:.3f}"
    elif laws.approach3:
        line = f"Loss above its floor falls as C^{laws.approach3.loss_floor_exponent.value:.3f}"
    else:
        return "No law could be given"
    if verdict:
        return f"{line}, the probe is {WHERE[verdict.inside]} the forecast interval"
    return line + ", forecast not tested yet" * (results.forecast is not None)


def summary(results: StudyResults) -> list[str]:
    laws, budgets = results.laws, results.budgets
    span = " to ".join(compact(b) for b in dict.fromkeys((budgets[0], budgets[-1])))
    levers = int((results.table.role == "lever").sum())
    runs = f"{plural(int((~results.probe).sum()) - levers, 'run')} of the grid"
    runs += f" and {plural(levers, 'lever')}" * bool(levers) + f" finished, at {plural(len(budgets), 'budget')}"
    runs += f" ({span} FLOPs)"
    if excluded := results.records.excluded:
        runs += f"; {plural(len(excluded), 'run')} left out, with the reasons below"
    return [f"{runs}.", *(_laws(laws) if laws else ())]


def _laws(laws: Laws) -> list[str]:
    out, runs = [], plural(laws.n_runs, "run")
    if laws.answer and (model := laws.exponent("model")) and (data := laws.exponent("data")):
        parts = ", ".join(f"{name} {100 * weight:.0f} %" for name, weight in laws.answer.weights.items())
        loss = f", and {at_optimum(laws.metric)} changes as {power('C', e)}" if (e := laws.exponent("loss")) else ""
        powers = f"N* grows as {power('C', model)}, D* as {power('C', data)}{loss}"
        out += [f"The answer beyond the grid, a mixture of forms ({parts}): {powers}.", growth(model, data)]
    if two := laws.approach2:
        minima = f"{sum(s.ok for s in laws.slices)} of {plural(len(laws.slices), 'slice')}"
        powers = f"N* grows as {power('C', two.model_exponent)}, D* as {power('C', two.data_exponent)}"
        if two.loss_exponent:
            powers += f", and {at_optimum(laws.metric)} changes as {power('C', two.loss_exponent)}"
        out += [f"Through the minima of {minima}: {powers}."]
        out += [] if laws.answer else [growth(two.model_exponent, two.data_exponent)]
    else:
        why = [f.message for f in laws.findings if f.severity == "refused"] or ["no reason is recorded"]
        out.append(f"Power laws through the minima are refused: {'; '.join(why)}.")
    if three := laws.approach3:
        floor = f"an irreducible {laws.metric} E = {spelled(three.E, compact)}"
        out.append(f"The surface fitted to all {runs} gives N* as {power('C', three.model_exponent)} and {floor}.")
    else:
        out.append(f"The surface over all {runs} is refused (see the findings).")
    return out


def growth(a: Estimate, b: Estimate) -> str:
    if a.low is not None and b.high is not None and a.low > b.high:
        return "With more compute the optimal model grows faster than its data: the intervals are apart."
    if b.low is not None and a.high is not None and b.low > a.high:
        return "With more compute the data grow faster than the optimal model: the intervals are apart."
    return "These runs do not decide whether model or data should grow faster: the two intervals overlap."


def forecast(results: StudyResults) -> str:
    f = results.forecast
    if not f:
        return "No forecast was sealed."
    return join(
        f"Sealed {f.created}, from {plural(f.inputs.n_runs, 'run')}: at {compact(f.target_budget_flops)} FLOPs,",
        f"{f.factor:.3g}x beyond the largest budget, one new run at the optimum (N* = {count(f.n_params.value)},",
        f"95 % {ends(f.n_params, count, ' to ')}) was forecast to measure a {f.metric} of {digits(f.loss.value)}",
        f"({100 * f.level:g} % {ends(f.loss, digits, ' to ')}), by {FORMS.get(f.law, f.law)}.",
    )


def verdict(results: StudyResults) -> str:
    v, f = results.verdict, results.forecast
    if not v:
        return "The probe was not measured yet, so the extrapolation to its budget is untested." if f else ""
    level = f"{100 * f.level:g} % " if f else ""
    others = [
        f"{FORMS.get(law.law, law.law)} forecast {digits(law.predicted)} ({100 * law.relative_error:+.2g} %,"
        f" {WHERE[bool(law.inside)]} its interval)"
        for law in v.by_law
        if f and law.law != f.law and law.predicted is not None and law.relative_error is not None
    ]
    return join(
        f"The probe measured {digits(v.measured)}, {WHERE[v.inside]} the sealed {level}interval",
        f"({ends(Estimate(v.predicted, *v.interval), digits, ' to ')}) and {100 * abs(v.relative_error):.2g} %",
        f"{'above' if v.relative_error > 0 else 'below'} the forecast of {digits(v.predicted)}.",
        f"It has N = {count(v.n_params)}, {v.n_params / v.n_params_forecast:#.2g}x the forecast optimum.",
        others and f"For comparison, not sealed as the forecast: {'; '.join(others)}.",
        not v.inputs_unchanged and "The grid runs of the table are no longer the rows the forecast was made from.",
    )


def backtest(laws: Laws) -> str:
    b, parts = laws.backtest, []
    if not b:
        return "No backtest was possible."
    for name, p in (("the answer", b.answer), ("the power laws", b.approach2), ("the surface", b.approach3)):
        if p:
            covered = {True: ", inside its interval", False: ", OUTSIDE its interval", None: ""}[p.covered]
            missed = f"{at_optimum(laws.metric)} by {100 * p.loss_error:+.2g} %{covered}"
            missed += f" and N* by a factor of {p.n_params_ratio:.3g}"
            parts.append(f"{name} missed {missed}")
    if not parts:
        return "The backtest gave nothing: no law could be fitted without the largest budget."
    held_out = f"with {compact(b.budget_flops)} FLOPs held out ({b.factor:.3g}x beyond the rest)"
    return f"Backtest: {held_out}, {'; '.join(parts)}."


def counting(results: StudyResults) -> list[tuple[str, str]]:
    study, points = results.study, results.points
    per_image = ", ".join(f"{t:.0f}" for t in np.unique(points["tokens_per_image"]))
    ratio = 6 * points["n_params"] * points["n_tokens"] / points["achieved_flops"]
    triples = f"{study.validation.n} fixed (image, noise, timestep) triples"
    return [
        ("N", f"{PARAMS[study.params]} (`params: {study.params}`)"),
        ("D", f"{TOKENS}: images x {per_image} tokens an image"),
        ("C", f"{FLOPS[study.flops]} (`flops: {study.flops}`); 6 N D is {ratio.min():.2f} to {ratio.max():.2f} of it"),
        ("Loss", f"velocity error on {triples}, the same for every run, with EMA weights"),
    ]


def missing(results: StudyResults) -> list[tuple[str, str]]:
    """(what the report cannot show, or what is of other runs than study.h5 holds; the command that makes it)."""
    laws, rates, sweep = results.laws, results.rates, results.records.sweep
    runs, best = results.table.run_id, best_run(results.table)
    others = "Laws of these runs: laws.json was fitted to other runs or losses than study.h5 holds"
    train_first = "" if results.probe.any() else "`ditscale launch DIR` (trains the probe), then "
    swept = "The learning-rate law" + " of these runs: rates.json was made from others" * (rates is not None)
    unfitted = sweep and sweep != {run for cell in (rates.cells if rates else ()) for run in cell.swept}
    grid = zip(runs[~results.probe], results.points[results.metric][~results.probe], strict=True)
    excluded = {e.run_id for e in laws.exclusions} if laws else set()
    rows = {run: loss for run, loss in grid if run not in excluded}
    known = (
        (laws is None, "The laws (laws.json)", "`ditscale fit DIR`"),
        (laws is not None and {p.run_id: p.loss for p in laws.points} != rows, others, "`ditscale fit DIR`"),
        (results.forecast is None, "The sealed forecast (forecast.json)", "`ditscale forecast DIR`"),
        (results.verdict is None, "The verdict on the forecast (verdict.json)", f"{train_first}`ditscale verdict DIR`"),
        (results.samples is None, f"Samples of the best run ({best})", f"`ditscale evaluate DIR/runs/{best}`"),
        (unfitted, f"{swept} (rates.json)", "`ditscale rates DIR`"),
    )
    found = [(what, command) for is_missing, what, command in known if is_missing]
    for metric in (METRICS[name] for name in results.study.evaluation if name in METRICS):
        lacking = runs[~np.isfinite(results.points.get(metric, np.full(len(runs), np.nan)))]
        if len(lacking):
            command = f"`ditscale evaluate DIR/runs/{lacking[0]}` and so on, then `ditscale collect DIR`"
            found.append((f"{metric.upper()} of {len(lacking)} of {len(runs)} runs", command))
    return found
