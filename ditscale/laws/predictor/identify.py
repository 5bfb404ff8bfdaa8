"""Whether the design of a table's runs determines what is asked of them, and the cheapest runs that mend it: from the
95 % widths that the design alone implies, before a loss is measured.

The additive surface hides what a design lacks behind its constraint: runs along one ratio D / N look harmless there
(arXiv 2605.08541). In the relaxed form, whose frontier, curvature and slopes are each fitted by itself, they do not."""

import copy
import itertools
import math
import shlex
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ...quantities import at_optimum
from ...tables.table import Table, slice_labels
from ...units import compact
from ..estimates import Z
from ..findings import Finding, finding, run_to_add
from ..minima.line import line
from . import form
from .member import one_thread
from .noise import Noise
from .predictor import Predictor, predictor
from .runs import as_labels, group_labels

ONE_RATIO, TWO_RATIOS = 1.3, 1.15  # of D / N: runs within this factor of one, or of two, lie on it
LADDER = 8.0  # readings of one training within this factor in D / N
LEAST_RUNS, LEAST_SIZES = 6, 3
LEAST_FOR_FLOOR, NEAR = 3, 3.0  # budgets; x the largest, up to where two will do
MOST_RUNS = 400  # a design of more is thinned
RISES = 4.0  # t of a slope that is no chance
# What trained models typically have; here each trajectory bends by itself as well.
TYPICAL = Noise(bend=0.003)
# (alpha, beta) of surfaces in the literature and around; the floor, and what is above it at the middle of the design.
NOMINAL = ((0.35, 0.35), (0.34, 0.28), (0.18, 0.45), (0.5, 0.2), (0.30, 0.29))
FLOOR, ABOVE = 0.6, 0.1
# Standard deviations of priors that say next to nothing of the frontier: here nothing ties it to the surface.
LOOSE = {
    form.N0: 30.0, form.A: 0.3, form.K: 30.0, form.G: 0.5, form.C: 30.0, form.D: 0.5, form.LOG_P: 1.2, form.LOG_Q: 1.2,
}  # fmt: skip
BOTH = ("N*", "L*")
EXACT = 1e-4  # scatter of runs that have next to none
# A law that no design of trained runs should be asked for: ln(high / low) of N* and L*.
WIDEST_PLACE, WIDEST_LOSS = math.log(12), 0.12


# Of runs that mend a design: the share of these widths that they may leave, and how far off in ln N the frontier may be
# where no N* is known.
SURELY, UNSURE = 0.85, (0.0, 0.7, -0.7)
WITHOUT_CURE = "two more budgets, each 3x the one before, with 5 sizes each, from 1/4 to 4 times the likely optimum"


class Widths(NamedTuple):
    """ln(high / low) of the 95 % intervals of N* and of L* that a design implies, medians over `NOMINAL`."""

    place: float
    loss: float

    def within(self, share: float) -> bool:
        """Whether both are within a share of what may be given."""
        return self.place <= share * WIDEST_PLACE and self.loss <= share * WIDEST_LOSS

    @property
    def lacks(self) -> tuple[str, ...]:
        """What the design does not determine: of "N*" and "L*". Who knows no N* knows no loss there."""
        return BOTH if self.place > WIDEST_PLACE else ("L*",) * (self.loss > WIDEST_LOSS)


class Asked(NamedTuple):
    """The predictor of a table, asked at a target budget in FLOPs. lacks: what its runs do not determine there, of "N*"
    and "L*"; refused: the finding that says so. The predictor is None where there are too few runs, or where neither
    was determined at the first target."""

    table: Table
    target: float
    predictor: Predictor | None
    lacks: tuple[str, ...] = ()
    refused: Finding | None = None

    def at(self, target: float) -> "Asked":
        """The same predictor asked at another target."""
        if (made := self.predictor) is None:
            return self._replace(target=target)
        lacks, refused = undetermined(self.table, target, made.frontier_line(), made.share_sizes, made.misfit)
        return self._replace(target=target, lacks=lacks, refused=refused)

    @property
    def whole(self) -> Predictor | None:
        """The predictor where both N* and L* are determined."""
        return None if self.lacks else self.predictor


