"""Findings: what a reader must know beside the numbers, in a fixed vocabulary that other tools may match on."""

import math
from dataclasses import dataclass
from typing import Iterable, Literal, Sequence

from ..result import Result
from ..units import compact, count

Severity = Literal["refused", "warning", "info"]
# "refused": a number is withheld; "warning": it is given and may mislead; "info": context.
BY_SEVERITY: dict[Severity, str] = {
    "refused": "not_identified wrong_direction parabola_downward minimum_outside too_few_runs too_few_budgets "
    "not_isoflop parameter_on_bound not_converged",
    "warning": "rehearsal unlike_losses parabola_flat minimum_at_edge one_sided_grid drifting_centring wide_grid "
    "saturated_fit budget_mismatch units_mixed repeated_rows outlier_run lack_of_fit optimum_unseen asymmetric_surface "
    "approaches_disagree backtest_failed shared_errors",
    "info": "metric_not_positive no_floor extrapolation probe_left_out excluded_runs backtest_without_interval "
    "backtest_not_possible",
}
CODES: dict[str, Severity] = {code: severity for severity, codes in BY_SEVERITY.items() for code in codes.split()}


@dataclass(frozen=True)
class Finding(Result):
    """One finding: a code of `CODES`, one sentence, the runs and slices (budgets) it concerns, and the number behind
    it. value: what was compared with the threshold, in the sentence's units; None where nothing was measured."""

    code: str
    severity: Severity
    message: str
    runs: tuple[str, ...] = ()
    slices: tuple[float, ...] = ()
    value: float | None = None


def finding(
    code: str, message: str, runs: Iterable[str] = (), slices: Iterable[float] = (),
    severity: Severity | None = None, value: float | None = None,
) -> Finding:  # fmt: skip
    """A finding of the severity that `CODES` gives its code, unless another is named."""
    value = None if value is None or not math.isfinite(value) else float(value)
    return Finding(code, severity or CODES[code], message, tuple(runs), tuple(map(float, slices)), value)


def run_to_add(n_params: float, budget_flops: float, kappa: float) -> str:
    """'N = 1.2M, D = 3.4G tokens (C = 1e17)': a run that would remedy a finding, with C = kappa N D."""
    return f"N = {count(n_params)}, D = {count(budget_flops / kappa / n_params)} tokens (C = {compact(budget_flops)})"


def rehearsed(findings: Iterable[Finding]) -> bool:
    return any(f.code == "rehearsal" for f in findings)


def listed(findings: Iterable[Finding]) -> list[str]:
    """One indented line for each."""
    return [f"  {f.severity}: {f.code}: {f.message}" for f in findings]


def some(run_ids: Sequence[str]) -> str:
    """'run a' or '5 runs (a, b, c, ...)'."""
    shown = ", ".join(map(str, run_ids[:3])) + (", ..." if len(run_ids) > 3 else "")
    return f"run {shown}" if len(run_ids) == 1 else f"{len(run_ids)} runs ({shown})"
