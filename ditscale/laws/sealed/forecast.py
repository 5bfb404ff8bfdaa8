"""`forecast`: what a new run at a larger budget will measure, said before it exists."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import UserError
from ...units import compact, count, number, whole
from ..checks.runs import check_rehearsal, check_units, find_outliers, refuse_units
from ..estimates import LEVEL, Estimate
from ..findings import Finding, finding, listed
from ..minima.approach2 import Approach2, fit_approach2
from ..notebook import Shown
from ..read import Source, read_table
from ..result import Result
from ..surface.approach3 import fit_approach3
from ..surface.surface import N_PARAMETERS, Surface
from ..table import SAME_BUDGET, Point, Table
from ..text import Format, ends, short
from .forms import ORDER, Form, admissible, law_forms, mixture, widened

MIXTURE = "average"  # the law of a forecast that mixes several forms, as its JSON names it
# A probe, or a run that gives the forecast away, is one whose budget is this near to the target.
AT_TARGET = 0.01
RULE = (
    "Three forms are fitted: the surface E + A N^-alpha + B D^-beta on all runs (least squares of log loss), and "
    "through the minima of the slices a power law with and one without a floor. Each is also fitted without the "
    "largest budget and predicts it. A form is left out when it was refused, or when its held-out error is over two "
    "standard errors larger than the smallest; the pure power law also when an F test rejects E = 0, unless it "
    "predicted the held-out budget better than the surface did. Each remaining form's 95 % prediction interval for one "
    "new run (uncertainty of the law and scatter of a run) is widened in quadrature by its own error on the held-out "
    "budget, on the side where the measurement lay. The forecast is the median, and its interval the central 95 %, of "
    "the equal mixture of these."
)


@dataclass(frozen=True)
class Inputs(Result):
    """What a forecast was made from: the rows, sorted by run_id, their number, the slices' budgets, the (run_id,
    reason) pairs that were left out, and the probes near the target that had been measured already."""

    n_runs: int
    budgets: tuple[float, ...]
    rows: tuple[Point, ...]
    exclusions: tuple[tuple[str, str], ...]
    measured_probes: tuple[str, ...]


@dataclass(frozen=True, repr=False)
class Forecast(Shown):
    """A forecast, as it is sealed by `seal`. Every `Estimate` is an interval at `level`; an open end is None. n_params,
    n_tokens: the optimum (N*, D*) at target_budget_flops. loss: prediction interval of one new run's measured `metric`
    there. law: "average", or the form used where only one was left; why: the rule's outcome; forms: every form (see
    `forms.Form`), its interval as it came; coefficients: {form: its numbers}, and under "model" those of N*(C) =
    coefficient C^exponent where the minima give one. run_scatter: rms log-loss scatter of one run. inputs: what it was
    made from; inputs_sha256: of the rows (`inputs_hash`). created: UTC; None until sealed."""

    LAYOUT = 2

    created: str | None
    metric: str
    level: float
    target_budget_flops: float
    factor: float
    n_params: Estimate
    n_tokens: Estimate
    loss: Estimate
    law: str
    why: str
    rule: str
    forms: tuple[Form, ...]
    coefficients: dict[str, dict[str, float]]
    run_scatter: float
    inputs: Inputs
    inputs_sha256: str
    findings: tuple[Finding, ...]
    sha256: str | None = None

    def heading(self) -> str:
        sealed = f"sealed {self.created}" if self.created else "not sealed"
        return f"forecast of {self.metric} at {compact(self.target_budget_flops)} FLOPs, {sealed}, by {self.law}"

    def main(self) -> dict[str, Estimate]:
        return {self.metric: self.loss} | {form.name: form.loss for form in self.forms if form.loss}

    def summary(self) -> str:
        """Readable text: the forecast, the law it rests on and why, and what the other forms say."""

        def span(e: Estimate, form: Format = short) -> str:
            return f"{form(e.value)} ({ends(e, form) or '? .. ?'})"

        rehearsed = any(f.code == "rehearsal" for f in self.findings)
        lines = [
            f"{'REHEARSAL: forecast' if rehearsed else 'Forecast'} for {compact(self.target_budget_flops)} FLOPs, "
            f"{self.factor:.3g}x beyond the largest of {self.inputs.n_runs} runs' budgets",
            f"  N*    {span(self.n_params, count)}",
            f"  D*    {span(self.n_tokens, count)}",
            f"  {self.metric}  {span(self.loss)}   {100 * self.level:g} % for one new run",
            f"  law   {self.law}: {self.why}",
        ]
        for form in self.forms:
            said = "refused" if form.loss is None else span(form.loss)
            notes = f"   {'; '.join(form.reasons)}" if form.reasons else ""
            lines.append(f"    {form.law:<21} {said}{notes}")
        sealed = [f"  sealed {self.created}, sha256 {self.sha256[:16]}"] if self.sha256 else []
        return "\n".join([*lines, *listed(self.findings), *sealed])


def forecast(table: Source, budget_flops: float | str, *, bootstrap: int = 1000, seed: int = 0) -> Forecast:
    """Forecast one new run at `budget_flops` from the grid runs of `table`, whatever `read_table` reads.

    bootstrap: replicates, 40 or more. Raises UserError when a grid run lies at or above the target budget, when the
    metric is not positive, or when no form of law can be fitted (status 3). Probes take no part; when one near the
    target has been measured already, `inputs` says so and `seal` refuses.

        ds.forecast("runs.csv", "1.5e21").loss
    """
    whole(bootstrap, "bootstrap", low=40)
    target, table = number(budget_flops, "target budget", above=0), read_table(table)
    grid, source = _checked_grid(table, target), table.source or "table"
    laws = fit_approach2(grid, "log", bootstrap, seed)
    fitted = fit_approach3(grid, "ls_log", 0, seed)
    forms, scatter = law_forms(grid, target, laws, fitted.surface, seed)
    if all(form.loss is None for form in forms.values()):
        reasons = "; ".join(dict.fromkeys(r for form in forms.values() for r in form.reasons))
        raise UserError(f"{source}: no law can be fitted, so there is no forecast: {reasons}", status=3)
    kept, why = admissible(forms)
    place = laws.predict(target) if laws.ok else {}
    findings = check_rehearsal(grid) + check_units(grid)
    outliers = []
    if fitted.surface.usable:
        place = fit_approach3(grid, "ls_log", bootstrap, seed, keep_without_floor=True).predict(target)
        outliers = find_outliers(grid, fitted.surface.residuals, N_PARAMETERS)
    findings += _check_optimum(grid, target, place["n_params"].value, laws) + outliers
    # A probe at another budget is history, one near this target gives the answer away.
    near = np.abs(np.log(table.budget_flops / target)) <= np.log(SAME_BUDGET)
    measured = (table.role == "probe") & np.isfinite(table.loss) & near
    budgets = tuple(budget for budget, _ in grid.slices())
    probes = tuple(sorted(str(r) for r in table.run_id[measured]))
    return Forecast(
        created=None, metric=grid.metric, level=LEVEL, target_budget_flops=target, factor=target / budgets[-1],
        n_params=place["n_params"], n_tokens=place["n_tokens"],
        loss=mixture([widened(form.loss, form.held_out_error) for form in kept if form.loss is not None]),
        law=kept[0].law if len(kept) == 1 else MIXTURE, why=why, rule=RULE,
        forms=tuple(forms[name] for name in ORDER), coefficients=_coefficients(laws, fitted.surface),
        run_scatter=scatter, inputs=Inputs(len(grid), budgets, _rows(grid), grid.exclusions, probes),
        inputs_sha256=inputs_hash(grid), findings=tuple(findings),
    )  # fmt: skip


def canonical(body: Any) -> bytes:
    """The one byte string of a JSON value: sorted keys, no spaces, floats as their shortest round-trip text."""
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def _rows(table: Table) -> tuple[Point, ...]:
    return tuple(sorted(table.points(), key=lambda point: point.run_id))


def inputs_hash(table: Table) -> str:
    """sha256 over the rows (run_id, role, N, D, C, loss), sorted by run_id, and the metric; their order is no input."""
    rows = [point.to_dict() for point in _rows(table)]
    return hashlib.sha256(canonical({"metric": table.metric, "rows": rows})).hexdigest()


def own_hash(body: dict) -> str:
    """sha256 of a forecast's canonical JSON without its `sha256` field."""
    return hashlib.sha256(canonical({k: v for k, v in body.items() if k != "sha256"})).hexdigest()


