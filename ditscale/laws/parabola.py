"""One slice of Approach 2: a parabola of (log) loss against log N, its vertex, and whether it may be believed.

Hoffmann et al. 2022 (arXiv 2203.15556) section 3.2; Liang et al. (arXiv 2410.08184) section 3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..units import compact, count
from .findings import Finding
from .table import Table
from .uncertainty import PAIRS_NEEDS

# Refuse a curvature whose t value is below this: the data do not say that there is a minimum at all.
MIN_CURVATURE_T = 2.0
WIDE_HALF_WIDTH = 16.0


@dataclass(frozen=True)
class Parabola:
    """The fit y = c0 + c1 x + c2 x^2 of one slice, x = log(N / center), y = log loss (or loss).

    n_params, loss: the vertex (N*, L*). n_tokens: D*, the vertex of a second parabola against log D (the runs of a
    slice need not lie on C = kappa N D exactly; where they do the two agree to rounding). curvature: c2, per unit of
    (log N)^2. coefficients (3,) and covariance (3, 3) of (c0, c1, c2); covariance is None with fewer than 4 runs.
    log_n_se, loss_se: delta-method standard errors of log N* and of L*. n_range: N whose fitted loss is within 0.1 % of
    the optimum. status: "ok" or "refused"; reasons: the findings' sentences.
    """

    budget_flops: float
    n_runs: int
    status: str
    reasons: tuple[str, ...]
    findings: tuple[Finding, ...]
    n_params: float | None
    n_tokens: float | None
    loss: float | None
    curvature: float
    curvature_t: float | None
    residual_rms: float
    n_range: tuple[float, float] | None
    log_n_se: float | None
    loss_se: float | None
    center: float
    coefficients: np.ndarray
    covariance: np.ndarray | None
    residuals: np.ndarray
    fitted: np.ndarray
    rows: np.ndarray
    tokens_center: float

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    def to_dict(self) -> dict:
        names = ("budget_flops", "n_runs", "status", "n_params", "n_tokens", "loss", "curvature", "curvature_t")
        out = {n: getattr(self, n) for n in (*names, "residual_rms", "log_n_se", "loss_se")}
        # JSON has no NaN: what a refused slice does not have is null.
        out = {n: None if isinstance(v, float) and math.isnan(v) else v for n, v in out.items()}
        n_range = None if self.n_range is None else list(self.n_range)
        return out | {"reasons": list(self.reasons), "n_params_within_0.1_percent": n_range}


def vertex_log_loss(coefficients: np.ndarray, log: bool):
    """(x*, log L*) of coefficients (..., 3); NaN where there is no minimum."""
    c0, c1, c2 = np.moveaxis(coefficients, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        x = np.where(c2 > 0, -c1 / (2 * c2), np.nan)
        y = c0 - c1 * c1 / (4 * c2)
        return x, np.where(c2 > 0, y if log else np.log(np.where(y > 0, y, np.nan)), np.nan)


def design(x: np.ndarray) -> np.ndarray:
    return np.stack([np.ones_like(x), x, x * x], axis=-1)


def refit(x: np.ndarray, y: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Coefficients (R, 3) of many refits of one slice: y is (R, n) or (n,), weights (R, n) of run counts or None.

    x (n,) is the centered abscissa. Refits with fewer than 3 distinct sizes give NaN.
    """
    basis = design(x)
    if weights is None:
        return y @ np.linalg.pinv(basis).T
    moments = weights @ np.stack([x**k for k in range(5)], axis=-1)
    right = (weights * y) @ basis
    normal = moments[:, [[0, 1, 2], [1, 2, 3], [2, 3, 4]]]
    distinct = np.unique(np.round(x, 9), return_inverse=True)[1]
    seen = np.stack([weights[:, distinct == k].sum(axis=1) > 0 for k in range(distinct.max() + 1)], axis=-1)
    poor = seen.sum(axis=-1) < 3
    normal[poor] = np.eye(3)
    solved = np.linalg.solve(normal, right[..., None])[..., 0]
    solved[poor] = np.nan
    return solved


