"""One slice of Approach 2: a parabola of the loss against log N, its vertex, and whether it may be believed.

Hoffmann et al. 2022 (arXiv 2203.15556) section 3.2; Liang et al. (arXiv 2410.08184) section 3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np

from ...units import compact, count
from ..estimates import PAIRS_NEEDS, Estimate
from ..findings import Finding, finding, run_to_add
from ..result import Result, key
from ..table import Table
from .robust import bisquare, scale_of, trimmed

# Below this t value the data hardly say that there is a minimum at all.
MIN_CURVATURE_T = 2.0
WIDE_HALF_WIDTH = 16.0
NEAR = 1e-3  # "as good as the optimum": a loss within 0.1 % of it


@dataclass(frozen=True)
class Slice(Result):
    """One budget of `Laws`: the numbers of its `Parabola`, None where a refused slice has none.

    log_n_se, loss_se: standard errors of log N* and of L*; n_range: both ends of the N whose fitted loss is within
    0.1 % of the optimum's, and their intervals.
    """

    budget_flops: float
    n_runs: int
    status: Literal["ok", "refused"]
    n_params: float | None
    n_tokens: float | None
    loss: float | None
    curvature: float | None
    curvature_t: float | None
    residual_rms: float | None
    response: Literal["raw", "log"]
    reasons: tuple[str, ...]
    n_range: tuple[float, float] | None = key("n_params_within_0.1_percent")
    log_n_se: float | None = None
    loss_se: float | None = None
    n_range_intervals: tuple[Estimate, Estimate] | None = key("n_params_within_0.1_percent_intervals", default=None)

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    def contradiction(self) -> str:
        if self.budget_flops <= 0:
            return f"budget_flops {self.budget_flops:g} is not positive"
        sizes = (self.n_params, self.n_tokens)
        lacking = None in (*sizes, self.loss, self.curvature, self.residual_rms) or min(filter(None, sizes)) <= 0
        return "status is ok, but there is no minimum" if self.ok and lacking else ""


@dataclass(frozen=True)
class Parabola:
    """The fit y = c0 + c1 x + c2 x^2 of one slice, x = log(N / center), y = loss (response "raw") or log loss ("log").

    n_params, loss: the vertex (N*, L*). n_tokens: D*, the vertex of a second parabola against log D (the runs of a
    slice need not lie on C = kappa N D exactly; where they do the two agree to rounding). curvature: c2, per unit of
    (log N)^2. coefficients (3,) and covariance (3, 3) of (c0, c1, c2); vertex_covariance (2, 2) of (log N*, L*) by the
    delta method, log_n_se and loss_se the roots of its diagonal. n_range: N whose fitted loss is within 0.1 % of the
    optimum. residual_rms: relative to the loss. robust_scale: noise scale of the bisquare, None for least squares.
    status: "ok" or "refused".
    """

    budget_flops: float
    n_runs: int
    status: str
    findings: tuple[Finding, ...]
    n_params: float | None
    n_tokens: float | None
    loss: float | None
    curvature: float
    curvature_t: float | None
    residual_rms: float
    n_range: tuple[float, float] | None
    vertex_covariance: np.ndarray | None
    center: float
    tokens_center: float
    coefficients: np.ndarray
    token_coefficients: np.ndarray
    covariance: np.ndarray | None
    residuals: np.ndarray
    fitted: np.ndarray
    rows: np.ndarray
    response: str
    robust_scale: float | None

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    @property
    def reasons(self) -> tuple[str, ...]:
        return tuple(f.message for f in self.findings)

    @property
    def log_n_se(self) -> float | None:
        """Standard error of log N*."""
        return None if self.vertex_covariance is None else math.sqrt(self.vertex_covariance[0, 0])

    @property
    def loss_se(self) -> float | None:
        """Standard error of L*, in units of the loss."""
        return None if self.vertex_covariance is None else math.sqrt(self.vertex_covariance[1, 1])

    def result(self, n_range_intervals: tuple[Estimate, Estimate] | None = None) -> Slice:
        """Its numbers as `Laws` holds them."""
        own = {f.name: getattr(self, f.name) for f in fields(Slice) if hasattr(self, f.name)}
        own = {name: None if isinstance(v, float) and math.isnan(v) else v for name, v in own.items()}
        return Slice(**own, n_range_intervals=n_range_intervals)


def response_of(loss: np.ndarray, response: str) -> np.ndarray:
    return np.log(loss) if response == "log" else loss


def vertex(coefficients: np.ndarray, response: str):
    """(x*, L*, half) of coefficients (..., 3); half: how far from x* the loss is 0.1 % higher. NaN without a
    minimum.
    """
    c0, c1, c2 = np.moveaxis(coefficients, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        c2 = np.where(c2 > 0, c2, np.nan)
        x, y = -c1 / (2 * c2), c0 - c1 * c1 / (4 * c2)
        if response == "log":
            return x, np.exp(y), np.sqrt(math.log1p(NEAR) / c2)
        return x, y, np.sqrt(NEAR * np.abs(y) / c2)


def design(x: np.ndarray) -> np.ndarray:
    return np.stack([np.ones_like(x), x, x * x], axis=-1)


def refit(x: np.ndarray, y: np.ndarray, weights=None, robust_scale=None, start=None) -> np.ndarray:
    """Coefficients (R, 3) of many refits of one slice: y is (R, n) or (n,), weights (R, n) of run counts or None.

    x (n,) is the centered abscissa. With robust_scale, bisquare regressions reweighted from `start` (3,). Refits with
    fewer than 3 distinct sizes give NaN.
    """
    basis = design(x)
    if weights is None:
        return y @ np.linalg.pinv(basis).T if robust_scale is None else bisquare(basis, y, robust_scale, start)[0]
    distinct = np.unique(np.round(x, 9), return_inverse=True)[1]
    seen = np.stack([weights[:, distinct == k].sum(axis=1) > 0 for k in range(distinct.max() + 1)], axis=-1)
    poor = seen.sum(axis=-1) < 3
    if robust_scale is not None:
        solved = bisquare(basis, y, robust_scale, start, weights)[0]
    else:
        moments = weights @ np.stack([x**k for k in range(5)], axis=-1)
        normal = moments[:, [[0, 1, 2], [1, 2, 3], [2, 3, 4]]]
        normal[poor] = np.eye(3)
        solved = np.linalg.solve(normal, ((weights * y) @ basis)[..., None])[..., 0]
    solved[poor] = np.nan
    return solved


@dataclass(frozen=True)
class Noise:
    """Scatter of the runs about their slices' parabolas, pooled: variance, degrees of freedom, and the robust scale."""

    variance: float
    dof: int
    robust_scale: float