def backwards(table: Table) -> Finding | None:
    """`wrong_direction` where a metric rises with compute, or with size and not the other way with compute: a plane
    through it in (ln C, ln N), each slope tested by t."""
    basis = np.column_stack([np.ones(len(table)), np.log(table.budget_flops), np.log(table.n_params)])
    basis[:, 1:] -= basis[:, 1:].mean(axis=0)
    y = table.sign * table.loss / (np.abs(table.loss).max() or 1.0)
    plane, _, rank, _ = np.linalg.lstsq(basis, y, rcond=None)
    if rank < 3 or len(table) < LEAST_RUNS:
        return None
    rest = y - basis @ plane
    unit = float(rest @ rest) / (len(y) - 3) * np.diag(np.linalg.inv(basis.T @ basis))
    _, by_c, by_n = plane / np.sqrt(np.maximum(unit, 1e-24))
    if not (by_c > RISES or by_n > RISES and by_c > -RISES / 2):
        return None
    name = table.metric
    if not table.higher_is_better:
        text = f"{name} rises as compute or size grows, so higher seems to be better"
        text += ": add --higher-is-better if that is so"
    elif table.better:
        text = f"{name} falls as compute grows, and higher was said to be better: leave out --higher-is-better"
    else:
        text = f"{name} falls as compute grows, and by its name higher is better: if lower is, give it another"
        text += f" name, as in --metric value --columns {shlex.quote(f'value={name}')}"
    return finding("wrong_direction", text, value=float(max(by_c, by_n)))


@one_thread()
def ask(table: Table, target: float, kappa: float | None = None, fitted: Predictor | None = None) -> Asked:
    """Fit the predictor to `table`, unless that was done before, and see whether its runs determine N* and L* at
    `target`, a budget in FLOPs."""
    sizes, budgets = (len(np.unique(np.round(np.log(c), 6))) for c in (table.n_params, table.budget_flops))
    asked = Asked(table, target, None, BOTH)
    if len(table) < LEAST_RUNS or sizes < LEAST_SIZES:
        text = f"{len(table)} runs of {sizes} sizes at {budgets} budgets determine no law; 4 sizes at 3 budgets each do"
        return asked._replace(refused=finding("too_few_runs", text, map(str, table.run_id), value=len(table)))
    if wrong := backwards(table):
        return asked._replace(refused=wrong)
    asked = asked._replace(predictor=fitted or predictor(table, kappa=kappa)).at(target)
    return asked._replace(predictor=None) if asked.lacks == BOTH else asked


class Lacking(NamedTuple):
    """What a design does not determine, of "N*" and "L*", and the finding that says why, and what mends it."""

    lacks: tuple[str, ...] = ()
    finding: Finding | None = None


def undetermined(
    table: Table, target: float, frontier: tuple[float, float, float] | None = None, share_sizes: bool = False,
    scatter: float = TYPICAL.run,
) -> Lacking:  # fmt: skip
    """Whether the design of `table`, whose losses may be nan, determines N* and L* at `target`, a budget in FLOPs:
    `not_identified` where it does not, whatever the losses are. frontier (ln C, ln N*, d ln N* / d ln C): where the
    optimum is thought to be; without it, in the middle of each slice's sizes. share_sizes: whether runs of one size are
    to be taken for readings of one training where the table does not say; scatter: of one run, relative, which counts
    where it is next to none."""
    noise = scatter / TYPICAL.run if scatter < EXACT else 1.0
    design = _Design(table, frontier or middle_of(table), share_sizes, noise)
    found = design.widths(target)
    lacks = BOTH if design.ladder else found.lacks
    if design.isoflop and design.budgets < LEAST_FOR_FLOOR and target > NEAR * table.largest:
        lacks = lacks or BOTH[1:]  # Two minima cannot show a floor.
    if not lacks:
        return Lacking()
    cure = ", and ".join(design.mended(target, lacks)) or WITHOUT_CURE
    named = ["N*"] * ("N*" in lacks) + [at_optimum(table.metric)]
    lost = f"the runs do not determine {' and '.join(named)} at {compact(target)} FLOPs"
    return Lacking(lacks, finding("not_identified", f"{lost}: {design.why(lacks)}; add {cure}", value=found.place))


