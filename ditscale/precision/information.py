"""What the predictor will say of a study, by linear algebra: it is linear in the losses but for the weights of its
members, so at a law and a covariance of the errors its answers, their scatter and their intervals are known.

The members are those of laws/predictor, with their priors, walks and evidence. The sizes of the errors' parts are those
that REML is expected to find: its criterion with r r' replaced by what that is on average."""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ..laws.predictor import form
from ..laws.predictor.errors import STEP, Covariance, Parts, Sizes, estimate_sizes
from ..laws.predictor.member import BEST, DOFS, TAKEN
from ..laws.predictor.noise import Noise
from ..laws.predictor.predictor import LEAST_FOR_BEND, MEMBERS, ODDS
from ..laws.predictor.runs import Runs, runs_of
from .design import Design
from .surfaces import Surface

ASKED = ("loss", "n_params", "exponent")  # ln L*, ln N* and d ln N* / d ln C at the target
DRAWS = 64  # of the errors, half of them the others' negatives
FAR = 9.0  # of a member's ln evidence below the best: it does not count
FREE = form.FREE["bent"]
SHUT = 1e-6  # standard deviation of what a member does not let free


class Local(NamedTuple):
    """The family at a law's runs. theta (10,): the bent member's free parameters at the law, and the floor, all less
    their values there; derivatives (n, 10) of ln L; rest (n,): the law's ln L less the form's; misfit, by_place (n,):
    as of `Covariance`; asks (3, 10): gradients of ASKED; x: of the target."""

    runs: Runs
    theta: np.ndarray
    derivatives: np.ndarray
    rest: np.ndarray
    misfit: np.ndarray
    by_place: np.ndarray
    asks: np.ndarray
    x: float


def local(design: Design, surface: Surface, target: float) -> Local:
    """The family at a law that is thought of, and at the runs of a design that would take part in a fit."""
    log_c, log_n = np.log(design.budget_flops), np.log(design.n_params)
    runs = runs_of(design.table(surface.loss(log_c, log_n)))
    alpha, beta = surface.fall / surface.slope / surface.p, surface.fall / (1 - surface.slope) / surface.p
    # The form is of e^-shift L; slices 1 / p times as curved have p times the exponents' scale.
    k, curved = surface.above - surface.fall * (runs.x0 - surface.at) - runs.shift, math.log(surface.p)
    named = {form.N0: float(surface.log_size(runs.x0)) - runs.z0, form.K: k, form.LOG_P: math.log(alpha)}
    named |= {form.LOG_Q: math.log(beta), form.G: curved, form.C: curved, form.D: curved}
    return local_at(runs, np.array([named.get(i, 0.0) for i in FREE]), surface.floor / math.exp(runs.shift), target)


def local_at(runs: Runs, theta: np.ndarray, floor: float, target: float) -> Local:
    """The family at theta, the bent member's free parameters (9,), and a floor."""
    last, x, at = float(runs.node_x.max()), math.log(target) - runs.x0, np.array([floor])
    full, expansion = form.expand("bent", theta[None])
    values = form.evaluate(full, at, runs.x, runs.z)
    by_floor = 1 / values.f[0]
    derivatives = np.column_stack([values.jacobian[0] @ expansion[0] * by_floor[:, None], by_floor])
    (best,), by_loss = form.frontier(full, at, x)
    gradients = [by_loss / best, form.place(full, x, last)[1], form.slope(full, x, last)[1]]
    asks = np.column_stack([np.vstack(gradients) @ expansion[0], [1 / best, 0, 0]])
    misfit = np.clip(values.f[0] / values.optimum[0] - 1, 0, 2) ** 2
    by_place = values.jacobian[0, :, form.N0] * by_floor
    return Local(runs, np.append(theta, 0.0), derivatives, runs.y - np.log(values.f[0]), misfit, by_place, asks, x)


class Spoken(NamedTuple):
    """What one member makes of the runs. rows (3, n): how its answers move with ln L; off (3,): its error without any
    in the runs; spreads (3,): standard deviations that it states; dofs (3,); whole: the covariance of the runs, the
    form not known; distance (n,): of the law from its prior; constant: of its evidence."""

    rows: np.ndarray
    off: np.ndarray
    spreads: np.ndarray
    dofs: np.ndarray
    whole: Covariance
    distance: np.ndarray
    constant: float


