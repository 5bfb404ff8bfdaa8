"""Findings: what a reader must know beside the numbers, in a fixed vocabulary that other tools may match on."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..units import compact, count

# code -> its severity. "refused": a number is withheld; "warning": it is given and may mislead; "info": context.
CODES = {
    "parabola_downward": "refused",
    "minimum_outside": "refused",
    "too_few_runs": "refused",
    "too_few_budgets": "refused",
    "not_isoflop": "refused",
    "metric_not_positive": "refused",
    "parameter_on_bound": "refused",
    "not_converged": "refused",
    "rehearsal": "warning",
    "parabola_flat": "warning",
    "minimum_at_edge": "warning",
    "one_sided_grid": "warning",
    "drifting_centring": "warning",
    "wide_grid": "warning",
    "saturated_fit": "warning",
    "budget_mismatch": "warning",
    "units_mixed": "warning",
    "outlier_run": "warning",
    "lack_of_fit": "warning",
    "optimum_unseen": "warning",
    "asymmetric_surface": "warning",
    "extrapolation": "info",
    "probe_left_out": "info",
    "excluded_runs": "info",
    "backtest_without_interval": "info",
    "backtest_not_possible": "info",
}


@dataclass(frozen=True)
class Finding:
    """One finding: a code of `CODES`, one sentence, the runs and slices (budgets) it concerns, and the number behind
    it.

    value: what was compared with the threshold, in the sentence's units; None where nothing was measured.
    """

    code: str
    message: str
    runs: tuple[str, ...] = ()
    slices: tuple[float, ...] = ()
    severity: str = ""
    value: float | None = None

    def __post_init__(self):
        object.__setattr__(self, "severity", self.severity or CODES[self.code])
        if self.value is not None:
            object.__setattr__(self, "value", float(self.value) if math.isfinite(self.value) else None)

    def to_dict(self) -> dict:
        return {
            "code": self.code,
            "severity": self.severity,
            "message": self.message,
            "runs": list(self.runs),
            "slices": [float(budget) for budget in self.slices],
            "value": self.value,
        }


def run_to_add(n_params: float, budget_flops: float, kappa: float) -> str:
    """'N = 1.2M, D = 3.4G tokens (C = 1e17)': a run that would mend a finding, with C = kappa N D."""
    return f"N = {count(n_params)}, D = {count(budget_flops / kappa / n_params)} tokens (C = {compact(budget_flops)})"


def names_of(run_ids) -> tuple[str, ...]:
    return tuple(str(r) for r in run_ids)


def some(run_ids) -> str:
    """'run a' or '5 runs (a, b, c, ...)'."""
    shown = ", ".join(names_of(run_ids[:3]))
    return (
        f"run {shown}" if len(run_ids) == 1 else f"{len(run_ids)} runs ({shown}{', ...' if len(run_ids) > 3 else ''})"
    )
