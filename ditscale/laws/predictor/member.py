"""One member of the family, fitted at every floor of a grid, with the errors that its runs share."""

import math
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Callable, Iterator, NamedTuple, Self

import numpy as np
from threadpoolctl import ThreadpoolController

from . import form
from .errors import STEP, Covariance, Parts, Sizes, estimate_sizes
from .mixture import Mixture
from .runs import Runs

FLOORS = 10
ENOUGH = 6  # floors within CLOSE of the least chi^2
CLOSE = 12.0
NO_FLOOR = 0.3  # prior probability of E = 0 where the metric is positive
HEAVY = 5.0  # degrees of freedom of the t that outliers are weighed by
DOFS = 4.5  # the least that an interval has
TAKEN = 3  # degrees of freedom that a form takes from what groups share
BEST = 0.98  # of the least value: the highest floor
# What of a fitted member cannot be computed again from its runs and the sizes of the errors.
STATE = ("floors", "theta", "chi2", "log_weights", "residual", "misfit", "by_place")
SPANS = (-3.0, 6.0)  # ln of (best - floor) in units of `RANGE`, where a metric has either sign


@cache
def _libraries() -> ThreadpoolController:
    import scipy.linalg  # noqa: F401  # It brings linear algebra of its own.

    return ThreadpoolController()


@contextmanager
def one_thread() -> Iterator[None]:
    """Linear algebra by one thread: these matrices are small, and threads that wait for each other take five times as
    long where other work goes on."""
    with _libraries().limit(limits=1, user_api="blas"):
        yield


class Quantity(NamedTuple):
    """A number that the form gives. of(full, floor) -> (values (m,), gradients (m, 9)); x: where; level, place: how
    the walks of the level and of ln N* enter it; scatter: 0 for the law itself, 1 for what all runs of a slice share,
    2 for one new run."""

    of: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
    x: float
    level: float = 0.0
    place: float = 0.0
    scatter: int = 0
    z: float = 0.0


