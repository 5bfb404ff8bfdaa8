"""`fit`: both approaches, their intervals, a backtest and every finding, in one frozen result."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import UserError, one_of
from ..units import compact, number
from .approach2 import Approach2, fit_approach2
from .approach3 import Approach3, fit_approach3
from .backtest import Backtest, backtest
from .diagnose import check_lines, check_units, find_outliers, parabola_bias
from .findings import Finding
from .table import Table
from .uncertainty import Estimate, estimate

LAYOUT = 1
# The parabola goes with the objective: log residuals for both robust and least squares fits of the surface.
RESPONSE = {"huber": "log", "ls": "log", "ls_raw": "raw"}


@dataclass(frozen=True)
class Laws:
    """All that one table supports. `approach2` and `approach3` carry their own status; `predictions` is keyed by the
    targets as typed; `table` is the rows that were fitted (probes and exclusions left out).
    """

    table: Table
    objective: str
    bootstrap: int
    seed: int
    approach2: Approach2
    approach3: Approach3
    predictions: dict[str, dict[str, dict[str, Estimate] | None]]
    backtest: Backtest | None
    findings: tuple[Finding, ...]

    @property
    def given(self) -> bool:
        """Whether anything could be given at all; the command exits with 3 otherwise."""
        return self.approach2.ok or self.approach3.ok

    def approach2_coefficients(self) -> dict[str, Estimate] | None:
        """The six numbers of N* = k C^a, D* = k C^b, L* = k C^c, or None when refused."""
        if not self.approach2.ok:
            return None
        out = {}
        for name in ("model", "data", "loss"):
            law, draws = getattr(self.approach2, name), getattr(self.approach2, f"{name}_draws")
            out[f"{name}_exponent"] = estimate(law.exponent, None if draws is None else draws[:, 1])
            with np.errstate(over="ignore"):
                out[f"{name}_coefficient"] = estimate(law.coefficient, None if draws is None else np.exp(draws[:, 0]))
        return out

    def loss_with_floor(self) -> dict[str, Estimate] | None:
        """E, coefficient, exponent of L* = E + k C^a through the minima, or None when refused."""
        floor, draws = self.approach2.floor, self.approach2.floor_draws
        if floor is None or floor.status != "ok":
            return None
        parts = (None,) * 3
        if draws is not None:
            with np.errstate(over="ignore"):
                parts = (draws[:, 0], np.exp(draws[:, 1]), -draws[:, 2])
        values = (floor.floor, floor.coefficient, floor.exponent)
        return {n: estimate(v, d) for n, v, d in zip(("E", "coefficient", "exponent"), values, parts, strict=True)}

    def bands(self) -> dict | None:
        """The power laws through the minima, as a figure draws them; None when refused.

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

        def plain(part):
            return None if part is None else {k: v.to_dict() for k, v in part.items()}

        return {
            "layout": LAYOUT,
            "n_runs": len(self.table),
            "budgets": [budget for budget, _ in self.table.slices()],
            "approach2": plain(self.approach2_coefficients()),
            "approach3": plain(self.approach3.coefficients()) if self.approach3.ok else None,
            "predictions": {t: {a: plain(p) for a, p in by.items()} for t, by in self.predictions.items()},
            "findings": [f.to_dict() for f in self.findings],
            "loss_with_floor": plain(self.loss_with_floor()),
            "bands": self.bands(),
            "slices": [p.to_dict() for p in self.approach2.slices],
            "backtest": None if self.backtest is None else self.backtest.to_dict(),
            "exclusions": [{"run_id": r, "reason": why} for r, why in self.table.exclusions],
            "metric": self.table.metric,
            "objective": self.objective,
            "kappa": self.approach3.surface.kappa,
            "bootstrap": {
                "replicates": self.bootstrap,
                "seed": self.seed,
                "approach2": self.approach2.scheme,
                "approach3": self.approach3.scheme,
            },
            "points": self.table.rows(),
        }

    def summary(self) -> str:
        """The same as readable text."""
        from .summary import summarise

        return summarise(self)


def fit(table: Table, *, objective: str = "huber", bootstrap: int = 1000, seed: int = 0, targets=()) -> Laws:
    """Fit Approach 2 and Approach 3 to the grid runs of `table`.

    objective: "huber" (summed, 1e-3, log residuals), "ls" (log residuals) or "ls_raw" (loss itself, parabolas too);
    bootstrap: replicates behind the 95 % intervals, 0 for none; targets: budgets in FLOPs, numbers or their text
    ("1.5e21"), at which predictions are wanted. Nothing is dropped silently: see `Laws.findings` and `exclusions`.
    Raises UserError on bad arguments and on a table without grid runs; a fit that cannot be trusted is refused, not
    raised.
    """
    one_of(objective, tuple(RESPONSE), "objective")
    budgets = {t if isinstance(t, str) else compact_key(t): number(t, "target", above=0) for t in targets}
    grid = table.grid()
    findings = []
    if len(grid) < len(table):
        held = tuple(str(r) for r in table.run_id[table.role == "probe"])
        findings.append(Finding("probe_left_out", f"{len(held)} probe run(s) took no part in the fit", held))
    if grid.exclusions:
        text = "; ".join(f"{run} ({why})" for run, why in grid.exclusions)
        findings.append(Finding("excluded_runs", f"excluded by name: {text}", tuple(r for r, _ in grid.exclusions)))
    if not len(grid):
        raise UserError(f"{table.source or 'table'}: every run is a probe; a fit needs grid runs")
    response = RESPONSE[objective]
    findings += check_units(grid)
    laws = fit_approach2(grid, response, bootstrap, seed)
    surface = fit_approach3(grid, objective, bootstrap, seed)
    findings += laws.findings + surface.surface.findings
    if np.isfinite(surface.surface.residuals).all():
        findings += find_outliers(grid, surface.surface.residuals, 5)
    findings += check_lines(laws)
    findings += parabola_bias(grid, laws, surface.surface, response)
    tested, more = backtest(grid, objective, response, min(bootstrap, 400), seed)
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
            findings.append(Finding("extrapolation", text))
    return Laws(grid, objective, bootstrap, seed, laws, surface, predictions, tested, tuple(findings))


def compact_key(budget) -> str:
    """A target given as a number, as a person would type it: 1.5e21 -> '1.5e+21' without the plus."""
    return f"{float(budget):.12g}".replace("e+", "e")
