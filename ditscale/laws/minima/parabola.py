"""One slice of Approach 2: a parabola of the loss against log N, its vertex, and whether it may be believed.

Hoffmann et al. 2022 (arXiv 2203.15556) section 3.2; Liang et al. (arXiv 2410.08184) section 3."""

import math
from dataclasses import dataclass, replace
from typing import Iterable, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ...result import Result, key
from ...tables.table import Table
from ...units import compact, count
from ..estimates import Estimate
from ..findings import Finding, finding, run_to_add

Response = Literal["raw", "log"]
# Below this t value the data hardly say that there is a minimum at all.
MIN_CURVATURE_T = 2.0
ENOUGH_RUNS = 8  # of a slice, to be tested against its own scatter alone
WIDE_HALF_WIDTH = 16.0
NEAR = 1e-3  # "as good as the optimum": a loss within 0.1 % of it


@dataclass(frozen=True)
class Slice(Result):
    """One budget of `Laws`: the numbers of its `Parabola`, None where a refused slice has none. log_n_se, loss_se:
    standard errors of log N* and of L*; n_range: the ends of the N whose fitted loss is within 0.1 % of the optimum."""

    budget_flops: float
    n_runs: int
    status: Literal["ok", "refused"]
    n_params: float | None
    n_tokens: float | None
    loss: float | None
    curvature: float | None
    curvature_t: float | None
    residual_rms: float | None
    response: Response
    reasons: tuple[str, ...]
    n_range: tuple[float, float] | None = key("n_params_within_0.1_percent")
    log_n_se: float | None = None
    loss_se: float | None = None
    n_range_intervals: tuple[Estimate, Estimate] | None = key("n_params_within_0.1_percent_intervals", default=None)

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    def loss_at(self, n_params: ArrayLike) -> np.ndarray:
        """The parabola at N: L* exp(c (log N/N*)^2), or L* + c (log N/N*)^2 where the raw loss was fitted; nan without
        a minimum."""
        at, loss, c = (math.nan if x is None else x for x in (self.n_params, self.loss, self.curvature))
        bend = c * np.log(np.asarray(n_params) / at) ** 2
        return loss * np.exp(bend) if self.response == "log" else loss + bend

    def contradiction(self) -> str:
        if self.budget_flops <= 0:
            return f"budget_flops {self.budget_flops:g} is not positive"
        sizes = (self.n_params, self.n_tokens)
        lacking = None in (*sizes, self.loss, self.curvature, self.residual_rms) or min(filter(None, sizes)) <= 0
        return "status is ok, but there is no minimum" if self.ok and lacking else ""


@dataclass(frozen=True)
class Parabola:
    """The fit y = c0 + c1 x + c2 x^2 of one slice, x = log(N / center), y = loss (response "raw") or log loss ("log").
    n_params, loss: the vertex. n_tokens: that of a second parabola against log D (runs of a slice may miss C = kappa N
    D). curvature: c2. residual_rms: relative to the loss. log_n_se, loss_se, n_range: as in `Slice`. What a refused
    slice does not have is nan."""

    budget_flops: float
    rows: np.ndarray
    response: Response
    center: float
    tokens_center: float
    residuals: np.ndarray
    fitted: np.ndarray
    findings: tuple[Finding, ...] = ()
    n_params: float = math.nan
    n_tokens: float = math.nan
    loss: float = math.nan
    n_range: tuple[float, float] = (math.nan, math.nan)
    log_n_se: float = math.nan
    loss_se: float = math.nan
    curvature: float = math.nan
    curvature_t: float = math.nan
    residual_rms: float = math.nan

    @property
    def ok(self) -> bool:
        return all(f.severity != "refused" for f in self.findings)

    @property
    def n_runs(self) -> int:
        return len(self.rows)

    def result(self, n_range_intervals: tuple[Estimate, Estimate] | None = None, sign: int = 1) -> Slice:
        """Its numbers as `Laws` holds them. sign: -1 where what was fitted is the metric's negative."""
        numbers = {n: getattr(self, n) for n in ("n_params", "n_tokens", "curvature_t", "residual_rms", "log_n_se")}
        numbers |= {"loss": sign * self.loss, "curvature": sign * self.curvature, "loss_se": self.loss_se}
        return Slice(
            budget_flops=self.budget_flops, n_runs=self.n_runs, status="ok" if self.ok else "refused",
            response=self.response, reasons=tuple(f.message for f in self.findings),
            n_range=None if math.isnan(self.n_range[0]) else self.n_range, n_range_intervals=n_range_intervals,
            **{n: v if math.isfinite(v) else None for n, v in numbers.items()},
        )  # fmt: skip


def response_of(loss: np.ndarray, response: Response) -> np.ndarray:
    """What a parabola is fitted to, loss being in units of `Table.unit`."""
    return np.log(loss) if response == "log" else loss


