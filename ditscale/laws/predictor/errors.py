"""Errors that runs share, as a covariance of low rank, and the sizes of its parts by REML with exact gradients.

    V = diag(s^2 e^(2 (sC x + sN z)) / w + se^2 + om^2 (f / f* - 1)^2) + s^2 (slice, size, trajectory, shared effects
        + a random walk of the level in ln C) + a random walk of ln N* in ln C

se: what each run says of its own measurement. om: misfit that grows with the distance from the optimum. The walks let a
law that held on the grid drift off it beyond, as far as the runs let it. REML: Patterson & Thompson 1971; the form is
kept linear at the fit, the floor one of its directions."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

# Of each shared part: the scale of its half-Cauchy prior, in units of s; of the walk of ln N*, absolute.
SCALES = {"slice": 1.0, "size": 3.0, "trajectory": 3.0, "shared": 1.0, "level": 0.5, "place": 0.055}
SLOPE_SPREAD = 0.15  # of sC and sN, normal
MISFIT_SPREAD = 0.15  # of om, half-normal
BOUNDS = {"s": (-13.0, 3.0), "sC": (-0.6, 0.6), "sN": (-0.6, 0.6), "om": (-9.0, 0.0), "place": (-9.0, 1.0)}
START = {"s": math.log(5e-3), "level": -1.5, "place": -3.0, "om": -4.0, "sC": 0.0, "sN": 0.0}
ROUNDING = 1e-5  # of a loss as people write it down, relative; also what keeps noise-free tables solvable
STEP = 0.05  # of a difference of gradients
LEAST_CURVATURE = 0.05


@dataclass(frozen=True)
class Parts:
    """What of a table's errors runs share. x, z (n,); se (n,): relative; nodes (n,): the node of the walks each run
    stands on; node_x (k,) where they stand; groups {name of SCALES: labels (n,)}; walks: whether level and N* drift.
    weights (n,): number of runs that a row stands for, less where a run is an outlier."""

    x: np.ndarray
    z: np.ndarray
    se: np.ndarray
    nodes: np.ndarray
    node_x: np.ndarray
    groups: dict[str, np.ndarray]
    walks: bool
    weights: np.ndarray

    @cached_property
    def alone(self) -> dict[str, np.ndarray]:
        """{part: 1 where a run is alone in its group}: it needs no column, as this part adds to its own variance."""
        return {name: (np.bincount(labels)[labels] == 1) * 1.0 for name, labels in self.groups.items()}

    @cached_property
    def columns(self) -> dict[str, np.ndarray]:
        """{part: (n, k)} of what several runs share."""
        columns = {name: np.eye(labels.max() + 1)[labels] for name, labels in self.groups.items()}
        columns = {name: column[:, column.sum(0) > 1] for name, column in columns.items()}
        if self.walks:
            # RW(x, x') = min(x, x') - x_first: a step of variance x_k - x_(k-1) for every node passed.
            passed = self.nodes[:, None] >= np.arange(1, len(self.node_x))
            columns |= {name: passed * np.sqrt(np.diff(self.node_x)) for name in ("level", "place")}
        return columns

    @property
    def names(self) -> tuple[str, ...]:
        return ("s", *self.columns, "om", "sC", "sN")

    def start(self) -> np.ndarray:
        return np.array([START.get(name, -1.0) for name in self.names])

    def walked(self, x: float) -> np.ndarray:
        """Covariance (n + 1,) of a unit walk at x with the runs', and last its variance."""
        return np.maximum(np.append(np.minimum(self.node_x[self.nodes], x), x) - self.node_x[0], 0.0)