def undetermined_design(
    n_params: Sequence[float], n_tokens: Sequence[float], budget_flops: Sequence[float], target: float,
    trajectory: Sequence[str] | None = None, role: Sequence[str] | None = None,
) -> str:  # fmt: skip
    """What runs that are only planned do not determine at `target`, in words; "" where they determine N* and L*.
    trajectory: labels of what is trained as one; role: of the runs, else all are of the grid. The optimum is taken to
    lie in the middle of each slice's sizes."""
    n, d, c = (np.array(column, dtype=float) for column in (n_params, n_tokens, budget_flops))
    labels = {} if trajectory is None else {"trajectory": np.array(trajectory)}
    names = np.array([f"row-{i + 1}" for i in range(len(n))], dtype=object)
    roles = np.array(["grid"] * len(n) if role is None else role, dtype=object)
    found = undetermined(Table(names, n, d, c, np.full(len(n), math.nan), roles, shared=labels), target)
    return found.finding.message if found.finding else ""


def next_run(table: Table, made: Predictor, target: float) -> tuple[float, float, float]:
    """(budget, n_params, share) of the run that narrows N* at `target` most by the design alone, of some at the largest
    budget and 3x it; share: of the interval that it would leave."""
    design = _Design(table, made.frontier_line(), made.share_sizes, 1.0)
    (c, n), high = design.at, float(design.log_c.max())
    near = [(b, n + design.slope * (b - c) + off) for b in (high, high + math.log(3)) for off in (-1.8, -1, 0, 1, 1.8)]
    widths = [design.widths(target, (run,)).place for run in near]
    best = int(np.argmin(widths))
    return math.exp(near[best][0]), math.exp(near[best][1]), widths[best] / design.widths(target).place


def middle_of(table: Table) -> tuple[float, float, float]:
    """(ln C, ln N, slope) of the line through the middles of the slices' sizes; slope 1/2 of a single slice."""
    x, z = np.array([(math.log(c), np.log(table.n_params[rows]).mean()) for c, rows in table.slices(levers=False)]).T
    return float(x.mean()), float(z.mean()), float(line(x, z)[1]) if len(x) > 1 else 0.5


