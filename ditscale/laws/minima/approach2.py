"""Approach 2: the laws N*(C), D*(C), L*(C) through the vertices of the slices' parabolas, with intervals."""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ...tables.table import Table
from ...units import compact
from ..estimates import Estimate, Optimum, first, replicates
from ..findings import Finding, finding
from .line import line
from .parabola import Parabola, Response, fit_parabola, pooled_noise, refit, vertex

LAWS = ("model", "data", "loss")
FEW = 3  # Slices that lack sizes are each named up to here.


@dataclass(frozen=True)
class Approach2:
    """Laws through the accepted vertices, none when refused. vertices (1 + R, K, 4): log N*, log D*, L* and the
    half-width in log N of the range within 0.1 % of L*, of the K accepted slices, as fitted and in R replicates."""

    slices: tuple[Parabola, ...]
    findings: tuple[Finding, ...]
    vertices: np.ndarray

    @property
    def ok(self) -> bool:
        return self.vertices.shape[1] > 0

    @cached_property
    def accepted(self) -> list[Parabola]:
        return [p for p in self.slices if p.ok]

    @property
    def budgets(self) -> np.ndarray:
        """(K,) budgets of the accepted slices."""
        return np.array([p.budget_flops for p in self.accepted])

    @cached_property
    def positive(self) -> bool:
        """Whether all minima are: else L* is a line in ln C, which has no exponent."""
        return bool((self.vertices[0, :, 2] > 0).all())

    @cached_property
    def _lines(self) -> dict[str, np.ndarray]:
        """(height, slope) (1 + R, 2) in ln C of ln N*, ln D* and ln L*, or of L* where it is not positive."""
        log_n, log_d, loss, _ = np.moveaxis(self.vertices, -1, 0)
        loss = np.log(np.where(loss > 0, loss, np.nan)) if self.positive else loss
        return {name: line(np.log(self.budgets), y) for name, y in zip(LAWS, (log_n, log_d, loss), strict=True)}

    def coefficients(self) -> dict[str, Estimate]:
        """The six numbers of N* = k C^a, D* = k C^b, L* = k C^c; four where L* is a line."""
        out: dict[str, Estimate] = {}
        for law in LAWS if self.positive else LAWS[:2]:
            height, slope = self._lines[law].T
            with np.errstate(over="ignore"):
                out |= {f"{law}_exponent": first(slope), f"{law}_coefficient": first(np.exp(height))}
        return out

    def at(self, budget_flops: float) -> dict[str, np.ndarray]:
        """{n_params, n_tokens, loss} (1 + R,) at a budget, as fitted and in each replicate."""
        log_n, log_d, loss = (self._lines[law] @ [1.0, math.log(budget_flops)] for law in LAWS)
        # A replicate whose slice is almost flat sends N* beyond any float; infinity is the right word for it.
        with np.errstate(over="ignore"):
            loss = np.exp(loss) if self.positive else loss
            return {"n_params": np.exp(log_n), "n_tokens": np.exp(log_d), "loss": loss}

    def predict(self, budget_flops: float) -> Optimum:
        """The optimum at a budget."""
        return Optimum(*map(first, self.at(budget_flops).values()))

    def n_range(self, k: int) -> tuple[Estimate, Estimate]:
        """The ends of the range of N within 0.1 % of the optimum of accepted slice k, each with its interval."""
        with np.errstate(over="ignore"):
            low, high = (np.exp(self.vertices[:, k, 0] + side * self.vertices[:, k, 3]) for side in (-1, 1))
        return first(low), first(high)


def fit_approach2(table: Table, response: Response = "raw", bootstrap: int = 1000, seed: int = 0) -> Approach2:
    """Fit every slice, by parabolas of the loss ("raw") or of its log, then the laws through the accepted ones."""
    groups = [rows for _, rows in table.slices(levers=False)]
    none = np.full((1, 0, 4), np.nan)
    if not table.is_isoflop():
        message = "the budgets form a continuum, not slices of equal compute, so there are no parabolas"
        return Approach2((), (finding("not_isoflop", message),), none)
    noise = pooled_noise(table, groups, response)
    slices = tuple(fit_parabola(table, rows, response, noise) for rows in groups)
    accepted, findings = [p for p in slices if p.ok], _said_once([f for p in slices for f in p.findings])
    budgets, usable = [p.budget_flops for p in slices], [p.budget_flops for p in accepted]
    if len(usable) < 2:
        another = f"add a budget, for example {compact(3 * max(budgets))}"
        remedy = "fix the refused slices" if len(usable) < len(slices) else another
        text = f"usable minima at {len(usable)} of {len(slices)} budgets; a law needs 2: {remedy}"
        findings.append(finding("too_few_budgets", text, slices=budgets, value=len(usable)))
        return Approach2(slices, tuple(findings), none)
    if len(usable) == 2:
        text = f"2 parameters at 2 budgets ({', '.join(map(compact, usable))}): nothing checks the laws; add a third"
        findings.append(finding("saturated_fit", text, slices=usable, value=2))
    half = [math.log(p.n_range[1] / p.n_range[0]) / 2 for p in accepted]
    fitted = [[math.log(p.n_params), math.log(p.n_tokens), p.loss, h] for p, h in zip(accepted, half, strict=True)]
    drawn = [_drawn(table, accepted, response, bootstrap, seed)] if bootstrap else []
    return Approach2(slices, tuple(findings), np.concatenate([np.array(fitted)[None], *drawn]))


def _said_once(findings: list[Finding]) -> list[Finding]:
    """The findings of slices; `too_few_runs` of more than FEW of them as one."""
    few = [f for f in findings if f.code == "too_few_runs"]
    if len(few) <= FEW:
        return findings
    text = f"{len(few)} slices have too few sizes for a parabola, which needs 4 (the first: {few[0].message})"
    one = replace(few[0], message=text, runs=(), slices=tuple(c for f in few for c in f.slices))
    return [one, *(f for f in findings if f.code != "too_few_runs")]


def _drawn(table: Table, accepted: list[Parabola], response: Response, count: int, seed: int) -> np.ndarray:
    """Vertices (R, K, 4) of refits; NaN where a slice has lost its curvature: a vertex beyond the grid by its width."""
    fitted, residuals = (np.concatenate([getattr(p, name) for p in accepted]) for name in ("fitted", "residuals"))
    # Noise goes with the loss, which differs from slice to slice.
    alike = np.full_like(fitted, 1.0 if response == "log" else table.unit)
    size = fitted if response == "raw" and (fitted > 0).all() else alike
    groups = np.split(np.arange(len(fitted)), np.cumsum([p.n_runs for p in accepted])[:-1])
    drawn = replicates(fitted / size, residuals / size, groups, 3 * len(accepted), count, seed)
    out, values = [], size * drawn.values
    for p, rows in zip(accepted, groups, strict=True):
        y, weights, parts = values[:, rows], None if drawn.weights is None else drawn.weights[:, rows], []
        for column, center in ((table.n_params, p.center), (table.n_tokens, p.tokens_center)):
            x = np.log(column[p.rows]) - np.log(center)
            at, loss, half = vertex(refit(x, y, weights), p.response)
            lost = ~(np.abs(at - (x.min() + x.max()) / 2) <= 1.5 * np.ptp(x))
            parts.append([np.where(lost, np.nan, part) for part in (at + np.log(center), loss, half)])
        (log_n, loss, half), (log_d, _, _) = parts
        out.append(np.stack([log_n, log_d, loss, half], axis=-1))
    return np.stack(out, axis=1)
