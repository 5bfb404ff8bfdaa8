"""`fit`: both approaches, their intervals, backtests and every finding, in one frozen result."""

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import one_of
from ..tables.read import Source, read_table
from ..tables.table import Exclusion, Table, condensed
from ..units import compact, number
from .checks.backtest import Backtest, backtest
from .checks.checklist import Item, checklist
from .checks.form import Bias, check_bias, check_drift, check_lines, check_surface, parabola_bias
from .checks.runs import check_rehearsal, check_sharing, check_units, find_outliers, refuse_units
from .estimates import Bootstrap, Estimate
from .findings import Finding, Severity, finding
from .laws import Answer, Bands, Fits, Laws, Optima, PowerLaws, Predicted, SurfaceLaw
from .minima.approach2 import Approach2, fit_approach2
from .minima.parabola import Response, Slice
from .predictor.identify import EXACT, Asked, ask
from .predictor.predictor import Predictor
from .surface.fit_surface import N_PARAMETERS, Approach3, fit_approach3

# Parabolas of the loss itself, as in the papers, unless the surface is fitted to squares of log residuals.
RESPONSE: dict[str, Response] = {"huber": "raw", "ls": "raw", "ls_log": "log"}
NOTICEABLE = 0.05  # of ln N*: parabolas are off by less on any grid that is not warned of
BEYOND = 10.0  # x the largest budget: where the runs must determine a law that is asked at no target
OF = {"n_params": "N*", "n_tokens": "N*", "loss": "L*"}  # what must be determined for a number to be given


def fit(
    table: Source, *, objective: str = "huber", bootstrap: int = 1000, seed: int = 0,
    targets: float | str | Iterable[float | str] = (), kappa: float | None = None,
) -> Laws:  # fmt: skip
    """Fit the predictor, and Approach 2 and 3 beside it, to the grid runs of `table`, whatever `read_table` reads.

    objective: of the surface, "huber" (summed, 1e-3, log residuals), "ls" (squares of the loss) or "ls_log" (of log
    residuals, parabolas too). bootstrap: replicates behind the 95 % intervals of Approach 2 and 3, 0 for none. targets:
    budgets in FLOPs to predict at, numbers or text ("1.5e21"). kappa: C / (N D), estimated when None. Raises UserError
    on bad arguments and on a table without grid runs; a fit that cannot be trusted is refused, not raised.

        ds.fit("runs.csv", targets="1.5e21").summary()
    """
    one_of(objective, tuple(RESPONSE), "objective")
    budgets = _budgets(targets)
    kappa = None if kappa is None else number(kappa, "kappa", above=0)
    table = read_table(table)
    grid, held = table.grid("a fit"), tuple(str(r) for r in table.run_id[table.role == "probe"])
    refuse_units(grid, kappa)
    low = grid.falling()
    rows = condensed(low)
    two = fit_approach2(rows, RESPONSE[objective], bootstrap, seed)
    three = fit_approach3(rows, objective, bootstrap, seed, kappa)
    surface = three.surface
    bias = parabola_bias(rows, two, three)
    tests, failed = backtest(rows, two, objective, bootstrap, seed, kappa)
    asked = ask(grid, max(budgets.values(), default=BEYOND * grid.largest), kappa)
    at = {typed: asked.at(budget) for typed, budget in budgets.items()}
    refused = max((a for a in (asked, *at.values()) if a.refused), key=lambda a: len(a.lacks), default=asked).refused
    findings = [refused] if refused else []
    findings += [*check_rehearsal(table), *_left_out(grid, held), *check_units(grid)]
    turned = refused is not None and refused.code == "wrong_direction"  # Says why all else is refused.
    findings += [] if turned else [*two.findings, *surface.findings]
    if np.isfinite(surface.residuals).all() and not turned:
        off = np.log(low.loss) - np.log(surface.loss_at(grid.n_params, grid.n_tokens))
        findings += find_outliers(grid, off, N_PARAMETERS)
    findings += check_lines(two) + check_surface(rows, surface) + check_drift(rows, two) + check_bias(bias, three, two)
    findings += failed + _far(grid, budgets)
    findings += check_sharing(grid, asked.predictor) if asked.predictor else []
    findings += _disagreement(two, three, {typed: budgets[typed] for typed in at if not at[typed].lacks})
    settings = Bootstrap(bootstrap, seed)
    items = checklist(grid, two, three, settings, tests, held)
    fits = Fits(rows, two, three, asked.predictor)
    return _result(grid, fits, asked.lacks, at, settings, tests, bias, findings, items)


def _budgets(targets: Any) -> dict[str, float]:
    """{as typed: FLOPs}; a number is written as a person would type it: 1.5e21, without the plus."""
    several = targets if isinstance(targets, Iterable) and not isinstance(targets, str) else (targets,)
    budgets = {}
    for target in several:
        budget = number(target.item() if isinstance(target, np.generic) else target, "target", above=0)
        budgets[target if isinstance(target, str) else f"{budget:.12g}".replace("e+", "e")] = budget
    return budgets


def _left_out(grid: Table, held: tuple[str, ...]) -> list[Finding]:
    found = [finding("probe_left_out", f"{len(held)} probe run(s) took no part in the fit", held)] if held else []
    if runs := [run for run, _ in grid.exclusions]:
        text = "; ".join(f"{run} ({why})" for run, why in grid.exclusions)
        found.append(finding("excluded_runs", f"excluded by name: {text}", runs))
    return found


def _far(grid: Table, budgets: dict[str, float]) -> list[Finding]:
    far = {typed: budget / grid.largest for typed, budget in budgets.items() if budget > 10 * grid.largest}
    text = f"beyond the largest budget, {compact(grid.largest)}"
    return [finding("extrapolation", f"{typed} lies {compact(x)}x {text}", value=x) for typed, x in far.items()]


