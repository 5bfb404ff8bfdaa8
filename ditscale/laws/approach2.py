"""Approach 2: the laws N*(C), D*(C), L*(C) through the vertices of the slices' parabolas, with intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..units import compact
from .findings import Finding
from .parabola import Parabola, fit_parabola, pooled_variance, refit, vertex_log_loss
from .powerlaw import FloorLaw, PowerLaw, floor_law, floor_laws, line, power_law
from .table import Table
from .uncertainty import Estimate, estimate, resample_counts, residual_draws, scheme


@dataclass(frozen=True)
class Approach2:
    """Laws through the accepted vertices. model: N*(C); data: D*(C); loss: L*(C); floor: L*(C) with an irreducible E.

    vertex_draws (R, K, 3): log N*, log D*, log L* of the K accepted slices in each of R replicates (None: no
    bootstrap); model_draws, data_draws, loss_draws (R, 2): (log coefficient, exponent); floor_draws (R, 3): (E, log k,
    a). model, data and loss are None when refused; `floor` then is too, and it may be refused alone.
    """

    slices: tuple[Parabola, ...]
    model: PowerLaw | None
    data: PowerLaw | None
    loss: PowerLaw | None
    floor: FloorLaw | None
    vertex_draws: np.ndarray | None
    model_draws: np.ndarray | None
    data_draws: np.ndarray | None
    loss_draws: np.ndarray | None
    floor_draws: np.ndarray | None
    scheme: str
    status: str
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    @property
    def accepted(self) -> list[Parabola]:
        return [p for p in self.slices if p.ok]

    def predict(self, budget_flops: float) -> dict[str, Estimate]:
        """{n_params, n_tokens, loss} at a budget; the loss by the pure power law."""
        out = {}
        for name, law in (("n_params", "model"), ("n_tokens", "data"), ("loss", "loss")):
            out[name] = estimate(getattr(self, law).at(budget_flops), self.draws_at(law, budget_flops))
        return out

    def draws_at(self, law: str, budget_flops: float):
        """Draws (R,) of the law "model", "data" or "loss" at a budget, or None without a bootstrap."""
        draws = getattr(self, f"{law}_draws")
        if draws is None:
            return None
        # A replicate whose slice is almost flat sends N* beyond any float; infinity is the right word for it.
        with np.errstate(over="ignore"):
            return np.exp(draws[:, 0] + draws[:, 1] * np.log(budget_flops))

    def floor_draws_at(self, budget_flops: float):
        """Draws (R,) of the loss by the law with a floor, or None."""
        if self.floor_draws is None:
            return None
        floor, log_k, a = self.floor_draws.T
        with np.errstate(over="ignore"):
            return floor + np.exp(log_k - a * np.log(budget_flops))


def fit_approach2(table: Table, response: str = "log", bootstrap: int = 1000, seed: int = 0) -> Approach2:
    """Fit every slice, then the laws through the accepted ones. response "log" (log loss, default) or "raw" (loss)."""
    groups = [rows for _, rows in table.slices()]
    if not table.is_isoflop():
        message = "the budgets form a continuum, not slices of equal compute, so there are no parabolas; use approach 3"
        return Approach2((), *(None,) * 9, "none", "refused", (Finding("not_isoflop", message),))
    pooled, dof = pooled_variance(table, groups, response)
    slices = tuple(fit_parabola(table, rows, response, pooled if dof else None) for rows in groups)
    accepted = [p for p in slices if p.ok]
    findings = [f for p in slices for f in p.findings]
    if len(accepted) < 2:
        message = (
            f"{len(accepted)} of {len(slices)} budget{'s' * (len(slices) != 1)} "
            f"{'has' if len(accepted) == 1 else 'have'} a usable minimum; a law needs 2: "
            "add a budget or mend the refused slices"
        )
        findings.append(Finding("too_few_budgets", message, slices=tuple(p.budget_flops for p in slices)))
        return Approach2(slices, *(None,) * 9, "none", "refused", tuple(findings))
    if len(accepted) == 2:
        both = ", ".join(compact(p.budget_flops) for p in accepted)
        text = f"the laws stand on 2 budgets ({both}): nothing checks their form"
        findings.append(Finding("few_budgets", text, slices=tuple(p.budget_flops for p in accepted)))
    budgets = np.array([p.budget_flops for p in accepted])
    model = power_law(budgets, [p.n_params for p in accepted])
    data = power_law(budgets, [p.n_tokens for p in accepted])
    loss = power_law(budgets, [p.loss for p in accepted])
    floor = floor_law(budgets, [p.loss for p in accepted])
    how = scheme([p.n_runs for p in accepted])
    draws = (None,) * 5
    if bootstrap:
        vertices = draw_vertices(table, accepted, response, how, bootstrap, seed)
        log_c = np.log(budgets)
        floors = floor_laws(log_c, np.exp(vertices[..., 2])) if len(accepted) > 2 else None
        draws = (vertices, *(line(log_c, vertices[..., k]) for k in range(3)), floors)
    return Approach2(slices, model, data, loss, floor, *draws, how, "ok", tuple(findings))


def draw_vertices(table: Table, accepted, response: str, how: str, replicates: int, seed: int) -> np.ndarray:
    """(log N*, log D*, log L*) of each accepted slice in each replicate, (R, K, 3); NaN where there is no minimum."""
    log = response == "log"
    out = np.full((replicates, len(accepted), 3), np.nan)
    rows = np.concatenate([p.rows for p in accepted])
    edges = np.cumsum([0] + [p.n_runs for p in accepted])
    if how == "pairs":
        places = [np.arange(edges[k], edges[k + 1]) for k in range(len(accepted))]
        counts = resample_counts(places, len(rows), replicates, seed)
    else:
        fitted = np.concatenate([p.fitted for p in accepted])
        residuals = np.concatenate([p.residuals for p in accepted])
        noisy = residual_draws(fitted, residuals, 3 * len(accepted), replicates, seed)
    for k, p in enumerate(accepted):
        part = slice(edges[k], edges[k + 1])
        y = (np.log(table.loss[p.rows]) if log else table.loss[p.rows]) if how == "pairs" else noisy[:, part]
        weights = counts[:, part] if how == "pairs" else None
        log_n, log_d = np.log(table.n_params[p.rows]), np.log(table.n_tokens[p.rows])
        x, log_loss = vertex_log_loss(refit(log_n - np.log(p.center), y, weights), log)
        z, _ = vertex_log_loss(refit(log_d - np.log(p.tokens_center), y, weights), log)
        out[:, k] = np.stack([x + np.log(p.center), z + np.log(p.tokens_center), log_loss], axis=-1)
    return out