def fit_parabola(table: Table, rows: np.ndarray, response: str = "log", pooled=None) -> Parabola:
    """Least squares of log loss (response "log") or loss ("raw") against log N over `rows` of `table`.

    `pooled` is the residual variance over all slices (`pooled_variance`). Slices of 4-7 runs are judged by it, since
    their own variance has 1-4 degrees of freedom; larger ones by their own, so that one bad slice does not condemn all.
    A refused parabola still carries its numbers where they exist, for plots and for those who want to overrule it.
    """
    budget = float(np.median(table.budget_flops[rows]))
    log_n = np.log(table.n_params[rows])
    y = np.log(table.loss[rows]) if response == "log" else table.loss[rows]
    names = tuple(str(r) for r in table.run_id[rows])
    here = f"slice {compact(budget)}"
    # Seeds of one size count once: a parabola needs distinct sizes.
    sizes = np.unique(np.round(log_n, 9))
    center = math.exp(float(np.mean(log_n)))
    x = log_n - math.log(center)
    log_d = np.log(table.n_tokens[rows])
    base = dict(budget_flops=budget, n_runs=len(rows), center=center, rows=rows, tokens_center=math.exp(np.mean(log_d)))
    if len(sizes) < 4:
        plural = "s" * (len(sizes) != 1)
        message = f"{here} has {len(sizes)} distinct size{plural}; a parabola needs 4: add sizes near the minimum"
        finding = Finding("too_few_runs", message, names, (budget,))
        empty = np.full(len(rows), np.nan)
        return Parabola(
            status="refused", reasons=(message,), findings=(finding,), n_params=None, n_tokens=None, loss=None,
            curvature=math.nan, curvature_t=None, residual_rms=math.nan, n_range=None, log_n_se=None, loss_se=None,
            coefficients=np.full(3, np.nan), covariance=None, residuals=empty, fitted=empty, **base,
        )  # fmt: skip
    basis = design(x)
    coefficients = np.linalg.lstsq(basis, y, rcond=None)[0]
    fitted = basis @ coefficients
    residuals = y - fitted
    alone = pooled is None or len(rows) >= PAIRS_NEEDS
    variance = float(residuals @ residuals) / (len(rows) - 3) if alone else pooled
    covariance = variance * np.linalg.inv(basis.T @ basis)
    c0, c1, c2 = coefficients
    curvature_se = math.sqrt(covariance[2, 2])
    t = c2 / curvature_se if curvature_se > 0 else math.inf * np.sign(c2)
    findings = []

    def finding(code, text):
        findings.append(Finding(code, f"{here}: {text}", names, (budget,)))

    vertex = n_range = log_n_se = loss_se = None
    if c2 <= 0:
        finding(
            "parabola_downward", "the parabola opens downward, so there is no minimum; widen the grid or check its runs"
        )
    else:
        xv, yv = -c1 / (2 * c2), c0 - c1 * c1 / (4 * c2)
        # Delta method: gradients of the vertex and of its height with respect to (c0, c1, c2).
        to_x = np.array([0.0, -1 / (2 * c2), c1 / (2 * c2 * c2)])
        to_y = np.array([1.0, xv, xv * xv])
        log_n_se = math.sqrt(to_x @ covariance @ to_x)
        y_se = math.sqrt(to_y @ covariance @ to_y)
        # Far outside the grid exp overflows; such a vertex is refused below, its number is of no use.
        x_safe = float(np.clip(xv, -100, 100))
        loss = math.exp(yv) if response == "log" else yv
        loss_se = loss * y_se if response == "log" else y_se
        half = math.sqrt((math.log(1.001) if response == "log" else 0.001 * abs(loss)) / c2)
        n_range = (center * math.exp(max(x_safe - half, -200)), center * math.exp(min(x_safe + half, 200)))
        at_d = np.linalg.lstsq(design(log_d - log_d.mean()), y, rcond=None)[0]
        xd, _ = vertex_log_loss(at_d, response == "log")
        tokens = base["tokens_center"] * math.exp(float(np.clip(np.nan_to_num(xd), -100, 100)))
        vertex = (center * math.exp(x_safe), tokens, loss)
        _judge_place(finding, sizes, xv + math.log(center))
        if t < MIN_CURVATURE_T:
            finding("parabola_flat", f"the curvature is not distinguishable from zero (t = {t:.2g}, at least "
                                     f"{MIN_CURVATURE_T:g} needed); widen the grid or add seeds")  # fmt: skip
    refused = any(f.severity == "refused" for f in findings)
    return Parabola(
        status="refused" if refused else "ok",
        reasons=tuple(f.message for f in findings),
        findings=tuple(findings),
        n_params=vertex[0] if vertex else None,
        n_tokens=vertex[1] if vertex else None,
        loss=vertex[2] if vertex else None,
        curvature=float(c2),
        curvature_t=float(t) if math.isfinite(t) else None,
        residual_rms=float(np.sqrt(np.mean(residuals**2))),
        n_range=n_range,
        log_n_se=log_n_se,
        loss_se=loss_se,
        coefficients=coefficients,
        covariance=covariance,
        residuals=residuals,
        fitted=fitted,
        **base,
    )


