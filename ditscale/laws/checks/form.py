"""Findings about the form of the laws and the grid they stand on."""

from dataclasses import dataclass

import numpy as np

from ...result import Result
from ...tables.table import Table
from ..estimates import Estimate, f_tail, first, t_quantile
from ..findings import Finding, finding, some
from ..minima.approach2 import Approach2
from ..minima.line import line
from ..minima.parabola import refit, response_of, vertex
from ..surface.descent import jacobian_of, powers_of
from ..surface.fit_surface import N_PARAMETERS, Approach3, Surface, fit_surface, loss_of, optimum, variables
from .runs import outliers

# Many tests are made on every table; a clean one must pass all of them.
SIGNIFICANT = 1e-4
DRIFT = 2.0  # a change of the centring by this factor over the budgets is worth a word
NOTICEABLE = 1e-4  # structure below 0.01 % of the loss misleads nobody


def check_lines(laws: Approach2) -> list[Finding]:
    """`lack_of_fit` of N*(C): do the vertices scatter more about a power law than the noise of the runs explains?"""
    log_c, log_n = np.log(laws.budgets), laws.vertices[..., 0]
    draws = log_n[1:][np.isfinite(log_n[1:]).all(axis=1)]
    if len(draws) < 40 or len(laws.accepted) < 3:
        return []
    off = _about_line(log_c, log_n[0])
    noise = _about_line(log_c, draws) - off
    # Half the central 68 %: one replicate with an almost flat slice would blow up a standard deviation.
    spread = np.maximum(np.diff(np.quantile(noise, [0.16, 0.84], axis=0), axis=0)[0] / 2, 1e-9)
    # Twice what 1 % of the replicates exceed: p is about 3e-4 with 3 budgets and 3e-5 with 6, which no share of a few
    # hundred replicates could show.
    limit = 2 * np.quantile(((noise / spread) ** 2).sum(-1), 0.99)
    if ((off / spread) ** 2).sum() <= limit or np.abs(off).max() < 1e-2:
        return []
    worst, far = float(np.expm1(np.abs(off).max())), laws.budgets[np.abs(off) >= 0.5 * np.abs(off).max()]
    text = f"the N* of the slices lie up to {100 * worst:.2g} % off a power law, more than the noise explains"
    return [finding("lack_of_fit", text, slices=far, value=worst)]


def _about_line(log_c: np.ndarray, log_y: np.ndarray) -> np.ndarray:
    fit = line(log_c, log_y)
    return log_y - fit[..., :1] - fit[..., 1:] * log_c


