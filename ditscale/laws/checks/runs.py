"""Findings about the rows of a table: units, budgets that were missed, rows that repeat, runs far off the fit."""

import itertools
import re
import shlex

import numpy as np

from ...errors import UserError
from ...tables.table import Table
from ...units import compact
from ..findings import Finding, finding, some
from ..predictor.predictor import Predictor

# C / (N D) this far from 6, or of one run from the others, is a unit; nearer than that it may be a way of counting.
WRONG_UNIT = 300.0
SURE = 4.0  # ln of the odds from which runs are said to share errors
WORDS = {"slice": "budget", "size": "size", "trajectory": "training", "shared": "data seed"}
# What people count parameters, tokens and FLOPs in; 8.64e19 FLOPs are a petaFLOP/s-day.
COUNTED_IN = {
    "n_params": (1.0, 1e3, 1e6, 1e9), "n_tokens": (1.0, 1e3, 1e6, 1e9, 1e12),
    "budget_flops": (1.0, 1e9, 1e12, 1e15, 1e18, 8.64e19, 1e21),
}  # fmt: skip


def refuse_units(table: Table, kappa: float | None = None) -> None:
    """Raise UserError where a column, or some rows of it, cannot be in whole counts, unless a kappa like theirs says it
    is meant, and where the metric is the same in every run."""
    where = table.where
    if len(table) > 2 and np.ptp(table.loss) == 0:
        same = f"{table.metric} is {table.loss[0]:g} in every run, which no law describes"
        raise UserError(f"{where}: {same}; name the column that differs, as in --metric COLUMN")
    ratio = table.budget_flops / table.n_params / table.n_tokens  # N D of wrong units may be beyond any float
    middle, write = float(np.median(ratio)), "write n_params, n_tokens and budget_flops as whole counts"
    if middle == 0 or not np.isfinite(middle):
        raise UserError(f"{where}: n_params and n_tokens are too large or too small for their budget_flops; {write}")
    if abs(np.log(middle) - np.log(kappa or 6)) > np.log(WRONG_UNIT):
        units = "" if kappa else _units(table)
        do = f"{units or write + ', not in millions or exaFLOPs'}, or give --kappa {compact(middle)} if meant"
        usual = "6 is usual" if kappa is None else f"--kappa says {compact(kappa)}"
        raise UserError(f"{where}: C / (N D) is {compact(middle)} in the median, where {usual}; {do}")
    with np.errstate(divide="ignore", over="ignore"):  # log 0 is infinitely far
        far = np.abs(np.log(ratio / middle)) > np.log(WRONG_UNIT)
    if far.any():
        of = f"C / (N D) of {some(table.run_id[far])} is {compact(ratio[np.argmax(far)])}"
        raise UserError(f"{where}: {of}, of the others {compact(middle)}; {write} in all runs, not some in millions")


def _units(table: Table) -> str:
    """The fewest units of columns with which C is near 6 N D, as the option that says so; "" where there are none."""
    medians = {name: float(np.median(getattr(table, name))) for name in COUNTED_IN}
    likely = []
    for factors in itertools.product(*COUNTED_IN.values()):
        n, d, c = (value * factor for value, factor in zip(medians.values(), factors, strict=True))
        apart = abs(np.log(c / n / d / 6))
        if n >= 1e4 and 0.01 <= d / n <= 1e5 and apart < np.log(5):
            likely.append((sum(factor != 1 for factor in factors), apart, factors))
    if not likely:
        return ""
    parts = []
    for name, factor in zip(medians, min(likely)[2], strict=True):
        theirs = re.match("'(.*)' in the file", dict(table.recorded).get(f"column {name}", ""))
        parts += [f"{name}={theirs[1] if theirs else name}*{compact(factor)}"] * (factor != 1)
    return f"if these are the units, add --columns {shlex.quote(','.join(parts))}"


def check_rehearsal(table: Table) -> list[Finding]:
    """`rehearsal`, for runs that were rehearsed instead of trained."""
    text = f"REHEARSAL, not a measurement: {table.rehearsal}"
    return [finding("rehearsal", text)] if table.rehearsal else []


