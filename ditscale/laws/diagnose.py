"""Findings that need the whole study: units, budgets, outliers, lack of fit, and Approach 2's bias on this grid."""

from __future__ import annotations

import numpy as np

from ..units import compact
from .approach2 import Approach2
from .findings import Finding
from .parabola import fit_parabola
from .powerlaw import line
from .surface import Surface
from .table import Table


def check_units(table: Table) -> list[Finding]:
    """`units_mixed` and `budget_mismatch`: C against N D, and the FLOPs that were spent against those planned."""
    findings = []
    ratio = table.budget_flops / (table.n_params * table.n_tokens)
    kappa = float(np.median(ratio))
    if not 0.6 <= kappa <= 60:
        text = (
            f"budget_flops is {compact(kappa)} x n_params x n_tokens in the median, where 6 is usual; check the units "
            "(parameters, tokens and FLOPs are whole counts, not millions or exaFLOPs)"
        )
        findings.append(Finding("units_mixed", text))
    far = np.abs(np.log(ratio / kappa)) > np.log(10)
    if far.any():
        text = f"C / (N D) of {_some(table.run_id[far])} is more than 10x off the other runs; check their units"
        findings.append(Finding("units_mixed", text, _names(table.run_id[far])))
    off = (np.abs(np.log(ratio / kappa)) > np.log(1.1)) & ~far
    if off.any():
        text = f"C / (N D) of {_some(table.run_id[off])} is over 10 % off the median {compact(kappa)}"
        findings.append(Finding("budget_mismatch", text, _names(table.run_id[off])))
    if table.achieved_flops is not None:
        spent = np.abs(table.achieved_flops / table.budget_flops - 1) > 0.02
        if spent.any():
            text = f"{_some(table.run_id[spent])} spent FLOPs more than 2 % off the budget"
            findings.append(Finding("budget_mismatch", text, _names(table.run_id[spent])))
    for budget, rows in table.slices() if table.is_isoflop() else ():
        spread = float(table.budget_flops[rows].max() / table.budget_flops[rows].min())
        if spread > 1.02 and len(rows) > 1:
            text = f"slice {compact(budget)} mixes budgets that differ by up to {100 * (spread - 1):.2g} %"
            findings.append(Finding("budget_mismatch", text, _names(table.run_id[rows]), (budget,)))
    return findings


def find_outliers(table: Table, residuals: np.ndarray, n_parameters: int) -> list[Finding]:
    """`outlier_run`: log residuals beyond 6 robust standard deviations and 0.5 %. They stay in the fit."""
    n = len(residuals)
    # A fit with p parameters passes near p runs, so the median residual of few runs is too small.
    scale = 1.4826 * float(np.median(np.abs(residuals))) * np.sqrt(n / max(n - n_parameters, 1))
    findings = []
    for i in np.flatnonzero(np.abs(residuals) > max(6 * scale, 0.005)):
        text = (
            f"run {table.run_id[i]} lies {100 * np.expm1(residuals[i]):+.2g} % off the fit, where "
            f"{100 * scale:.2g} % is usual; look at its curve, and exclude it by name if it diverged"
        )
        budget = next(b for b, rows in table.slices() if i in rows)
        findings.append(Finding("outlier_run", text, (str(table.run_id[i]),), (budget,)))
    return findings


def check_lines(laws: Approach2) -> list[Finding]:
    """`lack_of_fit` of N*(C), and `floor_seen` (or `lack_of_fit`) of L*(C): do the vertices lie on a power law?

    The scatter of the vertices about the line is compared with that of the replicates about theirs, less the former:
    that is what the noise of the runs alone would give.
    """
    if laws.vertex_draws is None or len(laws.accepted) < 3:
        return []
    findings = []
    budgets = tuple(p.budget_flops for p in laws.accepted)
    log_c = np.log(budgets)
    for k, (name, values) in enumerate((("N*", "n_params"), ("D*", "n_tokens"), ("L*", "loss"))):
        if name == "D*":
            continue
        measured = np.log([getattr(p, values) for p in laws.accepted])
        draws = laws.vertex_draws[np.isfinite(laws.vertex_draws[..., k]).all(axis=1)][..., k]
        if len(draws) < 40:
            continue
        off = _about_line(log_c, measured)
        noise = _about_line(log_c, draws) - off
        # Half the central 68 %: one replicate with an almost flat slice would blow up a standard deviation.
        spread = np.maximum(np.diff(np.quantile(noise, [0.16, 0.84], axis=0), axis=0)[0] / 2, 1e-9)
        if np.mean(((noise / spread) ** 2).sum(-1) >= ((off / spread) ** 2).sum()) > 0.005 or np.abs(off).max() < 1e-5:
            continue
        worst = f"up to {100 * float(np.expm1(np.abs(off).max())):.2g} % off"
        if name == "L*" and laws.floor is not None and laws.floor.status == "ok":
            text = (
                f"the minima's losses bend away from a pure power law ({worst}, more than the noise explains); a floor "
                f"of {laws.floor.floor:.4g} fits them: extrapolate with loss_with_floor, not with loss_exponent"
            )
            findings.append(Finding("floor_seen", text, slices=budgets))
        else:
            text = f"the {name} of the slices do not lie on a power law ({worst}, more than the noise explains)"
            findings.append(Finding("lack_of_fit", text, slices=budgets))
    return findings


def _about_line(log_c: np.ndarray, log_y: np.ndarray) -> np.ndarray:
    fit = line(log_c, log_y)
    return log_y - fit[..., :1] - fit[..., 1:] * log_c


def parabola_bias(table: Table, laws: Approach2, surface: Surface, response: str) -> list[Finding]:
    """`approach2_bias`: what the parabolas would find on this grid if the fitted surface were true and noise-free.

    Czech et al., "Problems with Chinchilla Approach 2", arXiv 2603.22339. Raised where the bias is above 5 % in N* at
    the largest budget (or 0.01 in the exponent) and larger than half the width of the interval Approach 2 states.
    """
    if not (surface.ok and laws.ok):
        return []
    import dataclasses

    clean = dataclasses.replace(table, loss=surface.loss_at(table.n_params, table.n_tokens))
    slices = [fit_parabola(clean, p.rows, response) for p in laws.accepted]
    if any(p.n_params is None for p in slices):
        return []
    budgets = np.array([p.budget_flops for p in slices])
    off = np.log([p.n_params for p in slices]) - np.log(surface.optimum(budgets)[0])
    level, slope = float(off[-1]), float(line(np.log(budgets), off)[1])
    half_level = half_slope = 0.0
    if laws.model_draws is not None:
        half_level = 2 * float(np.nanstd(laws.vertex_draws[:, -1, 0]))
        half_slope = 2 * float(np.nanstd(laws.model_draws[:, 1]))
    if abs(level) <= max(0.05, half_level) and abs(slope) <= max(0.01, half_slope):
        return []
    text = (
        f"on this grid parabolas misplace N* by {100 * np.expm1(level):+.2g} % at the largest budget and its exponent "
        f"by {slope:+.2g} even without noise, if the surface is right (alpha {surface.alpha:.3g}, "
        f"beta {surface.beta:.3g}); trust approach 3, or narrow and centre the grid"
    )
    return [Finding("approach2_bias", text, slices=tuple(budgets))]


def _names(run_ids) -> tuple[str, ...]:
    return tuple(str(r) for r in run_ids)


def _some(run_ids) -> str:
    shown = ", ".join(_names(run_ids[:3]))
    return (
        f"run {shown}" if len(run_ids) == 1 else f"{len(run_ids)} runs ({shown}{', ...' if len(run_ids) > 3 else ''})"
    )