class Covariance:
    """V = diag(delta) + sum of columns, at sizes phi {name: log} of its parts; inverses by Woodbury. misfit (n,): (f /
    f* - 1)^2; by_place (n,): derivative of a run's value by ln N*; more (n, k): further columns."""

    def __init__(
        self, parts: Parts, phi: np.ndarray, misfit: np.ndarray, by_place: np.ndarray, more: np.ndarray | None = None
    ) -> None:
        self.parts = parts
        self.sizes = at = dict(zip(parts.names, np.asarray(phi, dtype=float), strict=True))
        self.variance = math.exp(2 * at["s"])
        own = self.variance * np.exp(2 * (at["sC"] * parts.x + at["sN"] * parts.z)) / parts.weights
        off = math.exp(2 * at["om"]) * misfit
        shared = {name: self.variance * math.exp(2 * at[name]) * alone for name, alone in parts.alone.items()}
        self.delta = own + parts.se**2 + off + ROUNDING**2 + sum(shared.values())
        self.d_delta = {"s": 2 * (own + sum(shared.values())), "sC": 2 * own * parts.x, "sN": 2 * own * parts.z}
        self.d_delta |= {"om": 2 * off} | {name: 2 * part for name, part in shared.items()}
        columns, roots, self.spans, first = [], [], {}, 0
        for name, column in parts.columns.items():
            columns.append(column * by_place[:, None] if name == "place" else column)
            roots.append(np.full(column.shape[1], math.exp(at[name] + (0 if name == "place" else at["s"]))))
            self.spans[name] = slice(first, first := first + column.shape[1])
        if more is not None:
            columns, roots = [*columns, more], [*roots, np.ones(more.shape[1])]
        self.columns = np.hstack(columns or [np.zeros((len(parts.x), 0))])
        self.roots = np.concatenate(roots or [np.zeros(0)])
        scaled = self.columns * self.roots
        inner = scaled / self.delta[:, None]
        from scipy import linalg  # 0.1 s to import, so only where it is needed

        factor = linalg.cholesky(np.eye(len(self.roots)) + scaled.T @ inner, lower=True, check_finite=False)
        self.log_determinant = float(np.log(self.delta).sum() + 2 * np.log(np.diag(factor)).sum())
        self.half = linalg.solve_triangular(factor, inner.T, lower=True, check_finite=False)

    def solve(self, r: np.ndarray) -> np.ndarray:
        """V^-1 r for r (n,) or (n, k)."""
        return (r.T / self.delta).T - self.half.T @ (self.half @ r)

    def diagonal(self) -> np.ndarray:
        """Of V^-1, (n,)."""
        return 1 / self.delta - (self.half**2).sum(0)

    def gradient(self, weights: np.ndarray) -> np.ndarray:
        """d/dphi of ln|V| - w' V w at w held fixed: tr(V^-1 dV) - w' dV w for every part. w (n,), or columns (n, k)
        whose terms are summed."""
        weights = weights.reshape(len(weights), -1)
        on_diagonal = self.diagonal() - (weights**2).sum(1)
        trace = (self.columns**2 / self.delta[:, None]).sum(0) - ((self.half @ self.columns) ** 2).sum(0)
        on_columns = self.roots**2 * (trace - ((self.columns.T @ weights) ** 2).sum(1))
        out = {name: float(d @ on_diagonal) for name, d in self.d_delta.items()}
        for name, span in self.spans.items():
            by_columns = 2 * float(on_columns[span].sum())
            out[name] = out.get(name, 0.0) + by_columns
            out["s"] += 0.0 if name == "place" else by_columns
        return np.array([out[name] for name in self.parts.names])


def log_prior(names: tuple[str, ...], phi: np.ndarray) -> tuple[float, np.ndarray]:
    """(log density, gradient) of the logs phi; each part keeps off its bound (Chung et al. 2013)."""
    value, gradient = 0.0, np.zeros(len(names))
    for i, (name, v) in enumerate(zip(names, phi, strict=True)):
        if name in ("sC", "sN"):
            value -= 0.5 * (v / SLOPE_SPREAD) ** 2
            gradient[i] = -v / SLOPE_SPREAD**2
        elif name == "om":
            square = math.exp(2 * v) / MISFIT_SPREAD**2
            value += v - 0.5 * square
            gradient[i] = 1 - square
        elif name != "s":
            square = math.exp(2 * v) / SCALES[name] ** 2
            value += math.log(2 / math.pi / SCALES[name]) + v - math.log1p(square)
            gradient[i] = 1 - 2 * square / (1 + square)
    return value, gradient


class Sizes(NamedTuple):
    """phi: the logs of the parts' sizes at their most probable; spread (q, q): their covariance there; evidence: log
    probability of the runs, phi integrated out by Laplace (short of the end: their joint density, and no spread)."""

    phi: np.ndarray
    spread: np.ndarray
    evidence: float


def estimate_sizes(
    parts: Parts, residual: np.ndarray, directions: np.ndarray, misfit: np.ndarray, by_place: np.ndarray,
    start: np.ndarray, *, last: bool = False,
) -> Sizes:  # fmt: skip
    """The sizes of the parts by REML. residual (n,): values less the form at its prior's mean, or (n, k): columns whose
    R R' is what r r' is expected to be; directions (n, P): the form's derivatives, each times the standard deviation of
    its prior; last: to the end, with spread and evidence."""
    names, residual = parts.names, residual.reshape(len(residual), -1)

    def against(phi: np.ndarray) -> tuple[float, np.ndarray]:
        covariance = Covariance(parts, phi, misfit, by_place, directions)
        weights = covariance.solve(residual)
        density, slope = log_prior(names, phi)
        value = 0.5 * (covariance.log_determinant + float((residual * weights).sum())) - density
        return value, 0.5 * covariance.gradient(weights) - slope

    from scipy import optimize

    bounds = [BOUNDS.get(name, (-9.0, 4.0)) for name in names]
    options = {"maxiter": 60, "ftol": 1e-8} if last else {"maxiter": 15, "ftol": 1e-5}
    start = np.clip(start, *np.array(bounds).T)
    found = optimize.minimize(against, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    if not last:
        return Sizes(found.x, np.zeros((0, 0)), -float(found.fun))
    steps = STEP * np.eye(len(names))
    hessian = np.array([(against(found.x + e)[1] - against(found.x - e)[1]) / (2 * STEP) for e in steps])
    values, vectors = np.linalg.eigh((hessian + hessian.T) / 2)
    values = np.maximum(values, LEAST_CURVATURE)
    evidence = -float(found.fun) + 0.5 * len(names) * math.log(2 * math.pi) - 0.5 * float(np.log(values).sum())
    return Sizes(found.x, (vectors / values) @ vectors.T, evidence)