def check_units(table: Table) -> list[Finding]:
    """`units_mixed` and `budget_mismatch`: C against N D, and the FLOPs that were spent against those planned; and
    `repeated_rows`."""
    findings, ratio = _repeats(table), table.budget_flops / (table.n_params * table.n_tokens)
    kappa = float(np.median(ratio))
    if not 0.6 <= kappa <= 60:
        text = f"C / (N D) is {compact(kappa)} in the median, where 6 is usual; check the units: all are whole counts"
        findings.append(finding("units_mixed", text, value=kappa))

    def add(code: str, off: np.ndarray, far: np.ndarray, text: str) -> None:
        """A finding of the runs that are `far`, named at {} in its text; its value is the largest of their `off`."""
        if far.any():
            runs = [str(name) for name in table.run_id[far]]
            findings.append(finding(code, text.format(some(runs)), runs, value=off[far].max()))

    apart = np.abs(np.log(ratio / kappa))
    far, text = apart > np.log(10), "C / (N D) of {} is more than 10x off the other runs; check their units"
    add("units_mixed", np.exp(apart), far, text)
    text, off = f"C / (N D) of {{}} is over 10 % off the median {compact(kappa)}", np.abs(ratio / kappa - 1)
    add("budget_mismatch", off, (apart > np.log(1.1)) & ~far, text)
    off = np.abs((np.nan if table.achieved_flops is None else table.achieved_flops) / table.budget_flops - 1)
    add("budget_mismatch", off, off > 0.02, "{} spent FLOPs more than 2 % off the budget")
    for budget, rows in table.slices() if table.is_isoflop() else ():
        spread = float(table.budget_flops[rows].max() / table.budget_flops[rows].min())
        if spread > 1.02 and len(rows) > 1:
            text = f"slice {compact(budget)} mixes budgets that differ by up to {100 * (spread - 1):.2g} %"
            findings.append(finding("budget_mismatch", text, map(str, table.run_id[rows]), (budget,), value=spread - 1))
    return findings


def check_sharing(table: Table, made: Predictor) -> list[Finding]:
    """`shared_errors`: what the runs of one slice, size or training share of their scatter; a warning where the table
    does not say what sizes share."""
    findings = []
    for name, share in made.sharing(SURE).items():
        unsaid = name == "size" and not table.shared.keys() & {"trajectory", "seed"}
        text = f"runs of one {WORDS[name]} share {100 * share:.0f} % of the variance of a run's error"
        text += "; the answer knows it, the intervals of approach 2 and 3 do not"
        text += "; a column `trajectory` (what was trained as one run) or `seed` would say why" * unsaid
        findings.append(finding("shared_errors", text, severity="warning" if unsaid else "info", value=share))
    seeds, data = (len(np.unique(table.shared.get(name, np.zeros(0)))) for name in ("seed", "data_seed"))
    if seeds > 1 and data == 1:
        text = "all seeds saw the same data in the same order, so what another order would do is in no interval"
        findings.append(finding("shared_errors", text, severity="info"))
    return findings


def _repeats(table: Table) -> list[Finding]:
    """`repeated_rows`: runs of other names with the same N, D, C and metric."""
    seen: dict[tuple[float, ...], int] = {}
    rows = zip(*(c.tolist() for c in (table.n_params, table.n_tokens, table.budget_flops, table.loss)), strict=True)
    again = [(i, first) for i, row in enumerate(rows) if (first := seen.setdefault(row, i)) != i]
    if not again:
        return []
    runs, of = [str(table.run_id[i]) for i, _ in again], table.run_id[again[0][1]]
    text = f"N, D, C and {table.metric} of {some(runs)} are those of other runs ({runs[0]} has those of {of})"
    text += f"; if a run is there twice, add --exclude {shlex.quote(f'{runs[0]}=copy')}"
    return [finding("repeated_rows", text, runs, value=len(runs))]


def find_outliers(table: Table, residuals: np.ndarray, n_parameters: int) -> list[Finding]:
    """`outlier_run`: the log residuals (n,) of `outliers`. They stay in the fit."""
    findings, slices, (far, scale) = [], table.slices(), outliers(residuals, n_parameters)
    for i in far:
        run, off, usual = str(table.run_id[i]), np.expm1(residuals[i]), f"{100 * scale:.2g} %"
        text = f"run {run} lies {100 * off:+.2g} % off the fit, where {usual} is usual; if it diverged, exclude it"
        findings.append(finding("outlier_run", text, [run], [b for b, rows in slices if i in rows], value=off))
    return findings


def outliers(residuals: np.ndarray, n_parameters: int) -> tuple[np.ndarray, float]:
    """The runs beyond 6 robust standard deviations and 0.5 %, and that deviation, from the median absolute residual."""
    # A fit with p parameters passes near p runs, so the median residual of few runs is too small.
    n = len(residuals)
    scale = float(1.4826 * np.median(np.abs(residuals)) * np.sqrt(n / max(n - n_parameters, 1)))
    return np.flatnonzero(np.abs(residuals) > max(6 * scale, 0.005)), scale
