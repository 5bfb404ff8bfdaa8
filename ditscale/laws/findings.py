"""Findings: what a reader must know beside the numbers, in a fixed vocabulary that other tools may match on."""

from __future__ import annotations

from dataclasses import dataclass

# code -> its usual severity. "refused": a number is withheld; "warning": it is given and may mislead; "info": context.
CODES = {
    "parabola_downward": "refused",
    "parabola_flat": "refused",
    "minimum_outside": "refused",
    "too_few_runs": "refused",
    "too_few_budgets": "refused",
    "not_isoflop": "refused",
    "parameter_on_bound": "refused",
    "not_converged": "refused",
    "minimum_at_edge": "warning",
    "one_sided_grid": "warning",
    "wide_grid": "warning",
    "budget_mismatch": "warning",
    "units_mixed": "warning",
    "outlier_run": "warning",
    "lack_of_fit": "warning",
    "approach2_bias": "warning",
    "few_budgets": "warning",
    "floor_seen": "info",
    "extrapolation": "info",
    "probe_left_out": "info",
    "excluded_runs": "info",
    "backtest_without_interval": "info",
    "backtest_not_possible": "info",
}


@dataclass(frozen=True)
class Finding:
    """One finding: a code of `CODES`, its severity, one sentence, and the runs and slices (budgets) it concerns."""

    code: str
    message: str
    runs: tuple[str, ...] = ()
    slices: tuple[float, ...] = ()
    severity: str = ""

    def __post_init__(self):
        object.__setattr__(self, "severity", self.severity or CODES[self.code])

    def to_dict(self) -> dict:
        return {
            "code": self.code,
            "severity": self.severity,
            "message": self.message,
            "runs": list(self.runs),
            "slices": [float(budget) for budget in self.slices],
        }
