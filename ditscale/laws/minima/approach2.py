"""Approach 2: the laws N*(C), D*(C), L*(C) through the vertices of the slices' parabolas, with intervals."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...units import compact
from ..estimates import Estimate, estimate, resample_counts, residual_draws, scheme
from ..findings import Finding, finding
from ..table import Table
from .metric_law import FORMS, POSITIVE_FORMS, Errors, MetricLaw, metric_law
from .parabola import Noise, Parabola, fit_parabola, pooled_noise, refit, response_of, vertex
from .powerlaw import FloorLaw, PowerLaw, floor_law, floor_laws, line, power_law, robust_line

LAWS = {"model": 0, "data": 1, "loss": 2}  # name of a law -> its column in the vertices


@dataclass(frozen=True)
class Approach2:
    """Laws through the accepted vertices. model: N*(C); data: D*(C); loss: L*(C), a pure power law (None for a metric
    that is not positive); floor: L*(C) with an irreducible E; loss_law: all forms of L*(C) and the one chosen.

    vertex_draws (R, K, 4): log N*, log D*, L* and the half-width in log N of the range within 0.1 % of L*, of the K
    accepted slices in each of R replicates (None: no bootstrap); vertex_left_out (n, K, 4): the same without each run
    in turn (None unless BCa intervals are wanted). noise: scatter about the parabolas. The laws are None when refused.
    """

    slices: tuple[Parabola, ...]
    model: PowerLaw | None
    data: PowerLaw | None
    loss: PowerLaw | None
    floor: FloorLaw | None
    loss_law: MetricLaw | None
    vertex_draws: np.ndarray | None
    vertex_left_out: np.ndarray | None
    noise: Noise | None
    robust: bool
    scheme: str
    status: str
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    @property
    def accepted(self) -> list[Parabola]:
        return [p for p in self.slices if p.ok]

    @property
    def budgets(self) -> np.ndarray:
        """(K,) budgets of the accepted slices."""
        return np.array([p.budget_flops for p in self.accepted])

    def lines(self, law: str, vertices: np.ndarray) -> np.ndarray:
        """(log coefficient, exponent) (R, 2) of a law through each set of vertices (R, K, 4)."""
        y = vertices[..., LAWS[law]]
        if law == "loss":
            with np.errstate(invalid="ignore", divide="ignore"):
                y = np.log(np.where(y > 0, y, np.nan))
        log_c = np.log(self.budgets)
        if not self.robust:
            return line(log_c, y)
        names = {"model": "n_params", "data": "n_tokens", "loss": "loss"}
        return robust_line(log_c, y, np.log([getattr(p, names[law]) for p in self.accepted]))

    @cached_property
    def model_draws(self) -> np.ndarray | None:
        """(R, 2) of (log coefficient, exponent) of N*(C); data_draws and loss_draws likewise."""
        return self._draws("model")

    @cached_property
    def data_draws(self) -> np.ndarray | None:
        return self._draws("data")

    @cached_property
    def loss_draws(self) -> np.ndarray | None:
        return self._draws("loss")

    def _draws(self, law):
        return None if self.vertex_draws is None or getattr(self, law) is None else self.lines(law, self.vertex_draws)

    @cached_property
    def floor_draws(self) -> np.ndarray | None:
        """(R, 3) of (E, log k, a) of L* = E + k C^-a; None with fewer than 3 slices."""
        if self.vertex_draws is None or self.loss is None or len(self.accepted) < 3:
            return None
        return floor_laws(np.log(self.budgets), self.vertex_draws[..., 2])

    def floor_coefficients(self) -> dict[str, Estimate] | None:
        """E, coefficient, exponent of L* = E + k C^a through the minima, or None when refused."""
        if self.floor is None or self.floor.status != "ok":
            return None
        left = self.vertex_left_out
        parts = [self.floor_draws, None if left is None else floor_laws(np.log(self.budgets), left[..., 2])]
        out = {}
        with np.errstate(over="ignore"):
            for k, (name, value) in enumerate(
                (("E", self.floor.floor), ("coefficient", self.floor.coefficient), ("exponent", self.floor.exponent))
            ):
                shape = (np.asarray, np.exp, np.negative)[k]
                out[name] = estimate(value, *(None if part is None else shape(part[:, k]) for part in parts))
        return out

    def coefficients(self) -> dict[str, Estimate | None] | None:
        """The six numbers of N* = k C^a, D* = k C^b, L* = k C^c; None when refused, a None pair without a loss law."""
        if not self.ok:
            return None
        out = {}
        for law in LAWS:
            fitted, draws = getattr(self, law), getattr(self, f"{law}_draws")
            left = None if self.vertex_left_out is None or fitted is None else self.lines(law, self.vertex_left_out)
            for k, part in ((1, "exponent"), (0, "coefficient")):
                if fitted is None:
                    out[f"{law}_{part}"] = None
                    continue
                shape = np.exp if part == "coefficient" else np.asarray
                with np.errstate(over="ignore"):
                    args = [None if d is None else shape(d[:, k]) for d in (draws, left)]
                out[f"{law}_{part}"] = estimate(getattr(fitted, part), *args)
        return out

    def predict(self, budget_flops: float) -> dict[str, Estimate]:
        """{n_params, n_tokens, loss} at a budget; the loss by the chosen form of `loss_law`."""
        out = {}
        for name, law in (("n_params", "model"), ("n_tokens", "data")):
            left = None if self.vertex_left_out is None else self.lines(law, self.vertex_left_out)
            drawn = [_line_at(d, budget_flops) for d in (getattr(self, f"{law}_draws"), left)]
            out[name] = estimate(getattr(self, law).at(budget_flops), *drawn)
        drawn = [None if refits is None else refits.at(budget_flops) for refits in self._loss_refits]
        out["loss"] = estimate(self.loss_law.at(budget_flops), *drawn)
        return out

    @cached_property
    def _loss_refits(self):
        """`loss_law` refitted to the draws and to the vertices without each run; None where there are none."""
        both = (self.vertex_draws, self.vertex_left_out)
        return tuple(None if v is None else self.loss_law.refit(v[..., 2]) for v in both)

    def loss_draws_at(self, budget_flops: float) -> np.ndarray | None:
        """Draws (R,) of L* at a budget by the chosen form, or None without a bootstrap."""
        return None if self.vertex_draws is None else self._loss_refits[0].at(budget_flops)

    def draws_at(self, law: str, budget_flops: float):
        """Draws (R,) of the pure power law "model", "data" or "loss" at a budget, or None without a bootstrap."""
        return _line_at(getattr(self, f"{law}_draws"), budget_flops)

    def floor_draws_at(self, budget_flops: float):
        """Draws (R,) of the loss by the law with a floor, or None."""
        if self.floor_draws is None:
            return None
        floor, log_k, a = self.floor_draws.T
        with np.errstate(over="ignore"):
            return floor + np.exp(log_k - a * np.log(budget_flops))

    def n_range(self, k: int) -> tuple[Estimate, Estimate]:
        """The ends of the range of N within 0.1 % of the optimum of accepted slice k, each with its interval."""
        out = []
        for side in (-1, 1):
            with np.errstate(over="ignore"):
                drawn = [
                    None if v is None else np.exp(v[:, k, 0] + side * v[:, k, 3])
                    for v in (self.vertex_draws, self.vertex_left_out)
                ]
            out.append(estimate(self.accepted[k].n_range[side > 0], *drawn))
        return tuple(out)


def _line_at(lines, budget_flops):
    if lines is None:
        return None
    # A replicate whose slice is almost flat sends N* beyond any float; infinity is the right word for it.
    with np.errstate(over="ignore"):
        return np.exp(lines[:, 0] + lines[:, 1] * np.log(budget_flops))


def fit_approach2(
    table: Table,
    response: str = "raw",
    bootstrap: int = 1000,
    seed: int = 0,
    *,
    robust: bool = False,
    resample: str = "auto",
    interval: str = "percentile",
) -> Approach2:
    """Fit every slice, then the laws through the accepted ones.

    response: parabolas of the loss ("raw") or of its log ("log"). robust: bisquare regressions in place of least
    squares, for the parabolas and, with 5 slices or more, the laws. resample: see `uncertainty`. interval: "bca" also
    refits without each run in turn.
    """
    groups = [rows for _, rows in table.slices()]
    nothing = (None,) * 7
    if not table.is_isoflop():
        message = "the budgets form a continuum, not slices of equal compute, so there are no parabolas; use approach 3"
        return Approach2((), *nothing, None, robust, "none", "refused", (finding("not_isoflop", message),))
    noise = pooled_noise(table, groups, response)
    slices = tuple(fit_parabola(table, rows, response, noise, robust) for rows in groups)
    accepted = [p for p in slices if p.ok]
    findings = [f for p in slices for f in p.findings]
    if len(accepted) < 2:
        findings.append(_too_few(slices, accepted))
        return Approach2(slices, *nothing, noise, robust, "none", "refused", tuple(findings))
    if len(accepted) == 2:
        both = ", ".join(compact(p.budget_flops) for p in accepted)
        text = f"the laws have 2 parameters and stand on 2 budgets ({both}): nothing checks their form; add a third"
        findings.append(finding("saturated_fit", text, slices=tuple(p.budget_flops for p in accepted), value=2))
    budgets = np.array([p.budget_flops for p in accepted])
    values = np.array([p.loss for p in accepted])
    positive = bool((values > 0).all())
    if not positive:
        text = (
            f"the minima of {table.metric} are not all positive, so no power law of it exists; a line in log C is "
            "given (where higher is better, fit the negative of the metric)"
        )
        findings.append(finding("metric_not_positive", text, slices=tuple(budgets[values <= 0]), value=values.min()))
    how = scheme([p.n_runs for p in accepted], resample)
    draws = draw_vertices(table, accepted, response, how, bootstrap, seed) if bootstrap else None
    left_out = leave_one_out(table, accepted, response) if bootstrap and interval == "bca" else None
    return Approach2(
        slices,
        model=power_law(budgets, [p.n_params for p in accepted], robust),
        data=power_law(budgets, [p.n_tokens for p in accepted], robust),
        loss=power_law(budgets, values, robust) if positive else None,
        floor=floor_law(budgets, values) if positive else None,
        loss_law=metric_law(
            budgets,
            values,
            POSITIVE_FORMS if table.info_of(table.metric).positive else tuple(FORMS),
            Errors(np.array([p.loss_se for p in accepted]), noise.dof),
        ),
        vertex_draws=draws,
        vertex_left_out=left_out,
        noise=noise,
        robust=robust,
        scheme=how,
        status="ok",
        findings=tuple(findings),
    )


def _too_few(slices, accepted) -> Finding:
    budgets = tuple(p.budget_flops for p in slices)
    have = (
        f"{len(accepted)} of {len(slices)} budget{'s' * (len(slices) != 1)} {'has' if len(accepted) == 1 else 'have'}"
    )
    mend = (
        "mend the refused slices"
        if len(accepted) < len(slices)
        else f"add a budget, for example {compact(3 * max(budgets))}"
    )
    return finding(
        "too_few_budgets", f"{have} a usable minimum; a law needs 2: {mend}", slices=budgets, value=len(accepted)
    )


def vertices(p: Parabola, table: Table, y: np.ndarray, weights=None) -> np.ndarray:
    """(log N*, log D*, L*, half-width) (R, 4) of refits of one slice; y (R, n) or (n,), weights (R, n) or None.

    A vertex more than the width of the grid away from it is none: that replicate has lost its curvature.
    """
    parts = []
    for column, center, start in (
        (table.n_params, p.center, p.coefficients),
        (table.n_tokens, p.tokens_center, p.token_coefficients),
    ):
        x = np.log(column[p.rows]) - np.log(center)
        at = vertex(refit(x, y, weights, p.robust_scale, start), p.response)
        lost = ~(np.abs(at[0] - (x.min() + x.max()) / 2) <= 1.5 * np.ptp(x))
        parts.append([np.where(lost, np.nan, part) for part in at])
    (x, loss, half), (z, _, _) = parts
    return np.stack([x + np.log(p.center), z + np.log(p.tokens_center), loss, half], axis=-1)


def draw_vertices(table: Table, accepted, response: str, how: str, replicates: int, seed: int) -> np.ndarray:
    """`vertices` of each accepted slice in each replicate, (R, K, 4); NaN where there is no minimum."""
    out = np.full((replicates, len(accepted), 4), np.nan)
    rows = np.concatenate([p.rows for p in accepted])
    edges = np.cumsum([0] + [p.n_runs for p in accepted])
    parts = [slice(edges[k], edges[k + 1]) for k in range(len(accepted))]
    if how == "residual":
        fitted = np.concatenate([p.fitted for p in accepted])
        residuals = np.concatenate([p.residuals for p in accepted])
        # Noise goes with the loss, which differs from slice to slice.
        size = fitted if response == "raw" and (fitted > 0).all() else np.ones_like(fitted)
        noisy = size * residual_draws(fitted / size, residuals / size, 3 * len(accepted), replicates, seed)
        for k, p in enumerate(accepted):
            out[:, k] = vertices(p, table, noisy[:, parts[k]])
        return out
    places = [np.arange(len(rows))] if how == "pairs" else [np.arange(e.start, e.stop) for e in parts]
    counts = resample_counts(places, len(rows), replicates, seed)
    for k, p in enumerate(accepted):
        out[:, k] = vertices(p, table, response_of(table.loss[p.rows], response), counts[:, parts[k]])
    return out


def leave_one_out(table: Table, accepted, response: str) -> np.ndarray:
    """`vertices` without each run of the accepted slices in turn, (n, K, 4)."""
    y = [response_of(table.loss[p.rows], response) for p in accepted]
    whole = np.stack([vertices(p, table, y[k], np.ones((1, p.n_runs)))[0] for k, p in enumerate(accepted)])
    out = []
    for k, p in enumerate(accepted):
        changed = np.broadcast_to(whole, (p.n_runs, *whole.shape)).copy()
        changed[:, k] = vertices(p, table, y[k], 1.0 - np.eye(p.n_runs))
        out.append(changed)
    return np.concatenate(out)