def check_surface(table: Table, surface: Surface) -> list[Finding]:
    """`lack_of_fit` of the surface: an F test of second-order terms in (log N, log D) in its residuals (Ramsey 1969),
    on the least-squares fit without outliers, whose residuals are orthogonal to the surface's own directions."""
    if not surface.ok:
        return []
    far, _ = outliers(surface.residuals, N_PARAMETERS)
    # A few runs off the surface went wrong; many are structure.
    rest = table.take(np.delete(np.arange(len(table)), far)) if len(far) <= max(2, 0.03 * len(table)) else table
    dof = len(rest) - N_PARAMETERS - 3
    if dof < 3 or not (square := fit_surface(rest, "ls_log")).ok:
        return []
    logs = variables(rest)
    x = logs - logs.mean(axis=1, keepdims=True)
    own = jacobian_of(*powers_of(square.parameters[None], logs), x, False)[0]
    own, _ = np.linalg.qr(own / np.abs(own).max(axis=0))
    added = np.stack([x[0] ** 2, x[0] * x[1], x[1] ** 2], axis=-1)
    # Second-order terms that the surface's own directions already contain say nothing.
    left, sizes, _ = np.linalg.svd(added - own @ (own.T @ added), full_matrices=False)
    left = left[:, sizes > 1e-6 * sizes.max()]
    structure, rank = left @ (left.T @ square.residuals), left.shape[1]
    explained = float(structure @ structure)
    rms = float(np.sqrt(explained / len(rest)))
    noise = max(float(square.residuals @ square.residuals) - explained, 1e-300) / dof
    if rms < NOTICEABLE or f_tail(explained / rank / noise, rank, dof) > SIGNIFICANT:
        return []
    runs = rest.run_id[np.argsort(-np.abs(structure))[: max(3, len(rest) // 10)]].tolist()
    much = f"structure of {100 * rms:.2g} % (rms), against {100 * np.sqrt(noise):.2g} % of noise"
    text = f"the residuals of the surface have {much}: {table.metric}(N, D) is not of this form; look first at"
    return [finding("lack_of_fit", f"{text} {some(runs)}", map(str, runs), value=rms)]


def check_drift(table: Table, laws: Approach2) -> list[Finding]:
    """`drifting_centring`: the middle of the sizes moves against the minimum (arXiv 2603.22339, section 4)."""
    if len(laws.accepted) < 3:
        return []
    log_c, dof = np.log(laws.budgets), len(laws.accepted) - 2
    middles = [np.log(table.n_params[p.rows]) for p in laws.accepted]
    off = np.array([(m.min() + m.max()) / 2 for m in middles]) - laws.vertices[0, :, 0]
    height, slope = line(log_c, off)
    se = np.sqrt(np.sum((off - height - slope * log_c) ** 2) / dof / np.sum((log_c - log_c.mean()) ** 2))
    drift = float(np.exp(abs(slope) * np.ptp(log_c)))
    if drift < DRIFT or abs(slope) < t_quantile(0.995, dof) * se:
        return []
    low, high = np.exp(height + slope * log_c[[0, -1]])
    text = f"the middle of the sizes drifts from {low:.2g}x to {high:.2g}x the minimum as the budget grows"
    text += ", which leans on the exponents of approach 2; centre the sizes at every budget"
    return [finding("drifting_centring", text, slices=laws.budgets, value=drift)]


@dataclass(frozen=True)
class Bias(Result):
    """How far parabolas on this grid would be off without noise, were the fitted surface the truth: in log N* at the
    largest accepted budget, and in its exponent."""

    log_n_params: Estimate
    model_exponent: Estimate


def parabola_bias(table: Table, laws: Approach2, fitted: Approach3) -> Bias | None:
    """By the surface and its refits; None where an approach was refused (Czech et al., arXiv 2603.22339)."""
    if not (fitted.ok and laws.ok):
        return None
    parts = []
    for p in laws.accepted:
        log_n, log_d = np.log(table.n_params[p.rows]), np.log(table.n_tokens[p.rows])
        clean = loss_of(fitted.parameters[:, None], log_n, log_d)
        at, _, _ = vertex(refit(log_n - np.log(p.center), response_of(clean, p.response)), p.response)
        parts.append(at + np.log(p.center) - optimum(fitted.parameters, fitted.surface.kappa, p.budget_flops)[0])
    off = np.stack(parts, axis=-1)  # (1 + R, K)
    level, slope = off[:, -1], line(np.log(laws.budgets), off)[:, 1]
    return Bias(first(level), first(slope)) if np.isfinite([level[0], slope[0]]).all() else None


def check_bias(bias: Bias | None, fitted: Approach3, laws: Approach2) -> list[Finding]:
    """`asymmetric_surface`: a bias above 5 % in N* or 0.01 in its exponent, of whose sign the runs leave no doubt."""
    parts = ((bias.log_n_params, 0.05), (bias.model_exponent, 0.01)) if bias else ()
    sure = [e for e, least in parts if abs(e.value) > least and (None in (e.low, e.high) or not e.covers(0))]
    if bias is None or not sure:
        return []
    off, s = np.expm1(bias.log_n_params.value), f"alpha {fitted.surface.alpha:.3g}, beta {fitted.surface.beta:.3g}"
    much = f"{100 * off:+.2g} % at the largest budget, its exponent by {bias.model_exponent.value:+.2g}, without noise"
    text = f"the surface is asymmetric ({s}): on this grid parabolas misplace N* by {much}; narrow and centre the grid"
    return [finding("asymmetric_surface", text, slices=laws.budgets, value=off)]