@dataclass(frozen=True)
class Speaker:
    """A member of the predictor at a law. odds: ln of its prior odds; sizes: of its errors' parts."""

    name: str
    walks: bool
    odds: float
    here: Local
    sizes: Sizes = Sizes(np.zeros(0), np.zeros((0, 0)), 0.0)

    @property
    def prior(self) -> tuple[np.ndarray, np.ndarray]:
        """(mean, standard deviation), each (10,): shut where the member is less than the bent one."""
        own, mean, spread = form.FREE[self.name], *form.prior("bent")
        spread = np.where(np.isin(FREE, own), spread, SHUT)
        lowest = math.exp(float(self.here.runs.y.min()))
        return np.append(mean, 0.0), np.append(spread, BEST * lowest / math.sqrt(12))

    @property
    def parts(self) -> Parts:
        runs = self.here.runs
        return Parts(runs.x, runs.z, runs.se, runs.nodes, runs.node_x, runs.groups, self.walks, runs.count)

    def off_prior(self) -> np.ndarray:
        """The law's ln L less that of the prior's mean (n,)."""
        mean, _ = self.prior
        return self.here.derivatives @ (self.here.theta - mean) + self.here.rest

    def sized(self, root: np.ndarray, start: np.ndarray | None, *, last: bool = False) -> "Speaker":
        """With the sizes that REML is expected to find; root (n, n): of the true covariance."""
        residual, (_, spread) = np.column_stack([root, self.off_prior()]), self.prior
        at = (self.here.derivatives * spread, self.here.misfit, self.here.by_place)
        start = self.parts.start() if start is None or len(start) != len(self.parts.names) else start
        return replace(self, sizes=estimate_sizes(self.parts, residual, *at, start, last=last))

    def among(self, here: Local) -> "Speaker":
        """The same member, with the same sizes, at other runs of its law."""
        made = replace(self, here=here)
        own = dict(zip(self.parts.names, self.sizes.phi.tolist(), strict=True))
        start = dict(zip(made.parts.names, made.parts.start().tolist(), strict=True))
        phi = np.array([own.get(name, value) for name, value in start.items()])
        return replace(made, sizes=self.sizes._replace(phi=phi))

    def covariance(self, more: np.ndarray | None = None, phi: np.ndarray | None = None) -> Covariance:
        """Of the runs as the member sees them, with further columns."""
        phi = self.sizes.phi if phi is None else phi
        return Covariance(self.parts, phi, self.here.misfit, self.here.by_place, more)

    def walked(self, sizes: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
        """Covariance (n, 3) of the runs' walks with those of ASKED, and the variances (3,) of the latter."""
        here = self.here
        if not self.walks:
            return np.zeros((len(here.runs), 3)), np.zeros(3)
        walked, n = self.parts.walked(here.x), len(here.runs)
        level, place = math.exp(2 * (sizes["s"] + sizes["level"])), math.exp(2 * sizes["place"])
        known = np.column_stack([walked[:n] * level, walked[:n] * here.by_place * place, np.zeros(n)])
        return known, walked[-1] * np.array([level, place, 0.0])

    def _solved(self, phi: np.ndarray, floor: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(rows (3, n), off (3,), variances (3,)) of the answers under sizes phi; floor: whether it is free, or known
        to be the law's."""
        here, covariance, free = self.here, self.covariance(phi=phi), slice(None if floor else -1)
        (mean, spread), derivatives, asks = self.prior, here.derivatives[:, free], here.asks[:, free]
        weighted = covariance.solve(derivatives)
        precision = np.diag(1 / spread[free] ** 2)
        inverse = np.linalg.inv(derivatives.T @ weighted + precision)
        known, own = self.walked(covariance.sizes)
        pull = covariance.solve(known)
        toward = asks - pull.T @ derivatives
        moved = toward @ inverse
        rows = pull.T + moved @ weighted.T
        off = rows @ here.rest + moved @ (precision @ (mean - here.theta)[free])
        variances = (moved * toward).sum(1) + own - (known * pull).sum(0)
        return rows, off, np.maximum(variances, 1e-16)

    def variances(self) -> np.ndarray:
        """Of ASKED (3,) at the sizes found."""
        return self._solved(self.sizes.phi, True)[2]

    def speaks(self, root: np.ndarray) -> Spoken:
        """What it says of runs whose errors have the covariance root root'. As in `Member.says`: at each floor the
        interval is a t by how well the variance is known there, and the floors have as many degrees of freedom as the
        runs leave; both together by Welch's formula."""
        here, (_, spread), phi = self.here, self.prior, self.sizes.phi
        rows, off, variances = self._solved(phi, True)
        at_floor = self._solved(phi, False)[2]
        moves, slopes = [], []
        for step in STEP * np.eye(len(phi)):
            up, down = self._solved(phi + step, False), self._solved(phi - step, False)
            moves.append(np.column_stack([(up[0] - down[0]) @ root, up[1] - down[1]]) / (2 * STEP))
            slopes.append((up[2] - down[2]) / (2 * STEP))
        uncertain = np.einsum("iqk,ij,jqk->q", np.array(moves), self.sizes.spread, np.array(moves))
        known = np.einsum("iq,ij,jq->q", np.array(slopes), self.sizes.spread, np.array(slopes))
        most, between = self._most_dofs(), np.maximum(variances - at_floor, 0.0)
        dofs = np.clip(2 * at_floor**2 / np.maximum(known, 1e-300), DOFS, most)
        each = at_floor + uncertain
        both = (each + between) ** 2 / (each**2 / dofs + between**2 / most)
        whole, distance = self.covariance(here.derivatives * spread), self.off_prior()
        columns = np.column_stack([root, distance])
        expected = float((columns * whole.solve(columns)).sum())
        evidence = self.odds + self.sizes.evidence + expected / 2
        return Spoken(rows, off, np.sqrt(each + between), both, whole, distance, evidence)

    def _most_dofs(self) -> float:
        runs = self.here.runs
        shared = [labels.max() + 1 - TAKEN for name, labels in runs.groups.items() if self._size(name) > 0]
        return float(max(min([len(runs) - len(form.FREE[self.name]) - 1, *shared]), DOFS))

    def _size(self, name: str) -> float:
        return dict(zip(self.parts.names, self.sizes.phi, strict=True))[name]


@dataclass(frozen=True)
class Studies:
    """What studies of one law find: error (3, draws) of ASKED, width (3, draws) of the 95 % interval that is stated,
    and whether it holds the truth."""

    error: np.ndarray
    width: np.ndarray
    held: np.ndarray


def speakers(here: Local, root: np.ndarray, start: dict[int, np.ndarray], *, last: bool = True) -> list[Speaker]:
    """The members that count, with sizes. start: where REML starts, by member; it is left where REML ended. last:
    whether it goes to the end, and says how well the sizes are known."""
    budgets = len(here.runs.node_x)
    out = []
    for i, (name, walks) in enumerate(MEMBERS if budgets >= LEAST_FOR_BEND else MEMBERS[:-1]):
        made = Speaker(name, walks and budgets > 1, math.log(ODDS[i]), here)
        made = made.sized(root, start.get(i))
        start[i] = made.sizes.phi
        out.append(made)
    best = max(each.sizes.evidence for each in out)
    near = [each for each in out if each.sizes.evidence > best - FAR]
    return [each.sized(root, each.sizes.phi, last=True) for each in near] if last else near


def root_of(design: Design, here: Local, noise: Noise) -> np.ndarray:
    """Of the true covariance of the runs that take part (n, n)."""
    rows = here.runs.rows
    labels = (part[rows] for part in (design.trajectory, design.slices(), design.sizes()))
    return np.linalg.cholesky(noise.covariance(np.log(design.budget_flops)[rows], *labels))


def weights_of(said: list[Speaker]) -> np.ndarray:
    """The weights (m,) that members are expected to have, by the mean of their evidence."""
    scores = np.array([each.odds + each.sizes.evidence for each in said])
    return np.exp(scores - np.logaddexp.reduce(scores))


def studies(
    design: Design, surface: Surface, target: float, noise: Noise, start: dict[int, np.ndarray] | None = None
) -> Studies:
    """What studies of a design under a law are expected to find and to state at `target`, a budget in FLOPs. start: as
    of `speakers`, where several laws are asked in turn."""
    here = local(design, surface, target)
    root = root_of(design, here, noise)
    half = root @ np.random.default_rng(0).standard_normal((len(root), DRAWS // 2))
    errors = np.column_stack([half, -half])
    said = [each.speaks(root) for each in speakers(here, root, {} if start is None else start)]
    scores = np.array([_evidence(each, errors) for each in said])
    weights = np.exp(scores - np.logaddexp.reduce(scores))
    means = np.array([each.rows @ errors + each.off[:, None] for each in said])
    spreads, dofs = (np.array([getattr(each, name) for each in said]) for name in ("spreads", "dofs"))
    middle, low, high = _quantiles(weights, means, spreads, dofs)
    return Studies(middle, high - low, (low < 0) & (high > 0))


def _evidence(said: Spoken, errors: np.ndarray) -> np.ndarray:
    """ln of a member's evidence in each study (draws,)."""
    off = errors + said.distance[:, None]
    return said.constant - 0.5 * (off * said.whole.solve(off)).sum(0)


def _quantiles(weights: np.ndarray, means: np.ndarray, spreads: np.ndarray, dofs: np.ndarray) -> list[np.ndarray]:
    """The median and the 95 % (3, draws) of the mixtures of t: weights (m, draws), means (m, 3, draws), spreads and
    dofs (m, 3)."""
    from scipy.special import stdtr, stdtrit

    keep = weights.max(1) > 1e-3
    weights, means, spreads, dofs = weights[keep], means[keep], spreads[keep], dofs[keep]
    out = []
    for share in (0.5, 0.025, 0.975):
        each = means + (spreads * stdtrit(dofs, share))[..., None]
        low, high = each.min(0), each.max(0)
        for _ in range(16):
            middle = (low + high) / 2
            below = (stdtr(dofs[..., None], (middle - means) / spreads[..., None]) * weights[:, None]).sum(0)
            low, high = np.where(below < share, middle, low), np.where(below < share, high, middle)
        out.append((low + high) / 2)
    return out