def _vertex(z: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """(place, least, curvature) of the parabola through a slice; the lowest run, and nan, where none bends upwards."""
    if len(np.unique(np.round(z, 6))) >= 4:
        middle, reach = z.mean(), np.ptp(z)
        curve = np.polyfit(z - middle, y, 2)
        if curve[0] > 1e-6:
            off = np.clip(-curve[1] / (2 * curve[0]), z.min() - middle - reach, z.max() - middle + reach)
            return float(off + middle), float(np.polyval(curve, off)), float(curve[0])
    return float(z[np.argmin(y)]), float(y.min()), math.nan


class _Solved(NamedTuple):
    """A covariance and what it makes of the fit at floors `at`: V^-1 J, inverse of J' V^-1 J + prior, V^-1 r, and how
    far the parameters would move under it (nowhere under the one that they were fitted with)."""

    covariance: Covariance
    at: np.ndarray
    weighted: np.ndarray
    inverse: np.ndarray
    pull: np.ndarray
    move: np.ndarray


@dataclass
class Member:
    """name: of `form.FREE`; walks: whether the level and N* drift; the rest is filled by `fit`. floors (m,), theta (m,
    P), chi2 (m,); log_weights (m,): of the floors; sizes: of the errors' parts; dofs: the most an interval has."""

    name: str
    runs: Runs
    walks: bool

    def __post_init__(self) -> None:
        runs = self.runs
        self.mean, self.spread = form.prior(self.name)
        self.precision = 1 / self.spread**2
        self.dofs = float(max(len(runs) - len(self.spread) - 1, DOFS))
        count = runs.count.copy()
        self.parts = Parts(runs.x, runs.z, runs.se, runs.nodes, runs.node_x, runs.groups, self.walks, count)
        self.lowest = float(np.exp(runs.y.min()) if runs.log else runs.y.min())
        self.unit = self.lowest if runs.log else 1.0

    @one_thread()
    def evidence_for(self, name: str) -> float:
        """ln of the odds, by the runs alone, that those of one group `name` share an error: the probability of the runs
        with it over that without it."""
        groups = {n: labels for n, labels in self.parts.groups.items() if n != name}
        fewer = replace(self.parts, groups=groups)
        kept = [part != name for part in self.parts.names]
        return self.sizes.evidence - self._sized(fewer, self.sizes.phi[kept], last=True).evidence

    @one_thread()
    def fit(self) -> Self:
        if self.runs.log:
            self.floors = np.linspace(0, BEST * self.lowest, FLOORS)
        else:
            self.floors = self.lowest - 0.25 * np.exp(np.linspace(*SPANS, FLOORS))[::-1]
        self.theta = self._start()
        self.best = FLOORS // 2
        self.sizes = Sizes(self.parts.start(), np.zeros((0, 0)), math.nan)
        for steps in (30, 15):
            self._descend(steps)
            self._resize()
        self._descend(15)
        if self._heavy():
            for _ in range(3):
                weight = np.clip((HEAVY + 1) / (HEAVY + self._deletion() ** 2), 0.02, None)
                self.parts.weights[:] = self.runs.count * weight
                self._resize()
                self._descend(10)
        self._refine()
        self._resize(last=True)
        # Where what groups share is most of the error, there are no more independent errors than groups.
        shared = [labels.max() + 1 - TAKEN for name, labels in self.parts.groups.items() if self.log_sizes[name] > 0]
        self.dofs = float(max(min([self.dofs, *shared]), DOFS))
        self._descend(8)
        return self

    def state(self) -> dict[str, Any]:
        """What `fit` found, as plain lists and numbers: `restored` makes an equal member of it."""
        arrays = {name: getattr(self, name).tolist() for name in STATE}
        sizes = {"phi": self.sizes.phi.tolist(), "spread": self.sizes.spread.tolist(), "evidence": self.sizes.evidence}
        own = {"name": self.name, "walks": self.walks, "dofs": self.dofs, "weights": self.parts.weights.tolist()}
        return own | arrays | sizes

    @classmethod
    @one_thread()
    def restored(cls, runs: Runs, state: dict[str, Any]) -> Self:
        """The member that `state` describes, of the same runs."""
        member = cls(state["name"], runs, state["walks"])
        member.parts.weights[:] = state["weights"]
        for name in STATE:
            setattr(member, name, np.array(state[name]))
        member.sizes = Sizes(np.array(state["phi"]), np.array(state["spread"]), state["evidence"])
        member.dofs, member.best, member._solved = state["dofs"], int(np.argmin(member.chi2)), ()
        member.covariance = Covariance(member.parts, member.sizes.phi, member.misfit, member.by_place)
        member.derivatives, _, _ = member._normal(member.covariance)
        return member

    def _start(self) -> np.ndarray:
        """theta (m, P): a parabola through every slice, and lines through their vertices."""
        runs, x = self.runs, self.runs.node_x
        slices = [runs.nodes == i for i in range(len(x))]
        vertex, low, bend = np.array([_vertex(runs.z[rows], runs.y[rows]) for rows in slices]).T
        best = np.exp(low) if runs.log else low
        a, n0 = np.polyfit(x, vertex, 1) if len(x) > 1 else (0.5, vertex[0])
        a = float(np.clip(a, 0.1, 0.9))
        curvature = float(np.nanmedian(bend)) if np.isfinite(bend).any() else 0.02
        curvature *= float(np.median(best)) if runs.log else 1.0
        theta = np.zeros((len(self.floors), len(form.PARAMETERS)))
        for i, floor in enumerate(self.floors):
            over = np.log(np.maximum(best - floor, 1e-3 * self.unit))
            slope, k = np.polyfit(x, over, 1) if len(x) > 1 else (-0.1, over[0])
            product = float(np.clip(2 * curvature / math.exp(k), 1e-5, 9))
            p, q = math.sqrt(product * (1 - a) / a), math.sqrt(product * a / (1 - a))
            theta[i, list(form.SURFACE)] = n0, k, math.log(p), math.log(q)
            theta[i, form.G] = np.clip(math.log(max(-slope, 1e-3) * (p + q) / (p * q)), -1.5, 1.5)
        return theta[:, form.FREE[self.name]]

    def _values(self, theta: np.ndarray, floors: np.ndarray) -> tuple[np.ndarray, form.Values, np.ndarray]:
        """(fitted values on y's scale (m, n), the form, its derivatives on that scale by all nine (m, n, 9))."""
        values = form.evaluate(form.expand(self.name, theta)[0], floors, self.runs.x, self.runs.z)
        fitted, jacobian = self.runs.on_scale(values.f, values.jacobian)
        return fitted, values, jacobian

    def _local(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """At the best floor: residual (n,), derivatives (n, P), misfit (n,), derivative by ln N* (n,)."""
        i = slice(self.best, self.best + 1)
        fitted, values, jacobian = self._values(self.theta[i], self.floors[i])
        derivatives = jacobian[0] @ form.expand(self.name, self.theta[i])[1][0]
        off = values.f / values.optimum - 1 if self.runs.log else values.f - values.optimum
        return self.runs.y - fitted[0], derivatives, np.clip(off[0], 0, 2) ** 2, jacobian[0, :, form.N0]

    def _resize(self, last: bool = False) -> None:
        self.sizes = self._sized(self.parts, self.sizes.phi, last=last)

    def _sized(self, parts: Parts, start: np.ndarray, *, last: bool) -> Sizes:
        """The sizes of the errors' parts at the best floor."""
        residual, derivatives, misfit, by_place = self._local()
        fitted = self.runs.y - residual
        by_floor = self.unit * np.exp(-fitted) if self.runs.log else np.ones_like(fitted)
        residual = residual + derivatives @ (self.theta[self.best] - self.mean)
        directions = np.column_stack([derivatives * self.spread, by_floor])
        return estimate_sizes(parts, residual, directions, misfit, by_place, start, last=last)

    def _descend(self, steps: int) -> None:
        """Damped Gauss-Newton at all floors at once, the covariance held as the best floor has it."""
        _, _, self.misfit, self.by_place = self._local()
        self.covariance = Covariance(self.parts, self.sizes.phi, self.misfit, self.by_place)
        damping, eye = np.full(len(self.floors), 1e-3), np.eye(self.theta.shape[1])
        residual, chi2 = self._chi2(self.theta)
        for _ in range(steps):
            _, weighted, normal = self._normal(self.covariance)
            slope = (residual[:, None] @ weighted)[:, 0] - (self.theta - self.mean) * self.precision
            diagonal = np.einsum("mpp->mp", normal)[:, :, None] * eye
            waiting, before = np.ones(len(self.floors), dtype=bool), chi2.copy()
            for _ in range(6):
                step = np.linalg.solve(normal + damping[:, None, None] * diagonal, slope[..., None])[..., 0]
                trial = np.where(waiting[:, None], self.theta + np.clip(step, -3, 3), self.theta)
                trial_residual, trial_chi2 = self._chi2(trial)
                better = waiting & (trial_chi2 <= chi2)
                for old, new in ((self.theta, trial), (residual, trial_residual), (chi2, trial_chi2)):
                    old[better] = new[better]
                damping = np.where(better, np.maximum(0.2 * damping, 1e-9), np.where(waiting, 8 * damping, damping))
                waiting &= ~better
                if not waiting.any():
                    break
            if np.max((before - chi2)[chi2 < chi2.min() + 3 * CLOSE]) < 1e-3:
                break
        self.chi2, self.residual = chi2, residual
        self.best = int(np.argmin(chi2))
        self._solved: tuple[_Solved, ...] = ()
        self.derivatives, _, normal = self._normal(self.covariance)
        # Student's t in place of the normal: the scale of the errors is only known to so many degrees of freedom.
        rise = (self.dofs + 1) / 2 * np.log1p((chi2 - chi2.min()) / self.dofs)
        log_weights = -rise - 0.5 * np.linalg.slogdet(normal)[1] + self._floor_prior()
        self.log_weights = log_weights - np.logaddexp.reduce(log_weights)

    def _chi2(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with np.errstate(over="ignore", invalid="ignore"):
            full = form.expand(self.name, theta)[0]
            values = form.evaluate(full, self.floors, self.runs.x, self.runs.z, derivatives=False).f
            residual = self.runs.y - (np.log(values) if self.runs.log else values)
        pull = self.covariance.solve(np.nan_to_num(residual).T).T
        penalty = ((theta - self.mean) ** 2 * self.precision).sum(1)
        chi2 = (residual * pull).sum(1) + penalty
        return residual, np.where(np.isfinite(chi2), chi2, np.inf)

    def _normal(self, covariance: Covariance, j: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """J (m, n, P), by the free parameters at all floors unless given, V^-1 J, and J' V^-1 J + prior."""
        if j is None:
            j = self._values(self.theta, self.floors)[2] @ form.expand(self.name, self.theta)[1]
        m, n, p = j.shape
        weighted = covariance.solve(j.transpose(1, 0, 2).reshape(n, m * p)).reshape(n, m, p).transpose(1, 0, 2)
        return j, weighted, j.transpose(0, 2, 1) @ weighted + np.diag(self.precision)

    def _floor_prior(self) -> np.ndarray:
        """Log prior probability of each floor, by the part of the range it stands for."""
        along = self.floors if self.runs.log else -np.log((self.lowest - self.floors) / 0.25)
        edges = np.concatenate([along[:1], (along[1:] + along[:-1]) / 2, along[-1:]])
        share = np.diff(edges) / (edges[-1] - edges[0])
        if self.runs.log:
            share = (1 - NO_FLOOR) * share
            share[0] += NO_FLOOR
        return np.log(share)

    def _refine(self) -> None:
        """More floors where they are likely, until ENOUGH of them lie close to the best."""
        for _ in range(6):
            close = np.flatnonzero(self.chi2 - self.chi2.min() < CLOSE)
            if len(close) >= ENOUGH:
                return
            first, last = max(close[0] - 1, 0), min(close[-1] + 1, len(self.floors) - 1)
            new = np.linspace(self.floors[first], self.floors[last], 9)[1:-1]
            new = new[np.min(np.abs(new[:, None] - self.floors), axis=1) > 1e-9 * self.unit]
            theta = np.stack([np.interp(new, self.floors, column) for column in self.theta.T], axis=1)
            floors = np.concatenate([self.floors, new])
            order = np.argsort(floors)
            self.floors, self.theta = floors[order], np.concatenate([self.theta, theta])[order]
            self._descend(12)

    def _deletion(self) -> np.ndarray:
        """Each run's residual from what the others say of it, in standard deviations (n,)."""
        covariance, _, (weighted,), (inverse,), (pull,), _ = self._at(self.sizes.phi, np.array([self.best]))
        own = covariance.diagonal() - np.einsum("np,pq,nq->n", weighted, inverse, weighted)
        off = pull - weighted @ (inverse @ (self.derivatives[self.best].T @ pull))
        return off / np.sqrt(np.maximum(own, 1e-12))

    def _heavy(self) -> bool:
        """Whether the residuals are rather Student's t than normal."""
        from scipy.special import gammaln

        r = self._deletion()
        r = r / math.sqrt(float(np.mean(r**2)) or 1.0)
        norm = gammaln((HEAVY + 1) / 2) - gammaln(HEAVY / 2) - 0.5 * math.log(HEAVY * math.pi)
        scales = np.linspace(0.4, 1, 7)[:, None]
        t = norm - np.log(scales) - (HEAVY + 1) / 2 * np.log1p((r / scales) ** 2 / HEAVY)
        normal = -0.5 * r**2 - 0.5 * math.log(2 * math.pi)
        return float(t.sum(1).max()) > float(normal.sum()) + 6

    def _at(self, phi: np.ndarray, at: np.ndarray) -> _Solved:
        covariance = Covariance(self.parts, phi, self.misfit, self.by_place)
        _, weighted, normal = self._normal(covariance, self.derivatives[at])
        inverse = np.linalg.inv(normal)
        slope = (self.residual[at][:, None] @ weighted)[:, 0] - (self.theta[at] - self.mean) * self.precision
        move = (inverse @ slope[..., None])[..., 0]
        return _Solved(covariance, at, weighted, inverse, covariance.solve(self.residual[at].T).T, move)

    def _prepared(self) -> tuple[_Solved, ...]:
        """The likely floors under the sizes found; the best one there, then a step of each size up, and down."""
        if not self._solved:
            phi, likely = self.sizes.phi, np.flatnonzero(self.log_weights > self.log_weights.max() - 12)
            steps = STEP * np.eye(len(phi))
            # Of the floors that are likely the nearest to the best one, which is nearly always likely itself.
            i = int(np.argmin(np.abs(likely - self.best)))
            at = self._at(phi, likely)
            own = _Solved(at.covariance, *(part[i : i + 1] for part in at[1:]))
            best = np.array([self.best])
            self._solved = (at, own, *(self._at(p, best) for p in (*(phi + steps), *(phi - steps))))
        return self._solved

    @property
    def log_sizes(self) -> dict[str, float]:
        """{part of the errors: log of its size}."""
        return dict(zip(self.parts.names, self.sizes.phi.tolist(), strict=True))

    @property
    def typical(self) -> tuple[np.ndarray, np.ndarray]:
        """The parameters (1, 9) and floor (1,) at the best floor."""
        best = slice(self.best, self.best + 1)
        return form.expand(self.name, self.theta[best])[0], self.floors[best]

    def parameters(self) -> dict[str, float]:
        """At the best floor: of `form.PARAMETERS`, for x = ln C - x0 and z = ln N - z0. The form gives e^-shift times
        the metric or, where it has either sign, (metric - shift) / scale."""
        (full,), (floor,) = self.typical
        at = {name: getattr(self.runs, name) for name in ("x0", "z0", "shift", "scale")}
        return {"E": float(floor)} | dict(zip(form.PARAMETERS, full.tolist(), strict=True)) | at

    def likely(self) -> np.ndarray:
        """Parameters (m, 9) at the floors that `says` speaks for."""
        return form.expand(self.name, self.theta[self._prepared()[0].at])[0]

    @one_thread()
    def says(self, quantity: Quantity) -> Mixture:
        """What this member says of a quantity: a t for every likely floor."""
        likely, *others = self._prepared()
        full, expansion = form.expand(self.name, self.theta)
        values, gradients = quantity.of(full, self.floors)
        gradients = (gradients[:, None] @ expansion)[:, 0]
        means, variances = self._moments(quantity, likely, values, gradients)
        own, *moved = (np.array(self._moments(quantity, at, values, gradients))[:, 0] for at in others)
        up, down = np.reshape(moved, (2, -1, 2))
        by_size, of_variance = ((up - down) / (2 * STEP)).T
        # The sizes of the errors are not known either: what the answer moves with them adds to its variance, and by
        # Satterthwaite 1946 it has as many degrees of freedom as the variance itself is known to.
        variances = variances + float(by_size @ self.sizes.spread @ by_size)
        uncertainty = float(of_variance @ self.sizes.spread @ of_variance)
        dofs = float(np.clip(2 * own[1] ** 2 / max(uncertainty, 1e-300), DOFS, self.dofs))
        weights = np.exp(self.log_weights[likely.at])
        return Mixture(weights / weights.sum(), means, np.sqrt(variances), np.full(len(weights), dofs))

    def _moments(
        self, quantity: Quantity, solved: _Solved, values: np.ndarray, gradients: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(means, variances) at the floors of `solved`: best linear unbiased prediction, the walks followed to x."""
        sizes, variance = solved.covariance.sizes, solved.covariance.variance
        known, own = np.zeros(len(self.runs)), 0.0
        if self.walks and (quantity.level or quantity.place):
            walked = self.parts.walked(quantity.x)
            level = quantity.level * variance * math.exp(2 * sizes["level"])
            moved = quantity.place * math.exp(2 * sizes["place"])
            known = walked[:-1] * (level + moved * self.by_place)
            own = walked[-1] * (quantity.level * level + quantity.place * moved)
        pull = solved.covariance.solve(known)
        derivatives = self.derivatives[solved.at]
        toward = gradients[solved.at] - pull @ derivatives
        variances = np.einsum("mp,mpq,mq->m", toward, solved.inverse, toward) + own - float(known @ pull)
        if quantity.scatter and "slice" in sizes:
            variances = variances + variance * math.exp(2 * sizes["slice"])
        if quantity.scatter > 1:
            slope = np.clip(sizes["sC"] * quantity.x + sizes["sN"] * quantity.z, -1, 1)
            others = sum(math.exp(2 * sizes[name]) for name in ("size", "trajectory", "shared") if name in sizes)
            variances = variances + variance * (math.exp(2 * slope) + others)
        means = values[solved.at] + solved.pull @ known + (toward * solved.move).sum(1)
        return means, np.maximum(variances, 1e-16)