def _result(
    table: Table, fits: Fits, lacks: tuple[str, ...], at: dict[str, Asked], settings: Bootstrap,
    tests: list[Backtest], bias: Bias | None, findings: list[Finding], items: tuple[Item, ...],
) -> Laws:  # fmt: skip
    """The numbers of both fits, less what the runs do not determine. lacks: of the laws; at: of each target."""
    _, two, three, made = fits
    budgets, turned = tuple(budget for budget, _ in table.slices()), table.higher_is_better
    law = PowerLaws(**two.coefficients()) if two.ok and "N*" not in lacks else None
    if law and (turned or "L*" in lacks):
        law = replace(law, loss_exponent=None, loss_coefficient=None)
    drawn = [*budgets, *(asked.target for asked in at.values())]
    # Whether Approach 2, whose L* has no floor, held every backtest that had an interval, and one at least.
    no_floor_holds = {b.approach2.covered for b in tests if b.approach2} - {None} == {True}
    return Laws(
        n_runs=len(table), budgets=budgets, points=table.points(), metric=table.metric, fits=fits, bootstrap=settings,
        approach2=law, approach3=SurfaceLaw(**three.coefficients()) if three.ok and "N*" not in lacks else None,
        objective=three.surface.objective, kappa=three.surface.kappa,
        predictions={typed: _optima(fits, asked, turned, no_floor_holds) for typed, asked in at.items()},
        slices=_slices(table, two, turned), bands=_bands(two, drawn, turned) if law else None,
        answer=_answer(made, lacks, budgets[-1], at) if made else None,
        n_ranges={t: three.n_range(asked.target) for t, asked in at.items() if three.ok and "N*" not in asked.lacks},
        exclusions=tuple(Exclusion(*pair) for pair in table.exclusions), findings=tuple(findings), bias=bias,
        backtests=tuple(tests), checklist=items,
    )  # fmt: skip


def _optima(fits: Fits, asked: Asked, turned: bool, no_floor_holds: bool) -> Optima:
    """What the answer and both approaches say of a target, as far as the runs determine it. no_floor_holds: whether L*
    of Approach 2 has an interval beyond the grid, where a law without a floor may be far off."""
    table, two, three, made = fits
    both = [fitted.predict(asked.target) if fitted.ok else None for fitted in (two, three)]
    if both[0] and not no_floor_holds and asked.target > table.largest:
        both[0] = replace(both[0], loss=Estimate(both[0].loss.value))
    if turned:
        both = [said and replace(said, loss=said.loss.negative()) for said in both]
    # Runs that lie on the surface to rounding leave no doubt of its form.
    exact = three.ok and float(np.abs(three.surface.residuals).max()) < EXACT
    hidden = {name for name, what in OF.items() if what in asked.lacks}
    said = (*both, made.optimum(asked.target) if made else None)
    less = (hidden, set() if exact else hidden, hidden)
    left = [{n: e for n, e in vars(part).items() if n not in off} if part else {} for part, off in zip(said, less)]
    return Optima(*(Predicted(**numbers) if numbers else None for numbers in left))


def _slices(table: Table, two: Approach2, turned: bool) -> tuple[Slice, ...]:
    ranges, sign = iter(map(two.n_range, range(len(two.accepted)))), -1 if turned else 1
    found = (p.result(next(ranges) if p.ok and two.ok else None, sign) for p in two.slices)
    # The rows of a fit may be means of the table's.
    return tuple(replace(s, n_runs=len(rows)) for s, (_, rows) in zip(found, table.slices(levers=False), strict=False))


def _bands(two: Approach2, ends: list[float], turned: bool) -> Bands:
    grid = np.geomspace(min(ends) / 2, 2 * max(ends), 41)
    at = [vars(two.predict(budget)).values() for budget in grid]
    bands = Bands(tuple(grid.tolist()), *zip(*at, strict=True))
    return replace(bands, loss=tuple(e.negative() for e in bands.loss)) if turned else bands


def _answer(made: Predictor, lacks: tuple[str, ...], largest: float, at: dict[str, Asked]) -> Answer:
    weights = {name: part.weight for name, part in made.by_form(largest).items()}
    exponents = {name: made.exponent(name, largest) for name in made.exponents if OF.get(name, "N*") not in lacks}
    one_run = {typed: made.one_run(asked.target) for typed, asked in at.items() if "L*" not in asked.lacks}
    return Answer(weights, exponents, made.run_scatter, one_run)


def _disagreement(two: Approach2, three: Approach3, targets: dict[str, float]) -> list[Finding]:
    """`approaches_disagree`: at a target, the intervals of Approach 2 and 3 exclude each other; of L* alone info, since
    they do wherever there is a floor, which Approach 2 has none of."""
    findings = []
    for typed, budget in targets.items() if two.ok and three.ok else ():
        both = two.predict(budget), three.predict(budget)
        pairs = {name: (both[0][name], both[1][name]) for name in ("n_params", "loss")}
        apart = [name for name, (one, other) in pairs.items() if one.excludes(other)]
        if "n_params" in apart and abs(math.log(pairs["n_params"][0].value / pairs["n_params"][1].value)) < NOTICEABLE:
            apart.remove("n_params")
        if apart:
            each = "; ".join(f"{OF[n]} {' and '.join(compact(e.value) for e in pairs[n])}" for n in apart)
            severity: Severity = "warning" if "n_params" in apart else "info"
            text = f"at {typed} FLOPs approach 2 and 3 exclude each other ({each}): one form is wrong; go by the answer"
            findings.append(finding("approaches_disagree", text, severity=severity))
    return findings