def vertex(coefficients: np.ndarray, response: Response) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(x*, L*, half) of coefficients (..., 3); half: how far from x* the loss is 0.1 % up. NaN without a minimum."""
    c0, c1, c2 = np.moveaxis(coefficients, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        c2 = np.where(c2 > 0, c2, np.nan)
        x = -c1 / (2 * c2)
        y = c0 + c1 * x / 2
        if response == "log":
            return x, np.exp(y), np.sqrt(math.log1p(NEAR) / c2)
        return x, y, np.sqrt(NEAR * np.abs(y) / c2)


def vertex_covariance_of(coefficients: np.ndarray, covariance: np.ndarray, response: Response) -> np.ndarray:
    """Covariance (2, 2) of (x*, L*) from that of (c0, c1, c2), by the delta method."""
    x, loss, _ = map(float, vertex(coefficients, response))
    c2, slope = coefficients[2], loss if response == "log" else 1.0
    gradient = np.array([[0.0, -1 / (2 * c2), -x / c2], [slope, slope * x, slope * x**2]])
    return gradient @ covariance @ gradient.T


def design(x: np.ndarray) -> np.ndarray:
    """The basis (n, 3) of a parabola in x (n,)."""
    return np.stack([np.ones_like(x), x, x * x], axis=-1)


class Quadratic(NamedTuple):
    """By least squares: coefficients (3,), residuals (n,), covariance (3, 3) of the former in units of the variance."""

    coefficients: np.ndarray
    residuals: np.ndarray
    covariance: np.ndarray


def quadratic(x: np.ndarray, y: np.ndarray) -> Quadratic:
    """Of y (n,) in x (n,), which has 3 distinct values or more."""
    basis = design(x)
    coefficients = np.linalg.lstsq(basis, y, rcond=None)[0]
    return Quadratic(coefficients, y - basis @ coefficients, np.linalg.inv(basis.T @ basis))


def refit(x: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Coefficients (R, 3) of many refits of one slice, y (R, n), on its centered abscissa x (n,); with weights (R, n),
    of y (1, n): nan where fewer than 3 sizes have any."""
    basis = design(x)
    if weights is None:
        return y @ np.linalg.pinv(basis).T
    distinct = np.unique(np.round(x, 9), return_inverse=True)[1]
    poor = np.sum([weights[:, distinct == k].any(axis=1) for k in range(distinct.max() + 1)], axis=0) < 3
    normal = (weights @ (basis[:, :, None] * basis[:, None, :]).reshape(len(x), 9)).reshape(-1, 3, 3)
    normal[poor] = np.eye(3)
    solved = np.linalg.solve(normal, ((weights * y) @ basis)[..., None])[..., 0]
    solved[poor] = np.nan
    return solved


class Noise(NamedTuple):
    """Scatter of runs about their parabolas, pooled: variance (nan without degrees of freedom) and these."""

    variance: float
    dof: int


def pooled(residuals: Iterable[np.ndarray]) -> Noise:
    """Over the residuals of several parabolas."""
    parts = [(float(left @ left), len(left) - 3) for left in residuals]
    total, dof = (sum(part) for part in zip((0.0, 0), *parts, strict=True))
    return Noise(total / dof if dof else math.nan, int(dof))


def pooled_noise(table: Table, groups: list[np.ndarray], response: Response = "raw") -> Noise:
    """Over all slices that can carry a parabola (4 distinct sizes); of the raw loss in units of `Table.unit`."""
    log_n, y = np.log(table.n_params), response_of(table.loss / table.unit, response)
    able = (rows for rows in groups if len(np.unique(np.round(log_n[rows], 9))) >= 4)
    return pooled(quadratic(log_n[rows] - log_n[rows].mean(), y[rows]).residuals for rows in able)


