"""Approach 2: the laws N*(C), D*(C), L*(C) through the vertices of the slices' parabolas, with intervals."""

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from ...units import compact
from ..estimates import Estimate, estimate, of, resample_counts, residual_draws, scheme
from ..findings import Finding, finding
from ..table import Table
from .metric_law import Errors, MetricLaw, metric_law
from .parabola import Noise, Parabola, Response, fit_parabola, pooled_noise, refit, response_of, vertex
from .powerlaw import FORMS, POSITIVE_FORMS, FloorLaw, PowerLaw, floor_law, floor_laws, law_at, lines, power_law

# Name of a law, and what of a parabola it goes through; in this order they are the columns of the vertices.
LAWS = {"model": "n_params", "data": "n_tokens", "loss": "loss"}
NO_LAW = PowerLaw(np.nan, np.nan)


@dataclass(frozen=True)
class Approach2:
    """Laws through the accepted vertices. model: N*(C); data: D*(C); loss: L*(C), a pure power law (None for a metric
    that is not positive); floor: L*(C) with an irreducible E; loss_law: all forms of L*(C) and the one chosen, None
    when refused, as then the laws are nan. vertex_draws (R, K, 4): log N*, log D*, L* and the half-width in log N of
    the range within 0.1 % of L*, of the K accepted slices in each of R replicates (None: no bootstrap). noise: scatter
    about the parabolas."""

    slices: tuple[Parabola, ...]
    findings: tuple[Finding, ...]
    robust: bool
    scheme: str = "none"
    model: PowerLaw = NO_LAW
    data: PowerLaw = NO_LAW
    loss: PowerLaw | None = None
    floor: FloorLaw = FloorLaw.refused("there are no minima")
    loss_law: MetricLaw | None = None
    vertex_draws: np.ndarray | None = None
    noise: Noise | None = None

    @property
    def ok(self) -> bool:
        return self.loss_law is not None

    @cached_property
    def accepted(self) -> list[Parabola]:
        return [p for p in self.slices if p.ok]

    @property
    def budgets(self) -> np.ndarray:
        """(K,) budgets of the accepted slices."""
        return np.array([p.budget_flops for p in self.accepted])

    @property
    def laws(self) -> dict[str, PowerLaw]:
        """The power laws there are, by name."""
        return {"model": self.model, "data": self.data} | ({"loss": self.loss} if self.loss else {})

    def lines(self, law: str, vertices: np.ndarray) -> np.ndarray:
        """(log coefficient, exponent) (R, 2) of a law through each set of vertices (R, K, 4)."""
        y = vertices[..., list(LAWS).index(law)]
        if law == "loss":
            with np.errstate(invalid="ignore", divide="ignore"):
                y = np.log(np.where(y > 0, y, np.nan))
        like = np.log([getattr(p, LAWS[law]) for p in self.accepted]) if self.robust else None
        return lines(np.log(self.budgets), y, like)

    @cached_property
    def _drawn(self) -> dict[str, Any]:
        """Parameters (R, 2) of each law in `vertex_draws`; None without a bootstrap, as what follows."""
        return {law: of(self.vertex_draws, partial(self.lines, law)) for law in self.laws}

    @cached_property
    def _drawn_floor(self) -> Any:
        """(E, log k, exponent) of L* = E + k C^exponent, likewise."""
        return of(self.vertex_draws, lambda v: floor_laws(np.log(self.budgets), v[..., 2]))

    @cached_property
    def _refits(self) -> Any:
        """`loss_law` refitted, likewise."""
        law = self.loss_law
        return of(self.vertex_draws, lambda v: law.refit(v[..., 2])) if law else None

    def floor_coefficients(self) -> dict[str, Estimate] | None:
        """E, coefficient, exponent of L* = E + k C^a through the minima, or None when refused."""
        if not self.floor.ok:
            return None
        floor, drawn = self.floor, self._drawn_floor
        return {
            "E": estimate(floor.floor, of(drawn, lambda p: p[:, 0])),
            "coefficient": estimate(floor.coefficient, of(drawn, lambda p: np.exp(p[:, 1]))),
            "exponent": estimate(floor.exponent, of(drawn, lambda p: p[:, 2])),
        }

    def coefficients(self) -> dict[str, Estimate]:
        """The six numbers of N* = k C^a, D* = k C^b, L* = k C^c; four without a loss law."""
        out = {}
        for law, fitted in self.laws.items():
            drawn = self._drawn[law]
            out[f"{law}_exponent"] = estimate(fitted.exponent, of(drawn, lambda p: p[:, 1]))
            out[f"{law}_coefficient"] = estimate(fitted.coefficient, of(drawn, lambda p: np.exp(p[:, 0])))
        return out

    def predict(self, budget_flops: float) -> dict[str, Estimate]:
        """{n_params, n_tokens, loss} at a budget; the loss by the chosen form of `loss_law`."""
        out = {}
        for law in ("model", "data"):
            drawn = of(self._drawn[law], lambda p: law_at("power_law", p, budget_flops))
            out[LAWS[law]] = estimate(float(self.laws[law].at(budget_flops)), drawn)
        return out | {"loss": estimate(self.loss_at(budget_flops), self.loss_draws_at(budget_flops))}

    def loss_at(self, budget_flops: float) -> float:
        """L* at a budget by the chosen form; nan when refused."""
        return float(self.loss_law.at(budget_flops)) if self.loss_law else np.nan

    def loss_draws_at(self, budget_flops: float) -> np.ndarray | None:
        """Draws (R,) of the same, or None without a bootstrap."""
        return of(self._refits, lambda refits: refits.at(budget_flops))

    def n_range(self, k: int) -> tuple[Estimate, Estimate]:
        """The ends of the range of N within 0.1 % of the optimum of accepted slice k, each with its interval."""
        low, high = self.accepted[k].n_range
        ends = [of(self.vertex_draws, lambda v: np.exp(v[:, k, 0] + side * v[:, k, 3])) for side in (-1, 1)]
        return estimate(low, ends[0]), estimate(high, ends[1])