def pooled_noise(table: Table, groups, response: str = "raw") -> Noise | None:
    """Over all slices that can carry a parabola (4 distinct sizes); None when none can."""
    total, dof, trimmings = 0.0, 0, []
    for rows in groups:
        x = np.log(table.n_params[rows])
        if len(np.unique(np.round(x, 9))) < 4:
            continue
        basis, y = design(x - x.mean()), response_of(table.loss[rows], response)
        residuals = y - basis @ np.linalg.lstsq(basis, y, rcond=None)[0]
        total += float(residuals @ residuals)
        dof += len(rows) - 3
        trimmings.append(y - basis @ trimmed(basis, y))
    if not dof:
        return None
    return Noise(total / dof, dof, scale_of(np.concatenate(trimmings), 3 * len(trimmings)))


def fit_parabola(
    table: Table, rows: np.ndarray, response: str = "raw", noise: Noise | None = None, robust: bool = False
) -> Parabola:
    """Fit the loss (response "raw") or log loss ("log") against log N over `rows` of `table`.

    Least squares, or with `robust` a bisquare regression that a diverged run cannot pull (see `robust`). `noise` is the
    scatter pooled over all slices (`pooled_noise`). Slices of 4-7 runs are judged by it, since their own variance has
    1-4 degrees of freedom; larger ones by their own, so that one bad slice does not condemn all. A refused parabola
    still carries its numbers where they exist, for plots and for those who want to overrule it.
    """
    budget = float(np.median(table.budget_flops[rows]))
    log_n, log_d = np.log(table.n_params[rows]), np.log(table.n_tokens[rows])
    y = response_of(table.loss[rows], response)
    names = tuple(str(r) for r in table.run_id[rows])
    here = f"slice {compact(budget)}"
    kappa = float(np.median(table.budget_flops[rows] / (table.n_params[rows] * table.n_tokens[rows])))
    # Seeds of one size count once: a parabola needs distinct sizes.
    sizes = np.unique(np.round(log_n, 9))
    base = dict(
        budget_flops=budget, n_runs=len(rows), rows=rows, response=response,
        center=math.exp(float(np.mean(log_n))), tokens_center=math.exp(float(np.mean(log_d))),
    )  # fmt: skip
    if len(sizes) < 4:
        best = float(log_n[np.argmin(y)])
        # The next size beyond the best one, on the side where fewer have been run.
        factor = 2.0 if np.sum(sizes > best) <= np.sum(sizes < best) else 0.5
        message = (
            f"{here} has {len(sizes)} distinct size{'s' * (len(sizes) != 1)}; a parabola needs 4: add sizes near the "
            f"minimum, for example {run_to_add(factor * math.exp(best), budget, kappa)}"
        )
        empty = np.full(len(rows), np.nan)
        return Parabola(
            status="refused", findings=(finding("too_few_runs", message, names, (budget,), value=len(sizes)),),
            n_params=None, n_tokens=None, loss=None, curvature=math.nan, curvature_t=None, residual_rms=math.nan,
            n_range=None, vertex_covariance=None, coefficients=np.full(3, np.nan), covariance=None, residuals=empty,
            token_coefficients=np.full(3, np.nan), fitted=empty, robust_scale=None, **base,
        )  # fmt: skip
    basis = design(log_n - math.log(base["center"]))
    token_basis = design(log_d - math.log(base["tokens_center"]))
    scale = None
    if robust:
        noise = pooled_noise(table, [rows], response) if noise is None else noise
        scale = noise.robust_scale
        coefficients, weights = (a[0] for a in bisquare(basis, y, scale, trimmed(basis, y)))
        at_d = bisquare(token_basis, y, scale, trimmed(token_basis, y))[0][0]
        covariance = scale**2 * np.linalg.inv(basis.T @ (weights[:, None] * basis))
    else:
        coefficients = np.linalg.lstsq(basis, y, rcond=None)[0]
        at_d = np.linalg.lstsq(token_basis, y, rcond=None)[0]
        residuals = y - basis @ coefficients
        alone = noise is None or len(rows) >= PAIRS_NEEDS
        variance = float(residuals @ residuals) / (len(rows) - 3) if alone else noise.variance
        covariance = variance * np.linalg.inv(basis.T @ basis)
    fitted = basis @ coefficients
    c2 = float(coefficients[2])
    curvature_se = math.sqrt(covariance[2, 2])
    t = c2 / curvature_se if curvature_se > 0 else math.inf * np.sign(c2)
    findings = []

    def note(code, text, value=None):
        findings.append(finding(code, f"{here}: {text}", names, (budget,), value=value))

    place = n_range = vertex_covariance = None
    if c2 <= 0:
        side = math.exp(log_n[np.argmin(y)])
        side = side * (2 if side >= base["center"] else 0.5)
        add = run_to_add(side, budget, kappa)
        note(
            "parabola_downward",
            f"the parabola opens downward, so there is no minimum; check its runs, or widen the grid by {add}",
            c2,
        )
    else:
        xv, loss, half = (float(v) for v in vertex(coefficients, response))
        vertex_covariance = vertex_covariance_of(coefficients, covariance, response)
        # Far outside the grid exp overflows; such a vertex is refused below, its number is of no use.
        xv = float(np.clip(xv, -100, 100))
        n_range = tuple(base["center"] * math.exp(float(np.clip(xv + s * half, -200, 200))) for s in (-1, 1))
        xd = float(np.clip(np.nan_to_num(vertex(at_d, response)[0]), -100, 100))
        place = (base["center"] * math.exp(xv), base["tokens_center"] * math.exp(xd), loss)
        _judge_place(note, sizes, xv + math.log(base["center"]), budget, kappa)
        if t < MIN_CURVATURE_T:
            note(
                "parabola_flat",
                f"the curvature is not distinguishable from zero (t = {t:.2g}, at least {MIN_CURVATURE_T:g} wanted); "
                "widen the grid or add seeds",
                t,
            )
    refused = any(f.severity == "refused" for f in findings)
    return Parabola(
        status="refused" if refused else "ok",
        findings=tuple(findings),
        n_params=place[0] if place else None,
        n_tokens=place[1] if place else None,
        loss=place[2] if place else None,
        curvature=c2,
        curvature_t=float(t) if math.isfinite(t) else None,
        residual_rms=float(np.sqrt(np.mean(((y - fitted) / (1.0 if response == "log" else fitted)) ** 2))),
        n_range=n_range,
        vertex_covariance=vertex_covariance,
        coefficients=coefficients,
        token_coefficients=at_d,
        covariance=covariance,
        residuals=y - fitted,
        fitted=fitted,
        robust_scale=scale,
        **base,
    )


