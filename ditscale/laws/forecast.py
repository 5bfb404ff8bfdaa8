"""`forecast`: what a new run at a larger budget will measure, said before it exists."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields

import numpy as np

from ..errors import UserError
from ..units import compact, count, number
from .approach2 import fit_approach2
from .approach3 import fit_approach3
from .diagnose import check_units, find_outliers
from .forms import ORDER, Form, choose, law_forms, usable
from .hashes import inputs_hash
from .table import Table
from .uncertainty import LEVEL, Estimate

LAYOUT = 1
# A probe, or a run that gives the forecast away, is one whose budget is this near to the target.
AT_TARGET = 0.01
RULE = (
    "Three forms are fitted: the surface E + A N^-alpha + B D^-beta on all runs (least squares of log loss), and "
    "through the minima of the slices a power law with and one without a floor. Each is also fitted without the "
    "largest budget and predicts it. A form is admissible unless it was refused or the runs reject it. Among the "
    "admissible forms the smallest held-out error wins; forms within two standard errors of it are equal, and among "
    f"equals the order is {', '.join(ORDER)}. The interval is that form's 95 % prediction interval for one new run "
    "(uncertainty of the law and scatter of a run), widened in quadrature by its own error on the held-out budget, on "
    "that side, and by how far other admissible forms differ beyond their own intervals."
)


@dataclass(frozen=True)
class Forecast:
    """A forecast, as it is sealed by `seal`. Every `Estimate` is an interval at `level`; an open end is None.

    n_params, n_tokens: the optimum (N*, D*) at target_budget_flops. loss: prediction interval of one new run's measured
    `metric` there. law: the form used; why: the rule's outcome; forms: every form (see `forms.Form`). run_scatter: rms
    log-loss scatter of one run; widening: log loss [below, above] added in quadrature for "other_forms" and "held_out".
    inputs: run ids, budgets and number of runs; inputs_sha256: of the rows. created: UTC; None until sealed.
    """

    layout: int
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
    run_scatter: float
    widening: dict
    inputs: dict
    inputs_sha256: str
    findings: list
    sha256: str | None = None

    def to_dict(self) -> dict:
        """The JSON object of forecast.json."""
        return asdict(self)

    @classmethod
    def from_dict(cls, body: dict) -> Forecast:
        """The inverse of `to_dict`; KeyError or TypeError on anything else."""
        body = {f.name: body[f.name] for f in fields(cls)}
        for name in ("n_params", "n_tokens", "loss"):
            body[name] = Estimate(**body[name])
        body["forms"] = tuple(
            Form(**form | {"loss": form["loss"] and Estimate(**form["loss"]), "reasons": tuple(form["reasons"])})
            for form in body["forms"]
        )
        return cls(**body)

    def summary(self) -> str:
        """Readable text: the forecast, the law it rests on and why, and what the other forms say."""

        def span(e, form):
            return f"{form(e.value)} ({' .. '.join('?' if x is None else form(x) for x in (e.low, e.high))})"

        short = "{:.4g}".format
        lines = [
            f"Forecast for {compact(self.target_budget_flops)} FLOPs, {self.factor:.3g}x beyond the largest of "
            f"{self.inputs['n_runs']} runs' budgets",
            f"  N*    {span(self.n_params, count)}",
            f"  D*    {span(self.n_tokens, count)}",
            f"  {self.metric}  {span(self.loss, short)}   {100 * self.level:g} % for one new run",
            f"  law   {self.law}: {self.why}",
        ]
        for form in self.forms:
            said = "refused" if form.loss is None else span(form.loss, short)
            notes = f"   {'; '.join(form.reasons)}" if form.reasons else ""
            lines.append(f"    {form.law:<21} {said}{notes}")
        lines += [f"  {f['severity']}: {f['code']}: {f['message']}" for f in self.findings]
        return "\n".join(lines + ([f"  sealed {self.created}, sha256 {self.sha256[:16]}"] if self.sha256 else []))


def forecast(table: Table, budget_flops, *, bootstrap: int = 1000, seed: int = 0) -> Forecast:
    """Forecast one new run at `budget_flops` from the grid runs of `table`.

    Raises UserError when a grid run lies at the target budget, or when no form of law can be fitted (status 3). Probes
    take no part; when one has been measured already, `inputs` says so and `seal` refuses.
    """
    target = number(budget_flops, "target budget", above=0)
    grid = table.grid()
    if not len(grid):
        raise UserError(f"{table.source or 'table'}: there are no grid runs to forecast from")
    near = np.abs(grid.budget_flops / target - 1) <= AT_TARGET
    if near.any():
        raise UserError(
            f"{table.source or 'table'}: run {grid.run_id[near][0]} already lies at the target budget "
            f"{compact(target)}; forecast a budget that no run has, or mark that run as a probe"
        )
    laws = fit_approach2(grid, "log", bootstrap, seed)
    fitted = fit_approach3(grid, "ls", 0, seed)
    forms, scatter = law_forms(grid, target, laws, fitted.surface, seed)
    if all(form.loss is None for form in forms.values()):
        reasons = "; ".join(dict.fromkeys(r for form in forms.values() for r in form.reasons))
        raise UserError(
            f"{table.source or 'table'}: no law can be fitted, so there is no forecast: {reasons}", status=3
        )
    law, why = choose(forms)
    loss, widening = _widen(forms, law)
    if usable(fitted.surface):
        place = fit_approach3(grid, "ls", bootstrap, seed, keep_without_floor=True).predict(target)
    else:
        place = laws.predict(target)
    findings = check_units(grid)
    if usable(fitted.surface):
        findings += find_outliers(grid, fitted.surface.residuals, 5)
    budgets = [budget for budget, _ in grid.slices()]
    return Forecast(
        layout=LAYOUT,
        created=None,
        metric=grid.metric,
        level=LEVEL,
        target_budget_flops=target,
        factor=target / budgets[-1],
        n_params=place["n_params"],
        n_tokens=place["n_tokens"],
        loss=loss,
        law=law,
        why=why,
        rule=RULE,
        forms=tuple(forms[name] for name in ORDER),
        run_scatter=scatter,
        widening=widening,
        inputs={
            "n_runs": len(grid),
            "budgets": budgets,
            "run_ids": sorted(str(r) for r in grid.run_id),
            "exclusions": [list(pair) for pair in grid.exclusions],
            "measured_probes": sorted(str(r) for r in table.run_id[(table.role == "probe") & np.isfinite(table.loss)]),
        },
        inputs_sha256=inputs_hash(grid),
        findings=[f.to_dict() for f in findings],
    )


def _widen(forms: dict[str, Form], law: str) -> tuple[Estimate, dict]:
    """The chosen form's interval, widened on each side in quadrature, and by how much of log loss for which reason.

    "other_forms": the furthest admissible form that lies outside by more than its own interval. "held_out": the chosen
    form's own error on the held-out budget, on the side on which the measurement lay: the profile interval trusts the
    form, and on real runs a form that missed the last step by 10 % will not do better on a longer one.
    """
    chosen, missed = forms[law].loss, forms[law].held_out_error or 0.0
    others = [0.0, 0.0]
    for name, form in forms.items():
        if name == law or form.loss is None or not form.admissible:
            continue
        if form.loss.high is not None:
            others[0] = max(others[0], math.log(chosen.value / form.loss.high))
        if form.loss.low is not None:
            others[1] = max(others[1], math.log(form.loss.low / chosen.value))
    held_out = [max(math.log1p(missed), 0.0), max(-math.log1p(missed), 0.0)]
    low = high = None
    if chosen.low is not None:
        low = chosen.value * math.exp(-math.hypot(math.log(chosen.value / chosen.low), others[0], held_out[0]))
    if chosen.high is not None:
        high = chosen.value * math.exp(math.hypot(math.log(chosen.high / chosen.value), others[1], held_out[1]))
    return Estimate(chosen.value, low, high), {"other_forms": others, "held_out": held_out}