def fit_approach2(
    table: Table, response: Response = "raw", bootstrap: int = 1000, seed: int = 0, *, robust: bool = False
) -> Approach2:
    """Fit every slice, then the laws through the accepted ones.

    response: parabolas of the loss ("raw") or of its log ("log"). robust: bisquare regressions in place of least
    squares, for the parabolas and, with 5 slices or more, the laws."""
    groups = [rows for _, rows in table.slices()]
    if not table.is_isoflop():
        message = "the budgets form a continuum, not slices of equal compute, so there are no parabolas; use approach 3"
        return Approach2((), (finding("not_isoflop", message),), robust)
    noise = pooled_noise(table, groups, response)
    slices = tuple(fit_parabola(table, rows, response, noise, robust) for rows in groups)
    accepted = [p for p in slices if p.ok]
    findings = [f for p in slices for f in p.findings]
    if noise is None or len(accepted) < 2:
        return Approach2(slices, (*findings, _too_few(slices, accepted)), robust, noise=noise)
    budgets, values = (np.array([getattr(p, name) for p in accepted]) for name in ("budget_flops", "loss"))
    if len(accepted) == 2:
        both = ", ".join(map(compact, budgets))
        text = f"the laws have 2 parameters and stand on 2 budgets ({both}): nothing checks their form; add a third"
        findings.append(finding("saturated_fit", text, slices=budgets, value=2))
    positive = bool((values > 0).all())
    if not positive:
        text = f"the minima of {table.metric} are not all positive, so no power law of it exists; a line in log C is"
        text = f"{text} given (where higher is better, fit the negative of the metric)"
        findings.append(finding("metric_not_positive", text, slices=budgets[values <= 0], value=values.min()))
    how = scheme([p.n_runs for p in accepted])
    forms = POSITIVE_FORMS if table.info_of(table.metric).positive else tuple(FORMS)
    return Approach2(
        slices, tuple(findings), robust, how,
        model=power_law(budgets, [p.n_params for p in accepted], robust),
        data=power_law(budgets, [p.n_tokens for p in accepted], robust),
        loss=power_law(budgets, values, robust) if positive else None,
        floor=floor_law(budgets, values) if positive else FloorLaw.refused("the metric is not positive"),
        loss_law=metric_law(budgets, values, forms, Errors(np.array([p.loss_se for p in accepted]), noise.dof)),
        vertex_draws=draw_vertices(table, accepted, response, how, bootstrap, seed) if bootstrap else None,
        noise=noise,
    )  # fmt: skip


def _too_few(slices: tuple[Parabola, ...], accepted: list[Parabola]) -> Finding:
    budgets, many = tuple(p.budget_flops for p in slices), f"{len(slices)} budget{'s' * (len(slices) != 1)}"
    have = f"{len(accepted)} of {many} {'has' if len(accepted) == 1 else 'have'}"
    add = f"add a budget, for example {compact(3 * max(budgets))}"
    remedy = "fix the refused slices" if len(accepted) < len(slices) else add
    text = f"{have} a usable minimum; a law needs 2: {remedy}"
    return finding("too_few_budgets", text, slices=budgets, value=len(accepted))


def vertices(p: Parabola, table: Table, y: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """(log N*, log D*, L*, half-width) (R, 4) of refits of one slice; y (R, n) or (n,), weights (R, n) or None. A
    vertex more than the width of the grid away from it is none: that replicate has lost its curvature."""
    parts = []
    of_d = table.n_tokens, p.tokens_center, p.token_coefficients
    for column, center, start in ((table.n_params, p.center, p.coefficients), of_d):
        x = np.log(column[p.rows]) - np.log(center)
        at = vertex(refit(x, y, weights, p.robust_scale, start), p.response)
        lost = ~(np.abs(at[0] - (x.min() + x.max()) / 2) <= 1.5 * np.ptp(x))
        parts.append([np.where(lost, np.nan, part) for part in at])
    (x, loss, half), (z, _, _) = parts
    return np.stack([x + np.log(p.center), z + np.log(p.tokens_center), loss, half], axis=-1)


def draw_vertices(
    table: Table, accepted: list[Parabola], response: Response, how: str, replicates: int, seed: int
) -> np.ndarray:
    """`vertices` of each accepted slice in each replicate, (R, K, 4); NaN where there is no minimum."""
    edges = np.cumsum([p.n_runs for p in accepted])
    if how == "residual":
        fitted = np.concatenate([p.fitted for p in accepted])
        residuals = np.concatenate([p.residuals for p in accepted])
        # Noise goes with the loss, which differs from slice to slice.
        size = fitted if response == "raw" and (fitted > 0).all() else np.ones_like(fitted)
        noisy = size * residual_draws(fitted / size, residuals / size, 3 * len(accepted), replicates, seed)
        drawn = zip(accepted, np.split(noisy, edges[:-1], axis=1), strict=True)
        return np.stack([vertices(p, table, y) for p, y in drawn], axis=1)
    every = np.arange(edges[-1])
    counts = resample_counts(np.split(every, edges[:-1]), len(every), replicates, seed)
    drawn = zip(accepted, np.split(counts, edges[:-1], axis=1), strict=True)
    of = [vertices(p, table, response_of(table.loss[p.rows], response), weights) for p, weights in drawn]
    return np.stack(of, axis=1)
