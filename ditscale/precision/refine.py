"""The next runs of a study that has some: what narrows the forecast most for what it costs."""

import math
from dataclasses import dataclass, replace

import numpy as np

from ..laws import Table
from ..laws.predictor import form
from ..laws.predictor.errors import Sizes
from ..laws.predictor.member import Member, one_thread
from ..laws.predictor.noise import Noise
from ..laws.predictor.predictor import Predictor, predictor
from ..laws.predictor.runs import Runs, runs_of
from ..result import Result
from .design import Design
from .field import Field
from .information import Speaker, local_at
from .planned import planned_interval
from .search import COUNTS, Candidates, Search
from .surfaces import Surface

BATCH = 1 / 3  # of the gap to the goals that one batch of runs closes
ENOUGH = 0.3  # in ln variance: a gap below this is closed at once
MARGIN = 0.97  # of the goal: a batch aims a little below it, so that its own scatter seldom asks for one more
# Who stops when the stated interval is narrow enough stops rather where it is too narrow. So what is looked at is
# this many times as wide, and no narrower than what the design is planned to tell, whatever was measured
# (docs/measured/planning.md).
STOPPING = 1.15
STEEPEST = 2.0  # of the fitted slices: their curvature beside the additive form's, and as far below it
FLOORS = (0.16, 0.5, 0.84)  # quantiles of the floor at which the fitted law is looked at


@dataclass(frozen=True)
class Widths(Result):
    """Half-widths of the 95 % intervals, corrected for stopping on them: of ln L*, of ln N*, of the exponent of N*."""

    loss: float
    n_params: float
    exponent: float

    def to_array(self) -> np.ndarray:
        return np.array([self.loss, self.n_params, self.exponent])


@dataclass(frozen=True)
class Refinement(Result):
    """now: of the finished runs; after: as expected with the runs added; rows: of the candidates, those to add, what
    narrows most for its cost first; cost: of them; to_goal: cost of all that the goals are thought to take."""

    now: Widths
    after: Widths
    rows: tuple[int, ...]
    cost: float
    to_goal: float
    reached: bool


def corrected(made: Predictor, design: Design, target: float) -> Widths:
    """The half-widths that a predictor of the runs of a design states, corrected for stopping on them: STOPPING times
    as wide, and no narrower than planned of the design under laws around the fitted one."""
    best, exponent = made.optimum(target), made.exponent("model", target)
    ends = [(float(e.low or 0), float(e.high or 0)) for e in (best.loss, best.n_params, exponent)]
    stated = (math.log(ends[0][1] / ends[0][0]), math.log(ends[1][1] / ends[1][0]), ends[2][1] - ends[2][0])
    planned = planned_interval(design, fitted_law(made), target, measured_noise(made))
    each = (planned.loss.width, planned.n_params.width, planned.exponent.width)
    return Widths(*(max(STOPPING * now, then) / 2 for now, then in zip(stated, each, strict=True)))


def measured_noise(made: Predictor) -> Noise:
    """The errors that the predictor finds: in each run alone, and shared by trainings, sizes and slices."""
    sizes = made.part_sizes
    own, training = sizes["s"], sizes.get("trajectory", 0.0)
    shared = math.hypot(sizes.get("slice", 0.0), sizes.get("shared", 0.0))
    return Noise(
        run=own * math.hypot(1, training), reading=0.0, slice=own * shared, size=own * sizes.get("size", 0.0),
        common=training**2 / (1 + training**2), distance=1e-3,
    )  # fmt: skip


def fitted_law(made: Predictor) -> Surface:
    """The likeliest law of a predictor, as one of those that `planned_interval` knows."""
    (full,), (floor,) = made.typical
    runs, scale = made.runs, math.exp(made.runs.shift)
    slope, fall = float(np.clip(full[form.A], 0.15, 0.85)), float(max(full[form.G], 1e-3))
    # Of the additive form a slice's curvature, over what the frontier is above the floor, is p q = g^2 / a (1 - a).
    own = math.exp(full[form.C] - full[form.K] + full[form.LOG_P] + full[form.LOG_Q])
    p = float(np.clip(fall**2 / (slope * (1 - slope)) / own, 1 / STEEPEST, STEEPEST))
    place = float(full[form.N0]) + runs.z0
    return Surface(runs.x0, float(floor) * scale, float(full[form.K]) + runs.shift, place, slope, fall, p)


