"""Findings about the grid as a whole: does its centring drift, and does the surface's asymmetry bias the parabolas?"""

from dataclasses import dataclass

import numpy as np

from ..estimates import Estimate, estimate, t_quantile
from ..findings import Finding, finding
from ..minima.approach2 import Approach2
from ..minima.parabola import refit, response_of, vertex
from ..minima.powerlaw import line
from ..result import Result
from ..surface.approach3 import Approach3
from ..surface.surface import optimum
from ..table import Table

DRIFT = 2.0  # a change of the centring by this factor over the budgets is worth a word


def check_drift(table: Table, laws: Approach2) -> list[Finding]:
    """`drifting_centring`: the middle of the sizes moves against the minimum as the budget grows.

    Each slice's vertex is shifted by its own centring, so a drift leans on the exponent (arXiv 2603.22339, section 4).
    """
    if len(laws.accepted) < 3:
        return []
    log_c = np.log(laws.budgets)
    middles = [np.log(table.n_params[p.rows]) for p in laws.accepted]
    off = np.array([(m.min() + m.max()) / 2 for m in middles]) - np.log([p.n_params for p in laws.accepted])
    height, slope = line(log_c, off)
    dof = len(off) - 2
    rest = off - height - slope * log_c
    se = np.sqrt(float(rest @ rest) / dof / np.sum((log_c - log_c.mean()) ** 2))
    drift = float(np.exp(abs(slope) * np.ptp(log_c)))
    if drift < DRIFT or abs(slope) < t_quantile(0.995, dof) * se:
        return []
    ends = np.exp(height + slope * log_c[[0, -1]])
    text = (
        f"the middle of the sizes drifts from {ends[0]:.2g}x to {ends[1]:.2g}x the minimum as the budget grows, which "
        "leans on the exponents of approach 2; centre the sizes on the minimum at every budget"
    )
    return [finding("drifting_centring", text, slices=tuple(laws.budgets), value=drift)]


@dataclass(frozen=True)
class Bias(Result):
    """How far parabolas on this grid would be off without noise, were the fitted surface the truth.

    log_n_params: log of (vertex / N*) at the largest accepted budget; model_exponent: of the exponent of N*(C)."""

    log_n_params: Estimate
    model_exponent: Estimate


def parabola_bias(table: Table, laws: Approach2, fitted: Approach3) -> Bias | None:
    """The bias of Approach 2 on this grid, computed from the surface and its refits; None where either was refused.

    Czech et al., "Problems with Chinchilla Approach 2", arXiv 2603.22339."""
    if not (fitted.ok and laws.ok):
        return None
    surface = fitted.surface
    point = _bias_of(table, laws, surface.parameters[None], surface.kappa)
    draws = None if fitted.draws is None else _bias_of(table, laws, fitted.draws, surface.kappa)
    if not np.isfinite(point).all():
        return None
    level, slope = (estimate(point[0, i], None if draws is None else draws[:, i]) for i in (0, 1))
    return Bias(level, slope)


def _bias_of(table: Table, laws: Approach2, parameters: np.ndarray, kappa: float) -> np.ndarray:
    """(R, 2) of (level, slope) for each row of parameters (R, 5)."""
    floor, log_a, log_b, alpha, beta = parameters.T[:, :, None]
    parts = []
    for p in laws.accepted:
        log_n, log_d = np.log(table.n_params[p.rows]), np.log(table.n_tokens[p.rows])
        clean = floor + np.exp(log_a - alpha * log_n) + np.exp(log_b - beta * log_d)
        at, _, _ = vertex(refit(log_n - np.log(p.center), response_of(clean, p.response)), p.response)
        parts.append(at + np.log(p.center) - optimum(parameters, kappa, p.budget_flops)[0])
    off = np.stack(parts, axis=-1)
    return np.stack([off[:, -1], line(np.log(laws.budgets), off)[:, 1]], axis=-1)


def check_bias(bias: Bias | None, fitted: Approach3, laws: Approach2) -> list[Finding]:
    """`asymmetric_surface`: a bias above 5 % in N* or 0.01 in its exponent, of whose sign the runs leave no doubt."""
    if bias is None:
        return []
    if not any(
        abs(e.value) > least and (e.low is None or e.high is None or e.low > 0 or e.high < 0)
        for e, least in ((bias.log_n_params, 0.05), (bias.model_exponent, 0.01))
    ):
        return []
    s = fitted.surface
    at_largest = np.expm1(bias.log_n_params.value)
    text = (
        f"the surface is asymmetric (alpha {s.alpha:.3g}, beta {s.beta:.3g}): on this grid parabolas misplace N* by "
        f"{100 * at_largest:+.2g} % at the largest budget and its exponent by {bias.model_exponent.value:+.2g} even "
        "without noise; trust approach 3, or narrow and centre the grid"
    )
    return [finding("asymmetric_surface", text, slices=tuple(laws.budgets), value=at_largest)]