class _Design:
    """The runs of a table as a design. frontier: (ln C, ln N*, slope); readings: whether runs of one size are taken as
    readings of one training where the table does not say."""

    def __init__(self, table: Table, frontier: tuple[float, float, float], readings: bool, noise: float) -> None:
        self.noise = max(noise, 1e-3)
        rows = np.linspace(0, len(table) - 1, min(len(table), MOST_RUNS)).astype(int)
        self.log_c, self.log_n = np.log(table.budget_flops)[rows], np.log(table.n_params)[rows]
        self.ratio = np.log(table.n_tokens / table.n_params)
        self.at, self.slope = frontier[:2], float(np.clip(frontier[2], 0.2, 0.8))
        self.kappa, self.isoflop = table.kappa(), table.is_isoflop()
        slices, labels = table.slices(), slice_labels(table)
        self.budgets = len(slices)
        # In how many slices the smallest, or the largest, size is the best or, without losses, the nearest to it.
        lows = np.abs(np.log(table.n_params) - self.at[1] - self.slope * (np.log(table.budget_flops) - self.at[0]))
        lows = table.sign * table.loss if np.isfinite(table.loss).all() else lows
        sizes = [(table.n_params[members], np.argmin(lows[members])) for _, members in slices]
        self.sizes = float(np.median([len(np.unique(n)) for n, _ in sizes]))
        ends = {side: sum(n[i] == pick(n) for n, i in sizes) for side, pick in (("above", np.min), ("below", np.max))}
        self.side = next((side for side, count in ends.items() if self.isoflop and count > len(slices) / 2), "")
        trajectory = as_labels(table.shared.get("trajectory", np.arange(len(table))))
        if trajectory.max() + 1 == len(table) and readings:
            trajectory = group_labels(table, labels).get("size", trajectory)
        self.trajectory = None if trajectory.max() + 1 == len(table) else trajectory[rows]
        self.shared = self.trajectory, labels[rows] if self.isoflop else None

    def widths(self, target: float, more: tuple[tuple[float, float], ...] = ()) -> Widths:
        """Asked at `target`, with further runs (ln C, ln N), each a training and a slice of its own."""
        from scipy import linalg

        log_c, log_n = np.vstack([np.stack([self.log_c, self.log_n], axis=1), *more]).T
        middle = float(np.mean(log_c))
        x, t = log_c - middle, math.log(target) - middle
        z = log_n - (self.at[1] - self.slope * (self.at[0] - middle))
        factor = linalg.cho_factor(self.noise**2 * self._covariance(x, np.arange(1, len(more) + 1)))
        free, floor, each = list(LOOSE), np.array([FLOOR]), []
        # The floor may lie anywhere between nothing and the lowest loss.
        prior = np.diag(1 / np.append(list(LOOSE.values()), FLOOR) ** 2)
        for p, q in NOMINAL:
            g, k = p * q / (p + q), math.log(ABOVE)
            full = np.array([[0.0, self.slope, 0.0, k, g, k, g, math.log(p), math.log(q)]])
            values = form.evaluate(full, floor, x, z)
            derivatives = np.column_stack([values.jacobian[0][:, free], np.ones(len(x))]) / values.f[0][:, None]
            spread = np.linalg.inv(derivatives.T @ linalg.cho_solve(factor, derivatives) + prior)
            (best,), (by_loss,) = form.frontier(full, floor, t)
            (by_place,) = form.place(full, t, float(x.max()))[1]
            ask = np.array([np.append(by_place[free], 0), np.append(by_loss[free], 1) / best])
            each.append(2 * Z * np.sqrt(np.einsum("qp,pr,qr->q", ask, spread, ask)))
        return Widths(*np.median(each, axis=0).tolist())

    def _covariance(self, x: np.ndarray, new: np.ndarray) -> np.ndarray:
        """Of typical runs at ln C = x + constant (n,), the last of which are the `new` ones (k,), numbered from 1."""
        trajectory, slices = (own if own is None else np.append(own, own.max() + new) for own in self.shared)
        return TYPICAL.covariance(x, np.arange(len(x)) if trajectory is None else trajectory, slices)

    @property
    def ladder(self) -> bool:
        """Whether few trainings are read along the way, all in a narrow band of D / N."""
        return not self.isoflop and self.trajectory is not None and bool(np.ptp(self.ratio) < math.log(LADDER))

    def why(self, lacks: tuple[str, ...]) -> str:
        """The reason in words, the plainest that fits."""
        spans, middle = np.ptp(self.ratio), self.ratio.mean()
        if spans < math.log(ONE_RATIO):
            return f"all lie along one ratio D / N, {math.exp(middle):.3g}"
        halves = self.ratio[self.ratio <= middle], self.ratio[self.ratio > middle]
        if max(map(np.ptp, halves)) < math.log(TWO_RATIOS):
            return "all lie along two ratios D / N, " + " and ".join(f"{math.exp(half.mean()):.3g}" for half in halves)
        if self.ladder and self.trajectory is not None:
            trainings = len(np.unique(self.trajectory))
            return f"they are readings of {trainings} trainings, within {math.exp(spans):.2g}x in D / N"
        if self.budgets < 3 and self.isoflop:
            return f"they lie at {'one budget' if self.budgets == 1 else 'two budgets'}"
        if self.isoflop and self.sizes < 3:
            return "most budgets have fewer than 3 sizes"
        if "N*" in lacks and (side := self.side):
            return f"nearly all sizes lie {side} the optimum"
        return "their sizes and budgets vary too little"

    def mended(self, target: float, lacks: tuple[str, ...]) -> list[str]:
        """The two cheapest runs that determine it, in words; four or six where no two do; none where these do not."""
        low, high, (c, n) = float(self.log_c.min()), float(self.log_c.max()), self.at
        slope = 0.5 if "N*" in lacks else self.slope

        def run(budget: float, off: float) -> tuple[float, float]:
            return budget, n + slope * (budget - c) + off

        budgets = (low, low - math.log(10), low + math.log(3), high, high + math.log(3))
        candidates = [run(budget, off) for budget in budgets for off in (-1.8, -1.0, 0.0, 1.0, 1.8)]
        tried: list[tuple[tuple[float, float], ...]] = list(itertools.combinations(candidates, 2))
        tried.sort(key=lambda pair: np.logaddexp(pair[0][0], pair[1][0]))
        for sizes in ((-1, 1), (-1, 0, 1)):
            tried += [tuple(run(b, side * off) for b in (low, high) for side in sizes) for off in (1.0, 1.8, 2.6)]
        sides = [copy.copy(self) for _ in UNSURE] if "N*" in lacks else [self]
        for side, up in zip(sides, UNSURE, strict=False):
            side.at, side.slope = (c, n + up), slope
        for runs in tried:
            if all(side.widths(target, runs).within(SURELY) for side in sides):
                return [run_to_add(math.exp(size), math.exp(budget), self.kappa) for budget, size in runs]
        return []
