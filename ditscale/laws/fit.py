"""`fit`: both approaches, their intervals, backtests and every finding, in one frozen result."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..errors import UserError, one_of
from ..units import compact, number
from .checks.backtest import Backtest, backtest
from .checks.checklist import checklist
from .checks.form import check_lines, check_surface
from .checks.grid import Bias, check_bias, check_drift, parabola_bias
from .checks.runs import check_rehearsal, check_units, find_outliers, refuse_units
from .delta import slice_intervals, surface_intervals
from .estimates import INTERVALS, RESAMPLE, Estimate
from .findings import Finding
from .minima.approach2 import Approach2, fit_approach2
from .surface.approach3 import Approach3, fit_approach3
from .surface.surface import Surface
from .table import Table

LAYOUT = 1
# Parabolas of the loss itself, as in the papers, unless the surface is fitted to squares of log residuals.
RESPONSE = {"huber": "raw", "ls": "raw", "ls_log": "log"}


@dataclass(frozen=True)
class Laws:
    """All that one table supports. `approach2` and `approach3` carry their own status; `predictions` is keyed by the
    targets as typed; `table` is the rows that were fitted (probes and exclusions left out).

    backtests: every held-out budget, the largest first held out alone, then with its neighbours. bias: of parabolas on
    this grid, None where it could not be computed. interval: "percentile" or "bca".
    """

    table: Table
    objective: str
    bootstrap: int
    seed: int
    interval: str
    approach2: Approach2
    approach3: Approach3
    predictions: dict[str, dict[str, dict[str, Estimate] | None]]
    backtests: tuple[Backtest, ...]
    bias: Bias | None
    findings: tuple[Finding, ...]

    @property
    def given(self) -> bool:
        """Whether anything could be given at all; the command exits with 3 otherwise."""
        return self.approach2.ok or self.approach3.ok

    @property
    def backtest(self) -> Backtest | None:
        """The largest budget held out alone, or None where that was not possible."""
        return next((b for b in self.backtests if b.held_out == 1), None)

    def approach2_coefficients(self) -> dict[str, Estimate | None] | None:
        """The six numbers of N* = k C^a, D* = k C^b, L* = k C^c, or None when refused."""
        return self.approach2.coefficients()

    def loss_with_floor(self) -> dict[str, Estimate] | None:
        """E, coefficient, exponent of L* = E + k C^a through the minima, or None when refused."""
        return self.approach2.floor_coefficients()

    @cached_property
    def n_ranges(self) -> dict[str, tuple[Estimate, Estimate]]:
        """{target: both ends of the range of N whose loss there is within 0.1 % of the optimum's} by the surface."""
        return {t: self.approach3.n_range(float(t)) for t in self.predictions} if self.approach3.ok else {}

    @cached_property
    def delta(self) -> dict:
        """Delta-method intervals beside the bootstrap's: {approach: {coefficient}}, and by target; None when
        refused.
        """
        targets = {t: float(t) for t in self.predictions}
        out = {"approach2": None, "approach3": None, "predictions": {t: {} for t in targets}}
        for name, part, make in (
            ("approach2", self.approach2, lambda t: slice_intervals(self.approach2, t)),
            ("approach3", self.approach3, lambda t: surface_intervals(self.approach3, self.table, t)),
        ):
            out[name], at = make(tuple(targets.values())) if part.ok else (None, {})
            for typed, budget in targets.items():
                out["predictions"][typed][name] = at.get(budget)
        return out

    def bands(self) -> dict | None:
        """The laws through the minima, as a figure draws them; None when refused.

        budget_flops runs from half the smallest budget to twice the largest budget or target; n_params, n_tokens and
        loss hold one interval for each.
        """
        if not self.approach2.ok:
            return None
        ends = [budget for budget, _ in self.table.slices()] + [float(t) for t in self.predictions]
        grid = np.geomspace(min(ends) / 2, 2 * max(ends), 41)
        at = [self.approach2.predict(budget) for budget in grid]
        names = ("n_params", "n_tokens", "loss")
        return {"budget_flops": grid.tolist()} | {name: [p[name].to_dict() for p in at] for name in names}

    def to_dict(self) -> dict:
        """The JSON object of `ditscale fit --json` (layout 1). Intervals are 95 %; a refused part is None."""
        two, three = self.approach2, self.approach3
        return _plain({
            "layout": LAYOUT,
            "n_runs": len(self.table),
            "budgets": [budget for budget, _ in self.table.slices()],
            "approach2": two.coefficients(),
            "approach3": three.coefficients() if three.ok else None,
            "predictions": self.predictions,
            "findings": self.findings,
            "loss_law": two.loss_law,
            "loss_with_floor": self.loss_with_floor(),
            "bands": self.bands(),
            "slices": [self._slice(p) for p in two.slices],
            "n_params_within_0.1_percent": self.n_ranges,
            "delta": self.delta,
            "bias": self.bias,
            "backtests": self.backtests,
            "checklist": checklist(self),
            "exclusions": [{"run_id": r, "reason": why} for r, why in self.table.exclusions],
            "metric": self.table.metric,
            "objective": self.objective,
            "kappa": three.surface.kappa,
            "bootstrap": {
                "replicates": self.bootstrap,
                "seed": self.seed,
                "interval": self.interval,
                "approach2": two.scheme,
                "approach3": three.scheme,
            },
            "points": self.table.rows(),
        })  # fmt: skip

    def _slice(self, p) -> dict:
        out = p.to_dict()
        if p.ok and self.approach2.ok:
            ends = self.approach2.n_range(self.approach2.accepted.index(p))
            out["n_params_within_0.1_percent"] = [e.value for e in ends]
            out["n_params_within_0.1_percent_intervals"] = [e.to_dict() for e in ends]
        return out

    def summary(self) -> str:
        """The same as readable text."""
        from .summary import summarise

        return summarise(self)


def _plain(part):
    """Estimates, findings and laws as plain JSON values, however deep."""
    if isinstance(part, dict):
        return {k: _plain(v) for k, v in part.items()}
    if isinstance(part, (list, tuple)):
        return [_plain(v) for v in part]
    return part.to_dict() if hasattr(part, "to_dict") else part


def fit(
    table: Table,
    *,
    objective: str = "huber",
    bootstrap: int = 1000,
    seed: int = 0,
    targets=(),
    interval: str = "percentile",
    resample: str = "auto",
    robust: bool = False,
    kappa: float | None = None,
) -> Laws:
    """Fit Approach 2 and Approach 3 to the grid runs of `table`.

    objective: of the surface, "huber" (summed, 1e-3, log residuals), "ls" (squares of the loss) or "ls_log" (of log
    residuals, parabolas too). bootstrap: replicates behind the 95 % intervals, 0 for none; interval: "percentile" or
    "bca"; resample: "auto", "pairs", "stratified" or "residual" (see `uncertainty`). targets: budgets in FLOPs, numbers
    or their text ("1.5e21"), at which predictions are wanted. robust: parabolas and laws of Approach 2 by bisquare
    regression. kappa: C / (N D), estimated when None. Nothing is dropped silently: see `Laws.findings` and
    `exclusions`. Raises UserError on bad arguments and on a table without grid runs; a fit that cannot be trusted is
    refused, not raised.
    """
    one_of(objective, tuple(RESPONSE), "objective")
    one_of(interval, INTERVALS, "interval")
    one_of(resample, RESAMPLE, "resample")
    budgets = {t if isinstance(t, str) else compact_key(t): number(t, "target", above=0) for t in targets}
    kappa = None if kappa is None else number(kappa, "kappa", above=0)
    grid = table.grid()
    findings = check_rehearsal(table)
    if len(grid) < len(table):
        held = tuple(str(r) for r in table.run_id[table.role == "probe"])
        findings.append(Finding("probe_left_out", f"{len(held)} probe run(s) took no part in the fit", held))
    if grid.exclusions:
        text = "; ".join(f"{run} ({why})" for run, why in grid.exclusions)
        findings.append(Finding("excluded_runs", f"excluded by name: {text}", tuple(r for r, _ in grid.exclusions)))
    if not len(grid):
        raise UserError(f"{table.source or 'table'}: every run is a probe; a fit needs grid runs")
    how = {"resample": resample, "interval": interval}
    refuse_units(grid, kappa)
    findings += check_units(grid)
    laws = fit_approach2(grid, RESPONSE[objective], bootstrap, seed, robust=robust, **how)
    if (grid.loss > 0).all():
        surface = fit_approach3(grid, objective, bootstrap, seed, kappa=kappa, **how)
    else:
        surface = Approach3(_no_surface(grid, objective, kappa), None, None, "none")
    findings += laws.findings + surface.surface.findings
    if np.isfinite(surface.surface.residuals).all():
        findings += find_outliers(grid, surface.surface.residuals, surface.surface.n_free)
    findings += check_lines(laws) + check_surface(grid, surface.surface) + check_drift(grid, laws)
    bias = parabola_bias(grid, laws, surface)
    findings += check_bias(bias, surface, laws)
    tests, more = backtest(grid, laws, objective, bootstrap, seed, resample=resample, kappa=kappa)
    findings += more
    predictions = {}
    largest = float(grid.budget_flops.max())
    for typed, budget in budgets.items():
        predictions[typed] = {
            "approach2": laws.predict(budget) if laws.ok else None,
            "approach3": surface.predict(budget) if surface.ok else None,
        }
        if budget > 10 * largest:
            text = f"{typed} lies {compact(budget / largest)}x beyond the largest budget, {compact(largest)}"
            findings.append(Finding("extrapolation", text, value=budget / largest))
    return Laws(
        grid, objective, bootstrap, seed, interval, laws, surface, predictions, tuple(tests), bias, tuple(findings)
    )


def _no_surface(table: Table, objective: str, kappa: float | None) -> Surface:
    """The refused surface of a metric that is not positive, which has no log residuals."""
    text = f"{table.metric} is not positive in every run, so no surface E + A N^-alpha + B D^-beta is fitted to it"
    runs = tuple(str(r) for r in table.run_id[table.loss <= 0])
    finding = Finding("metric_not_positive", text, runs, value=float(table.loss.min()))
    kappa = table.kappa() if kappa is None else kappa
    nothing = np.full(len(table), np.nan)
    return Surface(np.full(5, np.nan), kappa, objective, np.nan, nothing, len(table), "refused", (finding,))


def compact_key(budget) -> str:
    """A target given as a number, as a person would type it: 1.5e21 -> '1.5e+21' without the plus."""
    return f"{float(budget):.12g}".replace("e+", "e")