def _checked_grid(table: Table, target: float) -> Table:
    """The grid's runs. Raises UserError where a forecast at `target` cannot be made from them."""
    source, grid = table.source or "table", table.grid()
    if not len(grid):
        raise UserError(f"{source}: every run is a probe; a forecast needs grid runs")
    near, largest = np.abs(grid.budget_flops / target - 1) <= AT_TARGET, float(grid.budget_flops.max())
    if near.any():
        there = f"run {grid.run_id[near][0]} already lies at the target budget {compact(target)}"
        raise UserError(f"{source}: {there}; forecast a budget that no run has, or mark that run as a probe")
    if target <= largest:
        below = f"the target budget {compact(target)} is not above the largest budget of its runs, {compact(largest)}"
        raise UserError(f"{source}: {below}; forecast a larger one, for example {compact(8 * largest)}")
    if not (grid.loss > 0).all():
        text = f"{grid.metric} is not positive everywhere, and the laws of a forecast are power laws"
        raise UserError(f"{source}: {text}; where higher is better, fit the negative of the metric")
    refuse_units(grid)
    return grid


def _check_optimum(grid: Table, target: float, n_params: float, laws: Approach2) -> list[Finding]:
    """`optimum_unseen`: an N* where no size of the grid speaks for it, or slices of which none has a minimum. N* grows
    with the budget, so below every size it is an artefact; above, it may grow as fast as the budget at most."""
    growth = target / float(grid.budget_flops.max())
    least, most = float(grid.n_params.min()), growth * float(grid.n_params.max())
    sizes = f"the grid's sizes ({count(least)} to {count(most / growth)})"
    findings, until = [], "until the slices have their minima inside"
    if n_params < least:
        text = f"lies below all of {sizes}, though the budget is above all of theirs; add smaller sizes, {until}"
        findings.append(finding("optimum_unseen", f"N* = {count(n_params)} {text}", value=n_params / least))
    if n_params > most:
        text = f"lies {n_params / most * growth:.3g}x above all of {sizes}, for a budget only {growth:.3g}x their"
        text = f"N* = {count(n_params)} {text} largest; add larger sizes, {until}"
        findings.append(finding("optimum_unseen", text, value=n_params / most))
    if laws.slices and not laws.accepted:
        text = f"none of the {len(laws.slices)} slices has a usable minimum, so N* and D* rest on the surface alone"
        text = f"{text}; `ditscale fit` says what each slice lacks"
        findings.append(finding("optimum_unseen", text, slices=[p.budget_flops for p in laws.slices]))
    return findings


def _coefficients(laws: Approach2, surface: Surface) -> dict[str, dict[str, float]]:
    """The numbers of every form that could be fitted, so that a second reader can compute the forecast again."""
    out = {}
    if surface.usable:
        out["surface"] = {name: float(getattr(surface, name)) for name in ("E", "A", "B", "alpha", "beta", "kappa")}
    if laws.ok:
        named = {"model": laws.model, "power_law": laws.loss}
        out |= {n: {"coefficient": law.coefficient, "exponent": law.exponent} for n, law in named.items() if law}
    if laws.floor.ok:
        floor = laws.floor
        out["power_law_with_floor"] = {"E": floor.floor, "coefficient": floor.coefficient, "exponent": floor.exponent}
    return out