@one_thread()
def refine(
    finished: Table, candidates: Candidates, planned: int, target: float, goals: np.ndarray, most: float = math.inf
) -> Refinement:  # fmt: skip
    """The next batch of runs. candidates: the finished runs first, and then those that are planned already, `planned`
    in all and at no cost; goals (3,): half-widths wanted of ln L*, ln N* and its exponent, inf where none is; most:
    cost that may be spent. Raises UserError where the finished runs give no law."""
    made, rows = predictor(finished), np.arange(len(candidates))
    now = corrected(made, candidates.design.take(rows < len(finished)), target)
    search = Search(candidates, fitted_fields(made, finished, candidates.design, target), np.full(3, math.inf))
    # The fields know standard deviations; the predictor's half-widths are so many of them.
    factor = now.to_array() / search.spread(rows < len(finished))
    start = rows < planned
    missing = 2 * np.log(np.maximum(search.spread(start) * factor / goals, 1e-9))
    if (now.to_array() <= goals).all():
        return Refinement(now, now, (), 0.0, 0.0, True)
    whole = replace(search, goals=2 * np.log(MARGIN * goals / factor)).grown(start, most)
    left = np.where(missing > ENOUGH, (1 - BATCH) * missing, 2 * math.log(MARGIN))
    batch = replace(search, goals=2 * np.log(goals / factor) + np.maximum(left, 2 * math.log(MARGIN)))
    chosen = batch.thinned(batch.grown(start, most))
    after = Widths(*(factor * search.spread(chosen)).tolist())
    added = np.flatnonzero(chosen & ~start)
    cost, to_goal = candidates.total(chosen), candidates.total(whole)
    return Refinement(now, after, tuple(added.tolist()), cost, to_goal, False)


def fitted_fields(made: Predictor, finished: Table, design: Design, target: float) -> list[list[Field]]:
    """The fields of all candidates under the fitted law, at low, middling and high floors; the finished runs are the
    first of them."""
    losses = np.exp(predicted(made, design))
    losses[: len(finished)] = finished.loss
    runs = runs_of(design.table(losses))
    own = made.runs
    x, z, nodes = runs.x + runs.x0 - own.x0, runs.z + runs.z0 - own.z0, runs.node_x + runs.x0 - own.x0
    runs = replace(runs, x=x, z=z, node_x=nodes, x0=own.x0, z0=own.z0)
    kept = [(w, m) for w, m in zip(made.weights.tolist(), made.members, strict=True) if w > COUNTS]
    total = sum(w for w, _ in kept)
    return [
        [Field.of(_speaker(member, share, runs, target), w / total, len(design)) for w, member in kept]
        for share in FLOORS
    ]


def predicted(made: Predictor, design: Design) -> np.ndarray:
    """ln L of each run by the likeliest member (n,)."""
    full, floor = made.typical
    x, z = np.log(design.budget_flops) - made.runs.x0, np.log(design.n_params) - made.runs.z0
    return np.log(form.evaluate(full, floor, x, z, derivatives=False).f[0]) + made.runs.shift


def _speaker(member: Member, share: float, runs: Runs, target: float) -> Speaker:
    """A fitted member at the runs of a design, its floor at a quantile of what is likely."""
    i = int(np.searchsorted(np.cumsum(np.exp(member.log_weights)), share))
    theta = np.zeros(len(form.FREE["bent"]))
    theta[[form.FREE["bent"].index(p) for p in form.FREE[member.name]]] = member.theta[i]
    here = local_at(runs, theta, float(member.floors[i]), target)
    made = Speaker(member.name, member.walks, 0.0, here)
    own = dict(zip(member.parts.names, member.sizes.phi.tolist(), strict=True))
    start = zip(made.parts.names, made.parts.start().tolist(), strict=True)
    return replace(made, sizes=Sizes(np.array([own.get(name, value) for name, value in start]), np.zeros((0, 0)), 0.0))