def vertex_covariance_of(coefficients: np.ndarray, covariance: np.ndarray, response: str) -> np.ndarray:
    """Covariance (2, 2) of (x*, L*) from that of (c0, c1, c2), by the delta method."""
    _, c1, c2 = coefficients
    x, loss, _ = vertex(coefficients, response)
    slope = float(loss) if response == "log" else 1.0
    gradient = np.array([[0.0, -1 / (2 * c2), c1 / (2 * c2 * c2)], [slope, slope * float(x), slope * float(x) ** 2]])
    return gradient @ covariance @ gradient.T


def _judge_place(note, sizes: np.ndarray, log_vertex: float, budget: float, kappa: float) -> None:
    """Raise the findings on where the vertex lies in the grid. sizes: distinct log N, rising."""
    low, high = sizes[0], sizes[-1]
    n_star = f"N* = {count(math.exp(min(log_vertex, 600)))}" if log_vertex > -600 else "N* = 0"
    grid = f"the grid of {count(math.exp(low))} to {count(math.exp(high))}"
    step = (high - low) / (len(sizes) - 1)
    left, right = log_vertex - low, high - log_vertex
    smaller, larger = (run_to_add(math.exp(x), budget, kappa) for x in (low - step, high + step))
    if min(left, right) < 0:
        note(
            "minimum_outside",
            f"the minimum ({n_star}) is outside {grid}, so it is not measured; add a run at "
            f"{smaller if left < 0 else larger} and beyond",
            math.exp(log_vertex) if abs(log_vertex) < 600 else None,
        )
        return
    lopsided = max(left, right) / max(min(left, right), 1e-9)
    if log_vertex < sizes[1] or log_vertex > sizes[-2]:
        note(
            "minimum_at_edge",
            f"the minimum ({n_star}) is in the outermost interval of {grid}; add a run at "
            f"{smaller if log_vertex < sizes[1] else larger}",
            math.exp(log_vertex),
        )
    elif lopsided > 3:
        note(
            "one_sided_grid",
            f"{grid} reaches {math.exp(left):.3g}x below and {math.exp(right):.3g}x above the minimum ({n_star}); "
            "a one-sided grid shifts the vertex",
            lopsided,
        )
    reach = math.exp(max(left, right))
    if reach > WIDE_HALF_WIDTH * (1 + 1e-9):
        note(
            "wide_grid",
            f"{grid} reaches {reach:.3g}x from the minimum; beyond {WIDE_HALF_WIDTH:g}x a parabola is a poor "
            "likeness and shifts the vertex",
            reach,
        )
