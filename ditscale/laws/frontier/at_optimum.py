"""Any quantity of the runs, read at the sizes where the loss has its optimum: one value a slice, with its standard
error."""

import math
from typing import NamedTuple

import numpy as np

from ...errors import UserError
from ..estimates import Estimate, t_quantile
from ..findings import Finding, finding, some
from ..minima.approach2 import fit_approach2
from ..minima.parabola import Parabola, design
from ..table import Table


class Usable(NamedTuple):
    """The grid's runs that have a column, their slices with an optimum, and what was left out."""

    grid: Table
    slices: list[Parabola]
    findings: list[Finding]


def usable(table: Table, column: str) -> Usable:
    """What there is of `column` (from `read_table(..., also=(column,))`). Raises UserError when the column is not
    there, and with status 3 when fewer than 2 slices are left."""
    source = table.source or "table"
    if column not in table.columns:
        raise UserError(f"{source}: it was read without {column!r}; read_table(..., also=({column!r},))")
    grid, findings = table.grid(), []
    lost = ~np.isfinite(grid.columns[column])
    if lost.any():
        text = f"{some(grid.run_id[lost])} have no {column} and take no part"
        findings.append(finding("excluded_runs", text, map(str, grid.run_id[lost])))
        grid = grid.take(~lost)
    laws = fit_approach2(grid, bootstrap=0) if len(grid) else None
    slices = laws.accepted if laws else []
    findings += [f for f in laws.findings if f.severity == "refused"] if laws else []
    if len(slices) < 2:
        why = "; ".join(f.message for f in findings) or f"{len(slices)} slices"
        raise UserError(f"{source}: no law of {column} can be given, it needs 2 usable slices: {why}", status=3)
    return Usable(grid, slices, findings)


class AtOptimum(NamedTuple):
    """Values at N* (K,), their standard errors (K,), and the degrees of freedom these have."""

    values: np.ndarray
    se: np.ndarray
    dof: int

    def estimates(self) -> list[Estimate]:
        return [interval_of(v, s, self.dof) for v, s in zip(self.values, self.se, strict=True)]


def at_optimum(table: Table, slices: list[Parabola], values: np.ndarray, size: np.ndarray) -> AtOptimum:
    """From a quadratic in log N per slice, noise pooled over slices.

    size (n,): the scatter of a run's value is taken to be proportional to it."""
    fits, squares, dof = [], 0.0, 0
    for p in slices:
        x, scale = np.log(table.n_params[p.rows] / p.n_params), float(np.median(size[p.rows]))
        basis = design(x)
        c = np.linalg.lstsq(basis, values[p.rows], rcond=None)[0]
        squares += float(np.sum((values[p.rows] - basis @ c) ** 2)) / scale**2
        dof += len(x) - 3
        fits.append((c, scale, math.sqrt(np.linalg.inv(basis.T @ basis)[0, 0]), p.log_n_se))
    noise = max(math.sqrt(squares / dof), 1e-9)  # a noise-free table has no intervals of width zero to weigh by
    # The place of the optimum is uncertain too; that matters where the values are steep in N.
    se = [math.hypot(noise * scale * unit, c[1] * log_n_se) for c, scale, unit, log_n_se in fits]
    return AtOptimum(np.array([c[0] for c, *_ in fits]), np.array(se), dof)


def interval_of(value: float, se: float, dof: int) -> Estimate:
    """95 %, by Student's t."""
    half = t_quantile(0.975, dof) * float(se)
    return Estimate(float(value), float(value) - half, float(value) + half)