def fit_parabola(table: Table, rows: np.ndarray, response: Response = "raw", noise: Noise | None = None) -> Parabola:
    """Fit the loss (response "raw") or log loss ("log") against log N over `rows` of `table`, by least squares.

    Slices of fewer than 8 runs are tested against `noise`, pooled over all slices; larger ones against their own, so
    that one bad slice does not condemn all. A refused parabola carries its numbers where they exist."""
    log_n, log_d = np.log(table.n_params[rows]), np.log(table.n_tokens[rows])
    y, unit, logs = response_of(table.loss[rows] / table.unit, response), table.unit, response == "log"
    centers = math.exp(float(np.mean(log_n))), math.exp(float(np.mean(log_d)))
    budget, nothing = float(np.median(table.budget_flops[rows])), np.full(len(rows), np.nan)
    made = Parabola(budget, rows, response, *centers, residuals=nothing, fitted=nothing)
    # Seeds of one size count once: a parabola needs distinct sizes.
    sizes, best = np.unique(np.round(log_n, 9)), float(log_n[np.argmin(y)])
    if len(sizes) < 4:
        # The next size beyond the best one, on the side where fewer have been run.
        add = _run(made, table, best, 2.0 if np.sum(sizes > best) <= np.sum(sizes < best) else 0.5)
        text = f" has {len(sizes)} distinct size{'s' * (len(sizes) != 1)}; a parabola needs 4: add sizes near the"
        return _with_findings(made, table, [("too_few_runs", f"{text} minimum, for example {add}", len(sizes))])
    coefficients, residuals, by_variance = quadratic(log_n - math.log(made.center), y)
    at_d = np.linalg.lstsq(design(log_d - math.log(made.tokens_center)), y, rcond=None)[0]
    scatter = noise if noise and len(y) < ENOUGH_RUNS else pooled([residuals])
    covariance, fitted, c2 = scatter.variance * by_variance, y - residuals, float(coefficients[2])
    c2_se, scale = math.sqrt(covariance[2, 2]), 1.0 if logs else unit
    made = replace(
        made, curvature=c2 * scale, residuals=residuals * scale,
        fitted=fitted + math.log(unit) if logs else fitted * unit,
        curvature_t=c2 / c2_se if c2_se > 0 else math.inf * float(np.sign(c2)),
        residual_rms=float(np.sqrt(np.mean((residuals / (1.0 if logs else fitted)) ** 2))),
    )  # fmt: skip
    if c2 <= 0:
        add = _run(made, table, best, 2 if math.exp(best) >= made.center else 0.5)
        text = f": the parabola opens downward, so there is no minimum; check its runs, or widen the grid by {add}"
        return _with_findings(made, table, [("parabola_downward", text, made.curvature)])
    x, loss, half = map(float, vertex(coefficients, response))
    # Far outside the grid exp overflows; such a vertex is refused, its number is of no use.
    x, x_tokens = (float(np.clip(at, -100, 100)) for at in (x, np.nan_to_num(vertex(at_d, response)[0])))
    low, high = (made.center * math.exp(float(np.clip(x + side * half, -200, 200))) for side in (-1, 1))
    log_n_se, loss_se = np.sqrt(np.diag(vertex_covariance_of(coefficients, covariance, response))).tolist()
    made = replace(
        made, n_params=made.center * math.exp(x), n_tokens=made.tokens_center * math.exp(x_tokens), loss=loss * unit,
        n_range=(low, high), log_n_se=log_n_se, loss_se=loss_se * unit,
    )  # fmt: skip
    return _with_findings(made, table, _notes(made, table, sizes, x + math.log(made.center)))


Note = tuple[str, str, float]  # code, text and value of a finding


def _with_findings(p: Parabola, table: Table, notes: list[Note]) -> Parabola:
    runs, here = [str(r) for r in table.run_id[p.rows]], f"slice {compact(p.budget_flops)}"
    found = (finding(code, here + text, runs, [p.budget_flops], value=value) for code, text, value in notes)
    return replace(p, findings=tuple(found))


def _run(p: Parabola, table: Table, log_n: float, factor: float = 1.0) -> str:
    kappa = float(np.median(table.budget_flops[p.rows] / (table.n_params[p.rows] * table.n_tokens[p.rows])))
    return run_to_add(factor * math.exp(log_n), p.budget_flops, kappa)


def _notes(p: Parabola, table: Table, sizes: np.ndarray, at: float) -> list[Note]:
    """What is to be said of a minimum at log N* = at in the grid `sizes`: distinct log N, rising."""
    low, high, n_params = sizes[0], sizes[-1], math.exp(min(at, 600))
    minimum, grid = f"minimum (N* = {count(n_params)})", " to ".join(count(math.exp(end)) for end in (low, high))
    grid, left, right, step = f"the grid of {grid}", at - low, high - at, (high - low) / (len(sizes) - 1)
    add = f"add a run at {_run(p, table, low - step if at < sizes[1] else high + step)}"
    lopsided, reach = max(left, right) / max(min(left, right), 1e-9), math.exp(min(max(left, right), 600))
    notes: list[Note] = []
    if min(left, right) < 0:
        notes.append(("minimum_outside", f": the {minimum} is outside {grid}; {add} and beyond", n_params))
    elif at < sizes[1] or at > sizes[-2]:
        notes.append(("minimum_at_edge", f": the {minimum} is in the outermost interval of {grid}; {add}", n_params))
    elif lopsided > 3:
        sides = f"{math.exp(left):.3g}x below and {math.exp(right):.3g}x above the {minimum}"
        notes.append(("one_sided_grid", f": {grid} reaches {sides}; a one-sided grid shifts the vertex", lopsided))
    if min(left, right) >= 0 and reach > WIDE_HALF_WIDTH * (1 + 1e-9):
        text = f": {grid} reaches {reach:.3g}x from the minimum; beyond {WIDE_HALF_WIDTH:g}x a parabola misplaces it"
        notes.append(("wide_grid", text, reach))
    if (t := p.curvature_t) < MIN_CURVATURE_T:
        text = f": the curvature is not distinguishable from zero (t = {t:.2g}, at least {MIN_CURVATURE_T:g} wanted)"
        notes.append(("parabola_flat", f"{text}; widen the grid or add seeds", t))
    return notes
