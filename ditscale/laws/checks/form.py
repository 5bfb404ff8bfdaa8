"""Findings about the form of a law: do the vertices lie on a power law, have the surface's residuals structure?"""

import numpy as np

from ..estimates import f_tail
from ..findings import Finding, finding, some
from ..minima.approach2 import Approach2
from ..minima.powerlaw import line
from ..surface.descent import jacobian_of, powers_of
from ..surface.fit_surface import fit_surface, variables
from ..surface.surface import N_PARAMETERS, Surface
from ..table import Table
from .runs import outliers

# Many tests are made on every table; a clean one must pass all of them.
SIGNIFICANT = 1e-4
NOTICEABLE = 1e-4  # structure below 0.01 % of the loss misleads nobody


def check_lines(laws: Approach2) -> list[Finding]:
    """`lack_of_fit` of N*(C): do the vertices lie on a power law?

    The scatter of the vertices about the line is compared with that of the replicates about theirs, less the former:
    that is what the noise of the runs alone would give."""
    if laws.vertex_draws is None or len(laws.accepted) < 3:
        return []
    log_c = np.log(laws.budgets)
    draws = laws.vertex_draws[np.isfinite(laws.vertex_draws[..., 0]).all(axis=1)][..., 0]
    if len(draws) < 40:
        return []
    off = _about_line(log_c, np.log([p.n_params for p in laws.accepted]))
    noise = _about_line(log_c, draws) - off
    # Half the central 68 %: one replicate with an almost flat slice would blow up a standard deviation.
    spread = np.maximum(np.diff(np.quantile(noise, [0.16, 0.84], axis=0), axis=0)[0] / 2, 1e-9)
    # Twice what 1 % of the replicates exceed: p is about 3e-4 with 3 budgets and 3e-5 with 6, which no share of a few
    # hundred replicates could show.
    limit = 2 * np.quantile(((noise / spread) ** 2).sum(-1), 0.99)
    if ((off / spread) ** 2).sum() <= limit or np.abs(off).max() < 1e-2:
        return []
    worst = float(np.expm1(np.abs(off).max()))
    far = laws.budgets[np.abs(off) >= 0.5 * np.abs(off).max()]
    text = (
        f"the N* of the slices do not lie on a power law (up to {100 * worst:.2g} % off, more than the noise explains)"
    )
    return [finding("lack_of_fit", text, slices=tuple(far), value=worst)]


def _about_line(log_c: np.ndarray, log_y: np.ndarray) -> np.ndarray:
    fit = line(log_c, log_y)
    return log_y - fit[..., :1] - fit[..., 1:] * log_c


def check_surface(table: Table, surface: Surface) -> list[Finding]:
    """`lack_of_fit` of the surface: an F test of second-order terms in (log N, log D) in its residuals.

    The test is made on the least-squares fit of log loss without the outliers already named, whose residuals are
    orthogonal to the surface's own directions; what the added terms explain is structure, not noise (Ramsey 1969)."""
    if not surface.ok:
        return []
    keep = np.ones(len(table), dtype=bool)
    far = outliers(surface.residuals, N_PARAMETERS)
    # A few runs off the surface went wrong; many are structure.
    if len(far) <= max(2, 0.03 * len(table)):
        keep[far] = False
    rest = table.take(keep)
    dof = len(rest) - N_PARAMETERS - 3
    if dof < 3:
        return []
    square = fit_surface(rest, "ls_log")
    if not (square.ok or square.without_floor):
        return []
    logs = variables(rest)
    x = logs - logs.mean(axis=1, keepdims=True)
    own = jacobian_of(*powers_of(square.parameters[None], logs), x, False)[0]
    added = np.stack([x[0] ** 2, x[0] * x[1], x[1] ** 2], axis=-1)
    basis, _ = np.linalg.qr(own)
    added = added - basis @ (basis.T @ added)
    # Second-order terms that the surface's own directions already contain say nothing.
    left, sizes, _ = np.linalg.svd(added, full_matrices=False)
    left = left[:, sizes > 1e-6 * sizes.max()]
    structure = left @ (left.T @ square.residuals)
    explained, total = float(structure @ structure), float(square.residuals @ square.residuals)
    rms = float(np.sqrt(explained / len(rest)))
    rank = left.shape[1]
    noise = max(total - explained, 1e-300) / dof
    if rms < NOTICEABLE or f_tail(explained / rank / noise, rank, dof) > SIGNIFICANT:
        return []
    far = np.argsort(-np.abs(structure))[: max(3, len(rest) // 10)]
    runs = rest.run_id[far]
    text = (
        f"the residuals of the surface have structure of {100 * rms:.2g} % (rms), beside {100 * np.sqrt(noise):.2g} % "
        f"of noise: L(N, D) is not of this form over all runs; look first at {some(runs.tolist())}"
    )
    return [finding("lack_of_fit", text, map(str, runs), value=rms)]