def _judge_place(finding, sizes: np.ndarray, log_vertex: float) -> None:
    """Raise the findings on where the vertex lies in the grid. sizes: distinct log N, rising."""
    low, high = sizes[0], sizes[-1]
    n_star = f"N* = {count(math.exp(min(log_vertex, 600)))}" if log_vertex > -600 else "N* = 0"
    grid = f"the grid of {count(math.exp(low))} to {count(math.exp(high))}"
    if not low <= log_vertex <= high:
        step = (high - low) / (len(sizes) - 1)
        add = math.exp(low - step if log_vertex < low else high + step)
        finding("minimum_outside", f"the minimum ({n_star}) is outside {grid}, so it is not measured; add a run at "
                                   f"N = {count(add)} and beyond")  # fmt: skip
        return
    left, right = log_vertex - low, high - log_vertex
    if log_vertex < sizes[1] or log_vertex > sizes[-2]:
        finding("minimum_at_edge", f"the minimum ({n_star}) is in the outermost interval of {grid}; add a "
                                   f"{'smaller' if log_vertex < sizes[1] else 'larger'} size")  # fmt: skip
    elif max(left, right) > 3 * min(left, right):
        finding("one_sided_grid", f"{grid} reaches {math.exp(left):.3g}x below and {math.exp(right):.3g}x above the "
                                  f"minimum ({n_star}); a one-sided grid shifts the vertex")  # fmt: skip
    if max(left, right) > math.log(WIDE_HALF_WIDTH) + 1e-9:
        finding("wide_grid", f"{grid} reaches {math.exp(max(left, right)):.3g}x from the minimum; beyond "
                             f"{WIDE_HALF_WIDTH:g}x a parabola is a poor likeness and shifts the vertex")  # fmt: skip


def pooled_variance(table: Table, groups, response: str = "log") -> tuple[float, int]:
    """(residual variance, degrees of freedom) over all slices that can carry a parabola; (nan, 0) when none can."""
    total, dof = 0.0, 0
    for rows in groups:
        x = np.log(table.n_params[rows])
        if len(np.unique(np.round(x, 9))) < 4:
            continue
        y = np.log(table.loss[rows]) if response == "log" else table.loss[rows]
        basis = design(x - x.mean())
        residuals = y - basis @ np.linalg.lstsq(basis, y, rcond=None)[0]
        total += float(residuals @ residuals)
        dof += len(rows) - 3
    return (total / dof, dof) if dof else (float("nan"), 0)
